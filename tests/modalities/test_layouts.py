"""Every layout loads completely, or not at all."""

import pytest
import torch

import zoo
from modalities import registry
from modalities.common import pretrained
from tests.modalities.layouts import CASES, OWN, damaged, each, write
from trainer.errors import CheckpointError


@each
def test_a_layout_loads_with_a_complete_report(case, tmp_path):
    state, config = case.make()
    model = zoo.from_pretrained(write(tmp_path / "x", state, config))
    report = model.load_report
    assert (model.system, report.layout, report.words()) == (case.system, case.layout, case.words)
    assert {name for row in report.rows for name in row.stored} == state.keys()
    assert {row.name for row in report.rows} == model.state_dict().keys()
    assert {row.kind for row in report.rows} <= {"matched", "renamed"}
    assert sum(len(row.stored) > 1 for row in report.rows) == case.joined
    for row in report.rows:
        values = model.state_dict()[row.name]
        assert row.shape == tuple(values.shape) and row.stored_shapes == tuple(tuple(state[name].shape) for name in row.stored)
        assert values.equal(torch.cat([state[name] for name in row.stored]) if len(row.stored) > 1 else state[row.stored[0]])
    assert not model.training and model.preprocess is not None
    assert report.source == report.path == str(tmp_path / "x") and report.loaded.startswith("20")


@each
def test_a_file_alone_loads_with_its_config_beside_it(case, tmp_path):
    state, config = case.make()
    folder = write(tmp_path / "x", state, config)
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    model = zoo.from_pretrained(folder / "weights.safetensors")
    assert model.load_report.words() == case.words
    with pytest.raises(CheckpointError, match="holds no model.safetensors, but weights.safetensors"):
        zoo.from_pretrained(folder)


@pytest.mark.parametrize("how", ["missing", "renamed", "transposed", "extra"])
@each
def test_one_wrong_tensor_is_refused_by_its_name(case, how):
    state, config = case.make()
    tried, names = 0, list(state)[:: len(state) // 60 + 1]  # of large files a part, spread over all of it
    for name in names:
        wrong = damaged(state, name, how)
        if wrong is None:
            continue
        with pytest.raises(CheckpointError) as caught:
            pretrained.from_tensors(wrong, config, "here")
        text = str(caught.value)
        assert text.startswith("here") and (f"{name}.extra" if how == "extra" else name) in text, (name, text)
        tried += 1
    assert tried > len(names) // 3


@each
def test_both_lists_are_shown_in_order(case, tmp_path):
    state, config = case.make()
    last = [name for name in state if ".1." in name and "decoder" not in name]
    biases = [name for name in last if name.endswith(".bias")]
    last = biases if len(biases) > 2 else last
    first, second, third = sorted(last)[:3]
    changed = {name: tensor for name, tensor in state.items() if name not in (first, third)}
    changed |= {"zebra": torch.zeros(2), "ant": torch.zeros(2), second: torch.zeros(7)}
    with pytest.raises(CheckpointError) as caught:
        zoo.from_pretrained(write(tmp_path / "x", changed, config))
    text = str(caught.value)
    assert f"missing in the file (2): {first}, {third}\n" in text
    assert "not in the model (2): ant, zebra\n" in text
    assert f"other shape (1): {second} (7,) instead of {tuple(state[second].shape)}\n" in text


@each
def test_both_lists_are_shown_where_the_lost_tensor_tells_the_size(case):
    state, config = case.make()
    name = next(name for name in state if case.telling in name and name.endswith("weight"))
    changed = {("zebra" if n == name else n): tensor for n, tensor in state.items()}
    with pytest.raises(CheckpointError, match=rf"(?s)missing in the file \(1\): {name}\n.*not in the model \(1\): zebra"):
        pretrained.from_tensors(changed, config, "here")


@pytest.mark.parametrize("case", [case for case in CASES if case.resized], ids=lambda case: case.name)
def test_every_layout_takes_a_new_head_and_another_input(case, tmp_path):
    state, config = case.make()
    folder = write(tmp_path / "x", state, config)
    sound = zoo.from_pretrained(folder)
    size = tuple(side + patch for side, patch in zip(sound.config.input_size, sound.config.patch_size))
    model = zoo.from_pretrained(folder, task="classification", num_outputs=7, input_size=size, in_chans=1, **case.narrowed)
    assert "classification head new" in model.load_report.words() and "encoder complete" in model.load_report.words()
    assert {row.name for row in model.load_report.of("resized")} == set(case.resized)
    with torch.inference_mode():
        assert model(model.preprocess(torch.rand(*[40] * (len(size) - 2), 1, 40, 40))).shape == (1, 7)


def test_every_system_is_in_the_table():
    assert {case.system for case in CASES} | OWN == set(registry.systems())
