"""Where weights meet a network: the one way by which tensors become a model, whatever wrote them.

Two steps, both decided on names and shapes before a byte of the weights is read. The file must hold exactly the
tensors of the model it was saved from; nothing is forgiven there. Then, when another model was asked for
(a new head, another input size), each difference must be announced by a rule of that model. What is in neither is
an error with the names.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from modalities.common.load_report import LoadReport, Row, compact
from trainer.errors import CheckpointError, ModelError, shorten
from trainer.tensor_file import is_finite

if TYPE_CHECKING:
    from modalities.common.model import Model

Names = Callable[[str], tuple[str, ...]]
"""Name in the model -> its name in the file, or names, when the file holds it in equal pieces along the first axis."""

WIDE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types in which weights are stored as they are; smaller ones need scales that no tensor of a model holds."""
DTYPES = {str(t).removeprefix("torch."): t for t in WIDE}
"""Names that `dtype=` takes."""


class Weights(Protocol):
    """Tensors by name that are read one at a time."""

    meta: Mapping[str, Tensor]
    """Name -> a tensor of that shape and type without memory (device "meta")."""

    def read(self, name: str) -> Tensor:
        """The values. They may be views of a file."""

    def forget(self, name: str) -> None:
        """The values are not needed again in this form."""

    def searches(self) -> list[Callable[[], list[str]]]:
        """Functions that look for NaN and infinity, each in a part of the tensors, and return the names."""


class Search:
    """Looks for NaN and infinity in threads of its own while the network is built, since both take about as long.

    A context manager; leaving it ends the search.
    """

    def __init__(self, weights: Weights) -> None:
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "finite")
        self._parts = [self._pool.submit(search) for search in weights.searches()]

    def found(self) -> list[str]:
        """Names of the tensors with NaN or infinity; waits for the end of the search."""
        return [name for part in self._parts for name in part.result()]

    def __enter__(self) -> "Search":
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Rule:
    """Tensors that may differ by design."""

    pattern: str
    """Regular expression for whole names in the model. One that matches nothing is an error: it would hide the next mistake."""
    why: str
    """Reason, for the report."""


@dataclass(frozen=True)
class Adaptation:
    """How a stored tensor becomes one of another shape."""

    how: str
    """In words, for the report."""
    apply: Callable[[Tensor], Tensor]
    """The function."""


@dataclass(frozen=True)
class Change:
    """What distinguishes a model from the one whose weights it takes."""

    adapted: Mapping[str, Adaptation] = field(default_factory=dict)
    """Name -> how its tensor is adapted."""
    new: tuple[Rule, ...] = ()
    """Tensors of the new model that start fresh."""
    unused: tuple[Rule, ...] = ()
    """Tensors of the old model that the new one leaves out."""
    taken: Mapping[str, str] = field(default_factory=dict)
    """Name in the new model -> name of the old model's tensor that it takes, where they differ."""

    def then(self, later: "Change") -> "Change":
        """This change and then another, which starts from what this one gives and renames nothing more."""
        both = self.adapted.keys() & later.adapted.keys()
        joined = {n: Adaptation(f"{self.adapted[n].how}, {later.adapted[n].how}", _chain(self.adapted[n].apply, later.adapted[n].apply)) for n in both}
        return Change({**self.adapted, **later.adapted, **joined}, self.new + later.new, self.unused + later.unused, self.taken)


def _chain(first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda tensor: second(first(tensor))


@dataclass(frozen=True)
class Placement:
    """In which form the weights are wanted."""

    dtype: torch.dtype | None = None
    """Type of the floating point tensors. None: as stored, but half precision becomes single, which is what preprocessing gives."""
    keep_dtype: bool = False
    """Whatever the type: as stored."""
    device: torch.device = torch.device("cpu")
    """Where to."""
    allow_nonfinite: bool = False
    """Take NaN and infinity."""

    def dtype_for(self, stored: torch.dtype) -> torch.dtype:
        """The type that a stored tensor gets."""
        if self.keep_dtype or not stored.is_floating_point:
            return stored
        return self.dtype or (torch.float32 if stored.itemsize < 4 else stored)


def own_name(name: str) -> tuple[str, ...]:
    """The names of our own layout: those of the model."""
    return (name,)


def load_model(
    model: "Model", source: "Model", weights: Weights, where: str, names: Names = own_name,
    placement: Placement = Placement(), layout: str = "modality-zoo", new_head: bool = False, search: Search | None = None,
) -> "Model":  # fmt: skip
    """Fill `model`, a skeleton, from the weights of the skeleton `source`, which may be the same object; evaluation mode.

    `names` says how the file calls the tensors of `source`; with `new_head` the model's head starts fresh; `search` is one
    that runs already. Raises CheckpointError with the sorted lists of what does not match, and for NaN or infinity.
    """
    stored = match(source, weights.meta, names, f"{where} does not fit {type(source).__name__} as its config describes it.")
    change = Change() if model is source else type(model).change_from(type(source), source.config, model.config, new_head)
    rows = carry(source, model, stored, change, where)
    new = {row.name for row in rows if row.kind == "new"}
    if new:
        model.init_new(new)
    state = {name: _placed(tensor, placement) for name, tensor in model.state_dict().items() if name in new} if new else {}
    order = {name: i for i, name in enumerate(weights.meta)}  # a file is read from front to back
    kept = sorted((row for row in rows if row.name and row.stored), key=lambda row: order[row.stored[0]])
    with ThreadPoolExecutor(os.cpu_count(), "copy") as pool:  # while tensors are copied, without the interpreter, the network takes them over
        copies = [pool.submit(copy) for row in kept if (copy := _take(row, weights, change.adapted.get(row.name), placement, state))]
        _fill_computed_buffers(model, placement)
        model.load_state_dict(state, strict=True, assign=True)
        for copy in copies:
            copy.result()
    cast = [(row.name, weights.meta[row.stored[0]].dtype) for row in kept if weights.meta[row.stored[0]].dtype != state[row.name].dtype]
    overflown = [name for name, _ in cast if not is_finite(state[name])]
    if not placement.allow_nonfinite:
        broken = search.found() if search else [name for part in weights.searches() for name in part()]
        if broken or overflown:
            raise CheckpointError(
                f"{where} holds NaN or infinity in {compact(broken or overflown)}{'' if broken else ' after the change of type'}. "
                "Such weights are never used; allow_nonfinite=True loads them nevertheless, to look at them."
            )
    casts = {(_name(before), _name(state[name].dtype)) for name, before in cast}
    notes = tuple(f"stored in {before}, loaded in {after}" for before, after in sorted(casts))
    model.load_report = LoadReport(tuple(rows), layout, where, notes=notes)
    return model.eval()


def transplant(source: "Model", model: "Model", new_head: bool = False) -> None:
    """Copy the weights of a model in memory into another by its rules; what is new keeps its first values.

    Raises ModelError, with the names, when `source` does not give what `model` needs.
    """
    old, new = source.state_dict(), model.state_dict()
    change = type(model).change_from(type(source), source.config, model.config, new_head)
    try:
        rows = carry(source, model, {name: (name,) for name in old}, change, f"The {type(source).__name__} in memory")
    except CheckpointError as error:
        raise ModelError(f"{error}\nKeep the encoder's widths and depth, and use pool='avg' for an encoder that was fine-tuned with it.") from error
    for row in rows:
        if row.name and row.stored:
            adapted, tensor = change.adapted.get(row.name), old[change.taken.get(row.name, row.name)]
            new[row.name].copy_(adapted.apply(tensor) if adapted else tensor)
    model.load_report = LoadReport(tuple(rows), "modality-zoo", source.name or type(source).__name__)


def match(source: nn.Module, found: Mapping[str, Tensor], names: Names, complaint: str) -> dict[str, tuple[str, ...]]:
    """Name in `source` -> names in the file. CheckpointError, led by `complaint`, with both sorted lists unless everything fits one to one."""
    wanted = source.state_dict()
    stored = {name: names(name) for name in wanted}
    expected = {name: tensor for ours in wanted for name, tensor in zip(stored[ours], pieces(wanted[ours], len(stored[ours])))}
    both = [name for name in expected if name in found]
    lists = {
        "missing in the file": [name for name in expected if name not in found],
        "not in the model": [name for name in found if name not in expected],
        "other shape": [f"{n} {_shape(found[n])} instead of {_shape(expected[n])}" for n in both if found[n].shape != expected[n].shape],
        "no weights in this type": [f"{n} ({_name(found[n].dtype)})" for n in both if not _readable(found[n].dtype, expected[n].dtype)],
    }
    if any(lists.values()):
        raise CheckpointError(f"{complaint}\n{told(lists)}\nUse the checkpoint of this very model, or the config that came with these weights.")
    return stored


def carry(source: "Model", model: "Model", stored: Mapping[str, tuple[str, ...]], change: Change, where: str) -> list[Row]:
    """What becomes of every tensor of `source` and of `model`, the model's first; `stored` are the source's names in the file.

    CheckpointError, with both sorted lists, for tensors that have no counterpart of their shape and are not announced by
    `change`; ModelError for a rule that matches nothing.
    """
    old = source.state_dict()
    new = old if model is source else model.state_dict()
    rows: list[Row] = []
    lost: list[str] = []
    used: set[str] = set()
    for name, tensor in new.items():
        adapted, fresh, theirs = change.adapted.get(name), _rule(change.new, name), change.taken.get(name, name)
        if fresh:
            rows.append(Row("new", model.part_of(name), name, _shape(tensor), note=fresh.why))
        elif theirs in old and (adapted or old[theirs].shape == tensor.shape):
            names = stored[theirs]
            used.add(theirs)
            kind = "resized" if adapted else "matched" if names == (name,) else "renamed"
            note = adapted.how if adapted else f"joined from {len(names)}" if len(names) > 1 else ""
            shapes = tuple(_shape(piece) for piece in pieces(old[theirs], len(names)))
            rows.append(Row(kind, model.part_of(name), name, _shape(tensor), names, shapes, note))
        else:
            lost.append(f"{name} {_shape(old[theirs])} instead of {_shape(tensor)}" if theirs in old else name)
    left: list[str] = []
    for name in (name for name in old if name not in used):
        rule = _rule(change.unused, name)
        if rule:
            shapes = tuple(_shape(piece) for piece in pieces(old[name], len(stored[name])))
            rows.append(Row("unused", source.part_of(name), None, None, stored[name], shapes, rule.why))
        elif not any(text.startswith(f"{name} ") for text in lost):
            left.append(name)
    if lost or left:
        lists = told({"missing in the checkpoint": lost, "not in the model": left})
        raise CheckpointError(f"{where} does not give the weights of this {type(model).__name__}.\n{lists}")
    _require_effect(change, old, new)
    return rows


def pieces(tensor: Tensor, count: int) -> tuple[Tensor, ...]:
    """A tensor in `count` equal parts along the first axis."""
    return (tensor,) if count == 1 else tensor.chunk(count)


def skeleton(cls: type["Model"], config: Any, tensors: int, where: str) -> "Model":
    """The model without memory for its weights (device "meta"), for a file that holds so many tensors.

    A config can ask for anything. So the building stops as soon as the model has far more tensors than the file, and what cannot be
    built at all is told as a CheckpointError.
    """
    limit, count = 2 * tensors + 1000, 0

    def counted(parameter: nn.Parameter) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise CheckpointError(f"{where} holds {tensors} tensors, and its config describes a {cls.__name__} of more than {limit}. They do not belong together.")

    try:
        with torch.device("meta"), _NoInitialisation(), _each_parameter(counted):
            return cls(config)
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
        reason = shorten(str(error).partition("\n")[0], 200)  # torch adds a trace of its own
        raise CheckpointError(f"{where}: its config describes a {cls.__name__} that cannot be built ({reason}). Use the config that came with the weights.") from error


@contextmanager
def _each_parameter(action: Callable[[nn.Parameter], nn.Parameter | None]) -> Iterator[None]:
    """Call `action` with every parameter that a module of this thread registers; what it returns takes the parameter's place."""
    thread = threading.get_ident()  # the hook hears of the modules of all threads

    def hook(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        return action(parameter) if parameter is not None and threading.get_ident() == thread else None

    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _NoInitialisation(TorchFunctionMode):
    """A tensor without memory needs no first values; leaving them out halves the time to build a skeleton."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in _FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


_FILLS = {getattr(Tensor, name) for name in ("uniform_", "normal_", "fill_", "zero_", "copy_")}


def _take(row: Row, weights: Weights, adapted: Adaptation | None, placement: Placement, state: dict[str, Tensor]) -> Callable[[], None] | None:
    """Put the tensor of a row, in the form that is wanted, into `state`; a view of the file where nothing has to change.

    Where its values have to be copied they are not there yet: what is returned does that, and may run in another thread.
    """
    parts = [weights.read(name) for name in row.stored]
    dtype = placement.dtype_for(parts[0].dtype)
    if adapted is None and len(parts) == 1 and parts[0].dtype == dtype and placement.device == parts[0].device:
        state[row.name] = parts[0]
        return None
    if adapted is not None:
        whole = torch.cat(parts)
        state[row.name] = adapted.apply(whole.float() if whole.element_size() < 4 else whole).to(placement.device, dtype)
        for name in row.stored:
            weights.forget(name)
        return None
    tensor = state[row.name] = _room(row.shape, dtype, placement.device)

    def copy() -> None:
        for part, place in zip(parts, pieces(tensor, len(parts))):
            if place.device.type == "cpu" and place.dtype == part.dtype:
                np.copyto(_bytes(place), _bytes(part))  # torch would start threads of its own, which costs more than it gives
            else:
                place.copy_(part)
        for name in row.stored:
            weights.forget(name)

    return copy


def _room(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for a tensor. On the CPU from numpy, which asks for huge pages: filling them is several times faster."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if device.type != "cpu" or size == 0:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(size, np.uint8)).view(dtype).view(shape)


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _placed(tensor: Tensor, placement: Placement) -> Tensor:
    return tensor.detach().to(placement.device, placement.dtype_for(tensor.dtype))


def _fill_computed_buffers(model: "Model", placement: Placement) -> None:
    """Buffers that are computed and not stored must be computed for real; the parameters beside them need no memory for it."""
    stored = model.state_dict().keys()
    computed = [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in stored]
    if not computed:
        return
    with _each_parameter(lambda parameter: nn.Parameter(parameter.to("meta"), parameter.requires_grad)):
        real = type(model)(model.config)
    for name in computed:
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner).register_buffer(leaf, _placed(real.get_buffer(name), placement), persistent=False)


def _rule(rules: Iterable[Rule], name: str) -> Rule | None:
    return next((rule for rule in rules if re.fullmatch(rule.pattern, name)), None)


def _require_effect(change: Change, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """Every rule must match something: one that does not was written for other names and would hide the next mistake."""
    idle = [rule.pattern for rules, names in ((change.new, new), (change.unused, old)) for rule in rules if not any(_rule([rule], n) for n in names)]
    idle += [name for name in {**change.adapted, **change.taken} if name not in new or change.taken.get(name, name) not in old]
    if idle:
        raise ModelError(f"These rules of `change_from` match no tensor: {', '.join(idle)}. Correct them in the model's file.")


def _readable(found: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether a stored type can become the wanted one without a guess."""
    return found in WIDE if wanted.is_floating_point else found == wanted


def told(lists: Mapping[str, list[str]]) -> str:
    """What is wrong -> the names of it, sorted, a line for each."""
    return "\n".join(f"  {what} ({len(names)}): {compact(names)}" for what, names in lists.items() if names)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
