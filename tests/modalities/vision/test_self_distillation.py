"""POA's objective: the losses against a plain restatement of the official ones, the order of the sub-networks, the teacher, exact resume."""

import math

import pytest
import torch
from torch.nn import functional as F

from modalities import registry
from modalities.common.run import run
from modalities.vision.models.poa import POA, POAConfig
from modalities.vision.objectives.poa import POAObjectiveConfig
from modalities.vision.objectives.self_distillation import sinkhorn, spread
from tests.modalities.vision.test_poa import SMALL
from tests.small import TRAIN, pictures
from tests.modalities.vision.references import randomise
from trainer.callback import Callback
from trainer.config import replace
from trainer.errors import ConfigError, DataError
from trainer.trainer import Trainer

TINY = {
    "model.input_size": (16, 16), "model.patch_size": (4, 4), "model.embed_dim": 16, "model.depth": 3, "model.head_dim": 4, "model.min_embed_dim": 8,
    "model.min_depth": 2, "model.prototypes": (6, 8), "model.head_hidden_dim": 8, "model.head_bottleneck_dim": 4, "data.augment.local_count": 2,
    "data.augment.local_size": (8, 8),
}  # fmt: skip


def objective(seed=0, **changes):
    torch.manual_seed(0)
    made = POAObjectiveConfig(**changes).build(randomise(POA(POAConfig(**SMALL))), seed)
    randomise(made.teacher)
    made.teacher.requires_grad_(False)
    return made


def batch(samples=3):
    generator = torch.Generator().manual_seed(0)
    crops = {"global": torch.randn(samples, 2, 3, 16, 16, generator=generator), "local": torch.randn(samples, 4, 3, 8, 8, generator=generator)}
    return {**crops, "sample_key": torch.arange(samples) * 12345}


def official_sinkhorn(logits, temperature):
    """As the official code writes it down, in double precision."""
    q = torch.exp(logits.double() / temperature).T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(dim=1, keepdim=True)
        q /= q.shape[0]
        q /= q.sum(dim=0, keepdim=True)
        q /= q.shape[1]
    return (q * q.shape[1]).T


def restated(o, data):
    """The loss of `ssl_meta_arch.py`, term by term and crop by crop."""
    lam, count = o.config.intact_weight, len(o.model.heads)
    views, small = data["global"].unbind(1), data["local"].unbind(1)
    masks = o._masks(data, torch.cat(views), True).chunk(2)

    def ce(logits, target):
        return -(target * F.log_softmax(logits / 0.1, dim=-1)).sum(-1)

    teacher = [o.teacher.features(view) for view in views]
    total = torch.zeros(())
    for i in range(count):
        both = official_sinkhorn(o.teacher.heads[i](torch.cat([t[:, 0] for t in teacher])), o.temperature()).float().chunk(2)
        patches = official_sinkhorn(o.teacher.heads[i](torch.cat([t[:, 1:][m] for t, m in zip(teacher, masks)])), o.temperature()).float()
        said = {}
        for weight, size in ((lam, o.model.config.intact), (1 - lam, o.network(o.step))):
            large = [o.model.features(view, mask, size) for view, mask in zip(views, masks)]
            tiny = [o.model.heads[i](o.model.features(crop, size=size)[:, 0]) for crop in small]
            classes = [o.model.heads[i](tokens[:, 0]) for tokens in large]
            said[size] = torch.cat(tiny), torch.cat(classes)
            pairs = 2 + 2 * len(small)
            dino = sum(ce(crop, target).mean() for crop in tiny for target in both)
            dino = dino + sum(ce(classes[v], both[1 - v]).mean() for v in (0, 1))  # the mean over both, times two
            ibot, place = torch.zeros(()), 0
            for tokens, mask in zip(large, masks):
                for sample in range(len(mask)):
                    hidden = int(mask[sample].sum())
                    if hidden:
                        ibot = ibot + ce(o.model.heads[i](tokens[sample, 1:][mask[sample]]), patches[place : place + hidden]).mean()
                    place += hidden
            total = total + weight * (dino / pairs + ibot / sum(len(mask) for mask in masks)) / count
            total = total + o.config.spread / 2 * sum(spread(tokens[:, 0]) for tokens in large) / count
        whole, part = said.values()
        total = total + (1 - lam) / count * sum(ce(p, F.softmax(w / 0.1, dim=-1).detach()).mean() for w, p in zip(whole, part))
    return total


def test_the_loss_is_the_official_one():
    o, data = objective(mask_chance=1.0, mask_ratio=(0.3, 0.5)), batch()
    o.before_step(70, 100)
    losses = o(data)
    assert losses.loss.item() == pytest.approx(restated(o, data).item(), rel=1e-5)
    found = torch.autograd.grad(losses.loss, [p for p in o.model.parameters() if p.requires_grad])
    expected = torch.autograd.grad(restated(o, data), [p for p in o.model.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b, atol=1e-4 * max(1, b.abs().max())) for a, b in zip(found, expected))
    assert losses.parts.keys() == {"dino", "masked", "distilled", "koleo"}


def test_before_its_time_nothing_is_masked():
    o, data = objective(masked_start=0.5), batch()
    o.before_step(49, 100)
    early = o(data)
    assert early.parts["masked"] == 0 and not o._masks(data, torch.cat(data["global"].unbind(1)), False).any()
    early.loss.backward()
    assert all(p.grad is not None for p in o.model.parameters())  # processes that share the work rely on it
    o.before_step(50, 100)
    assert o(data).parts["masked"] > 0


def test_targets_are_balanced():
    logits = 3 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    found = sinkhorn(logits, 0.5)
    assert torch.allclose(found, official_sinkhorn(logits, 0.5).float(), atol=1e-6)
    assert torch.allclose(found.sum(dim=1), torch.ones(40))
    many = sinkhorn(logits, 0.5, iterations=200)
    assert (many.sum(dim=0) / 40 - 1 / 6).abs().max() < 1e-3 < (F.softmax(logits / 0.5, dim=1).mean(dim=0) - 1 / 6).abs().max()
    far = sinkhorn(torch.tensor([[0.0, 60.0], [1.0, 55.0]]), 0.04)  # exponentials would be zero or infinite
    assert torch.isfinite(far).all() and torch.allclose(far.sum(dim=1), torch.ones(2))


def test_koleo_is_large_where_features_lie_together():
    apart, together = torch.eye(4), torch.ones(4, 4) + 1e-3 * torch.eye(4)
    assert spread(apart).item() == pytest.approx(-math.log(math.sqrt(2)), abs=1e-4) and spread(together) > 5


def test_the_order_of_the_sub_networks_follows_from_seed_and_step():
    o, other = objective(seed=1), objective(seed=2)
    count = len(o.networks) - 1
    turns = [[o.network(turn * count + i) for i in range(count)] for turn in range(3)]
    assert all(sorted(turn) == sorted(o.networks[:-1]) for turn in turns) and turns[0] != turns[1]
    assert [other.network(i) for i in range(count)] != turns[0]
    assert [objective(seed=1).network(i) for i in range(count)] == turns[0]


def test_schedules():
    o = objective(momentum=(0.9, 1.0))
    found = []
    for step in (0, 4, 8, 50):
        o.before_step(step, 100)
        found.append(o.temperature())
    assert found == pytest.approx([0.04, 0.04 + 0.03 * 4 / (100 * 30 / 346), 0.04 + 0.03 * 8 / (100 * 30 / 346), 0.07])
    before, student = o.teacher.norm.weight.clone(), o.model.norm.weight.detach()
    o.before_step(0, 100)
    o.after_step(1)
    assert torch.allclose(o.teacher.norm.weight, 0.9 * before + 0.1 * student)
    before = o.teacher.norm.weight.clone()
    o.before_step(100, 100)
    o.after_step(101)
    assert o.teacher.norm.weight.equal(before)
    o.train()
    assert o.model.training and not o.teacher.training and o.export() is o.teacher


def test_groups():
    o = objective(patch_lr=0.2, last_layer_frozen=0.1)
    table = {name: (group["lr_scale"], group.get("frozen", 0.0), group["weight_decay"]) for group in o.parameter_groups(0.04, 0.9) for name in group["names"]}
    assert table["model.patch_embed.proj.weight"] == pytest.approx((0.2 * 0.9**6, 0.0, 0.04)) and table["model.blocks.2.attn.qkv.weight"] == pytest.approx((0.9**3, 0.0, 0.04))
    assert table["model.heads.1.direction"] == (1.0, 0.1, 0.04) and table["model.heads.1.mlp.0.weight"] == (1.0, 0.0, 0.04)
    assert table["model.norm.weight"][2] == table["model.blocks.0.ls1.gamma"][2] == 0.0 and not any(name.startswith("teacher") for name in table)
    fixed = objective(fixed_gains=True).parameter_groups(0.04, None)
    assert not any(name.endswith(".gain") for group in fixed for name in group["names"])


@pytest.mark.parametrize("fields", [{"intact_weight": 1.5}, {"student_temperature": 0.0}, {"mask_ratio": (0.5, 0.1)}, {"momentum": (0.9, 1.1)}, {"horizon": 0.5}, {"spread": -1.0}])
def test_settings_that_make_no_sense(fields):
    with pytest.raises(ConfigError, match="objective"):
        POAObjectiveConfig(**fields)


def test_what_it_cannot_train():
    with pytest.raises(ConfigError, match="needs heads"):
        POAObjectiveConfig().build(POA(POAConfig(**{**SMALL, "prototypes": ()})))
    with pytest.raises(DataError, match="this batch holds: image"):
        objective()({"image": torch.zeros(2, 3, 16, 16)})


def recipe(folder, **changes):
    return replace(registry.find_recipe("vision/poa-tiny"), {**TINY, **TRAIN, "train.steps": 8, "train.save_every": 3, "data.path": str(folder), **changes})


def test_a_run_that_was_cut_goes_on_exactly(tmp_path):
    """Sub-networks, masks, schedules and the teacher are where they would have been."""

    class Cut(Callback):
        def after_step(self, trainer):
            if trainer.step == 5:
                raise RuntimeError("power cut")

    wanted = recipe(pictures(tmp_path / "data"), **{"objective.masked_start": 0.25})

    def fit(name, *callbacks, resume=False):
        torch.manual_seed(0)
        source, made = wanted.build()
        (tmp_path / name).mkdir(exist_ok=True)
        trainer = Trainer(made, source, wanted.train, tmp_path / name, list(callbacks))
        trainer.fit(resume=resume)
        return made.state_dict()

    whole = fit("whole")
    with pytest.raises(RuntimeError, match="power cut"):
        fit("cut", Cut())
    again = fit("cut", resume=True)
    assert whole.keys() == again.keys() and all(whole[name].equal(again[name]) for name in whole)
    assert any(not whole[name].equal(whole[f"teacher.{name.removeprefix('model.')}"]) for name in whole if name.startswith("model."))


def test_a_run_from_data_to_a_part_and_on(tmp_path):
    import zoo

    data = pictures(tmp_path / "data")
    export = run(recipe(data, **{"train.pictures": 1}), tmp_path / "run")
    assert {p.name for p in (tmp_path / "run" / "pictures").iterdir()} == {"attention-00000008.png", "neighbours-00000008.png"}
    model = zoo.from_pretrained(export)
    assert isinstance(model, POA) and model.name == "vision/poa-tiny"
    part = zoo.from_pretrained(tmp_path / "run", size="8_2")
    assert part.embed(part.preprocess(str(data / "0.png"))).shape == (1, 8)
    begun = recipe(data, **{"init_from": str(export), "train.steps": 1, "train.optim.lr": 0.0})
    later = zoo.from_pretrained(run(begun, tmp_path / "later"))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(model.state_dict().values(), later.state_dict().values()))
    with pytest.raises(ConfigError, match="whole patches"):
        recipe(data, **{"data.augment.local_size": (9, 8)}).build()
