import random
import sys

import pytest

from tools import fuzz_cases, fuzz_data, fuzz_tars
from tools.fuzz_cases import CASES, Broken, ours
from tools.fuzz_data import Options, main
from trainer.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MODALITY_ZOO_CACHE", str(tmp_path / "cache"))


def test_some_cases_of_each_kind(tmp_path):
    for kind, (_, run) in CASES.items():
        for number in range(6):
            folder = tmp_path / f"{kind}-{number}"
            folder.mkdir()
            run(random.Random(f"{kind} {number}"), folder, str(tmp_path / "executed"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("damage", sorted(fuzz_tars.DAMAGES))
def test_every_damage_of_a_tar(damage, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_cases, "DAMAGES", {damage: fuzz_tars.DAMAGES[damage]})
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert fuzz_cases.shards(random.Random(number), folder, str(tmp_path / "executed")).startswith(damage)
    assert not (tmp_path / "executed").exists()


def test_promises_that_are_broken_are_seen(tmp_path, monkeypatch):
    def fail(error):
        raise error

    with pytest.raises(Broken, match="does not name"):
        ours(lambda: fail(DataError("a.tar is damaged")), "b.tar")
    with pytest.raises(ValueError, match="not ours"):
        ours(lambda: fail(ValueError("not ours")))
    monkeypatch.setattr(fuzz_cases, "DAMAGES", {"none": lambda rng, members, hostile: (b"".join(members) + bytes(1024), {0, 1})})
    with pytest.raises(Broken, match="should not have been read"):
        fuzz_cases.shards(random.Random(0), tmp_path, "executed")


def test_the_runner_counts_and_ends_with_0(capsys):
    assert main(Options(cases=6, seed=3)) == 0
    assert "6 cases from seed 3" in capsys.readouterr().out


@pytest.mark.parametrize("program, words", [("import time; time.sleep(60)", "hung"), ("import os; os.abort()", "the process died (-6)")])
def test_a_crash_and_a_hang_are_failures(program, words, capsys, monkeypatch):
    monkeypatch.setattr(fuzz_data, "PROGRAM", (sys.executable, "-c", f"print(flush=True); {program}"))
    assert main(Options(cases=1, seed=3, limit=0.5)) == 1
    assert words in capsys.readouterr().out
    monkeypatch.setattr(fuzz_data, "PROGRAM", (sys.executable, "-c", "raise SystemExit('no torch')"))
    with pytest.raises(SystemExit, match="cannot be begun: no torch"):
        main(Options(cases=1))
