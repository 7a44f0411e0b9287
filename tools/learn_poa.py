"""Whether POA's pre-training helps, for the whole network and for a part of it: `python -m tools.learn_poa`.

Three seeds of the recipe vision/poa-tiny-digits on cluttered scenes of digits without labels; then, with 10 labels per class, each
network is fine-tuned, and one of its size is trained from scratch with the same budget. Frozen features of both are probed as well.
No result of it is published yet.
"""

import logging
import sys
import tempfile
from pathlib import Path
from statistics import mean

import torch
import tyro

from modalities import registry
from modalities.common import pretrained
from modalities.common.commandline import guarded
from modalities.common.evaluation import Frozen, percent
from modalities.common.run import ModelRecipe, run
from modalities.vision.augment import FinetuneAugment
from modalities.vision.data import LabelledImages
from modalities.vision.evaluation import probed
from modalities.vision.finetune import digits_recipe
from trainer.config import replace
from trainer.evaluation import measure
from trainer.files import read_json

RECIPE = "vision/poa-tiny-digits"
PER_CLASS = 10
Values = dict[str, list[float]]


def learn(seeds: tuple[int, ...] = (0, 1, 2), part: str = "32_2", steps: int | None = None, to: Path | None = None) -> dict[str, Values]:
    """Pre-train, fine-tune and compare; prints a table of test accuracies in percent.

    Args:
        seeds: Each decides everything of one run: weights, order, crops, the labelled images.
        part: The size that is cut out, besides the whole network.
        steps: Steps of pre-training. Default: as the recipe says.
        to: Folder for the runs; what is finished there is not run again. Default: a temporary one.
    """
    logging.getLogger("zoo").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        values: dict[str, Values] = {}
        for seed in seeds:
            _one(seed, part, steps, (to or Path(scratch)) / str(seed), values)
        _show(values, seeds)
    return values


def _one(seed: int, part: str, steps: int | None, folder: Path, values: dict[str, Values]) -> None:
    """One seed, its accuracies added to `values`."""
    recipe = replace(registry.find_recipe(RECIPE), {"train.seed": seed, "train.pictures": 0, **({"train.steps": steps} if steps else {})})
    export = _once(recipe, folder / "pretrain")
    data = LabelledImages(recipe.data.path, recipe.data.scenes, per_class=PER_CLASS, subset_seed=seed, augment=replace(FinetuneAugment.none(), {"shift": 2}))
    for name, size in (("whole", None), (part, part)):
        model = pretrained.load(export).part(size)
        torch.manual_seed(seed)
        for start, network in (("pre-trained", model), ("random", type(model)(model.config).eval())):
            found = measure([probed(*data.build_plain(model.preprocess))], Frozen(network))
            for kind, share in found.items():
                values.setdefault(f"{name}: {kind} on frozen features", {}).setdefault(start, []).append(percent(share))
        for start in ("pre-trained", "random"):
            tuned = replace(digits_recipe(str(export), data, seed, scratch=start == "random"), {"size": size, "train.pictures": 0})
            place = folder / f"{name}-{start}"
            _once(tuned, place)
            rows = read_json(place / "record.json")["evaluations"]
            values.setdefault(f"{name}: fine-tuned", {}).setdefault(start, []).append(next(row["value"] for row in rows if row["metric"] == "accuracy"))


def _once(recipe: ModelRecipe, place: Path) -> Path:
    """Run a recipe in a folder, unless it is done there; a stopped run goes on."""
    if (place / "record.json").exists() and (place / "export").is_dir():
        return place / "export"
    return run(recipe, place, resume=(place / "recipe.yaml").exists())


def _show(values: dict[str, Values], seeds: tuple[int, ...]) -> None:
    print(f"| {PER_CLASS} labels per class, seeds {', '.join(map(str, seeds))} | pre-trained | from scratch, random |\n|---|---|---|")
    for name, starts in values.items():
        cells = [f"{mean(found):.1f} ({', '.join(f'{value:.1f}' for value in found)})" for found in starts.values()]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(learn, prog="python -m tools.learn_poa", use_underscores=True)))
