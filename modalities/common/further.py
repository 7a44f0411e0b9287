"""Self-distilled further pre-training in its two stages (Lee et al., ICLR 2023, arXiv 2210.02871), for any recipe that can distil.

Such a recipe's objective has a field `distill_to` (`modalities.common.self_distillation`).
"""

import logging
from pathlib import Path
from typing import Any

from modalities.common.run import CardWriter, ModelRecipe, run
from trainer.config import leaves, replace
from trainer.errors import ConfigError

log = logging.getLogger("zoo")
TEACHER = "objective.distill_to.teacher"


def further_pretrain(
    recipe: ModelRecipe, folder: Path | str, resume: bool = False, card: CardWriter | None = None, requeue: bool = False, rounds: int = 1
) -> Path:
    """Train a teacher from `recipe.init_from`, then `rounds` students one after another, each from there again and distilled to the one before.

    The runs lie in `folder`: `teacher`, `student` (or `student-1`, `student-2`, ...), all by the same recipe. Returns the
    last student's export. `resume`, `card` and `requeue` are those of `run`. ConfigError when the recipe has no start, cannot distil, or
    names a teacher of its own.
    """
    fields = leaves(recipe)
    if TEACHER not in fields:
        raise ConfigError(f"The objective of {recipe.recipe or type(recipe).__name__} has no distill_to, so it cannot be self-distilled. Use `zoo pretrain`.")
    if fields[TEACHER]:
        raise ConfigError(f"{TEACHER} is {fields[TEACHER]!r}; the teacher is what the first stage trains. Leave it out, or train the student alone: `zoo pretrain`.")
    if not recipe.init_from:
        raise ConfigError("Further pre-training goes on from a model, and so does its second stage: name it, --init_from MODEL.")
    folder, teacher, export = Path(folder), "", Path()
    if not resume and not requeue and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty. Add --resume to go on with what it holds, or choose another folder with --to.")
    names = ["teacher", *(["student"] if rounds == 1 else [f"student-{i + 1}" for i in range(rounds)])]
    for number, name in enumerate(names, 1):
        place = folder / name
        log.info("Stage %d of %d, %s: beginning with %s%s", number, len(names), name, recipe.init_from, f", distilled to {teacher}" if teacher else "")
        stage: Any = replace(recipe, {TEACHER: teacher})
        export = run(stage, place, resume and (place / "recipe.yaml").exists(), card, requeue)
        teacher = str(place)
    return export
