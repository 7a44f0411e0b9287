"""`zoo average` as a user runs it: models, checkpoints of a run, normalisation, mistakes."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard

import zoo
from modalities.common.evaluation import features
from modalities.vision.data import LabelledImages
from modalities.vision.models.vit import ViTClassifier
from trainer.averaging import uniform_soup
from trainer.checkpoint import list_checkpoints
from trainer.errors import CheckpointError
from trainer.warm_start import objective_state
from zoo.averaging import _prefix
from zoo.cli import main

CLASSES = tuple(map(str, range(10)))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Three neighbours of the bundled encoder, as three runs from it would end."""
    root = tmp_path_factory.mktemp("encoders")
    for i, noise in enumerate((0.0, 0.02, 0.3)):
        model = zoo.from_pretrained("vision/mae-tiny-digits")
        torch.manual_seed(i)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += noise * parameter.std(correction=0) * torch.randn_like(parameter)
        model.save_pretrained(root / str(i))
    return [str(root / str(i)) for i in range(3)]


@pytest.fixture(scope="module")
def probes(encoders, tmp_path_factory):
    """Two linear probes, whose head normalises by statistics."""
    root = tmp_path_factory.mktemp("probes")
    for i in range(2):
        torch.manual_seed(i)
        model = ViTClassifier.from_encoder(zoo.from_pretrained(encoders[0]), 10, pool="token", head="probe", class_names=CLASSES)
        model.head[0].running_mean.normal_()
        model.head[0].running_var.uniform_(0.1, 9.0)
        model.eval().save_pretrained(root / str(i))
    return [str(root / str(i)) for i in range(2)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on the built-in digits that kept four checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    changes = {"train.steps": 6, "train.batch_size": 16, "train.save_every": 1, "train.keep_last": 4, "train.pictures": 0, "data.scenes.views": 1}
    zoo.pretrain("vision/mae-tiny-digits", folder, changes)
    return folder


def states(folders):
    return [zoo.from_pretrained(f).state_dict() for f in folders]


def read(folder):
    return json.loads((folder / "origin.json").read_text())["record"]


def test_mean_of_models(encoders, tmp_path, capsys):
    for _ in range(2):  # the second time it replaces the first
        assert main(["average", *encoders, "--to", str(tmp_path / "a")]) == 0
    assert "mean of models, 3 of 3 used" in capsys.readouterr().out
    made, expected = zoo.from_pretrained(tmp_path / "a"), uniform_soup(states(encoders))
    assert all(tensor.equal(expected[name]) for name, tensor in made.state_dict().items())
    assert made.preprocess == zoo.from_pretrained(encoders[0]).preprocess and made.name == "vision/mae-tiny-digits"
    record = read(tmp_path / "a")
    assert [m["model"] for m in record["models"]] == encoders and {m["weight"] for m in record["models"]} == {1 / 3}
    assert record["measured"] is None and {m["score"] for m in record["models"]} == {None} and record["versions"]["torch"]
    card = ModelCard((tmp_path / "a" / "README.md").read_text())
    assert card.data.eval_results is None and "Nothing was measured" in card.text and encoders[1] in card.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_greedy_soup_of_encoders(encoders, tmp_path, capsys):
    assert main(["average", *encoders[::-1], "--greedy", "--data", "digits", "--to", str(tmp_path / "a")]) == 0
    record, out = read(tmp_path / "a"), capsys.readouterr().out
    scores = {m["model"]: m["score"] for m in record["models"]}
    measured = record["measured"]
    assert measured["value"] >= max(scores.values()) and len(set(scores.values())) > 1
    assert "5-NN on frozen features" in measured["detail"] and measured["samples"] == 500
    used = [m for m in record["models"] if m["weight"]]
    assert sum(m["weight"] for m in used) == pytest.approx(1.0) and max(scores.values()) in [m["score"] for m in used]
    expected = uniform_soup(states([m["model"] for m in used]))
    for name, tensor in zoo.from_pretrained(tmp_path / "a").state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    assert f"{measured['value']:6.2f} %  greedy soup of models, {len(used)} of 3 used" in out
    card = ModelCard((tmp_path / "a" / "README.md").read_text())
    assert "no estimate for new data" in card.text and card.data.eval_results is None


def test_the_score_is_what_evaluate_measures(encoders, tmp_path):
    assert main(["average", *encoders[:2], "--data", "digits", "--to", str(tmp_path / "a")]) == 0
    assert main(["evaluate", str(tmp_path / "a"), "--data", "digits", "--to", str(tmp_path / "r.json")]) == 0
    (measured,) = [r["value"] for r in json.loads((tmp_path / "r.json").read_text()) if r["detail"].startswith("5-NN")]
    assert read(tmp_path / "a")["measured"]["value"] == measured
    (result,) = ModelCard((tmp_path / "a" / "README.md").read_text()).data.eval_results
    assert result.metric_value == measured and result.dataset_name == "digits"


def test_statistics_of_normalisation_are_computed_anew(probes, tmp_path, capsys):
    assert main(["average", *probes, "--to", str(tmp_path / "a")]) == 1
    assert "--data" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert main(["average", *probes, "--data", "digits", "--to", str(tmp_path / "a")]) == 0
    model = zoo.from_pretrained(tmp_path / "a")
    train = LabelledImages("digits").build_plain(model.preprocess)[0]
    vectors = torch.from_numpy(features(model, train)[0])
    spread = vectors.std(0)
    assert ((model.head[0].running_mean - vectors.mean(0)).abs() < 0.1 * spread + 1e-6).all()  # the last 17 of 1,297 are left out
    assert ((model.head[0].running_var.sqrt() - spread).abs() < 0.1 * spread + 1e-6).all()
    torch.testing.assert_close(model.head[1].weight, uniform_soup(states(probes))["head.1.weight"])
    record = read(tmp_path / "a")
    assert record["statistics_recomputed"] and record["measured"]["metric"] == "accuracy" and record["measured"]["detail"] == ""
    assert "computed anew" in (tmp_path / "a" / "README.md").read_text()


def test_greedy_soup_of_one_keeps_its_own_statistics(probes, tmp_path):
    """A head of class means and its negative: alone the first is good, their mean says nothing."""
    model = zoo.from_pretrained(probes[0])
    train = LabelledImages("digits").build_plain(model.preprocess)[0]
    vectors, labels = map(torch.from_numpy, features(model, train))
    with torch.no_grad():
        model.head[0].running_mean.copy_(vectors.mean(0))
        model.head[0].running_var.copy_(vectors.var(0) * 1.5)  # not what a pass over the data would give
        normal = model.head[0](vectors)
        means = torch.stack([normal[labels == c].mean(0) for c in range(10)])
        model.head[1].weight.copy_(means)
        model.head[1].bias.copy_(-means.square().sum(1) / 2)
        model.save_pretrained(tmp_path / "good")
        model.head[1].weight.neg_()
        model.save_pretrained(tmp_path / "bad")
    good, bad = str(tmp_path / "good"), str(tmp_path / "bad")
    assert main(["average", good, bad, "--greedy", "--data", "digits", "--to", str(tmp_path / "a")]) == 0
    record = read(tmp_path / "a")
    assert [m["weight"] for m in record["models"]] == [1.0, 0.0] and record["measured"]["value"] == record["models"][0]["score"] > 50
    assert not record["statistics_recomputed"]
    assert zoo.from_pretrained(tmp_path / "a").head[0].running_var.equal(zoo.from_pretrained(good).head[0].running_var)


def test_mean_of_the_last_checkpoints(run, tmp_path, capsys):
    assert main(["average", str(run), "--last", "3", "--to", str(tmp_path / "a")]) == 0
    paths = list_checkpoints(run / "checkpoints")[-3:]
    assert [p.name for p in paths] == ["step-00000004", "step-00000005", "step-00000006"]
    expected = uniform_soup({k.removeprefix("model."): v for k, v in objective_state(p).items()} for p in paths)
    made = zoo.from_pretrained(tmp_path / "a").state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in made.items())
    assert not made["norm.weight"].equal(zoo.from_pretrained(run).state_dict()["norm.weight"])
    assert [m["model"] for m in read(tmp_path / "a")["models"]] == [str(p) for p in paths]
    assert "mean of checkpoints of one run" in (tmp_path / "a" / "README.md").read_text()
    for wrong in ("1", "5"):
        assert main(["average", str(run), "--last", wrong, "--to", str(tmp_path / "b")]) == 1
        assert "keep_last" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_not_averaged(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "r")
    file = list_checkpoints(tmp_path / "r" / "checkpoints")[-2] / "state" / "tensors.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-5] ^= 1
    file.write_bytes(damaged)
    assert main(["average", str(tmp_path / "r"), "--last", "3", "--to", str(tmp_path / "a")]) == 1
    assert "differs from what was written" in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_an_unfinished_run_is_not_averaged(run, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    assert main(["average", str(tmp_path), "--last", "2", "--to", str(tmp_path / "a")]) == 1
    assert "--resume" in capsys.readouterr().err


def test_which_part_of_an_objective_is_the_model(encoders):
    model = zoo.from_pretrained(encoders[0])
    own = model.state_dict()
    other = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in own.items()}
    parts = {f"student.{n}": t for n, t in other.items()} | {f"teacher.{n}": t for n, t in own.items()} | {"centre": torch.zeros(3)}
    assert _prefix(parts, model) == "teacher."
    assert _prefix({f"net.model.{n}": t for n, t in other.items()}, model) == "net.model."
    with pytest.raises(CheckpointError, match="changed at its export"):
        _prefix({f"a.{n}": t for n, t in other.items()} | {f"b.{n}": t for n, t in other.items()}, model)
    with pytest.raises(CheckpointError, match="changed at its export"):
        _prefix({f"model.{n}": t for n, t in list(own.items())[:-1]}, model)


@pytest.fixture(scope="module")
def odd(encoders, probes, tmp_path_factory):
    """Models that do not go with the others."""
    root = tmp_path_factory.mktemp("odd")
    encoder = zoo.from_pretrained(encoders[0])
    encoder.preprocess = replace(encoder.preprocess, crop_pct=0.5)
    encoder.save_pretrained(root / "PREPROCESS")
    zoo.create("vision/mae-tiny", in_chans=1, input_size=(20, 20), decoder_depth=2).save_pretrained(root / "CONFIG")
    probe = zoo.from_pretrained(probes[0])
    ViTClassifier.from_encoder(probe, 10, pool="token", head="probe", class_names=CLASSES[::-1]).save_pretrained(root / "NAMES")
    (root / "OTHER").mkdir()
    (root / "OTHER" / "thesis.txt").write_text("precious")
    return root


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["E0"], "at least two models"),
        ([], "at least two models"),
        (["E0", "E1", "E0"], "given twice"),
        (["E0", "nowhere"], "neither a folder nor a model"),
        (["E0", "P0"], "one system"),
        (["E0", "CONFIG"], "decoder_depth: 1 -> 2"),
        (["P0", "NAMES", "--data", "digits"], "class_names"),
        (["E0", "PREPROCESS"], "crop_pct=0.5"),
        (["E0", "E1", "--greedy"], "Give --data"),
        (["E0", "E1", "--data", "no/such/folder"], "no/such/folder"),
        (["E0", "E1", "--last", "2"], "one run"),
        (["E0", "--last", "2"], "no run folder"),
        (["E0", "E1", "--to", "E1"], "one of the models"),
        (["E0", "E1", "--to", "OTHER"], "holds other things"),
    ],
)
def test_mistakes(arguments, words, encoders, probes, odd, tmp_path, capsys):
    places = {"E0": encoders[0], "E1": encoders[1], "P0": probes[0]} | {p.name: str(p) for p in odd.iterdir()}
    before = {p: p.stat().st_mtime_ns for folder in (*encoders, str(odd)) for p in type(odd)(folder).rglob("*")}
    arguments = [places.get(a, a) for a in arguments]
    if "--to" not in arguments:
        arguments += ["--to", str(tmp_path / "new")]
    assert main(["average", *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error and error.startswith("Error: ") and "Traceback" not in error
    assert not list(tmp_path.iterdir()) and all(p.stat().st_mtime_ns == t for p, t in before.items())
