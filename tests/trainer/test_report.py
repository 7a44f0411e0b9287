"""The report and the curves of a run: what is in them, whatever the folder holds."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.trainer.toy import CONFIG, fit
from trainer.config import dump_yaml, to_dict
from trainer.curves import draw_curves, panels, picture, plot, series
from trainer.errors import CheckpointError, ConfigError
from trainer.logs import Sessions, read_lines
from trainer.recipe import Recipe
from trainer.report import duration, write_report

SCRIPT = "<script>alert('x')</script>"
VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Parses strictly: every element is closed in order, nothing runs, nothing is fetched."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.seen, self.words, self.images = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert tag not in ("script", "iframe", "object", "link", "base") and not any(n.startswith("on") for n in names)
        assert len(names) == len(set(names)) and None not in dict(attributes).values()
        for name, value in attributes:
            if name in ("src", "srcset", "href"):
                assert value.startswith("data:image/")
                self.images.append(value)
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> does not close what is open"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def write_metrics(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def line_at(step, **more):
    return {"step": step, "samples": step * 16, "seconds": step / 2, "loss": 10 / step, "lr": 1e-3, "samples_per_second": 100.0, "data_wait": 0.25, **more}


def finished_run(folder, record=None):
    """A run that ended well, with everything in its folder."""
    write_metrics(folder, [line_at(s, **({"skipped": 2} if s == 20 else {}), **({"eval/knn": float(s)} if s % 20 == 0 else {})) for s in range(10, 101, 10)])
    Recipe("vision/mae-tiny", CONFIG).save(folder / "recipe.yaml")
    sessions = [{"step": s, "steps": 100, "batch_size": 16, "samples": 50, "command": "zoo pretrain vision/mae-tiny --to r"} for s in (0, 40)]
    (folder / "sessions.jsonl").write_text("".join(json.dumps(s) + "\n" for s in sessions))
    evaluations = [
        {"task": "classification", "data": "digits", "split": "test", "metric": "accuracy", "value": 93.25, "unit": "%", "samples": 360, "command": "zoo evaluate r"},
        {"task": "classification", "data": "digits", "split": "test", "metric": "recall", "value": 71.5, "samples": 360},
    ]
    known = {
        "command": "zoo pretrain vision/mae-tiny --to r", "steps": 100, "batch_size": 16, "samples": 50, "parameters": 236448, "seconds": 3725.0,
        "hardware": "2 CPU threads", "best": {"metric": "eval/knn", "value": 92.5, "step": 40, "exported": True}, "data": {"name": "digits", "licence": "CC BY 4.0"}, "evaluations": evaluations, "versions": {"torch": "2.11.0"},
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps({**known, **(record or {})}))
    (folder / "pictures").mkdir()
    for step in range(10, 81, 10):
        matplotlib.image.imsave(folder / "pictures" / f"step-{step:08d}.png", np.zeros((2, 2, 3)))
    return folder


def report(folder):
    path = write_report(folder)
    assert path == folder / "report.html" and (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not [p for p in folder.iterdir() if p.name.startswith(".tmp-")]
    return Page(path.read_text(encoding="utf-8"))


def test_a_finished_run(tmp_path):
    page = report(finished_run(tmp_path))
    for words in (
        "vision/mae-tiny trained for 100 steps of 16 samples (32.0 passes over 50 samples of digits) in 1 h 02 min on 2 CPU threads; the loss went from 1.000 to 0.1000.",
        "Waiting for data 25.0 %", "Skipped steps 2", "Parameters 0.24 M", "Resumed once at step 40", "Best eval/knn 92.50 at step 40, exported", "93.25 % 360 zoo evaluate r",
        "71.5 360 zoo pretrain vision/mae-tiny --to r", "knn 100.0 at step 100 20.00 at step 20 100.0 at step 100", "torch 2.11.0", "zoo publish",
        f"zoo.from_pretrained('{tmp_path}/export')", "base_lr: 0.00015", "CC BY 4.0",
    ):  # fmt: skip
        assert words in page.text, words
    captions = re.findall(r"step (\d+)\b(?= step|\s*What)", page.text.partition("Pictures")[2])
    assert captions == ["80", "70", "60", "50", "40", "30"]  # the last six, newest first
    assert page.seen.count("details") == 2 and "--resume" not in page.text


def test_an_unfinished_run_says_how_to_go_on(tmp_path):
    finished_run(tmp_path)
    (tmp_path / "record.json").unlink()
    page = report(tmp_path)
    assert "has not finished" in page.text and "trained for 100 of 100 steps" in page.text
    assert "zoo pretrain vision/mae-tiny --to r --resume" in page.text and "from_pretrained" not in page.text


def test_a_run_of_the_trainer(tmp_path):
    fit(tmp_path / "a", Sessions({"command": "zoo pretrain x"}))
    page = report(tmp_path / "a")  # without recipe.yaml and record.json
    assert "recipe.yaml is missing" in page.text and "a trained for 30 of 30 steps of 16 samples (9.6 passes over 50 samples)" in page.text
    assert {"Loss", "rmse", "Gradient norm", "Learning rate", "Samples per second"} <= {p.title for p in panels(read_lines(tmp_path / "a" / "metrics.jsonl"))}


def test_everything_from_outside_is_escaped(tmp_path):
    folder = tmp_path / SCRIPT.replace("/", "") / 'a"b\'c & d'
    finished_run(folder, {"classes": [SCRIPT], "command": SCRIPT, "hardware": SCRIPT, "versions": {SCRIPT: SCRIPT}, "data": {SCRIPT: SCRIPT, "name": SCRIPT}})
    write_metrics(folder, [line_at(s, **{f"eval/{SCRIPT}": 1.0, f"${SCRIPT}": 2.0, "x\u6f22{_^": 3.0}) for s in range(1, 5)])
    (folder / "recipe.yaml").write_text(dump_yaml({**to_dict(Recipe(SCRIPT, CONFIG)), "data": {"path": SCRIPT}}))
    (folder / "pictures" / "<script>alert(1)<.png").write_bytes((folder / "pictures" / "step-00000080.png").read_bytes())
    page = report(folder)
    assert page.text.count(SCRIPT) > 10 and "<script" not in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    "name, content",
    [
        ("metrics.jsonl", b""),
        ("metrics.jsonl", b'{"step": 1, "loss": 0.5}\n{"step": 2, "lo'),
        ("metrics.jsonl", b'\xff\xfe\nnull\n[]\n{"loss": 1}\n{"step": "a"}\n'),
        ("metrics.jsonl", b'{"step": 1, "loss": "high", "lr": true, "eval/x": null}\n{"step": 2, "loss": 1e308, "lr": NaN}\n{"step": 1' + b"0" * 400 + b"}\n"),
        ("metrics.jsonl", b'{"step": 5, "loss": 1' + b"0" * 400 + b', "lr": -1}\n{"step": 5, "loss": 0, "seconds": -1, "data_wait": 7}\n'),
        ("recipe.yaml", b"a: [1"),
        ("recipe.yaml", b"when: 2024-13-45"),
        ("recipe.yaml", b"- 1"),
        ("recipe.yaml", b"\xff\xfe"),
        ("record.json", b"{"),
        ("record.json", b"[]"),
        ("record.json", b'{"steps": "x", "batch_size": null, "seconds": "soon", "evaluations": {"a": 1}, "data": 3, "versions": 4, "parameters": true}'),
        ("record.json", b'{"steps": null, "evaluations": [1, {}], "data": null, "hardware": 5, "samples": 0}'),
        ("sessions.jsonl", b'{"step": 0, "steps": "x", "versions": [], "command": 5}\n{"step": 3}\n\xff'),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_not_a_crash(tmp_path, name, content):
    finished_run(tmp_path)
    (tmp_path / "record.json").unlink(missing_ok=name in ("metrics.jsonl", "sessions.jsonl"))
    (tmp_path / name).write_bytes(content)
    page = report(tmp_path)
    if name == "metrics.jsonl" and not read_lines(tmp_path / name):
        assert "metrics.jsonl holds no metrics" in page.text
    if name == "recipe.yaml":
        assert "recipe.yaml cannot be read" in page.text or "does not hold a recipe" in page.text


def test_lines_that_do_not_read_are_counted(tmp_path):
    write_metrics(tmp_path, [line_at(1), line_at(2)])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write("{}\n\n{")
    assert "metrics.jsonl: 2 line(s) could not be read" in report(tmp_path).text


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run in"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="no run in"):
        write_report(tmp_path / "missing")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_report(tmp_path, full_disk):
    report(finished_run(tmp_path))
    before = (tmp_path / "report.html").read_bytes(), (tmp_path / "curves.png").read_bytes()
    full_disk(1000)
    with pytest.raises(CheckpointError, match="Cannot write .*curves.png"):
        write_report(tmp_path)
    full_disk(len(before[1]) + 1000)
    with pytest.raises(CheckpointError, match="Cannot write .*report.html"):
        write_report(tmp_path)
    assert before == ((tmp_path / "report.html").read_bytes(), (tmp_path / "curves.png").read_bytes())


def test_curves_without_a_display_or_metrics(tmp_path):
    tmp_path.joinpath("metrics.jsonl").write_text("")
    assert matplotlib.image.imread(draw_curves(tmp_path)).shape[2] == 4


def test_panels(tmp_path):
    lines = [line_at(s, **{"mae/masked": -1.0, "mfu": 0.4, "grad_norm": math.nan, "memory_gb": 2.0}) for s in range(1, 200)]
    lines[49]["spikes"] = 1
    lines[99].update({"eval/a/b": 0.5, "loss": None})
    found = panels(lines, [{"step": 0}, {"step": 50}])
    assert [p.title for p in found] == [
        "Loss", "a/b (evaluation)", "mae/masked", "Learning rate", "Samples per second", "Waiting for data, % of the time", "Model FLOPs utilisation, %",
    ]  # fmt: skip
    loss = found[0]
    assert len(loss.values) == 198 and 100 not in loss.steps and loss.resumed == (50,)
    assert [(mark[0], mark[3].tolist()) for mark in loss.marks] == [("spike", [50.0])]
    assert {p.last for p in found} == {199} and found[-1].values[0] == pytest.approx(40)
    assert series(lines, "missing")[0].shape == (0,)


@pytest.mark.parametrize(
    "values, scale, shown",
    [
        ([100 / s for s in range(1, 200)], "log", (0.3, 150)),  # more than a decade
        ([5.0, *np.linspace(2, 1, 199)], "linear", (0.9, 2.2)),  # one large value at first
        (np.linspace(2, 1, 200), "linear", (0.9, 2.1)),
        ([1.0] * 200, "linear", (0.9, 1.1)),
        ([0.0, 100.0], "linear", (-6, 106)),
        ([1e-90, 1e90], "log", (1e-101, 1e101)),
    ],
)
def test_the_height_of_a_loss(values, scale, shown):
    (panel,) = panels([{"step": s, "loss": v} for s, v in enumerate(values)])
    axes = Figure().add_subplot()
    plot(axes, panel)
    low, high = axes.get_ylim()
    assert axes.get_yscale() == scale and shown[0] <= low < high <= shown[1]
    assert picture(panel).startswith(b"\x89PNG")


def test_durations():
    assert [duration(s) for s in (0.04, 59.94, 60, 3599, 3600, 90000)] == ["0.0 s", "59.9 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "1 d 01 h"]


def test_the_template_is_packaged():
    assert re.search(r'^trainer = \["\*\.j2"\]$', (Path(__file__).parents[2] / "pyproject.toml").read_text(), re.M)
