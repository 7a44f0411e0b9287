"""Further pre-training with self-distillation: the term, its teacher, the two stages."""

import json

import pytest
import torch

from modalities.common.further import further_pretrain
from modalities.common.run import run
from modalities.common.self_distillation import SelfDistillationConfig
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.objectives.mae import MAEObjectiveConfig
from tests.small import pictures, recipe
from trainer.config import read_yaml, replace
from trainer.errors import ConfigError, Interrupted, ModelError
from trainer.trainer import Trainer

SMALL = dict(input_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
SPAN = {"train.steps": 4, "train.save_every": 2}


def model(seed, **changes):
    torch.manual_seed(seed)
    return MAE(MAEConfig(**SMALL | changes))


@pytest.fixture
def teacher(tmp_path):
    model(1).save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Pictures, and a model that has begun to learn on them."""
    root = tmp_path_factory.mktemp("further")
    data = pictures(root / "data")
    run(recipe(data, **SPAN), root / "start")
    return data, str(root / "start")


def test_whole_images_are_compared_and_the_teacher_stays(teacher):
    plain = MAEObjectiveConfig(mask_ratio=0.5).build(model(0)).train()
    distilled = MAEObjectiveConfig(mask_ratio=0.5, distill_to=SelfDistillationConfig(teacher, 0.5)).build(model(0)).train()
    batch, noise = {"image": torch.randn(3, 3, 16, 16)}, torch.rand(3, 16)
    losses, without = distilled(batch, noise), plain(batch, noise).loss
    expected = (model(0).tokens(batch) - model(1).tokens(batch)).square().mean()
    torch.testing.assert_close(losses.parts["distill_to"], expected.detach())
    torch.testing.assert_close(losses.loss, without + 0.5 * expected)
    losses.loss.backward()
    network = distilled.terms["distill_to"].teacher.on(torch.device("cpu"))
    assert not network.training and all(p.grad is None for p in network.parameters())
    assert distilled.state_dict().keys() == plain.state_dict().keys()


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_it(teacher):
    objective = MAEObjectiveConfig(distill_to=SelfDistillationConfig(teacher)).build(model(1)).train()
    assert objective({"image": torch.randn(2, 3, 16, 16)}).parts["distill_to"] == 0


def test_a_teacher_of_another_architecture_is_refused(teacher):
    with pytest.raises(ModelError, match="student's architecture.*is a MAE of other sizes"):
        MAEObjectiveConfig(distill_to=SelfDistillationConfig(teacher)).build(model(0, depth=3))
    with pytest.raises(ConfigError, match=r"distill_to\.weight is set, and nothing would use it"):
        SelfDistillationConfig(weight=2.0)


def test_both_stages_begin_from_the_start(start, tmp_path, monkeypatch):
    """The student's first losses are those of the teacher's run, so it begins with the same weights, data and masks."""
    data, begun = start
    export = further_pretrain(recipe(data, init_from=begun, **SPAN), tmp_path / "f")
    assert export == tmp_path / "f" / "student" / "export"
    stages = [read_yaml(tmp_path / "f" / name / "recipe.yaml") for name in ("teacher", "student")]
    assert [s["objective"]["distill_to"]["teacher"] for s in stages] == ["", str(tmp_path / "f" / "teacher")]
    assert [s["init_from"] for s in stages] == [begun, begun]
    first = [(tmp_path / "f" / name / "metrics.jsonl").read_text().splitlines()[0] for name in ("teacher", "student")]
    alone, student = map(json.loads, first)
    assert student["reconstruction"] == pytest.approx(alone["loss"]) and student["distill_to"] > 0
    own = MAE.from_pretrained(export).state_dict()
    assert own.keys() == MAE.from_pretrained(begun).state_dict().keys()


def test_rounds_follow_one_another_and_a_stopped_one_goes_on(start, tmp_path, monkeypatch):
    data, begun = start
    wanted = recipe(data, init_from=begun, **SPAN)
    further_pretrain(wanted, tmp_path / "whole", rounds=2)
    original, seen = Trainer._set_lr, []

    def stop(trainer):
        seen.append(trainer.step)
        if len(seen) == 7:  # in the middle of the first student
            raise KeyboardInterrupt
        return original(trainer)

    monkeypatch.setattr(Trainer, "_set_lr", stop)
    with pytest.raises(Interrupted, match="--resume"):
        further_pretrain(wanted, tmp_path / "cut", rounds=2)
    assert not (tmp_path / "cut" / "student-2").exists()
    export = further_pretrain(wanted, tmp_path / "cut", resume=True, rounds=2)
    named = read_yaml(tmp_path / "cut" / "student-2" / "recipe.yaml")["objective"]["distill_to"]["teacher"]
    assert named == str(tmp_path / "cut" / "student-1")
    a, b = (MAE.from_pretrained(f).state_dict() for f in (export, tmp_path / "whole" / "student-2" / "export"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_cannot_be(start, tmp_path):
    data, begun = start
    with pytest.raises(ConfigError, match="--init_from MODEL"):
        further_pretrain(recipe(data), tmp_path / "a")
    with pytest.raises(ConfigError, match="Leave it out"):
        further_pretrain(recipe(data, init_from=begun, **{"objective.distill_to.teacher": begun}), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="not empty"):
        further_pretrain(recipe(data, init_from=begun), tmp_path / "b")
    from modalities.vision.finetune import FinetuneRecipe

    with pytest.raises(ConfigError, match="no distill_to"):
        further_pretrain(replace(FinetuneRecipe(), {"init_from": begun}), tmp_path / "a")
    assert not (tmp_path / "a").exists()
