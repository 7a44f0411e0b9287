import json
import shutil

import pytest
from huggingface_hub import ModelCard

import zoo
from tests.zoo.records import RECORD, write_run
from trainer.files import write_json
from zoo.cards import write_card
from zoo.cli import main


@pytest.fixture
def finished(tmp_path):
    """A finished run with its export."""
    run, model = write_run(tmp_path / "run"), zoo.create("vision/mae-tiny")
    write_json(run / "record.json", RECORD)
    text, files = write_card(model, RECORD, run)
    model.save_pretrained(run / "export", card=text, files=files)
    return run


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_run(finished, capsys):
    """New facts of the run come into the card and into origin.json; a person's words stay."""
    card = finished / "export" / "README.md"
    edit(card, "<!-- generated: limits -->", "Only for fun.\n\n<!-- generated: limits -->")
    write_json(finished / "record.json", {**RECORD, "steps": 77})
    assert main(["card", str(finished)]) == 0
    assert capsys.readouterr().out.strip() == str(card)
    text = card.read_text()
    assert "77 steps" in text and "Only for fun." in text and '"steps": 77' in (card.parent / "origin.json").read_text()
    assert main(["card", str(finished)]) == 0 and card.read_text() == text


def test_a_folder(finished, tmp_path, capsys):
    """Everything that the card says is in the folder itself."""
    folder = shutil.copytree(finished / "export", tmp_path / "elsewhere" / "model")
    shutil.rmtree(finished)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert main(["card", str(folder)]) == 0
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    (folder / "README.md").unlink()
    assert main(["card", str(folder)]) == 0
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_results_of_another_measurement(finished, tmp_path, capsys):
    """What `zoo evaluate --to` wrote comes into the card, once, of a run and of a folder."""
    folder = shutil.copytree(finished / "export", tmp_path / "model")
    row = {**RECORD["evaluations"][0], "data": "others", "value": 12.5, "command": "zoo evaluate y"}
    write_json(tmp_path / "r.json", [row])
    for place, card in ((finished, finished / "export"), (folder, folder)):
        for value in (12.5, 25.0):
            write_json(tmp_path / "r.json", [{**row, "value": value}])
            assert main(["card", str(place), "--results", str(tmp_path / "r.json")]) == 0
        values = {r.dataset_name: r.metric_value for r in ModelCard.load(card / "README.md").data.eval_results}
        assert values == {"photos": 50.0, "others": 25.0} and "zoo evaluate y" in (card / "README.md").read_text()
    assert len(json.loads((finished / "record.json").read_text())["evaluations"]) == 2
    write_json(tmp_path / "r.json", [{"value": 3}])
    assert main(["card", str(folder), "--results", str(tmp_path / "r.json")]) == 1
    assert "must hold the rows" in capsys.readouterr().err
    assert main(["card", "vision/mae-base", "--results", str(tmp_path / "r.json")]) == 1
    assert "is a name of the zoo" in capsys.readouterr().err


def test_a_model_that_was_only_saved(tmp_path):
    zoo.create("vision/mae-tiny").save_pretrained(tmp_path / "model")
    assert main(["card", str(tmp_path / "model")]) == 0
    text = (tmp_path / "model" / "README.md").read_text()
    assert "not recorded" in text and ModelCard(text).data.library_name == "modality-zoo"


def test_names(capsys):
    assert main(["card", "vision/mae-base"]) == 0
    assert capsys.readouterr().out.startswith("---\nlibrary_name: modality-zoo")


@pytest.mark.parametrize(
    "source, words",
    [
        ("me/model", "renewed when it is published again"),
        ("vision/mae-bse", "Did you mean 'vision/mae-base'"),
        ("EMPTY", "neither a model (config.json) nor a finished run"),
        ("BROKEN", "the block 'data' of line"),
        ("MINE", "has no generated blocks"),
        ("ORIGIN", "origin.json must be a mapping with a record and a kind"),
    ],
)
def test_refusals_write_nothing(source, words, finished, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export = finished / "export"
    (tmp_path / "EMPTY").mkdir()
    for name in ("BROKEN", "MINE", "ORIGIN"):
        shutil.copytree(export, tmp_path / name)
    edit(tmp_path / "BROKEN" / "README.md", "<!-- end: data -->\n", "")
    (tmp_path / "MINE" / "README.md").write_text("All of it is mine.\n")
    (tmp_path / "ORIGIN" / "origin.json").write_text('{"kind": "magic", "record": {}}')
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert main(["card", source]) == 1
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
