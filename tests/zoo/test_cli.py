"""The command line as a user runs it, in process; and once for real, with Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from trainer.logs import read_lines
from zoo.cli import main

ROOT = Path(__file__).parents[2]
QUICK = ["--train.steps", "6", "--train.batch_size", "8", "--train.log_every", "2", "--train.pictures", "1", "--train.workers", "0"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of small pictures in mixed modes and sizes."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for label, base in (("dark", 40), ("light", 200)):
        (root / label).mkdir()
        for i in range(10):
            pixels = np.clip(rng.normal(base, 30, (40 + i, 50, 3)), 0, 255).astype(np.uint8)
            mode = ("RGB", "L", "RGBA", "P")[i % 4]
            Image.fromarray(pixels).convert(mode).save(root / label / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def pretrained_run(photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "pre"
    assert main(["pretrain", "vision/mae-tiny", "--data.path", str(photos), "--to", str(run), *QUICK]) == 0
    return run


@pytest.fixture(scope="module")
def finetuned_run(photos, pretrained_run):
    run = pretrained_run.parent / "fine"
    assert main(["finetune", str(pretrained_run), "--data.path", str(photos), "--to", str(run), *QUICK]) == 0
    return run


def test_run_folder(pretrained_run):
    names = {p.name for p in pretrained_run.iterdir()}
    assert names == {
        "recipe.yaml", "metrics.jsonl", "sessions.jsonl", "tensorboard", "pictures", "checkpoints", "record.json", "export", "report.html", "curves.png",
    }  # fmt: skip
    drawn = {"picture.png", "attention.png", "neighbours.png"}
    assert {p.name for p in (pretrained_run / "export").iterdir()} == {"model.safetensors", "config.json", "preprocessor_config.json", "origin.json", "README.md"} | drawn
    assert all(f"]({name})" in (pretrained_run / "export" / "README.md").read_text() for name in drawn)
    assert all(f"{name}, step 6" in (pretrained_run / "report.html").read_text() for name in ("attention", "neighbours"))
    assert [line["step"] for line in read_lines(pretrained_run / "metrics.jsonl")] == [2, 4, 6]
    record = json.loads((pretrained_run / "record.json").read_text())
    assert record["steps"] == 6 and record["samples"] == 20 and record["data"]["samples"] == 20


def test_recipe_yaml_comes_back_as_config(pretrained_run, tmp_path):
    assert main(["pretrain", "--config", str(pretrained_run / "recipe.yaml"), "--to", str(tmp_path / "again")]) == 0
    first, second = (read_lines(p / "metrics.jsonl") for p in (pretrained_run, tmp_path / "again"))
    assert [line["loss"] for line in first] == [line["loss"] for line in second]  # the same seed, to the last bit


def test_finetune_evaluate_predict(photos, finetuned_run, capsys, tmp_path):
    model = zoo.from_pretrained(finetuned_run)
    assert model.config.class_names == ("dark", "light") and model.system == "vision/mae-vit"
    assert main(["evaluate", str(finetuned_run), "--data", str(photos), "--to", str(tmp_path / "r.json"), "--confusion", str(tmp_path / "c.png")]) == 0
    assert (tmp_path / "c.png").exists() and (finetuned_run / "export" / "confusion.png").exists()
    assert json.loads((tmp_path / "r.json").read_text())[0]["metric"] == "accuracy"
    picture = next((photos / "dark").iterdir())
    assert main(["predict", str(finetuned_run), str(picture)]) == 0
    assert "dark" in capsys.readouterr().out


def test_probe(photos, pretrained_run, tmp_path):
    assert main(["finetune", str(pretrained_run), "--data.path", str(photos), "--head", "probe", "--to", str(tmp_path / "p"), *QUICK]) == 0
    before, after = zoo.from_pretrained(pretrained_run).state_dict(), zoo.from_pretrained(tmp_path / "p").state_dict()
    assert all(before[k].equal(after[k]) for k in before.keys() & after.keys())


def test_evaluate_and_predict_of_an_encoder(photos, pretrained_run, capsys, tmp_path):
    assert main(["evaluate", str(pretrained_run), "--data", str(photos), "--per_class", "4"]) == 0
    assert "5-NN" in capsys.readouterr().out
    picture = str(next((photos / "dark").iterdir()))
    assert main(["predict", str(pretrained_run), picture, "--to", str(tmp_path / "r.png")]) == 0
    with Image.open(tmp_path / "r.png") as sheet:
        assert sheet.size[0] > 100


def test_evaluation_inside_training(photos, pretrained_run, tmp_path, capsys):
    run, chosen = tmp_path / "f", ["--train.evaluate.every", "5", "--train.evaluate.best", "eval/accuracy"]
    assert main(["finetune", str(pretrained_run), "--data.path", str(photos), "--to", str(run), *QUICK, *chosen, "--train.keep_last", "1"]) == 0
    evaluated = {line["step"]: line["eval/accuracy"] for line in read_lines(run / "metrics.jsonl") if "eval/accuracy" in line}
    best = json.loads((run / "record.json").read_text())["best"]
    assert list(evaluated) == [5, 6] and best["value"] == max(evaluated.values()) == evaluated[best["step"]]
    assert f"weights are those of step {best['step']}, the best by `eval/accuracy`" in (run / "export" / "README.md").read_text()
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(photos)]) == 0
    assert capsys.readouterr().out.startswith(f"{100 * best['value']:6.2f} %  accuracy on 4 samples")


def test_show_schedule(photos, pretrained_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wsd = ["--train.schedule.name", "wsd", "--train.schedule.decay", "0.2", "--train.batch_size", "8"]
    assert main(["pretrain", "vision/mae-tiny", "--train.steps", "1000", "--to", "run", "--show-schedule", *wsd]) == 0
    out = capsys.readouterr().out
    assert "1,000 steps of 8 samples, peak lr 3.125e-05" in out
    lines = {int(words[0].replace(",", "")): words[1:] for line in out.splitlines()[2:-1] if (words := line.split())}
    assert lines[0][1] == "0" and lines[800] == ["6,400", "3.125e-05"] and float(lines[999][1]) < 1e-8
    assert [p.name for p in tmp_path.iterdir()] == ["vision-mae-tiny-schedule.png"]  # not even the folder of the run
    arguments = ["finetune", str(pretrained_run), "--data.path", str(photos), "--show_schedule", "--train.epochs", "3"]
    assert main([*arguments, "--train.batch_size", "8"]) == 0
    assert "6 steps of 8 samples" in capsys.readouterr().out  # 16 training images: the data says how long an epoch is
    assert (tmp_path / "vision-finetune-schedule.png").exists()


def test_publish(finetuned_run, pretrained_run, tmp_path, capsys, monkeypatch):
    for run in (finetuned_run, pretrained_run):
        to = tmp_path / run.name
        assert main(["publish", str(run), "--to", str(to)]) == 0
        monkeypatch.setattr("zoo.publishing.rehearse", lambda *_: "")  # one new process is enough here
        assert main(["publish", str(run), "--to", str(to)]) == 0  # again, in place
        assert zoo.from_pretrained(to).preprocess == zoo.from_pretrained(run).preprocess
    assert main(["publish", str(tmp_path), "--to", str(tmp_path / "x")]) == 1
    assert "record.json" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_a_run_that_goes_on_keeps_the_words_in_its_card(photos, pretrained_run, tmp_path):
    run = shutil.copytree(pretrained_run, tmp_path / "run")
    card = run / "export" / "README.md"
    card.write_text(card.read_text() + "\nMine.\n")
    assert main(["pretrain", "vision/mae-tiny", "--data.path", str(photos), "--to", str(run), *QUICK, "--resume"]) == 0
    assert card.read_text().endswith("<!-- end: citation -->\n\nMine.\n")


def test_training_from_scratch_needs_no_weights(photos, tmp_path, capsys):
    arguments = ["--data.path", str(photos), "--to", str(tmp_path / "s"), *QUICK]
    assert main(["finetune", "vision/mae-tiny", *arguments]) == 1
    assert "no weights come with it" in capsys.readouterr().err
    assert main(["finetune", "vision/mae-tiny", "--scratch", *arguments]) == 0
    assert zoo.from_pretrained(tmp_path / "s").config.embed_dim == zoo.create("vision/mae-tiny").config.embed_dim


def test_finetune_script_of_the_modality(photos, pretrained_run, tmp_path):
    from modalities.vision.finetune import main as script

    assert script([str(photos), "--model", str(pretrained_run), "--to", str(tmp_path / "f"), *QUICK]) == 0
    assert (tmp_path / "f" / "export" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["pretain"], 2, "Did you mean 'pretrain'"),
        (["list", "zzz*"], 1, "No model matches"),
        (["show", "vision/mae-bse"], 1, "Did you mean 'vision/mae-base'"),
        (["pretrain", "vision/mae-bse"], 1, "Did you mean 'vision/mae-base'"),
        (["pretrain", "vision/mae-tiny"], 1, "data.path"),
        (["pretrain", "vision/mae-tiny", "--data.path", "no/such/folder"], 1, "no/such/folder"),
        (["pretrain", "vision/mae-tiny", "--data.path", "PHOTOS", "--train.epochs", "None"], 1, "train.epochs"),
        (["pretrain", "vision/mae-tiny", "--data.path", "PHOTOS", "--train.epochs", "2", "--train.steps", "3"], 1, "Give one of"),
        (["pretrain", "vision/mae-tiny", "--data.path", "PHOTOS", "--train.optim.name", "adamv"], 1, "Did you mean 'adam'"),
        (["pretrain", "vision/mae-tiny", "--data.path", "PHOTOS", "--model.num_heads", "5"], 1, "num_heads"),
        (["pretrain", "vision/mae-tiny", "--data.path", "PHOTOS", "--train.schedule.floor", "0.1", "--train.schedule.name", "power"], 1, "schedule.floor"),
        (["pretrain", "vision/mae-tiny", "--data.path", "PHOTOS", "--train.steps", "5", "--train.schedule.warmup_steps", "9"], 1, "do not fit"),
        (["pretrain", "vision/mae-tiny", "--show-schedule"], 1, "data.path"),
        (["pretrain", "vision/mae-tiny", "--data.path", "PHOTOS", "--objective.mask_ratio", "1.5"], 1, "mask_ratio"),
        (["pretrain", "vision/mae-tiny", "--data.path", "PHOTOS", "--train.evaluate.every", "5"], 1, "nothing to evaluate"),
        (["pretrain", "vision/mae-tiny", "--data.path", "PHOTOS", "--train.evaluate.best", "eval/loss"], 1, "needs train.evaluate.every"),
        (["pretrain", "vision/mae-tiny", "--data.path", "PHOTOS", "--probe.path", "PHOTOS/none", "--train.evaluate.every", "5"], 1, "does not exist"),
        (["finetune", "RUN", "--data.path", "PHOTOS", "--train.evaluate.every", "5", "--train.evaluate.best", "accuracy"], 1, "Did you mean 'eval/accuracy'"),
        (["pretrain"], 1, "recipe"),
        (["finetune", "vision/mae-bse", "--data.path", "PHOTOS"], 1, "Did you mean"),
        (["finetune"], 1, "--model"),
        (["finetune", "RUN", "--head", "prob", "--data.path", "PHOTOS"], 1, "linear or probe"),
        (["evaluate", "RUN", "--data", "PHOTOS/dark"], 1, "class"),
        (["predict", "RUN", "PHOTOS/none.png"], 1, "none.png"),
        (["pretrain", "vision/mae-tiny", "--data.path", "PHOTOS", "--to", "RUN"], 1, "--resume"),
        (["pretrain", "vision/mae-tiny", "--data.path", "PHOTOS", "--to", "PHOTOS"], 1, "not empty"),
        (["pretrain", "vision/mae-tiny", "--data.path", "PHOTOS", "--to", "NEW", "--resume"], 1, "to resume"),
        (["demo", "visoin"], 1, "Did you mean 'vision'"),
        (["demo", "vision", "--to", "PHOTOS"], 1, "other things"),
    ],
)
def test_mistakes_get_one_clear_message(arguments, code, words, photos, pretrained_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"PHOTOS": str(photos), "RUN": str(pretrained_run), "NEW": str(tmp_path / "new")}
    arguments = [a.replace("PHOTOS", str(photos)) if a.startswith("PHOTOS/") else places.get(a, a) for a in arguments]
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error and error.startswith("Error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--train.optim.base_lrr", "--data.pth", "--sed"])
def test_misspelt_option(option, photos, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "vision/mae-tiny", "--data.path", str(photos), option, "1"])
    assert stop.value.code == 2 and option in capsys.readouterr().err


def test_resume_with_another_recipe(photos, pretrained_run, capsys):
    arguments = ["pretrain", "vision/mae-tiny", "--data.path", str(photos), "--to", str(pretrained_run), "--resume", *QUICK]
    assert main([*arguments, "--train.seed", "5"]) == 1
    assert "train.seed: 0 -> 5" in capsys.readouterr().err
    assert main(arguments) == 0  # a finished run resumes to its end


@pytest.mark.parametrize("bad", ["empty", "flat text", "truncated", "one class"])
def test_bad_image_folders(bad, photos, pretrained_run, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    verb, words = ["pretrain", "vision/mae-tiny"], "no image"
    if bad == "flat text":
        (data / "a.png").write_text("I am no picture")
        words = "a.png"
    elif bad == "truncated":
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(data / "a.jpg")
        (data / "a.jpg").write_bytes((data / "a.jpg").read_bytes()[:300])
        words = "a.jpg"
    elif bad == "one class":
        (data / "only").mkdir()
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(data / "only" / "a.jpg")
        verb, words = ["finetune", str(pretrained_run)], "class"
    assert main([*verb, "--data.path", str(data), "--to", str(tmp_path / "run"), *QUICK]) == 1
    error = capsys.readouterr().err
    assert words in error.lower() and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_report(pretrained_run, capsys, tmp_path):
    (pretrained_run / "report.html").unlink()
    assert main(["report", str(pretrained_run)]) == 0
    assert capsys.readouterr().out.strip() == str(pretrained_run / "report.html")
    text = (pretrained_run / "report.html").read_text()
    assert text.startswith("<!doctype html>") and "vision/mae-tiny trained for 6 steps" in text and "zoo publish" in text
    assert main(["report", str(tmp_path)]) == 1 and "no run in" in capsys.readouterr().err


def test_a_fault_in_drawing_does_not_lose_the_run(photos, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr("modalities.common.run.write_report", lambda folder: [][1])
    assert main(["pretrain", "vision/mae-tiny", "--data.path", str(photos), "--to", str(tmp_path / "run"), *QUICK]) == 0
    assert "zoo report" in caplog.text and zoo.from_pretrained(tmp_path / "run")


def test_a_resumed_run_may_be_watched_otherwise(photos, pretrained_run, capsys, tmp_path):
    run = shutil.copytree(pretrained_run, tmp_path / "run")
    arguments = ["pretrain", "vision/mae-tiny", "--data.path", str(photos), "--to", str(run), *QUICK, "--resume"]
    assert main([*arguments, "--train.profile", "2", "--train.trackers", "tensorboard"]) == 0
    assert (run / "trackers").is_dir() and len(read_lines(run / "sessions.jsonl")) == 1 + len(read_lines(pretrained_run / "sessions.jsonl"))
    assert main([*arguments, "--train.trackers", "tensorbord"]) == 1
    assert "Did you mean 'tensorboard'" in capsys.readouterr().err


def test_unwritable_place(photos, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["pretrain", "vision/mae-tiny", "--data.path", str(photos), "--to", str(tmp_path / "file" / "run"), *QUICK]) == 1
    assert "Cannot write" in capsys.readouterr().err


def test_ctrl_c_then_resume(photos, pretrained_run, tmp_path):
    """The real command gets SIGINT in the middle; resumed, it gives what the uninterrupted run gave."""
    long = [a if a != "6" else "40" for a in QUICK]
    arguments = ["pretrain", "vision/mae-tiny", "--data.path", str(photos), *long]
    assert main([*arguments, "--to", str(tmp_path / "whole")]) == 0
    cut = [sys.executable, "-m", "zoo.cli", *arguments, "--to", str(tmp_path / "cut")]
    process = subprocess.Popen(cut, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    while process.poll() is None and not read_lines(tmp_path / "cut" / "metrics.jsonl"):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "--resume goes on" in error and "Traceback" not in error
    assert not (tmp_path / "cut" / "export").exists()
    assert main([*arguments, "--to", str(tmp_path / "cut"), "--resume"]) == 0
    whole, resumed = zoo.from_pretrained(tmp_path / "whole").state_dict(), zoo.from_pretrained(tmp_path / "cut").state_dict()
    assert all(whole[k].equal(resumed[k]) for k in whole)
    losses = [[line["loss"] for line in read_lines(tmp_path / name / "metrics.jsonl")] for name in ("whole", "cut")]
    assert losses[0] == losses[1]


def test_requeue_begins_and_goes_on(photos, tmp_path, capsys, caplog):
    command = ["pretrain", "vision/mae-tiny", "--data.path", str(photos), "--train.steps", "2", "--train.batch_size", "4", "--to", str(tmp_path / "run"), "--requeue"]
    assert main(command) == 0 and main(command) == 0
    assert "going on from step 2 of 2" in caplog.text
    assert main([*command, "--train.seed", "5"]) == 1 and "train.seed: 0 -> 5" in capsys.readouterr().err
