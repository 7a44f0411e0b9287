"""What is stored with a checkpoint so that circuits are read as in training: places on the die made comparable, times and slews as the network gives them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from modalities.common.preprocess import Preprocess
from modalities.graph.circuits import CELL_FEATURES, CORNERS, NET_FEATURES, PIN_FEATURES, Circuit, levels, primary_inputs, same_tables
from modalities.graph.preprocess import collate
from trainer.decoders import decode
from trainer.errors import DataError

DIE = slice(2, 6)
"""Columns of x that are distances to the edges of the die."""
UNSET = 1e20
"""Arrival times beyond this stand for none."""
SMALLEST, SLEW_SHIFT, DELAY_SHIFT = 1e-4, 3.0, 7.6
"""The network gives log(SMALLEST + slew) + 3 and log(SMALLEST + net delay) + 7.6."""
GRAPH = {"x": PIN_FEATURES, "net_attr": NET_FEATURES, "cell_attr": CELL_FEATURES}
"""Arrays that every circuit has -> columns."""
LABELS = {"arrival": "x", "slew": "x", "net_delay": "x", "cell_delay": "cell_attr"}
"""Arrays of 4 columns -> the array that has as many rows."""
ASKED = ("required", "endpoint")
"""Arrays that slacks are counted from."""


@dataclass(frozen=True)
class CircuitPreprocess(Preprocess):
    """Raw circuits -> one batch (see `modalities.graph.circuits`).

    A raw circuit is a `Data`, a dict of arrays or an .npz file of them: `x`, `net_index`, `net_attr`, `cell_index`, `cell_attr`, and in their own units
    `arrival` and `slew` (N, 4), which must be known at the primary inputs and may be NaN elsewhere, and for training `net_delay` (N, 4) and `cell_delay` (A, 4).
    For slacks: `required` (N, 4), NaN or beyond 1e20 where nothing is asked, and perhaps `endpoint` (N,), which pins count.
    """

    type: ClassVar[str] = "circuit"

    normalise_places: bool = True
    """Each distance to an edge of the die becomes a number between 0 and 1 within its circuit."""

    def __call__(self, raw: Any) -> Batch:
        """A raw circuit or several -> a batch. DataError says what is wrong with one."""
        several = list(raw) if isinstance(raw, (list, tuple)) else [raw]
        if not several:
            raise DataError("There are no circuits to preprocess.")
        return collate([self.transform(circuit, str(circuit) if isinstance(circuit, (str, Path)) else f"circuit {i}") for i, circuit in enumerate(several)])

    def transform(self, raw: Any, where: str = "the circuit") -> Data:
        """One raw circuit as the model reads it. DataError for one that is damaged, has a cycle, or pins with two drivers."""
        found = _checked(_arrays(raw, where), where)
        x = found["x"].clone()
        if self.normalise_places:
            low, high = x[:, DIE].amin(dim=0), x[:, DIE].amax(dim=0)
            x[:, DIE] = (x[:, DIE] - low) / (high - low + 1e-8)
        made = Circuit(x=x, **{key: found[key] for key in ("net_index", "net_attr", "cell_index")})
        made.cell_attr, made.cell_kind = same_tables(found["cell_attr"])
        made.level = levels(torch.cat([found["net_index"], found["cell_index"]], dim=1), len(x), where)
        times = torch.cat([found["arrival"].masked_fill(found["arrival"].abs() > UNSET, 0.0), (SMALLEST + found["slew"]).log() + SLEW_SHIFT], dim=1)
        known = times.isfinite().all(dim=1)
        lacking = (primary_inputs({"x": x}) & ~known).nonzero()
        if len(lacking):
            raise DataError(f"{where}: pin {int(lacking[0])} is a primary input without arrival time or slew (not negative). They must be given there, since all other times follow from them.")
        made.labelled, made.timing = known.float(), times.where(known[:, None], times.new_zeros(()))
        required = found.get("required", torch.full_like(found["arrival"], torch.nan))
        asked = (required.abs() < UNSET) & found.get("endpoint", torch.ones(len(x), dtype=torch.bool))[:, None]
        made.required = required.masked_fill(~asked, torch.nan)
        if "net_delay" in found:
            made.net_delays = (SMALLEST + found["net_delay"]).log() + DELAY_SHIFT
        if "cell_delay" in found:
            made.cell_delays = found["cell_delay"]
        return made

    def adapted(self, input_shape: tuple[int, ...] | None) -> "CircuitPreprocess":
        """The same: circuits have no fixed shape."""
        return self

    def require_shape(self, input_shape: tuple[int, ...], where: str) -> None:
        """Nothing to check: circuits have no fixed shape."""


def _arrays(raw: Any, where: str) -> dict[str, Tensor]:
    """The known arrays of a raw circuit, floats in single precision."""
    if isinstance(raw, (str, Path)):
        path = Path(raw)
        if path.suffix != ".npz" or not path.is_file():
            raise DataError(f"{path} is no .npz file with the arrays of a circuit ({', '.join((*GRAPH, *LABELS))}, net_index, cell_index).")
        raw = decode(path.name, path.read_bytes(), str(path))
    if isinstance(raw, Data):
        raw = raw.to_dict()
    if not isinstance(raw, dict):
        raise DataError(f"{where} is a {type(raw).__name__}; expected a torch_geometric Data, an .npz file or a dict with the arrays of a circuit.")
    found = {}
    for key in (*GRAPH, "net_index", "cell_index", *LABELS, *ASKED):
        if raw.get(key) is None:
            continue
        value = raw[key] if isinstance(raw[key], Tensor) else torch.from_numpy(np.asarray(raw[key]))
        found[key] = value > 0.5 if key == "endpoint" else value.float() if value.is_floating_point() or not key.endswith("_index") else value.long()
    return found


def _checked(found: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The arrays themselves, or DataError that begins with `where`."""
    lacking = [key for key in (*GRAPH, "net_index", "cell_index", "arrival", "slew") if key not in found]
    if lacking:
        raise DataError(f"{where} lacks {', '.join(lacking)}. A circuit has {', '.join((*GRAPH, 'net_index', 'cell_index', *LABELS))}; the last two for training only.")
    pins = len(found["x"])
    if not pins:
        raise DataError(f"{where} has no pins. Leave empty circuits out.")
    rows = {"x": pins, **{f"{kind}_attr": found[f"{kind}_index"].shape[-1] for kind in ("net", "cell")}}
    wanted = {**{key: (rows[key], width) for key, width in GRAPH.items()}, **{key: (rows[of], CORNERS) for key, of in LABELS.items()}}
    wanted |= {"required": (pins, CORNERS), "endpoint": (pins,)}
    for key, shape in wanted.items():
        if key in found and tuple(found[key].shape) != shape:
            raise DataError(f"{where}: {key} must have the shape {shape}, found {tuple(found[key].shape)}.")
    for key in (*GRAPH, "net_delay", "cell_delay"):
        if key in found and not found[key].isfinite().all():
            raise DataError(f"{where}: {key} of row {int((~found[key].isfinite()).any(dim=1).nonzero()[0])} is NaN or infinite. Fill it in, or leave the circuit out.")
    if "net_delay" in found and (found["net_delay"] < 0).any():
        raise DataError(f"{where}: net_delay of pin {int((found['net_delay'] < 0).any(dim=1).nonzero()[0])} is negative. It is a time, and 0 at pins at which no wire ends.")
    for key in ("net_index", "cell_index"):
        ends = found[key]
        if ends.ndim != 2 or ends.shape[0] != 2 or ends.is_floating_point():
            raise DataError(f"{where}: {key} must hold two rows of whole numbers, the pins where edges begin and end, found {ends.dtype} of shape {tuple(ends.shape)}.")
        if ends.numel() and (int(ends.min()) < 0 or int(ends.max()) >= pins):
            bad = int(((ends < 0) | (ends >= pins)).any(dim=0).nonzero()[0])
            raise DataError(f"{where}: edge {bad} of {key} leads from pin {int(ends[0, bad])} to pin {int(ends[1, bad])}, and there are {pins} pins, numbered from 0.")
    driven = torch.bincount(found["net_index"][1], minlength=pins)
    twice = (driven + torch.bincount(found["cell_index"][1], minlength=pins).clamp(max=1) > 1).nonzero()
    if len(twice):
        raise DataError(f"{where}: pin {int(twice[0])} ends more than one wire, or a wire and a cell arc. A pin has one driver, or arcs from the inputs of its cell.")
    return found
