"""The demo of videos with a few steps: every part of it runs, the table has every row, a stopped one goes on."""

import dataclasses
import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modalities import registry
from modalities.video import demo
from modalities.video.motion import MotionConfig
from trainer.config import replace
from trainer.errors import ConfigError
from zoo import demo as runner
from zoo import publishing

FEW = {"train.steps": 3, "train.batch_size": 16, "train.log_every": 1, "train.pictures": 1}


def test_the_demo_of_videos_runs_with_few_steps(tmp_path, monkeypatch, capsys):
    recipe = replace(registry.find_recipe(demo.DEMO.recipe), {**FEW, "data.motion": MotionConfig(samples=400, test_samples=100)})
    whole = demo.DEMO
    short = dataclasses.replace(whole, finetune=lambda *arguments: replace(whole.finetune(*arguments), FEW))
    monkeypatch.setattr(runner.registry, "find_recipe", lambda name: recipe)
    monkeypatch.setattr(demo, "DEMO", short)
    monkeypatch.setattr(runner, "SEEDS", (0,))
    monkeypatch.setattr(publishing, "rehearse", lambda model, *_: publishing.fingerprint(model))  # test_publish starts its new processes
    results = runner.run_demo("video", tmp_path / "d")
    assert results.keys() == {"probe", "knn", "finetune", "raw pixels", "one frame", "seconds"}
    assert results["finetune"].keys() == {"pretrained", "scratch"} and results["one frame"].keys() == {"logistic", "knn"}
    said = capsys.readouterr().out
    assert "logistic regression, one frame" in said and ".npy: " in said
    assert (tmp_path / "d" / "reconstructions.gif").exists() and json.loads((tmp_path / "d" / "results.json").read_text()) == results
    card = (tmp_path / "d" / "published" / demo.DEMO.published / "README.md").read_text()
    assert "5-NN on one frame" in card and "VideoMAE" in card
    for run, more in ((tmp_path / "d" / "pretrain", ()), (tmp_path / "d" / "finetune" / "pretrained-0", ("confusion",))):
        assert sorted(p.name for p in (run / "pictures").iterdir()) == [*(f"{name}-00000003.png" for name in more), "step-00000003.gif", "step-00000003.png"]
        board = EventAccumulator(str(run / "tensorboard"))
        board.Reload()
        assert set(board.Tags()["images"]) == {"pictures", "animation", *(f"pictures/{name}" for name in more)} and board.Images("animation")[0].encoded_image_string.startswith(b"GIF")
        assert "data:image/gif" in (run / "report.html").read_text()
    for published in (demo.DEMO.published, "classifier"):
        folder = tmp_path / "d" / "published" / published
        assert "](picture.gif)" in (folder / "README.md").read_text() and (folder / "picture.gif").read_bytes().startswith(b"GIF")
    (tmp_path / "d" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds other things than an earlier demo"):
        runner.run_demo("video", tmp_path / "d")
