"""What can go wrong between this machine and a Hub, each in one line that says what to do."""

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from modalities import registry
from trainer.errors import CheckpointError, UnknownNameError, ZooError, did_you_mean
from trainer.files import explain

INVALID_TOKEN = "Invalid credentials"
"""How the Hub begins its answer to a token that it does not know."""


class Unreachable(CheckpointError):
    """The Hub cannot be asked at this moment; a copy in the cache may take its place. The message has no full stop: who catches it says what follows."""


@contextlib.contextmanager
def hub_errors(repo_id: str, revision: str = "main", timeout: float | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line of ours. `timeout` is named when no answer came."""
    _check_endpoint()
    try:
        yield
    except ZooError:
        raise
    except (HTTPError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise translate(error, repo_id, revision, timeout) from error


def _check_endpoint() -> None:
    try:
        parts = urlsplit(constants.ENDPOINT)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise CheckpointError(f"HF_ENDPOINT is no address of a Hub: {constants.ENDPOINT!r}. Expected http:// or https:// and a host.")


def translate(error: BaseException, repo_id: str, revision: str, timeout: float | None = None) -> ZooError:
    """The error of ours that says what an error of huggingface_hub means."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:  # the library wraps what the Hub answered in errors of its own
        chain.append(cause)
    answered = next((e for e in chain if isinstance(e, HfHubHTTPError)), None)
    if answered is not None:
        return _refusal(answered, repo_id, revision)
    lost = next((e for e in chain if isinstance(e, (HTTPError, OfflineModeIsEnabled))), None)
    if lost is not None:
        return Unreachable(_lost(lost, timeout))
    if isinstance(error, FileMetadataError) or any(isinstance(e, FileMetadataError) for e in chain):
        return CheckpointError(f"{constants.ENDPOINT} does not answer as a Hub. Check HF_ENDPOINT and the proxy.")
    if isinstance(error, OSError) and error.errno is not None:
        return explain(error, error.filename or constants.HF_HUB_CACHE)
    if isinstance(error, OSError) and "Consistency check" in str(error):
        return Unreachable(f"The transfer of {repo_id} broke off ({_first_line(error)})")
    if isinstance(error, (ValueError, KeyError, TypeError)):
        return CheckpointError(f"{constants.ENDPOINT} does not answer as a Hub ({type(error).__name__}: {_first_line(error)}). Check HF_ENDPOINT.")
    return CheckpointError(f"The transfer of {repo_id} failed ({_first_line(chain[-1])}). The same command starts it again.")


def _lost(error: BaseException, timeout: float | None) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if "Timeout" in type(error).__name__:
        return f"{constants.ENDPOINT} did not answer within {timeout or constants.HF_HUB_DOWNLOAD_TIMEOUT:g} s"
    return f"{constants.ENDPOINT} cannot be reached ({_first_line(error)})"


def _refusal(error: HfHubHTTPError, repo_id: str, revision: str) -> ZooError:
    """What an answer with a status of 400 or above means."""
    endpoint, status, said = constants.ENDPOINT, error.response.status_code, error.server_message or ""
    if status == 429:
        pause = error.response.headers.get("Retry-After", "")
        length = f" of {pause} s" if pause.isdigit() else ""
        return Unreachable(f"{endpoint} asks for a pause{length} (HTTP 429{'' if get_token() else '; a token in HF_TOKEN raises the limit'})")
    if status >= 500:
        return Unreachable(f"{endpoint} has an internal error (HTTP {status})")
    if INVALID_TOKEN in said:
        return CheckpointError(f"{endpoint} does not know the token in use (HTTP {status}). Log in again with `hf auth login`, or correct HF_TOKEN.")
    if isinstance(error, GatedRepoError):
        return CheckpointError(f"{repo_id} is gated (HTTP {status}). Ask for access at {endpoint}/{repo_id} and use a token that has it (HF_TOKEN or `hf auth login`).")
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(f"{repo_id} has no branch, tag or commit {revision!r}. Leave the revision out for the newest state.")
    if isinstance(error, EntryNotFoundError):
        return CheckpointError(f"{error.response.url} is not there (HTTP {status}), although the Hub lists it. Try again.")
    if status in (401, 404):
        shown = "that this token may see" if get_token() else "that can be seen without a token"
        return UnknownNameError(
            f"{repo_id!r} is neither a folder nor a model of the zoo, and {endpoint} has no model of this name {shown} (HTTP {status})."
            f"{did_you_mean(repo_id, registry.entries())} Check the spelling; a private model needs the token of somebody who may read it (HF_TOKEN or `hf auth login`)."
        )
    if status == 403:
        return CheckpointError(f"{endpoint} forbids this with the token in use (HTTP 403{_said(said)}). Use a token with the right to do it.")
    return CheckpointError(f"{endpoint} refuses (HTTP {status}{_said(said)}).")


def _said(message: str) -> str:
    return f": {message.splitlines()[0]}" if message else ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
