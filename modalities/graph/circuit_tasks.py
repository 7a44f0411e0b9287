"""What `zoo evaluate` and `zoo predict` do with circuits."""

import csv
import io
from pathlib import Path

import torch

from modalities.common.evaluation import HeldOut, Row, results
from modalities.graph.circuit_evaluation import compare, timing_evaluators
from modalities.graph.circuit_pictures import draw_compared
from modalities.graph.circuit_sets import CircuitSet
from modalities.graph.circuits import CORNERS
from modalities.graph.evaluation import FEATURES
from modalities.graph.models.circuit_autoencoder import CircuitAutoEncoder, CircuitModel
from modalities.graph.models.preroutgnn import PreRoutGNN
from modalities.graph.objectives.circuit_reconstruction import CircuitReconstructionConfig
from modalities.graph.objectives.timing import TimingConfig
from modalities.graph.preprocess import collate
from modalities.graph.preprocess_circuits import SLEW_SHIFT, SMALLEST
from trainer.errors import ConfigError, ModelError
from trainer.files import write_bytes

NAMES = ("early_rise", "early_fall", "late_rise", "late_fall")
"""The corners."""


def evaluate(model: CircuitModel, path: str, per_class: int | None = None) -> list[Row]:
    """Results on circuits: `generated` (the held-out ones), a folder of .npz files (its `test`, if there is one), or a file."""
    if per_class is not None:
        raise ConfigError("--per_class limits the labelled samples of a class, and circuits have no classes. Leave it out.")
    source = CircuitSet(path).build_test(model.preprocess)
    if isinstance(model, CircuitAutoEncoder):
        return results([HeldOut(source, FEATURES, "squared error of pins", batch=1)], CircuitReconstructionConfig().build(model))
    return results(timing_evaluators(source), TimingConfig().build(model))


def predict(model: CircuitModel, files: list[Path], to: Path | None) -> str:
    """Times of the pins of circuit files: a table of all pins to `to`, a picture beside it, and in words what comes last and, where times are required, the worst slack."""
    if not isinstance(model, PreRoutGNN):
        raise ModelError(f"zoo predict does not know what to show for a {type(model).__name__}. Train the timing network on it, or use model.tokens(model.preprocess(files)) from Python.")
    table = (to or Path("timing")).with_suffix(".csv")
    lines, found, text = io.StringIO(), [], []
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["circuit", "pin", "level", *(f"{what}_{corner}" for what in ("arrival", "slew", "slack") for corner in NAMES)])
    for file in files:
        batch = collate([model.preprocess.transform(file, str(file))]).to(model.device)
        compared = compare(model, batch)
        arrival, slack = compared["arrival"].found, compared["slack"].found
        slew = (compared["slew"].found - SLEW_SHIFT).exp() - SMALLEST
        columns = torch.cat([arrival, slew, slack], dim=1).cpu().tolist()
        for pin, (level, row) in enumerate(zip(batch.level.tolist(), columns)):
            writer.writerow([file.name, pin, level, *("" if value != value else f"{value:.6g}" for value in row)])
        found.append(compared)
        text.append(f"{file.name}: {_in_words(arrival[:, CORNERS // 2 :], slack[:, CORNERS // 2 :], batch.level)}")
    write_bytes(table, lines.getvalue().encode())
    picture = draw_compared(found, table.with_suffix(".png"), ", ".join(file.name for file in files[:3]))
    return "\n".join([*text, f"Times of all pins: {table}; picture: {picture}"])


def _in_words(arrival: torch.Tensor, slack: torch.Tensor, level: torch.Tensor) -> str:
    """The late corners of a circuit: the last arrival and, where something is required, the worst slack."""
    last = arrival.amax(dim=1)
    words = f"{len(level):,} pins in {int(level.max()) + 1} levels; the last signal arrives at {float(last.max()):.4g} at pin {int(last.argmax())}"
    known = slack.isfinite().any(dim=1)
    if not known.any():
        return f"{words}; no times are required, so there are no slacks"
    worst = slack.nan_to_num(torch.inf).amin(dim=1)
    return f"{words}; worst late slack {float(worst.min()):.4g} at pin {int(worst.argmin())}, {int((worst < 0).sum())} of {int(known.sum())} end points too late"
