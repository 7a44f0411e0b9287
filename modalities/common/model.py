"""The base of every model: config in, features out, saved as safetensors and JSON, loaded strictly."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import PyTorchModelHubMixin, save_torch_state_dict
from torch import Tensor, nn

from modalities.common.preprocess import Preprocess
from trainer.config import from_dict, to_dict
from trainer.errors import CheckpointError
from trainer.files import atomic_folder, read_json, write_json, write_text
from trainer.objective import Batch
from trainer.weights import read_safetensors, require_finite, write_errors

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Model(nn.Module, PyTorchModelHubMixin, library_name="modality-zoo"):
    """A network with a frozen config.

    A subclass sets `system` (its name in the registry, stored in config.json), `config_class`, and
    `input_key` (the batch entry it reads), and defines `tokens` and `embed`.
    """

    system: ClassVar[str]
    config_class: ClassVar[type]
    input_key: ClassVar[str]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.name: str | None = None
        """Registered or published name, kept in config.json."""
        self.preprocess: Preprocess | None = None
        """Raw input -> batch, as in training. Saved with the weights."""

    def tokens(self, batch: Batch) -> Tensor:
        """Features per token, (B, N, D)."""
        raise NotImplementedError(f"{type(self).__name__} must define tokens(batch)")

    def embed(self, batch: Batch) -> Tensor:
        """One feature vector per sample, (B, D)."""
        raise NotImplementedError(f"{type(self).__name__} must define embed(batch)")

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed, beside the 1-D ones."""
        return set()

    def default_preprocess(self) -> Preprocess | None:
        """The usual preprocessing for a model of this config, where the field has one."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def save_pretrained(
        self, save_directory: Path | str, *, card: str | None = None, files: dict[str, Path] | None = None, **mixin: Any
    ) -> str | None:
        """Write weights, config, preprocessing and card into a folder, all or nothing.

        An existing model folder is replaced in one rename. `card` is the text of README.md; without it the
        mixin's short card is written. `files` are copied beside them (name -> path). `mixin` takes the arguments of `PyTorchModelHubMixin.save_pretrained`
        (`repo_id`, `push_to_hub`, ...). Raises CheckpointError when the folder cannot be written or the
        weights hold NaN.
        """
        target = Path(save_directory)
        if target.is_dir() and any(target.iterdir()) and not (target / "config.json").exists():
            raise CheckpointError(f"{target} holds other files and no model. Choose an empty or new folder.")
        require_finite(self.state_dict(), type(self).__name__)
        with atomic_folder(target, replace=True) as folder:
            with write_errors(target):
                save_torch_state_dict(self.state_dict(), folder, max_shard_size="5GB")
            write_json(
                folder / "config.json",
                {
                    "model": self.system,
                    "name": self.name,
                    "format_version": FORMAT_VERSION,
                    "config": to_dict(self.config),
                },
            )
            if self.preprocess is not None:
                self.preprocess.save(folder)
            for name, path in (files or {}).items():
                shutil.copyfile(path, folder / name)
            model_card_kwargs = mixin.pop("model_card_kwargs", None) or {}
            write_text(folder / "README.md", card if card is not None else str(self.generate_model_card(**model_card_kwargs)))
        if mixin.pop("push_to_hub", False):
            mixin.pop("config", None)
            return self.push_to_hub(repo_id=mixin.pop("repo_id", None) or target.name, **mixin)
        return None

    @classmethod
    def from_pretrained(cls, folder: Path | str, **changes: Any) -> "Model":
        """Load a folder written by `save_pretrained`; every tensor must match. `changes` replace config fields.

        `zoo.from_pretrained` also takes names and other libraries' layouts.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is no folder. Expected one with config.json and {WEIGHTS}.")
        stored = read_config(folder)
        if stored["model"] != cls.system:
            raise CheckpointError(
                f"{folder} holds a {stored['model']}, not a {cls.system}. Load it with zoo.from_pretrained."
            )
        config = from_dict(cls.config_class, {**stored["config"], **changes}, str(folder / "config.json"))
        model = cls.from_state(config, read_weights(folder), str(folder))
        model.name = stored.get("name")
        model.preprocess = Preprocess.load(folder) or model.preprocess
        return model

    @classmethod
    def from_state(cls, config: Any, state: dict[str, Tensor], where: str) -> "Model":
        """Build the model around existing tensors (no second copy). CheckpointError lists what does not match."""
        with torch.device("meta"):
            model = cls(config)
        check_state(model, state, where)
        require_finite(state, where)
        if any(buffer.is_meta for name, buffer in model.named_buffers() if name not in state):
            model = cls(config)  # a buffer that is computed, not stored, must be computed for real
        model.load_state_dict(state, strict=True, assign=True)
        return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """Our config.json of a folder, checked for its outer form."""
    path = folder / "config.json"
    if not path.exists():
        names = sorted(p.name for p in folder.iterdir())[:8]
        raise CheckpointError(f"{folder} has no config.json (it holds: {', '.join(names) or 'nothing'}). Expected a model folder.")
    stored = read_json(path)
    if not isinstance(stored, dict) or not {"model", "config", "format_version"} <= stored.keys():
        raise CheckpointError(f"{path} is not a config of modality-zoo: it needs the fields model, config and format_version.")
    if stored["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {stored['format_version']!r}; this version of modality-zoo reads {FORMAT_VERSION}. Update modality-zoo."
        )
    return stored


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder, from one file or from shards."""
    if not (folder / INDEX).exists():
        return read_safetensors(folder / WEIGHTS)
    index = read_json(folder / INDEX)
    files = sorted(set(index.get("weight_map", {}).values())) if isinstance(index, dict) else []
    if not files or any(Path(f).name != f or not f.endswith(".safetensors") for f in files):
        raise CheckpointError(f"{folder / INDEX} must map tensor names to plain .safetensors file names, found {files[:3]}.")
    state: dict[str, Tensor] = {}
    for file in files:
        state.update(read_safetensors(folder / file))
    return state


def check_state(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Raise CheckpointError with both sorted lists when names or shapes of `state` differ from the model's."""
    check_tensors(model.state_dict(), state, f"{where} does not fit {type(model).__name__} as its config describes it.")


def check_tensors(wanted: dict[str, Tensor], state: dict[str, Tensor], complaint: str) -> None:
    """Raise CheckpointError, led by `complaint`, when names or shapes of `state` differ from the wanted ones."""
    expected = {k: tuple(v.shape) for k, v in wanted.items()}
    missing = sorted(expected.keys() - state.keys())
    extra = sorted(state.keys() - expected.keys())
    shapes = [f"{k} {tuple(state[k].shape)} instead of {s}" for k, s in expected.items() if k in state and tuple(state[k].shape) != s]
    if not (missing or extra or shapes):
        return
    lines = [complaint]
    lines += [f"  missing in the file ({len(missing)}): {_some(missing)}"] if missing else []
    lines += [f"  not in the model ({len(extra)}): {_some(extra)}"] if extra else []
    lines += [f"  other shape ({len(shapes)}): {_some(shapes)}"] if shapes else []
    raise CheckpointError("\n".join(lines) + "\nUse the checkpoint of this very model, or the config that came with these weights.")


def _some(names: list[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f", ... ({len(names) - limit} more)" if len(names) > limit else "")
