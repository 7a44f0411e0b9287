from tools import bench_loading
from tools.bench_loading import Options, clock, fresh_memory, loader, main, make


def test_it_measures_the_same_tensors_both_ways(tmp_path):
    weights = make("tiny", tmp_path / "ours", tmp_path / "theirs")
    assert weights == 4 * 244_432
    ours, theirs = loader("zoo")(tmp_path / "theirs"), loader("transformers")(tmp_path / "theirs")
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert 0 < clock(loader("zoo"), tmp_path / "ours") < 5


def test_memory_is_that_of_a_fresh_process(tmp_path):
    weights = make("small", tmp_path / "ours", tmp_path / "theirs")
    assert 0.3 * weights < fresh_memory("zoo", tmp_path / "ours") < 1.5 * weights


def test_the_table_and_the_verdict(capsys, monkeypatch):
    monkeypatch.setattr(bench_loading, "fresh_memory", lambda kind, folder: 4 * 244_432 * 1.2)
    assert main(Options(size="tiny", repeats=1)) == 1
    out = capsys.readouterr().out
    assert "zoo, its own folder" in out and "memory / weights" in out and "1.20" in out and out.endswith("1.1 times the weights: NO\n")
