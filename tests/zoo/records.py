"""A run's folder as training leaves it, without the training."""

from PIL import Image

from trainer.recipe import Recipe, TrainConfig

RECORD = {
    "recipe": "vision/mae-tiny",
    "command": "zoo pretrain vision/mae-tiny --data.path photos",
    "data": {"name": "photos", "samples": 7, "licence": "CC0"},
    "samples": 7,
    "steps": 3,
    "batch_size": 4,
    "parameters": 244432,
    "hardware": "2 CPU threads",
    "seconds": 1.0,
    "final": {"loss": 0.5},
    "evaluations": [
        {
            "task": "image-classification", "data": "photos", "split": "test", "samples": 2, "metric": "accuracy",
            "detail": "5-NN", "value": 50.0, "command": "zoo evaluate x --data photos",
        }
    ],
    "versions": {"torch": "2.11.0"},
}  # fmt: skip


def write_run(folder):
    """What a card needs of a run: its recipe and its pictures."""
    (folder / "pictures").mkdir(parents=True)
    Image.new("L", (4, 4)).save(folder / "pictures" / "step-00000003.png")
    Image.new("L", (4, 4)).save(folder / "curves.png")
    Recipe("vision/mae-tiny", TrainConfig(steps=3)).save(folder / "recipe.yaml")
    return folder
