"""Does PreRoutGNN's auto-encoder help? `python -m tools.learn_preroutgnn`, three seeds, on generated circuits whose times a timing engine gives.

The auto-encoder is trained without times, on circuits of many sizes. The timing network is then trained on small circuits with its encoder, kept as it is
or trained on; with a fresh encoder that learns from the times alone; and with none. R2 is measured on unseen circuits, four times as large as those for
training, all times found level by level from the primary inputs.
"""

import sys
import tempfile
from pathlib import Path

import tyro

from modalities import registry
from modalities.common.commandline import guarded
from modalities.graph.circuit_evaluation import MEASURED
from tools.learning import finished, measured, show
from trainer.config import replace

QUIET = {"train.pictures": 0, "train.log_every": 1000, "train.keep_last": 1, "train.save_every": 10**6}
SHOWN = ("arrival", "slack", "slew", "net_delay", "cell_delay")


def learn(
    seeds: tuple[int, ...] = (0, 1, 2), steps: int = 1500, pretrain_steps: int = 1000, labelled: int = 32, unlabelled: int = 96, gates: int = 60, test_gates: int = 240, test_circuits: int = 16,
    folder: Path | None = None,
) -> None:  # fmt: skip
    """Train, measure and print.

    Args:
        seeds: One run of each kind per seed.
        steps: Of the timing network.
        pretrain_steps: Of the auto-encoder.
        labelled: Circuits whose times are known, for the timing network.
        unlabelled: Circuits for the auto-encoder.
        gates: Of the smallest circuit for training; the largest labelled one has twice, the largest unlabelled one four times as many.
        test_gates: Of the smallest circuit to measure on; the largest has twice as many.
        test_circuits: Circuits to measure on.
        folder: Where the runs go and are found again. Default: a temporary folder.
    """
    data = {"data.generated.gates": gates, "data.test_gates": test_gates, "data.test_circuits": test_circuits}
    with tempfile.TemporaryDirectory() as scratch:
        place = folder or Path(scratch)
        rows: dict[str, dict[str, list[float]]] = {}
        for seed in seeds:
            coder = replace(registry.find_recipe("graph/circuit-autoencoder-tiny"), {**QUIET, **data, "train.steps": pretrain_steps, "train.seed": seed, "data.circuits": unlabelled, "data.generated.spread": 4.0})
            encoder = str(finished(coder, place / f"coder-{seed}"))
            timing = replace(registry.find_recipe("graph/preroutgnn-tiny"), {**QUIET, **data, "train.steps": steps, "train.seed": seed, "data.circuits": labelled})
            kinds = {
                "frozen": ("pre-trained encoder, kept as it is", {"encoder": encoder, "freeze_encoder": True}),
                "tuned": ("pre-trained encoder, trained on", {"encoder": encoder}),
                "scratch": ("encoder from scratch", {}),
                "none": ("no encoder", {"model.latent_dim": 0}),
            }
            for name, (words, changes) in kinds.items():
                for what in SHOWN:
                    share = measured(replace(timing, changes), place / f"{name}-{seed}", MEASURED[what])
                    rows.setdefault(what, {}).setdefault(words, []).append(100 * share)
        for what, found in rows.items():
            show(f"{MEASURED[what]} on {test_circuits} unseen circuits of at least {test_gates} gates, in %, {labelled} labelled circuits of {gates} to {2 * gates} gates", found)


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(learn, prog="python -m tools.learn_preroutgnn", use_underscores=True)))
