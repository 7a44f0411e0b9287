"""Does a run survive anything? `python -m tools.fault_storm --kills 100 --seed 0`.

Trains a few small recipes, kills the process again and again at random moments (kill -9, SIGTERM, Ctrl-C; while it starts,
while it trains, and at the named points inside a save), starts it again each time, and compares what comes out with a run
that nobody touched: the sequence of losses and the exported weights must be equal bit for bit, and every complete
checkpoint seen on the way must hold exactly the tensors that the untouched run had at that step.
Exit status 0 only when all of that holds.
"""

import collections
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import tyro

from trainer.files import read_json, sha256_of
from trainer.logs import read_lines
from trainer.remote import CACHE

POINTS = ("folder made", "half written", "before rename", "after rename")
"""Where trainer.checkpoint says that a save is."""
KINDS = ("kill -9", "SIGTERM", "Ctrl-C", *POINTS)
MACHINE = ("seconds", "samples_per_second", "data_wait", "memory_gb", "tflops", "mfu")
"""What of a line of metrics depends on the machine."""
TRAINING = "training begins"
"""What a child prints when its first step comes next."""
CHILD = "child"
"""First argument of the processes that are killed."""
PATIENCE = 120
"""Seconds after which a child that neither ends nor trains counts as hanging."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How hard the storm blows."""

    kills: int = 100
    """How often to kill, over all recipes."""
    seed: int = 0
    """Of the moments and the kinds of kills."""
    cases: tuple[str, ...] = ("pretrain", "workers", "finetune", "tar", "mixture", "graph", "neighbours")
    """Which recipes: pretrain (EMA, saves in the foreground), workers (image files, 2 loader workers, micro-batches, saves in the background), finetune
    (mixup, drop path), tar (shards, 2 workers), mixture (shards and files in shares that change, 2 workers), graph (batches that are no tensors, 2 workers, micro-batches, dropout),
    neighbours (one large graph, neighbours drawn anew in each step, 2 workers, micro-batches, dropout)."""
    steps: int = 120
    """Steps of each run."""


def recipe_of(case: str, steps: int, pictures: Path):
    """The recipe of a case; every step is logged, every fifth saved."""
    from modalities import registry
    from modalities.vision.augment import FinetuneAugment
    from modalities.vision.data import LabelledImages
    from modalities.vision.finetune import digits_recipe
    from trainer.config import replace

    train = {"train.steps": steps, "train.batch_size": 16, "train.log_every": 1, "train.save_every": 5, "train.pictures": 0}
    if case == "pretrain":
        return replace(registry.find_recipe("vision/mae-tiny-digits"), {**train, "train.ema": 0.95})
    if case in ("graph", "neighbours"):
        sizes = {"data.generated.samples": 200, "data.generated.test_samples": 20}
        large = {"data.path": str(pictures.with_name("graph.npz")), "data.fanouts": (4, 3)}
        return replace(registry.find_recipe("graph/graphmae-tiny-molecules"), {**train, **(sizes if case == "graph" else large), "model.dropout": 0.2, "train.workers": 2, "train.accumulate": 3})
    if case in ("workers", "tar", "mixture"):
        small = {"model.input_size": (16, 16), "model.patch_size": (4, 4), "model.depth": 2, "model.embed_dim": 32, "model.num_heads": 2}
        changes = {"train.workers": 2, "train.accumulate": 3, "train.save_async": True, "train.epochs": None, "data.path": str(pictures)}
        if case != "workers":
            changes["data.path"] = f"{pictures}-{{0..3}}.tar"
        if case == "mixture":
            mixed = {"mode": "resampled", "weights": (3, 1), "late_weights": (1, 3), "late_from": 0.5}
            changes |= {"data.also": (str(pictures),), **{f"data.mixture.{name}": value for name, value in mixed.items()}}
        return replace(registry.find_recipe("vision/mae-tiny"), {**train, **small, **changes})
    data = LabelledImages("digits-cluttered", per_class=5, augment=dataclasses.replace(FinetuneAugment.none(), shift=2))
    soft = {"objective.mixup": 0.8, "objective.cutmix": 1.0, "objective.label_smoothing": 0.1, "drop_path": 0.2}
    return replace(digits_recipe("vision/mae-tiny-digits", data, 0), {**train, **soft})


def child(case: str, steps: int, folder: Path) -> int:
    """One life of a run: begin, or go on, and die at the point that the environment names; the exit status."""
    import trainer.checkpoint
    from modalities.common.commandline import guarded
    from modalities.common.run import run
    from trainer.config import replace
    from trainer.trainer import Trainer

    point, _, times = os.environ.get("STORM_POINT", "").partition(":")
    seen = 0

    def die(reached: str) -> None:
        nonlocal seen
        seen += reached == point
        if reached == point and seen == int(times):
            os.kill(os.getpid(), signal.SIGKILL)

    trainer.checkpoint.reached = die
    loop = Trainer._loop

    def announced(self: Trainer) -> None:
        print(TRAINING, flush=True)
        loop(self)

    Trainer._loop = announced
    recipe = recipe_of(case, steps, folder.parent / "pictures")
    if folder.name == "untouched":
        recipe = replace(recipe, {"train.save_every": 1, "train.keep_last": steps})
    return guarded(lambda: run(recipe, folder, resume=(folder / "recipe.yaml").exists()))


class Storm:
    """The lives and deaths of one case."""

    def __init__(self, case: str, options: Options, place: Path, rng: random.Random) -> None:
        self.case, self.options, self.place, self.rng = case, options, place, rng
        self.deaths: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []
        self.runs = self.checkpoints = self.lives = 0
        self.untouched = place / "untouched"
        code, text = self._live(self.untouched, None)
        if code != 0:
            raise SystemExit(f"The untouched run of {case} failed ({code}):\n{text}")
        saved = sorted((self.untouched / "checkpoints").glob("step-*"))
        self.truth = {p.name: read_json(p / "manifest.json")["files"]["state/tensors.safetensors"]["sha256"] for p in saved}

    def blow(self, kills: int) -> None:
        """Kill `kills` times, in as many runs as that takes; every run is brought to its end and compared."""
        done = 0
        while done < kills and len(self.problems) < 5:
            self.runs += 1
            folder = self.place / f"run-{self.runs}"
            while not self._finished(folder):
                kind = self.rng.choice(KINDS) if done < kills else None
                code, text = self._live(folder, kind)
                if kind is not None and code != 0:
                    done += 1
                    self.deaths[kind] += 1
                expected = {None: (0,), "SIGTERM": (0, 143, -15), "Ctrl-C": (0, 130, -2)}.get(kind, (0, -9))
                if code not in expected:
                    self.problems.append(f"{self.case}: after {kind} the exit status was {code}:\n{text[-2000:]}")
                    break
                self._check_checkpoints(folder)
            else:
                self._compare(folder)
            shutil.rmtree(folder, ignore_errors=True)

    def _live(self, folder: Path, kind: str | None) -> tuple[int, str]:
        """Start a child and, at a random moment, kill it; its exit status and output."""
        command = [sys.executable, "-m", "tools.fault_storm", CHILD, self.case, str(self.options.steps), str(folder)]
        environment = {**os.environ, CACHE: str(self.place / "cache")}
        if kind in POINTS:
            environment["STORM_POINT"] = f"{kind}:{self.rng.randint(1, 6)}"
        self.lives += 1
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        training, output = threading.Event(), []

        def listen() -> None:
            for line in process.stdout:
                output.append(line)
                if TRAINING in line:
                    training.set()
            training.set()

        listener = threading.Thread(target=listen)
        listener.start()
        if kind in ("kill -9", "SIGTERM", "Ctrl-C"):
            if self.rng.random() < 0.2:  # while it starts
                time.sleep(self.rng.uniform(0, 4))
            else:
                training.wait(PATIENCE)
                time.sleep(self.rng.expovariate(1 / 0.6))
            process.send_signal({"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}[kind])
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.problems.append(f"{self.case}: hangs after {kind}")
            process.kill()
        listener.join()
        return process.returncode, "".join(output)

    def _finished(self, folder: Path) -> bool:
        return (folder / "export" / "model.safetensors").exists()

    def _check_checkpoints(self, folder: Path) -> None:
        """Every checkpoint that looks complete is, and holds what the untouched run had at that step."""
        for path in sorted((folder / "checkpoints").glob("step-*/manifest.json")):
            self.checkpoints += 1
            file = path.parent / "state" / "tensors.safetensors"
            if sha256_of(file) != self.truth.get(path.parent.name):
                self.problems.append(f"{self.case}: {path.parent.name} is readable and wrong")

    def _compare(self, folder: Path) -> None:
        ours, theirs = ([{k: v for k, v in line.items() if k not in MACHINE} for line in read_lines(f / "metrics.jsonl")] for f in (folder, self.untouched))
        if ours != theirs or len(theirs) != self.options.steps:
            first = next((i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), min(len(ours), len(theirs)))
            self.problems.append(f"{self.case}: the metrics differ from line {first + 1} on ({len(ours)} and {len(theirs)} lines)")
        if sha256_of(folder / "export" / "model.safetensors") != sha256_of(self.untouched / "export" / "model.safetensors"):
            self.problems.append(f"{self.case}: the exported weights differ")


def draw_pictures(folder: Path) -> None:
    """Some image files, and the same in four tars beside their folder."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), "uint8")).save(folder / f"{i}.png")
    for shard in range(4):
        with tarfile.open(f"{folder}-{shard}.tar", "w") as tar:
            for i in range(15 * shard, 15 * shard + 15):
                tar.add(folder / f"{i}.png", f"{i}.png")


def draw_graph(path: Path) -> None:
    """A random graph of 500 nodes with the features that the recipe reads, as a file."""
    import numpy as np

    rng = np.random.default_rng(0)
    np.savez(path, edge_index=rng.integers(0, 500, (2, 2000)), x=rng.random((500, 6), np.float32))


def main(options: Options) -> int:
    """Run the storm and print what was seen; the exit status."""
    began, rng, problems, total = time.perf_counter(), random.Random(options.seed), [], 0
    with tempfile.TemporaryDirectory() as place:
        for i, case in enumerate(options.cases):
            folder = Path(place) / case
            folder.mkdir()
            draw_pictures(folder / "pictures")
            draw_graph(folder / "graph.npz")
            kills = options.kills * (i + 1) // len(options.cases) - options.kills * i // len(options.cases)
            storm = Storm(case, options, folder, rng)
            storm.blow(kills)
            problems += storm.problems
            total += sum(storm.deaths.values())
            deaths = ", ".join(f"{kind} {storm.deaths[kind]}" for kind in KINDS)
            print(f"{case}: {sum(storm.deaths.values())} kills ({deaths}), {storm.lives} starts, {storm.runs} runs finished, {storm.checkpoints} checkpoints checked", flush=True)
    for problem in problems:
        print(f"FAIL {problem}")
    verdict = "all losses and weights equal, no wrong checkpoint" if not problems else f"{len(problems)} problem(s)"
    print(f"{total} kills in {time.perf_counter() - began:.0f} s: {verdict}")
    return 1 if problems else 0


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        sys.exit(child(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])))
    sys.exit(main(tyro.cli(Options, prog="python -m tools.fault_storm")))
