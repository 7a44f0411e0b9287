from dataclasses import dataclass, field
from typing import Literal

import pytest

from trainer.config import dump_yaml, from_dict, leaves, read_yaml, replace, to_dict
from trainer.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Inner:
    lr: float = 1e-3
    betas: tuple[float, float] | None = (0.9, 0.95)


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"] = "a"
    steps: int | None = None
    flag: bool = False
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)


def test_round_trip_through_yaml(tmp_path):
    config = Outer("x", "b", 5, True, (3,), Inner(2.0, None))
    path = tmp_path / "c.yaml"
    path.write_text(dump_yaml(to_dict(config)))
    assert from_dict(Outer, read_yaml(path)) == config


def test_lossless_changes_only():
    assert from_dict(Inner, {"lr": 1}).lr == 1.0
    assert from_dict(Inner, {"lr": "3e-4"}).lr == 3e-4  # YAML reads 3e-4 as text
    assert from_dict(Outer, {"name": "x", "sizes": [4, 5]}).sizes == (4, 5)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"name": "x", "stpes": 3}, ["stpes", "Did you mean 'steps'"]),
        ({"name": "x", "inner": {"betsa": [1, 2]}}, ["inner.betsa", "'betas'"]),
        ({"name": "x", "steps": 1.5}, ["steps", "whole number", "1.5"]),
        ({"name": "x", "steps": True}, ["steps", "True"]),
        ({"name": "x", "flag": "yes"}, ["flag", "true or false"]),
        ({"name": "x", "kind": "c"}, ["kind", "'a', 'b'"]),
        ({"name": "x", "inner": {"betas": [1, 2, 3]}}, ["inner.betas"]),
        ({"name": "x", "inner": 3}, ["inner", "mapping"]),
        ({}, ["name", "no default"]),
        ([1], ["mapping"]),
    ],
)
def test_refuses_with_names(values, words):
    with pytest.raises(ConfigError) as error:
        from_dict(Outer, values)
    for word in words:
        assert word in str(error.value)


def test_replace_reaches_into_nested_fields():
    assert replace(Outer("x"), {"inner.lr": 5}).inner.lr == 5.0
    with pytest.raises(ConfigError, match="Did you mean 'inner.lr'"):
        replace(Outer("x"), {"inner.lrr": 5})
    with pytest.raises(ConfigError, match="Did you mean 'inner.lr'"):
        replace(Outer("x"), {"lr": 5})


def test_leaves_are_dotted():
    assert list(leaves(Outer("x"))) == ["name", "kind", "steps", "flag", "sizes", "inner.lr", "inner.betas"]


def test_yaml_that_is_none(tmp_path):
    bad = tmp_path / "bad.yaml"
    for text in ("a: [1", "- 1\n- 2\n", ""):
        bad.write_text(text)
        with pytest.raises(ConfigError, match="bad.yaml"):
            read_yaml(bad)
    with pytest.raises(ConfigError, match="missing.yaml"):
        read_yaml(tmp_path / "missing.yaml")


def test_yaml_never_builds_objects(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"a: !!python/object/apply:os.system ['touch {tmp_path}/pwned']")
    with pytest.raises(ConfigError):
        read_yaml(bad)
    assert not (tmp_path / "pwned").exists()


def test_did_you_mean():
    assert did_you_mean("vision/mae-bse", ["vision/mae-base", "vision/mae-tiny"]) == " Did you mean 'vision/mae-base'?"
    assert did_you_mean("zzz", ["vision/mae-base"]) == ""
