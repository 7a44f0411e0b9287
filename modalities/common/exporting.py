"""A model in the form of another library: what is written, what was left out, and how to see that it computes the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from modalities.common.model import Model
from trainer.errors import MissingDependencyError, ModelError
from trainer.files import write_json
from trainer.weights import write_safetensors

State = dict[str, Tensor]
Run = Callable[[Any], dict[str, Tensor]]
"""An input of the model, (B, ...) or what `Export.example` gives -> what comes out, by the names of `Model.outputs`, and others that the export adds."""


@dataclass(frozen=True)
class Export:
    """A model that another library can hold. Making one raises ModelError, by name, for what the library cannot hold."""

    library: str
    """The library, as the Hub calls it."""
    write: Callable[[Path], None]
    """Write its files into a folder."""
    load: Callable[[Path], Run]
    """Open what was written, as the other library's users do."""
    usage: str
    """Python lines that use it; PLACE stands for the folder."""
    left_out: tuple[str, ...] = ()
    """Parts of the model that the other library does not hold, in words."""
    notes: tuple[str, ...] = ()
    """What is otherwise there than here, in words."""
    expected: Run | None = None
    """What must come out, where it is more than `Model.outputs`."""
    example: Callable[[int], Any] | None = None
    """Number of samples -> the input on which both are compared, for a model whose input has no fixed shape."""


def example(model: Model, samples: int, seed: int = 0) -> Tensor:
    """Random normalised input (B, C, *size). ModelError for a model whose input has no fixed shape."""
    shape = model.graph_shape()
    if shape is None:
        raise ModelError(f"{type(model).__name__} has no input of one fixed shape, so what is exported of it cannot be checked.")
    return torch.randn(samples, *shape, generator=torch.Generator().manual_seed(seed))


def transformers_library() -> ModuleType:
    """transformers, or MissingDependencyError: an export for it is checked by loading it there."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MissingDependencyError("transformers is not installed, and the export is checked by loading it there: pip install 'modality-zoo[transformers]'.") from error
    return transformers


def transformers_files(state: State, config: dict[str, Any], processor: dict[str, Any] | None) -> Callable[[Path], None]:
    """What writes a model into a folder as transformers reads it; without a processor there is no file of it."""

    def write(folder: Path) -> None:
        write_safetensors(state, folder / "model.safetensors")
        write_json(folder / "config.json", {**config, "dtype": "float32"})
        if processor is not None:
            write_json(folder / "preprocessor_config.json", processor)

    return write


def in_transformers(folder: Path, name: str, architecture: str, **options: Any) -> nn.Module:
    """The model of a folder, in evaluation mode, opened by an Auto class of transformers. ModelError unless it becomes an `architecture` and every weight is there."""
    transformers = transformers_library()
    with quiet(transformers.logging):
        theirs, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True, local_files_only=True, **options)
    lacking = {key: sorted(map(str, value)) for key, value in report.items() if value}
    if lacking or type(theirs).__name__ != architecture:
        raise ModelError(f"transformers loads this model as {type(theirs).__name__} and only in part: {lacking}.")
    return theirs.eval()


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Without the progress bars and remarks of transformers: what was loaded is checked here."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
