"""The base of every model: config in, features out, saved as safetensors and JSON, loaded strictly."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin, save_torch_state_dict
from torch import Tensor, nn

from modalities.common.load_report import LoadReport
from modalities.common.loading import Change, Placement, load_model, skeleton, transplant
from modalities.common.preprocess import Preprocess
from modalities.common.stored import CONFIG, FORMAT_VERSION, InMemory, require_place
from trainer.config import to_dict
from trainer.errors import ModelError
from trainer.files import atomic_folder, write_json, write_text
from trainer.objective import Batch
from trainer.weights import require_finite, sort_metadata, write_errors


class Model(nn.Module, PyTorchModelHubMixin, library_name="modality-zoo"):
    """A network with a frozen config.

    A subclass sets `system` (its name in the registry, stored in config.json), `config_class`, and
    `input_key` (the batch entry it reads), and defines `tokens` and `embed`.
    """

    system: ClassVar[str]
    config_class: ClassVar[type]
    input_key: ClassVar[str]
    graph_input: ClassVar[str] = "normalised"
    """What an exported graph reads, in words."""
    parts: ClassVar[dict[str, str]] = {}
    """Beginning of tensor names -> the part of the model, for load reports; the first that fits counts."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.name: str | None = None
        """Registered or published name, kept in config.json."""
        self.preprocess: Preprocess | None = None
        """Raw input -> batch, as in training. Saved with the weights."""
        self.licence: str | None = None
        """Licence of the weights as the Hub names it, where it is not the project's own; kept in config.json."""
        self.load_report: LoadReport | None = None
        """Where the weights came from; None for a model that was not loaded."""

    def tokens(self, batch: Batch) -> Tensor:
        """Features per token, (B, N, D)."""
        raise NotImplementedError(f"{type(self).__name__} must define tokens(batch)")

    def embed(self, batch: Batch) -> Tensor:
        """One feature vector per sample, (B, D)."""
        raise NotImplementedError(f"{type(self).__name__} must define embed(batch)")

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """Everything that the model says of a batch, by name, in one pass where it can: what an exported graph computes."""
        return {"features": self.embed(batch), "tokens": self.tokens(batch)}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed, beside the 1-D ones."""
        return set()

    def default_preprocess(self) -> Preprocess | None:
        """The usual preprocessing for a model of this config, where the field has one."""
        return None

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The mixin's short card, with the licence of the weights."""
        card = super().generate_model_card(*args, **kwargs)
        if self.licence:
            card.data.license = self.licence
        return card

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def save_pretrained(
        self, save_directory: Path | str, *, card: str | None = None, files: Mapping[str, Path | str] | None = None, max_shard_size: str = "5GB", **mixin: Any
    ) -> str | None:
        """Write weights, config, preprocessing and card into a folder, all or nothing.

        An existing model folder is replaced in one rename. `card` is the text of README.md; without it the
        mixin's short card is written. `files` lie beside them (name -> path to copy, or text). Larger weights are cut into shards of
        `max_shard_size`. `mixin` takes the arguments of `PyTorchModelHubMixin.save_pretrained` (`repo_id`, `push_to_hub`, ...).
        Raises CheckpointError when the folder cannot be written or the weights hold NaN.
        """
        target = Path(save_directory)
        require_place(target)
        require_finite(self.state_dict(), type(self).__name__)
        with atomic_folder(target, replace=True) as folder:
            config = {"model": self.system, "name": self.name, "format_version": FORMAT_VERSION, "config": to_dict(self.config)}
            config |= {"licence": self.licence} if self.licence else {}
            inside = {"config": json.dumps(config)}  # the weight file alone can be loaded, too
            if self.preprocess is not None:
                self.preprocess.save(folder)
                inside["preprocess"] = json.dumps(self.preprocess.values())
            with write_errors(target):
                save_torch_state_dict(self.state_dict(), folder, max_shard_size=max_shard_size, metadata=inside)
            for path in folder.glob("*.safetensors"):
                sort_metadata(path)
            write_json(folder / CONFIG, config)
            for name, content in (files or {}).items():
                if isinstance(content, Path):
                    shutil.copyfile(content, folder / name)
                else:
                    write_text(folder / name, content)
            model_card_kwargs = mixin.pop("model_card_kwargs", None) or {}
            write_text(folder / "README.md", card if card is not None else str(self.generate_model_card(**model_card_kwargs)))
        if mixin.pop("push_to_hub", False):
            mixin.pop("config", None)
            return self.push_to_hub(repo_id=mixin.pop("repo_id", None) or target.name, **mixin)
        return None

    @classmethod
    def from_pretrained(cls, source: Path | str, **options: Any) -> "Model":
        """`zoo.from_pretrained`, with its options, for whoever knows the class. CheckpointError when `source` holds another system."""
        from modalities.common import pretrained  # it imports this module

        return pretrained.load(source, system=cls.system, **options)

    @classmethod
    def from_state(cls, config: Any, state: dict[str, Tensor], where: str) -> "Model":
        """Build the model around existing tensors (no second copy). CheckpointError lists what does not match."""
        model = skeleton(cls, config, len(state), where)
        return load_model(model, model, InMemory(state), where, placement=Placement(keep_dtype=True))

    @classmethod
    def built_on(cls, encoder: "Model", config: Any) -> "Model":
        """A model of this class and of `config` on the weights of another; what is new starts fresh.

        The preprocessing is taken over, for this model's inputs, and the licence of the weights. ModelError when a weight is missing or has another shape.
        """
        model = cls(config)
        transplant(encoder, model, new_head=True)
        model.licence = encoder.licence
        if encoder.preprocess is not None:
            model.preprocess = model.taken_preprocess(encoder, encoder.preprocess)
        return model.to(encoder.device)

    @classmethod
    def change_from(cls, source: type["Model"], old: Any, new: Any, new_head: bool = False) -> Change:
        """What distinguishes this model, of config `new`, from a `source` model of config `old` whose weights it takes.

        `new_head`: what the model gives out starts fresh, even where the shapes would fit. A model that can take another's
        weights, another input size or a new head overrides this; here nothing may differ.
        """
        return Change()

    def init_new(self, names: set[str]) -> None:
        """Give first values to tensors that no checkpoint held; they are without memory so far. ModelError when this model has no rule."""
        raise ModelError(f"{type(self).__name__} does not say how these tensors start: {', '.join(sorted(names))}.")

    @classmethod
    def for_task(cls, task: str, config: Any, num_outputs: int | None, changes: dict[str, Any]) -> Any:
        """The config of this model on the weights of a model of `config`, for a task with so many outputs, `changes` applied."""
        raise ModelError(f"{cls.__name__} takes no weights for the task {task!r}.")

    @classmethod
    def sub_model(cls, config: Any, size: str) -> tuple[type["Model"], Any]:
        """Class and config of the part of a model of `config` that has a named size; `change_from` of that class cuts it out."""
        raise ModelError(f"{cls.__name__} has one size only, so size={size!r} means nothing for it. Leave it out.")

    def part(self, size: str | None = None) -> "Model":
        """The part of a named size, in memory; without `size` the network that fine-tuning starts from, which is the model itself.

        ModelError for a model of one size.
        """
        if size is not None:
            self.sub_model(self.config, size)
        return self

    @classmethod
    def part_of(cls, name: str) -> str:
        """Which part of the model a tensor belongs to, in the words of a load report."""
        return next((part for prefix, part in cls.parts.items() if name.startswith(prefix)), "model")

    def size_multiple(self) -> tuple[int, ...] | None:
        """What each length of an input must be a multiple of, for a model that takes inputs of other sizes too; None when it does not."""
        return None

    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one sample, (C, *size); None when it is not fixed."""
        return None

    def graph_shape(self) -> tuple[int, ...] | None:
        """Shape of one sample for the graph that is exported of it; None when it has no fixed one."""
        return self.input_shape()

    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Entry of the batch -> shape of one sample, for all that the model reads."""
        return {self.input_key: self.input_shape() or ()}

    def snippet_words(self) -> dict[str, str]:
        """More words that the snippet of the system's card may hold in braces, for this very model."""
        return {}

    def card_tags(self) -> tuple[str, ...]:
        """Tags of this very model's card, beside those of its system."""
        return ()

    def token_count(self) -> int:
        """Tokens that `tokens` gives of one sample; 0 when that is not fixed."""
        table = getattr(self, "pos_embed", None)
        return 0 if table is None else table.shape[1]

    def require_preprocess(self, preprocess: Preprocess, where: str) -> None:
        """Raise CheckpointError unless a stored preprocessing gives what this model reads."""
        if self.input_shape() is not None:
            preprocess.require_shape(self.input_shape(), where)

    def taken_preprocess(self, source: "Model", preprocess: Preprocess) -> Preprocess | None:
        """The preprocessing of a model whose weights this one takes, for this one's inputs; None when there is no such."""
        return preprocess if self.input_shape() == source.input_shape() else preprocess.adapted(self.input_shape())

    def input_in_words(self) -> str:
        """What the network reads, for its card: `entry`: channels, size."""
        axes, found = len(self.config.input_size), []
        for key, shape in self.input_shapes().items():
            channels = f"{shape[0]} channel(s), " if len(shape) > axes else "class ids, "
            found.append(f"`{key}`: {channels}{' x '.join(map(str, shape[-axes:]))}")
        return "; ".join(found)
