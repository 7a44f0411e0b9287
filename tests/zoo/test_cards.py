import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData
from markdown_it import MarkdownIt

import zoo
from modalities import registry
from modalities.vision.models.vit import ViTClassifier
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.tasks import write_example
from tests.zoo.records import RECORD, write_run
from tools.make_cards import card_texts, make_cards, require_copy
from trainer.errors import CheckpointError
from zoo.cards import TEMPLATE, blocks, card_of, check_card, licence_text, render, snippet, write_card
from zoo.renewal import parse
from zoo.showing import CARDS, card_path

TRICKS = (
    "<script>alert(1)</script>",
    "a\n---\nlicense: mit\n---\n",
    "x | y || z",
    "`code` ``more`` ```\n```python\nimport os\n```",
    "<!-- end: data -->\n<!-- generated: data -->",
    "a\n<!-- end: origin -->\nb",
    "[link](javascript:alert(1)) ![p](https://example.org/p.png) <img src=x onerror=alert(1)>",
    "**bold** _thin_ __init__ $x$ ~~gone~~ &lt;b&gt; \\",
    "{{ 7 * 7 }} {% raw %} {# x #}",
    "\x1b[31mred\u202etxt",
)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = ViTClassifier.from_encoder(zoo.create("vision/mae-tiny"), 2, class_names=("a", "b"))
    model.preprocess = ImagePreprocess.default(32)
    return model


def test_card_is_valid_for_the_hub(run):
    text, files = write_card(zoo.create("vision/mae-tiny"), RECORD, run)
    card = ModelCard(text)
    assert card.data.license == "apache-2.0" and card.data.library_name == "modality-zoo"
    assert card.data.pipeline_tag == "image-feature-extraction" and "mae" in card.data.tags
    (result,) = card.data.eval_results
    assert result.metric_value == 50.0 and result.dataset_name == "photos"
    for needed in ("## How to use it", "## Data", "CC0", "## Preprocessing", "## Training", RECORD["command"], "zoo evaluate x --data photos",
                   "## Limits", "## Licence", "@article{he2021mae", "244,432", "steps: 3", "2 CPU threads", "curves.png"):  # fmt: skip
        assert needed in text, needed
    assert "None" not in text and "{{" not in text and set(files) == {"picture.png", "curves.png", "origin.json"}
    assert json.loads(files["origin.json"])["record"] == RECORD
    assert card.data.modality_zoo == {"parameters": 244432, "input": {"image": [3, 32, 32]}, "preprocessing": ImagePreprocess.default(32).values()}


def test_card_without_results_or_picture(run):
    (run / "pictures" / "step-00000003.png").unlink()
    (run / "curves.png").unlink()
    text, files = write_card(zoo.create("vision/mae-tiny"), {**RECORD, "evaluations": []}, run)
    assert list(files) == ["origin.json"] and "## Pictures" not in text and "Nothing was measured" in text
    assert ModelCard(text).data.eval_results is None


def test_classes_and_where_the_training_began(run, classifier):
    recipe = (run / "recipe.yaml").read_text()
    for line, base in (("model: facebook/vit-mae-base", "facebook/vit-mae-base"), ("init_from: me/mine@v2", "me/mine"), ("model: vision/mae-tiny", None), ("model: runs/a/b", None)):
        (run / "recipe.yaml").write_text(re.sub(r"^init_from:.*\n", "", recipe, flags=re.M) + line + "\n")
        card = ModelCard(write_card(classifier, RECORD, run)[0])
        assert card.data.base_model == base and "| classes | 2: a, b |" in card.text


@pytest.mark.filterwarnings("ignore:.*weights_only.*")
def test_snippet_of_a_card_runs(run, classifier, tmp_path, monkeypatch):
    """What the card of this very model shows, for a model with a decoder, a classifier and a bare encoder."""
    monkeypatch.chdir(tmp_path)
    bare = ViTClassifier(replace(classifier.config, num_classes=0, class_names=()))
    bare.preprocess = classifier.preprocess
    for made in (zoo.create("vision/mae-tiny"), classifier, bare):
        write_example(made, Path())
        text, files = write_card(made, RECORD, run)
        made.save_pretrained("path/to/this/folder", card=text, files=files)
        code = re.search(r"```python\n(.*?)```", text, re.S)[1]
        assert code.strip() == snippet(made)
        found = {}
        exec(compile(code, "snippet", "exec"), found)
        shapes = re.findall(r"(\w+) = model\S*\(.*# (\(.*\))$|(\w+) = model\..*# (\([\d, ]+\))", code, re.M)
        assert all(str(tuple(found[a or c].shape)) in (b + d) for a, b, c, d in shapes)


@pytest.mark.parametrize("name", ["vision/mae-tiny", "vision/mae-tiny-digits", "vision/mae-small"])
def test_snippet_of_a_bundled_card_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_example(zoo.create(name), Path())
    code = re.search(r"```python\n(.*?)```", card_path(name).read_text(), re.S)[1]
    found = {}
    exec(compile(code, name, "exec"), found)
    assert f"# {tuple(found['features'].shape)}" in code and f"# {tuple(found['tokens'].shape)}" in code


def test_a_broken_card_is_refused():
    with pytest.raises(CheckpointError, match="not valid"):
        check_card("---\nlicense: [\n---\ntext", "x")
    with pytest.raises(CheckpointError, match="library"):
        check_card("---\nlicense: mit\n---\ntext", "x")


def hostile(value, trick):
    """Every text in a record replaced by a trick, keys of the data too."""
    if isinstance(value, dict):
        return {k: hostile(v, trick) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(v, trick) for v in value]
    return trick if isinstance(value, str) else value


@pytest.mark.parametrize("trick", TRICKS)
def test_foreign_words_are_only_words(run, trick):
    """Names, paths and values in a record can neither end a block, a cell or the head, nor bring HTML, links or code of their own."""
    model = zoo.create("vision/mae-tiny")
    model.name = trick
    record = hostile(RECORD, trick)
    record["data"][trick] = trick
    text, _ = write_card(model, record, run)
    card = ModelCard(text)
    assert set(parse(text, "x").blocks) == set(blocks()) - {"export"} and card.data.license == "apache-2.0"
    assert card.data.eval_results[0].metric_value == 50.0
    seen = [t for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(card.text) for t in (token, *(token.children or []))]
    assert not [t.content for t in seen if t.type.startswith("html") and not re.fullmatch(r"<!-- .*? -->\s*", t.content)]
    assert [t.attrs["src"] for t in seen if t.type == "image"] == ["picture.png", "curves.png"]
    assert not [t for t in seen if t.type == "link_open"]
    fences = [t.info for t in seen if t.type == "fence"]
    assert fences == ["python", "json", "", "yaml", "bibtex"]
    tables = [t for t in seen if t.type in ("td_open", "th_open")]
    assert len(tables) == 2 + 4 * 2 + 2 * 6
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    written = write_card(model, record, run, renews=[_write(run / "card.md", text)])[0]
    assert written == text  # and it can be written again


def _write(path, text):
    path.write_text(text)
    return path


def test_class_names_are_only_words(run):
    model = ViTClassifier.from_encoder(zoo.create("vision/mae-tiny"), len(TRICKS), class_names=TRICKS)
    text, _ = write_card(model, RECORD, run)
    (row,) = [line for line in text.splitlines() if line.startswith("| classes")]
    assert row.startswith("| classes | 10: &lt;script&gt;alert(1)&lt;/script&gt;, a --- license: mit ---, x \\| y \\|\\| z, ") and row.count("<") == 0


def test_licences(run):
    model = zoo.create("vision/mae-tiny")
    assert "apache-2.0 for the code and these weights. Data: CC0." in write_card(model, RECORD, run)[0]
    model.licence = "cc-by-nc-4.0"
    text, _ = write_card(model, RECORD, run)
    assert ModelCard(text).data.license == "cc-by-nc-4.0" and "cc-by-nc-4.0 for the weights, which forbids commercial use." in text
    assert "not known" in licence_text("unknown")


def test_a_licence_of_ones_own(run):
    """A person may keep another licence for weights of their own, and never for those that came from others."""
    model = zoo.create("vision/mae-tiny")
    text, _ = write_card(model, RECORD, run)
    card = _write(run / "card.md", text.replace("license: apache-2.0", "license: mit\nzoo_keep: [license]"))
    again, _ = write_card(model, RECORD, run, renews=[card])
    assert ModelCard(again).data.license == "mit" and "mit for the weights." in again
    model.licence = "cc-by-nc-4.0"
    with pytest.raises(CheckpointError, match="came with cc-by-nc-4.0, which stays"):
        write_card(model, RECORD, run, renews=[card])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"kind": "training", "record": {}, "recipe": ""}, "does not hold what a card of the kind 'training' needs"),
        ({"kind": "training", "record": {**RECORD, "evaluations": [7]}, "recipe": "a: 1"}, "no rows"),
        ({"kind": "training", "record": {**RECORD, "evaluations": [{}]}, "recipe": "a: 1"}, "does not hold"),
        ({"kind": "training", "record": {**RECORD, "data": []}, "recipe": "a: 1"}, "does not hold"),
        ({"kind": "training", "record": {**RECORD, "seconds": "long"}, "recipe": "a: 1"}, "does not hold"),
        ({"kind": "training", "record": RECORD, "recipe": "a: ["}, "does not hold"),
        ({"kind": "training", "record": RECORD, "recipe": 3}, "does not hold"),
        ({"kind": "average", "record": {"models": 3}}, "does not hold"),
        ({"kind": "conversion", "record": {}}, "does not hold"),
    ],
)
def test_a_damaged_origin_is_told(change, words):
    with pytest.raises(CheckpointError, match=words):
        card_of(zoo.create("vision/mae-tiny"), change)


def test_names_cards_and_registry_agree():
    """Every name has a card, every card a name, and none is out of date. `python -m tools.make_cards` writes them."""
    assert sorted(map(card_path, zoo.list_models())) == sorted(p for p in CARDS.glob("*.md") if p != TEMPLATE)
    make_cards(check=True)


@pytest.mark.parametrize("name", registry.entries())
def test_a_card_says_what_the_registry_says(name):
    entry, text = registry.find(name), card_path(name).read_text()
    card = check_card(text, name)
    assert card.data.modality_zoo["parameters"] == entry.parameters
    assert all(part in text for part in (f"# {name}\n", registry.about(entry.system, name).citation))
    if entry.folder is None:
        assert card.data.eval_results is None and f'zoo.create("{name}")' in text and "No weights come with this name" in text
        licence = registry.systems()[entry.system].weights_licence
        assert ("authors' weights " + (f"are published under {licence}" if licence else "can be converted") in text) == bool(entry.official)
        return
    files = {"README.md", "config.json", "model.safetensors", "origin.json", "picture.png", "preprocessor_config.json"}
    assert files <= {p.name for p in entry.folder.iterdir()} <= files | {"curves.png"}
    assert card.data.eval_results and f'zoo.from_pretrained("{name}")' in text
    assert all((CARDS / picture).exists() for picture in re.findall(r"\]\((.*\.png)\)", text))


def test_a_card_that_is_out_of_date_is_found(monkeypatch):
    entry = registry.find("vision/mae-base")
    monkeypatch.setitem(registry.entries(), entry.name, replace(entry, official=("Elsewhere.",)))
    with pytest.raises(CheckpointError, match="Out of date: vision--mae-base.md"):
        make_cards(check=True)


def test_words_in_the_projects_cards_stay(monkeypatch, tmp_path):
    name = "vision/mae-base"
    text = card_path(name).read_text().replace("<!-- generated: limits -->", "Mine.\n\n<!-- generated: limits -->")
    monkeypatch.setattr("tools.make_cards.card_path", lambda _: _write(tmp_path / "card.md", text))
    assert card_texts(name) == {tmp_path / "card.md": text}
    with pytest.raises(CheckpointError, match="is not the copy of"):
        require_copy("vision/mae-tiny-digits", registry.find("vision/mae-tiny-digits").folder)


def test_a_model_of_which_nothing_is_recorded():
    text = render(zoo.create("vision/mae-tiny"), None)
    assert "How these weights were made is not recorded" in text and "Nothing was measured" in text


def test_every_registered_name_is_complete():
    for entry in registry.entries().values():
        system = registry.systems()[entry.system]
        assert entry.summary and system.paper and system.citation and system.limits and system.what
        ModelCardData(pipeline_tag=system.pipeline_tag)
        assert registry.system_class(entry.system).system == entry.system
    for name in registry.recipes():
        assert name.removesuffix("-stage2") in registry.entries()  # a later stage makes the same model
        assert registry.find_recipe(name).recipe == name


def test_the_template_says_what_is_generated():
    said = TEMPLATE.read_text().split("-#}")[0]
    keys = yaml.safe_load(render(zoo.create("vision/mae-tiny"), None).split("---\n")[1])
    assert all(key in said for key in keys if key != "tags") and "zoo_keep" in said


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
