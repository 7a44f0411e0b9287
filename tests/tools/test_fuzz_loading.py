"""A short run of the fuzzing, and whether it would notice."""

import os
import re
import time
from pathlib import Path

import pytest
import torch

import zoo
from tools import fuzz_loading
from tools.fuzz_loading import Options, main
from trainer.errors import CheckpointError

SOUND = zoo.from_pretrained


def test_damaged_folders_load_rightly_or_are_refused(capsys):
    assert main(Options(cases=200, seed=7, batch=100)) == 0, capsys.readouterr().out
    table = capsys.readouterr().out
    assert "seed 7" in table and table.splitlines()[-2].split()[:2] == ["all", "200"]


def raises(path, **options):
    raise KeyError("weight_map")


def says_nothing(path, **options):
    raise CheckpointError(" ")


def crashes(path, **options):
    os._exit(11)


def hangs(path, **options):
    time.sleep(60)


def writes(path, **options):
    Path(path, "cache.json").write_text("{}")
    return SOUND(path, **options)


def starts(path, **options):
    os.system("true")
    raise CheckpointError("refused")


def devours(path, **options):
    torch.ones(2**30)
    return SOUND(path, **options)


def allocates(path, **options):
    try:
        torch.ones(2**30)
    except RuntimeError as error:
        raise CheckpointError("cannot be built") from error


def alters(path, **options):
    model = SOUND(path, **options)
    model.patch_embed.proj.bias.data[0] += 1
    return model


@pytest.mark.parametrize(
    "bug, words",
    [
        (raises, "KeyError: 'weight_map'"),
        (says_nothing, "a message of 1 characters"),
        (crashes, r"the process died \(exit code 11\)"),
        (hangs, "no end after 0.5 s"),
        (writes, "opened .*cache.json' to write"),
        (starts, "os.system"),
        (devours, "memory"),
        (allocates, "tried to take too much memory"),
        (alters, "other values in .'patch_embed.proj.bias'"),
    ],
)
def test_it_notices(bug, words, monkeypatch, capsys):
    work = fuzz_loading.work

    def broken(*arguments):
        fuzz_loading.zoo.from_pretrained = bug  # in the child process only
        work(*arguments)

    monkeypatch.setattr(fuzz_loading, "work", broken)
    assert main(Options(cases=12 if bug is alters else 2, seconds=0.5 if bug is hangs else 10)) == 1
    out = capsys.readouterr().out
    assert re.search(words, out), out
