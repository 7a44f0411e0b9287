"""LOOK: the vote, the memory, and that a run stopped in the middle goes on exactly."""

import math

import pytest
import torch

from modalities import registry
from modalities.common.run import run
from modalities.vision.digits import SceneConfig
from modalities.vision.models.convnet import ConvNet, ConvNetConfig
from modalities.vision.objectives.look import LOOKConfig
from tests.modalities.vision.test_convnet import labelled
from trainer.config import replace, to_dict
from trainer.errors import ConfigError, DataError
from trainer.weights import read_safetensors

SMALL = dict(input_size=32, block="basic", depths=(1, 1, 1, 1), widths=(4, 4, 6, 6))
HEAD = dict(hidden=8, width=2, memory=6, neighbours=2, temperature=0.5, momentum=0.9)


def built(**changes):
    torch.manual_seed(0)
    return LOOKConfig(**HEAD | changes).build(ConvNet(ConvNetConfig(**SMALL)))


def remembering(objective, angles, labels, owners):
    """Keys on the unit circle, in degrees."""
    radians = torch.tensor(angles) * math.pi / 180
    count = len(angles)
    objective.keys[:count], objective.labels[:count], objective.owners[:count] = torch.stack([radians.cos(), radians.sin()], 1), torch.tensor(labels), torch.tensor(owners)


def share(similarities, same, temperature=0.5):
    votes = [math.exp(math.cos(math.radians(s)) / temperature) for s in similarities]
    return sum(v for v, s in zip(votes, same) if s) / sum(votes)


def vote(objective, label=0, index=99):
    return [v.item() for v in objective.vote(torch.tensor([[1.0, 0.0]]), torch.tensor([label]), torch.tensor([index]))]


def test_only_the_nearest_vote():
    objective = built()
    remembering(objective, [10.0, 20.0, 30.0, 40.0], [0, 1, 0, 1], [1, 2, 3, 4])
    loss, agreement, count = vote(objective)
    assert agreement == pytest.approx(share([10, 20], [True, False]), abs=1e-6) and loss == pytest.approx(-math.log(agreement), abs=1e-5) and count == 1


def test_its_own_older_key_does_not_vote():
    objective = built()
    remembering(objective, [0.0, 20.0, 30.0], [0, 1, 0], [7, 2, 3])
    assert vote(objective, index=7)[1] == pytest.approx(share([20, 30], [False, True]), abs=1e-6)


def test_one_of_the_class_always_votes():
    objective = built()
    remembering(objective, [10.0, 20.0, 90.0, 150.0], [1, 1, 0, 0], [1, 2, 3, 4])
    assert vote(objective)[1] == pytest.approx(share([10, 20, 90], [False, False, True]), abs=1e-6)


def test_what_has_no_fellow_does_not_count_and_the_loss_stays_finite():
    objective = built()
    assert vote(objective) == [0, 0, 0]
    remembering(objective, [10.0, 20.0], [1, 1], [1, 2])
    assert vote(objective) == [0, 0, 0]
    losses = objective({"image": torch.randn(2, 3, 32, 32), "label": torch.tensor([0, 2]), "sample_index": torch.tensor([0, 1])})
    losses.loss.backward()
    assert losses.loss == 0 and all(torch.isfinite(p.grad).all() for p in objective.model.parameters())


def test_the_memory_is_a_ring_and_the_teacher_follows_slowly():
    objective = built().train()
    before = [p.clone() for p in objective.teacher.parameters()]
    with torch.no_grad():
        for p in objective.model.parameters():
            p.add_(1.0)
    for start in (0, 4):
        batch = {"image": torch.randn(4, 3, 32, 32), "label": torch.arange(4), "sample_index": torch.arange(start, start + 4)}
        objective(batch).loss.backward()
        assert (objective.owners == -1).sum() == (6 if start == 0 else 2)  # the memory does not change before the step
        objective.after_step(1)
    assert objective.owners.tolist() == [6, 7, 2, 3, 4, 5] and objective.next == 2 and objective.labels.tolist() == [2, 3, 2, 3, 0, 1]
    assert torch.allclose(objective.keys.norm(dim=1), torch.ones(6), atol=1e-5)
    first = next(objective.teacher.parameters())
    assert torch.allclose(first, before[0] + 0.19, atol=1e-5)  # two steps of a tenth of the way
    assert not any(p.requires_grad for p in objective.teacher.parameters())


def test_evaluation_remembers_nothing():
    objective = built().eval()
    objective({"image": torch.randn(2, 3, 32, 32), "label": torch.arange(2), "sample_index": torch.arange(2)})
    objective.after_step(1)
    assert (objective.owners == -1).all()


@pytest.mark.parametrize("changes, message", [({"neighbours": 7}, "cannot be more than the memory of 6"), ({"temperature": 0.0}, "temperature must be above 0"), ({"width": 0}, "width must be")])
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        built(**changes)


def test_it_needs_labels():
    with pytest.raises(DataError, match=r"needs batch\['label'\] with 2 whole class ids, found none"):
        built()({"image": torch.randn(2, 3, 32, 32), "sample_index": torch.arange(2)})


def test_a_stopped_run_goes_on_exactly(tmp_path):
    """Memory, slow network and weights to the last bit."""
    data = labelled(tmp_path / "data")
    changes = {f"model.{name}": (32, 32) if name == "input_size" else value for name, value in SMALL.items()} | {f"objective.{name}": value for name, value in HEAD.items()}
    changes |= {"model.in_chans": 3, "data.path": str(data), "data.scenes": to_dict(SceneConfig()), "data.test_fraction": 0.4, "train.steps": 6, "train.batch_size": 4,
                "train.workers": 0, "train.save_every": 2, "train.keep_last": 5}  # fmt: skip
    recipe = replace(registry.find_recipe("vision/look-tiny"), changes)
    whole = run(recipe, tmp_path / "whole")
    run(recipe, tmp_path / "again")
    for step in (4, 6):
        folder = tmp_path / "again" / "checkpoints" / f"step-{step:08d}"
        for file in sorted(folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        folder.rmdir()
    (tmp_path / "again" / "record.json").unlink()
    again = run(recipe, tmp_path / "again", resume=True)
    first, second = (read_safetensors(place / "model.safetensors") for place in (whole, again))
    assert all(first[name].equal(second[name]) for name in first)
    ends = [read_safetensors(tmp_path / name / "checkpoints" / "step-00000006" / "state" / "tensors.safetensors") for name in ("whole", "again")]
    assert any(name.endswith("keys") for name in ends[0]) and ends[0].keys() == ends[1].keys()
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])
