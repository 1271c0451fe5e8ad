"""The exit codes are a contract with CI scripts."""

from __future__ import annotations

from pipeline import errors
from pipeline.errors import PipelineError

CODES = {
    "PipelineError": 1,
    "ConfigurationError": 10,
    "RevisionError": 11,
    "DirtyError": 12,
    "EngineError": 20,
    "BuildError": 21,
    "ImageUnavailableError": 22,
    "RegistryUnreachableError": 30,
    "RegistryRefusedError": 31,
    "DatabaseNotReadyError": 40,
    "PreparationError": 41,
    "TestsFailedError": 42,
    "SessionMissingError": 43,
    "CheckoutBusyError": 44,
    "BakeRefusedError": 45,
    "VerificationError": 46,
    "MissingRequirementError": 50,
}


def test_every_kind_of_failure_keeps_its_own_exit_code() -> None:
    found = {name: kind.exit_code for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, PipelineError)}
    assert found.pop("TagImmutableError") == CODES["RegistryRefusedError"]  # one of its kinds
    assert {name: found.get(name) for name in CODES} == CODES
    every = [*found.values(), errors.BUG_EXIT_CODE, errors.INTERRUPTED_EXIT_CODE, errors.TERMINATED_EXIT_CODE]
    assert len(set(every)) == len(every)
    assert 0 not in every
    assert 2 not in every


def test_an_error_has_a_message_and_a_next_step() -> None:
    error = PipelineError("what", "then")
    assert (str(error), error.message, error.hint) == ("what", "what", "then")
