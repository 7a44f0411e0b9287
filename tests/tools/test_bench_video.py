import re

import pytest

from tools.bench_video import Options, main


def test_it_measures_both_sides_and_a_training_run(capsys, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setattr("tools.bench_video.LEAST", 0.0)
    options = Options(
        videos=4, height=32, frames=8, stride=1, size=32, batch_size=2, workers=1, passes=1, repeats=1, clips=2, recipe="video/videomae-tiny", train_steps=3
    )  # fmt: skip
    assert main(options) == 0
    said = capsys.readouterr().out
    assert float(re.search(r"paired ratios (\S+)\n", said)[1]) > 0 and "2 clips of each opened file" in said
    assert 0 <= float(re.search(r"2 steps: (\S+) % of the time is waiting", said)[1]) <= 100
