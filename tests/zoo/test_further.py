"""`zoo further`: both stages from the command line."""

import pytest

import zoo
from modalities import registry
from modalities.common.run import run
from modalities.vision.preprocess import ImagePreprocess
from tests.small import pictures, recipe
from trainer.config import read_yaml
from zoo.cli import main


@pytest.fixture
def config(tmp_path):
    data, span = pictures(tmp_path / "data"), {"train.steps": 4, "train.save_every": 2}
    run(recipe(data, **span), tmp_path / "start")
    recipe(data, **span).save(tmp_path / "recipe.yaml")
    return str(tmp_path / "recipe.yaml")


def test_both_stages_from_the_command_line(config, tmp_path, capsys):
    options = ["further", "--config", config, "--init_from", str(tmp_path / "start"), "--to", str(tmp_path / "f")]
    assert main([*options, "--rounds", "0"]) == 1
    assert "at least 1, found '0'" in capsys.readouterr().err
    assert main(options) == 0
    model = zoo.from_pretrained(tmp_path / "f" / "student")
    assert model.preprocess == ImagePreprocess.default((16, 16))
    said = (tmp_path / "f" / "student" / "export" / "README.md").read_text()
    assert str(tmp_path / "f" / "teacher") in said
    assert main(options) == 1 and "Add --resume" in capsys.readouterr().err
    assert main([*options, "--resume"]) == 0
    assert read_yaml(tmp_path / "f" / "student" / "recipe.yaml")["init_from"] == str(tmp_path / "start")


def test_without_a_start(config, capsys):
    assert main(["further", "--config", config]) == 1
    assert "--init_from MODEL" in capsys.readouterr().err


def test_a_model_may_have_words_of_its_own():
    plain, own = (registry.about("vision/mae", name) for name in ("vision/mae-base", "vision/mrmae-base"))
    assert "2303.05475" in own.paper and own.tasks == plain.tasks and "2111.06377" in plain.paper
    assert registry.about("vision/mae", None) == plain == registry.systems()["vision/mae"]
