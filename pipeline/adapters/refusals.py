"""A registry's no, in its own words or as an engine passes them on, and what to do about it.

Registries agree on few codes: Harbor says 412 for an immutable tag and 403 or 412 for a full project, ECR 400, Nexus 400 or 403,
Artifactory 403 and 413 or 507. Their words tell what their codes do not.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from pipeline.adapters.patience import TRANSIENT
from pipeline.adapters.registry_transport import plain_hint, tls_hint
from pipeline.errors import PipelineError, RegistryRefusedError, RegistryUnreachableError, TagImmutableError

START_HINT = "Start it (a local one: invoke registry.start), or name another one: registry in pipeline.yaml, or PIPELINE_REGISTRY."
IMMUTABLE_HINT = "The registry lets nobody overwrite this tag. Allow it for this repository, or remove the tag there and push again."
FEW = 3  # attempts where it is doubtful that another one helps
# Patterns, compiled only when a registry says no.
_IMMUTABLE = (
    r"immutab|cannot be overwritten|already exists in the .* repository|imagetagalreadyexists|overwrit|redeploy"
    r"|does not allow updating|cannot be updated|can't be updated|updating asset"
)
_FULL = r"quota|insufficient storage|no space left|not enough (disk )?space|storage limit|too large|exceeds? .*limit"
_READ_ONLY = r"read[- ]?only|\bunsupported\b|not allowed on this|method not allowed|maintenance mode|write.* disabled"
_UNKNOWN_NAME = r"name unknown|name_unknown|repository .*(does not exist|not found)|project .*not found"
_LOGIN = r"unauthorized|authentication required|no basic auth|invalid[_ ]token|authorization failed|may require"
_DENIED = r"denied|forbidden|not permitted|permission"

# What an engine says of a failure, which is not always a status. Written in Go: its network errors, and those of the engine's
# two image stores.
_STATUS = (
    r"(?:unexpected status(?: code)?(?: from [a-z]+ request to \S+?| \[[^]]*\]| \S+?)?:|unexpected http status:|failed with status:|"
    r"error parsing http|response status code|status code) *(?:code:? *)?(\d{3})\b"
)
_PASSING = (
    r"too ?many ?requests|\beof\b|connection reset|broken pipe|timeout|timed out|deadline exceeded|unavailable|bad gateway"
    r"|internal server error|unknown error|server closed|closed network connection|malformed|goaway|name resolution"
    r"|blob upload (unknown|invalid)|blob unknown|digest did not match|did not match content length|contentlength=|unexpected end of json"
    r"|failed precondition|content digest .* not found|unexpected commit|unexpected size"
)
_LASTING = r"connection refused|no such host|no route to host"
_UNTRUSTED = "x509:"
_IN_CLEAR = "server gave http response to https client"


class Verdict(NamedTuple):
    """An error, and whether it may be got over: in how many attempts on end (0: as many as there is time for; 1: it is final).

    `is_login`: nobody was let in, which is said of a token, too, that has expired in the middle of it. `is_bare`: a refusal by
    its status alone; the containerd image store keeps a registry's words to itself.
    """

    error: PipelineError
    attempts: int
    is_login: bool = False
    is_bare: bool = False


def judge_status(registry: str, what: str, status: int, said: str, is_known: bool = False) -> RegistryRefusedError:
    """The refusal that a status means, which is none of those that pass; `what` begins its message.

    `is_known`: the registry knows who asks, who lacks a right that a new login would not give.
    """
    words = said.lower()
    if re.search(_IMMUTABLE, words) and status not in (401, 405):
        return TagImmutableError(what, IMMUTABLE_HINT)
    if status in (413, 507) or re.search(_FULL, words):
        return RegistryRefusedError(
            what,
            f"The registry has no room for it: free space there (remove old tags, and collect garbage), or raise the quota of {registry}.",
        )
    if status == 405 or re.search(_READ_ONLY, words):
        return RegistryRefusedError(
            what, "The registry is read-only; name one that can be written to: registry in pipeline.yaml, or PIPELINE_REGISTRY."
        )
    if (status == 401 or (not status and re.search(_LOGIN, words))) and not is_known:
        return RegistryRefusedError(what, f"Log in: docker login {registry}")
    if status in (401, 403) or (not status and re.search(_DENIED, words)):
        hint = "The user that Docker is logged in as may not do this; ask for the permission, or log in as another one"
        return RegistryRefusedError(what, f"{hint}: docker login {registry}")
    if re.search(_UNKNOWN_NAME, words):
        return RegistryRefusedError(what, "This registry wants a repository to be made before anything is pushed to it.")
    if status == 404:
        return RegistryRefusedError(what, "It is not there (any more): push it first.")
    if status == 412:
        return RegistryRefusedError(what, "A rule of the registry forbids it: an immutable tag, or a quota. See the registry's own log.")
    return RegistryRefusedError(what, "See the registry's own log for the reason.")


def judge_engine(registry: str, what: str, said: str) -> Verdict:
    """What an engine says of a push or a pull that failed; `what` begins the message, which ends with what it said."""
    what = f"{what}: {said}"
    words = re.sub(r'https?://[^\s"]*[^\s":]', "url", said.lower())  # an image may be called quota
    if _UNTRUSTED in words or _IN_CLEAR in words:
        return Verdict(RegistryUnreachableError(what, (tls_hint if _UNTRUSTED in words else plain_hint)(registry)), 1)
    if re.search(_LASTING, words):
        return Verdict(RegistryUnreachableError(what, START_HINT), 1)
    status = next((int(found) for found in re.findall(_STATUS, words)), 0)
    refusal = judge_status(registry, what, status, words)
    if status not in TRANSIENT and (isinstance(refusal, TagImmutableError) or re.search(_FULL, words) or re.search(_READ_ONLY, words)):
        return Verdict(refusal, 1)
    if status == 401:
        return Verdict(refusal, FEW, is_login=True)
    if status in TRANSIENT or (not status and re.search(_PASSING, words)):
        return Verdict(RegistryUnreachableError(what, START_HINT), 0)
    if status:
        return Verdict(refusal, 1, is_bare=True)
    if re.search(_LOGIN, words):
        return Verdict(refusal, FEW, is_login=True)
    return Verdict(refusal, 1 if re.search(_DENIED, words) or re.search(_UNKNOWN_NAME, words) else FEW)


def explanation(body: bytes) -> str:
    """What a refusal says: the codes and messages of the distribution specification, else the beginning of its text."""
    try:
        errors = json.loads(body)["errors"]
        return "; ".join(_sentence(str(error.get("code") or ""), str(error.get("message") or ""), error.get("detail")) for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return re.sub(r"\s+", " ", body.decode(errors="replace")).strip()[:200]


def _sentence(code: str, message: str, detail: object) -> str:
    return (message or code) + (f" ({detail})" if isinstance(detail, str) and detail and detail != message else "")
