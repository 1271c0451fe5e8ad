"""What can go wrong, one class for each thing a person can act on, each with an exit code of its own.

The exit codes are part of the contract with CI scripts; they are documented (docs/reference/exit-codes.md, from here) and never reused.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Something a person can act on: what is wrong (`message`) and what to do next (`hint`)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigurationError(PipelineError):
    """A file of the configuration is wrong. The message begins with file and line where there is one."""

    exit_code = 10


class RevisionError(PipelineError):
    """Git cannot name the revision, or contradicts what the CI server says."""

    exit_code = 11


class DirtyError(PipelineError):
    """Images made from uncommitted changes would be published without `--allow-dirty`."""

    exit_code = 12


class ForkError(PipelineError):
    """The build of a pull request from a fork would publish something."""

    exit_code = 13


class EngineError(PipelineError):
    """The Docker Engine does not answer, went away, or refused what no other class describes."""

    exit_code = 20


class BuildError(PipelineError):
    """At least one image could not be built."""

    exit_code = 21


class ImageUnavailableError(PipelineError):
    """An image that was named can be had neither from its registry nor from the local engine."""

    exit_code = 22


class RegistryUnreachableError(PipelineError):
    """The registry does not answer, or keeps failing after bounded retries."""

    exit_code = 30


class RegistryRefusedError(PipelineError):
    """The registry answered no: credentials, permissions, read-only, an immutable tag."""

    exit_code = 31


class TagImmutableError(RegistryRefusedError):
    """The registry lets nobody overwrite a tag that is there already, or lets this user not."""


class DatabaseNotReadyError(PipelineError):
    """The test database died or did not accept the application's login before its deadline."""

    exit_code = 40


class PreparationError(PipelineError):
    """A `prepare:` step failed on the fresh database."""

    exit_code = 41


class BakeRefusedError(PipelineError):
    """The database must not become an image: its stop was not clean, or it would hold what opens something."""

    exit_code = 45


class VerificationError(PipelineError):
    """A database image does not do all that its contract says (`invoke db.verify`)."""

    exit_code = 46


class TestsFailedError(PipelineError):
    """The test command ran and said no."""

    __test__ = False  # its name looks like a test class to pytest
    exit_code = 42


class SessionMissingError(PipelineError):
    """There is no running session for this checkout and CI build."""

    exit_code = 43


class CheckoutBusyError(PipelineError):
    """Another process is running tests in this checkout, whose results would mix with ours."""

    exit_code = 44


class MissingRequirementError(PipelineError):
    """This machine lacks something that the main job needs."""

    exit_code = 50


BUG_EXIT_CODE = 3
INTERRUPTED_EXIT_CODE = 130
TERMINATED_EXIT_CODE = 143
