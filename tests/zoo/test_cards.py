import re
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image

import zoo
from modalities import registry
from tools.bundle import CARDS, card_path
from trainer.errors import CheckpointError
from trainer.recipe import Recipe, TrainConfig
from zoo.cards import check_card, snippet, write_card

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


@pytest.fixture
def run(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "pictures" / "step-00000003.png")
    Recipe("vision/mae-tiny", TrainConfig(steps=3)).save(tmp_path / "recipe.yaml")
    return tmp_path


def test_card_is_valid_for_the_hub(run):
    text, files = write_card(zoo.create("vision/mae-tiny"), RECORD, run)
    card = ModelCard(text)
    assert card.data.license == "apache-2.0" and card.data.library_name == "modality-zoo"
    assert card.data.pipeline_tag == "image-feature-extraction" and "mae" in card.data.tags
    (result,) = card.data.eval_results
    assert result.metric_value == 50.0 and result.dataset_name == "photos"
    for needed in ("## How to use it", "## Data", "CC0", "## Preprocessing", "## Training", RECORD["command"], "zoo evaluate x --data photos",
                   "## Limits", "## Licence", "@article{he2021mae", "244,432", "steps: 3"):  # fmt: skip
        assert needed in text, needed
    assert "None" not in text and "{{" not in text and list(files) == ["picture.png"]


def test_card_without_results_or_picture(run):
    (run / "pictures" / "step-00000003.png").unlink()
    text, files = write_card(zoo.create("vision/mae-tiny"), {**RECORD, "evaluations": []}, run)
    assert not files and "picture.png" not in text and "Nothing was measured" in text
    assert ModelCard(text).data.eval_results is None


def test_snippet_of_a_card_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((50, 40, 3), np.uint8)).save("image.png")
    model = zoo.create("vision/mae-tiny")
    from modalities.vision.models.vit import ViTClassifier
    from modalities.vision.preprocess import ImagePreprocess

    model.preprocess = ImagePreprocess.default(32)
    for made in (model, ViTClassifier.from_encoder(model, 2, class_names=("a", "b"))):
        made.save_pretrained("path/to/this/folder")
        exec(compile(snippet(made), "snippet", "exec"), {})


def test_a_broken_card_is_refused():
    with pytest.raises(CheckpointError, match="not valid"):
        check_card("---\nlicense: [\n---\ntext", "x")
    with pytest.raises(CheckpointError, match="library"):
        check_card("---\nlicense: mit\n---\ntext", "x")


def test_names_cards_and_weights_agree():
    """Every model with weights has a card, every card a model, and both say the same."""
    names = zoo.list_models(pretrained=True)
    assert sorted(card_path(n) for n in names) == sorted(p for p in CARDS.glob("*.md") if p.name != "TEMPLATE.md")
    for name in names:
        folder = registry.find(name).folder
        assert {p.name for p in folder.iterdir()} == {"README.md", "config.json", "model.safetensors", "picture.png", "preprocessor_config.json"}
        text = card_path(name).read_text()
        assert check_card(text, name).data.eval_results, f"{name} has no measured results"
        picture = re.search(r"\]\((.*picture\.png)\)", text)[1]
        assert (CARDS / picture).exists()
        assert text.replace(picture, "picture.png") == (folder / "README.md").read_text()
        assert f'zoo.from_pretrained("{name}")' in text


def test_every_registered_name_is_complete():
    for entry in registry.entries().values():
        system = registry.systems()[entry.system]
        assert entry.summary and system.paper and system.citation and system.limits and system.what
        ModelCardData(pipeline_tag=system.pipeline_tag)
        assert registry.system_class(entry.system).system == entry.system
    for name in registry.recipes():
        assert name in registry.entries() and registry.find_recipe(name).recipe == name


def test_readme_snippets_run(tmp_path, monkeypatch):
    root = Path(__file__).parents[2]
    readme = (root / "README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", readme, flags=re.S)
    assert len(snippets) >= 3
    monkeypatch.chdir(tmp_path)
    for code in snippets:
        exec(compile(code, "README.md", "exec"), {})
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", readme):
        assert (root / link).exists(), link
