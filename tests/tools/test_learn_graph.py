"""The learning proof of graphs with a few steps: every row is there, and what is done is not done again."""

import pytest

from tools import learn_graph


def test_the_table_has_every_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learn_graph, "METHODS", {"GraphMAE": "graph/graphmae-tiny-molecules"})
    few = dict(seeds=(0,), per_class=2, steps=2, rates=(1e-3,), lengths=(1,), samples=40, test_samples=16, folder=tmp_path)
    rows = learn_graph.learn(**few)
    assert [name.split(", ")[1] for name in rows] == ["pre-trained", "from scratch", "pre-trained", "random"] and all(0 <= value <= 100 for row in rows.values() for value in row)
    runs = {path.name for path in tmp_path.iterdir()}
    assert "graphmae-tiny-molecules-0" in runs and {"graphmae-tiny-molecules-pre-trained-1-0.001-1-0", "graphmae-tiny-molecules-from-scratch-1-0.001-1-0"} <= runs
    assert "16 test graphs, 2 labelled graphs per class" in capsys.readouterr().out
    monkeypatch.setattr("tools.learning.run", lambda *_, **__: pytest.fail("a run was made again"))
    assert learn_graph.learn(**few) == rows
