"""Does PreRoutGNN's auto-encoder help? `python -m tools.learn_preroutgnn`, three seeds, on generated circuits whose times a timing engine gives.

The auto-encoder is trained without times; then the timing network is trained from its encoder and, by the same recipe, from scratch: for as many steps and,
with `--longer`, also for as many more as the auto-encoder had. R2 is measured on unseen circuits, all times found level by level from the primary inputs.
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


def learn(seeds: tuple[int, ...] = (0, 1, 2), steps: int = 1000, pretrain_steps: int = 500, labelled: int = 32, unlabelled: int = 32, longer: bool = False, folder: Path | None = None) -> None:
    """Train, measure and print.

    Args:
        seeds: One run of each kind per seed.
        steps: Of the timing network.
        pretrain_steps: Of the auto-encoder.
        labelled: Circuits whose times are known, for the timing network.
        unlabelled: Circuits for the auto-encoder; the labelled ones are among them, or the other way round.
        longer: Also train from scratch for the steps of both.
        folder: Where the runs go and are found again. Default: a temporary folder.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = folder or Path(scratch)
        rows: dict[str, dict[str, list[float]]] = {}
        for seed in seeds:
            coder = replace(registry.find_recipe("graph/circuit-autoencoder-tiny"), {**QUIET, "train.steps": pretrain_steps, "train.seed": seed, "data.circuits": unlabelled})
            encoder = str(finished(coder, place / f"coder-{seed}"))
            timing = replace(registry.find_recipe("graph/preroutgnn-tiny"), {**QUIET, "train.seed": seed, "data.circuits": labelled})
            kinds = {
                f"pre-trained, {steps:,} steps": {"encoder": encoder, "train.steps": steps},
                f"from scratch, {steps:,} steps": {"train.steps": steps},
            }
            if longer:
                kinds[f"from scratch, {steps + pretrain_steps:,} steps"] = {"train.steps": steps + pretrain_steps}
            for (words, changes), name in zip(kinds.items(), ("pretrained", "scratch", "longer")):
                for what in SHOWN:
                    share = measured(replace(timing, changes), place / f"{name}-{seed}", MEASURED[what])
                    rows.setdefault(what, {}).setdefault(words, []).append(100 * share)
        for what, found in rows.items():
            show(f"{MEASURED[what]} on unseen circuits, in %, {labelled} labelled circuits", found)


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(learn, prog="python -m tools.learn_preroutgnn", use_underscores=True)))
