"""The project's one exception family.

Every message says what was expected, what was found and how to fix it. The command line shows these
errors in one paragraph, without a traceback; anything else that reaches the user is a bug of ours.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class ZooError(Exception):
    """Base of all errors that this project raises on purpose."""


class ConfigError(ZooError):
    """A recipe, a config field or an option is unknown, ill-typed or contradictory."""


class DataError(ZooError):
    """Input data is missing, unreadable or not what the model expects."""


class CheckpointError(ZooError):
    """A weight file, a config file or a run folder cannot be read, written or matched."""


class ModelError(ZooError):
    """A model cannot be built as asked or got a tensor that it cannot take."""


class UnknownNameError(ZooError):
    """A name stands for no registered model, recipe or data set."""


class MissingDependencyError(ZooError):
    """An optional library is needed; the message names the extra that brings it."""


class TrainingError(ZooError):
    """Training cannot go on (a non-finite loss, for instance)."""


class Interrupted(ZooError):
    """The user or the system stopped a run; the message says where it stopped and how to resume it."""

    code = 130
    """Exit status of the command: 128 + the signal's number, as shells have it (130 Ctrl-C, 143 SIGTERM)."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the nearest valid name, or an empty string when nothing is near."""
    valid = list(valid)
    matches = get_close_matches(name[:100], valid, n=1, cutoff=0.5)  # its time grows with the square of the length
    if not matches:  # a forgotten prefix, as in "lr" for "train.optim.lr"
        matches = [v for v in valid if v.rpartition(".")[2] == name.rpartition(".")[2]][:1]
    return f" Did you mean {matches[0]!r}?" if matches else ""


def shorten(value: object, limit: int = 80) -> str:
    """A foreign value in a message: its repr, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
