"""The bodies of the learning proofs, with stand-ins for the trainings: which are made, what is compared, and that finished ones are used again."""

import json

import pytest

from modalities.registry import find_recipe
from tools import learn_spark, learn_videomae
from tools.learning import BEST, SAME
from trainer.files import read_json


@pytest.fixture
def trained(monkeypatch):
    """Trainings that end at once: folder -> its recipe."""
    recipes = {}

    def run(recipe, folder, resume=False):
        assert folder not in recipes and not resume
        recipes[folder] = recipe
        accuracy = {"tuned": 60.0, "scratch": 20.0, "scratch-0.001": 10.0, "scratch-0.004": 30.0}.get(folder.name, 0.0) + getattr(recipe.data, "subset_seed", 0)
        (folder / "export").mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps({"evaluations": [{"metric": "loss", "value": 7.0}, {"metric": "accuracy", "value": accuracy}]}))
        return folder / "export"

    monkeypatch.setattr("tools.learning.run", run)
    return recipes


@pytest.mark.parametrize(("tool", "name"), [(learn_videomae, "video/videomae-tiny-motion"), (learn_spark, "vision/spark-tiny")])
def test_the_table(tool, name, trained, tmp_path, capsys, monkeypatch):
    if tool is learn_videomae:
        model = find_recipe(name).build()[1].export()
        monkeypatch.setattr(tool.pretrained, "load", lambda _: model)
        monkeypatch.setattr(tool, "measure", lambda *_: {"probe": 0.5})
    found = tool.learn(seeds=(0, 1), to=tmp_path, steps=5, finetune_steps=3, per_class=2)
    first, *rest = list(found.values())
    assert first == [60.0, 61.0] and found[SAME] == [20.0, 21.0] and found[BEST] == [30.0, 31.0] and rest[2:] in ([], [[50.0, 50.0]] * 2)
    printed = capsys.readouterr().out
    assert f"{SAME} " in printed and "20.5 +- 0.7  (20.0, 21.0)" in printed and printed.startswith("2 labels per class, 3 steps")
    assert {str(folder.relative_to(tmp_path)) for folder in trained} == {"pretrain", *(f"{s}/{run}" for s in (0, 1) for run in ("tuned", "scratch", "scratch-0.001", "scratch-0.004"))}
    start, tuned, scratch, other = (trained[tmp_path / path] for path in ("pretrain", "1/tuned", "1/scratch", "1/scratch-0.004"))
    assert start.recipe == name and start.train.steps == 5 and tuned.model == str(tmp_path / "pretrain" / "export")
    assert (tuned.train.steps, tuned.train.seed, tuned.data.per_class, tuned.data.subset_seed, tuned.scratch) == (3, 1, 2, 1, False)
    assert scratch.scratch and scratch.train == tuned.train and other.scratch and other.train.optim.lr == 0.004
    assert tool.learn(seeds=(0, 1), to=tmp_path, steps=5, finetune_steps=3, per_class=2) == found
    assert read_json(tmp_path / "0" / "tuned" / "record.json")["evaluations"][1]["value"] == 60
