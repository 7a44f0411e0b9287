"""The encoder of InternVideo-Next: the official outputs, its options, sizes and position tables, and its layout."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from modalities.common.evaluation import AsItIs, results
from modalities.common.golden import Golden
from modalities.video import golden as video
from modalities.video import motion
from modalities.video.data import LabelledVideos
from modalities.video.evaluation import probed
from modalities.video.finetune import default_recipe
from modalities.video.interop import internvideo_next as interop
from modalities.video.models.internvideo_next import InternVideoNext, InternVideoNextConfig, resized_table, space_time_table
from modalities.video.models.internvideo_next_classifier import InternVideoNextClassifier, InternVideoNextClassifierConfig
from trainer.config import replace
from trainer.errors import CheckpointError, ConfigError, DataError, ModelError
from trainer.optim import parameter_groups
from trainer.weights import write_safetensors

FILES = Path(__file__).parents[2] / "golden" / "video"
SMALL = dict(input_size=(4, 8, 8), patch_size=(2, 4, 4), embed_dim=32, depth=2, num_heads=4, pool_heads=2, pool_dim=8)


def small(**changes):
    torch.manual_seed(0)
    return InternVideoNext(InternVideoNextConfig(**{**SMALL, **changes})).eval()


@pytest.mark.parametrize("name", ["internvideo_next_encoder", "multigrid_schedule"])
def test_official_outputs(name):
    golden = Golden.read(FILES / f"{name}.safetensors")
    computed = video.run(golden)
    assert computed.keys() == golden.expected.keys() and len(computed) >= 4
    for key, stored in golden.expected.items():
        assert computed[key].shape == stored.shape and (computed[key] - stored).abs().max() < 5e-6 * max(1, stored.abs().max()), key


def naive(model, x):
    """The blocks in the official words: heads are split first, and joined again for the norms of queries and keys."""
    for block in model.blocks:
        a = block.attn
        y = block.norm1(x)
        b, n, c = y.shape
        q, k, v = a.qkv(y).reshape(b, n, 3, a.heads, c // a.heads).permute(2, 0, 3, 1, 4)
        q, k = (norm(z.transpose(1, 2).flatten(-2)).view(b, n, a.heads, -1).transpose(1, 2) for norm, z in ((a.q_norm, q), (a.k_norm, k)))
        y = (((q * (c // a.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(b, n, c)
        x = x + block.ls1(a.proj(y))
        x = x + block.ls2(block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm2(x)))))
    return x


@pytest.mark.parametrize("changes", [{}, {"qkv_bias": True}, {"qk_norm": False}, {"layer_scale": None}, {"layer_scale": 0.5, "class_tokens": 1, "in_chans": 1}])
def test_options(changes):
    model = small(**changes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    clip = torch.randn(2, model.config.in_chans, 4, 8, 8)
    patches = model.patch_embed(clip) + model.pos_embed[:, model.prefix :]
    x = torch.cat([(model.cls_token + model.pos_embed[:, : model.prefix]).expand(2, -1, -1), patches], 1)
    found, (first,) = model.encode(clip, layers=[0])
    assert torch.allclose(found, naive(model, x), atol=1e-4) and first.shape == found.shape and not torch.allclose(first, found)
    assert model.embed({"video": clip}).equal(model.tokens({"video": clip}).mean(1)) and model.projected({"video": clip}).shape == (2, 8)


@pytest.mark.parametrize("changes", [{}, {"qkv_bias": True, "tubelet_size": 2}, {"qk_normalization": False, "init_values": None}, {"cls_token_num": 1, "init_values": 0.1}])
def test_other_golden_files(changes, tmp_path):
    """A file in other sizes, as the authors' class would write it, must be read by its config and shapes alone."""
    config = {"patch_size": 4, "img_size": 12, "embed_dim": 48, "num_heads": 3, "mlp_ratio": 2.5, "depth": 3, "attn_pool_num_heads": 6, "clip_embed_dim": 10,
              "num_frames": 6, "tubelet_size": 1, "cls_token_num": 4, "qkv_bias": False, "qk_normalization": True, "init_values": 1e-5, **changes}  # fmt: skip
    model = InternVideoNext(InternVideoNextConfig(
        input_size=(6, 12, 12), patch_size=(config["tubelet_size"], 4, 4), embed_dim=48, num_heads=3, mlp_ratio=2.5, depth=3, pool_heads=6, pool_dim=10,
        class_tokens=config["cls_token_num"], qkv_bias=config["qkv_bias"], qk_norm=config["qk_normalization"], layer_scale=config["init_values"],
    )).eval()  # fmt: skip
    clip = torch.randn(2, 3, 6, 12, 12)
    with torch.no_grad():
        tensors = {**{f"state.{k}": v for k, v in model.state_dict().items()}, "input.video": clip, "output.tokens": model.tokens({"video": clip}),
                   "output.projected": model.projected({"video": clip}), "output.sincos": space_time_table(48, model.config.grid, model.prefix)[0]}  # fmt: skip
    write_safetensors(tensors, tmp_path / "x.safetensors", {"model": "video/internvideo_next", "layout": "official", "config": json.dumps(config)})
    golden = Golden.read(tmp_path / "x.safetensors")
    computed = video.run(golden)
    assert computed.keys() == golden.expected.keys() and all(torch.allclose(computed[k], v, atol=1e-6) for k, v in golden.expected.items())


def test_other_multigrid_schedules(tmp_path):
    """Another baseline, few GPUs and many: norms are synchronised below 8 clips per GPU and split above."""
    golden = Golden.read(FILES / "multigrid_schedule.safetensors")
    golden.config.update(num_gpus=32, batch_size=64, steps=[0, 20, 40], max_epoch=50, num_frames=16, crop_size=128, epoch_factor=1.0)
    computed = video.run(golden)
    rows = computed["output.epoch_shapes"]
    assert len(rows) == computed["output.max_epoch"] == 50 and set(rows[:, 5].tolist()) == {0.0, 1.0, 2.0}
    assert rows[0].tolist() == [512, 4, 91, 8, 1, 2, 2] and rows[-1, :4].tolist() == [64, 16, 128, 2]
    golden.config["typo"] = 1
    with pytest.raises(CheckpointError, match="typo"):
        video.run(golden)


def test_clips_of_every_size_are_taken():
    model = small()
    for size in ((2, 4, 8), (8, 12, 4)):
        assert model.tokens({"video": torch.randn(1, 3, *size)}).shape == (1, size[0] // 2 * (size[1] // 4) * (size[2] // 4), 32)
    assert model.size_multiple() == (2, 4, 4)
    with pytest.raises(ModelError, match="not divisible"):
        model.tokens({"video": torch.randn(1, 3, 4, 9, 8)})
    with pytest.raises(ModelError, match=r"\(B, 3, frames, height, width\).*found torch.float32 \(1, 1, 4, 8, 8\)"):
        model.tokens({"video": torch.randn(1, 1, 4, 8, 8)})
    with pytest.raises(DataError, match="this batch holds: image"):
        model.embed({"image": torch.zeros(1)})


def test_the_table_follows_time_and_space():
    """Linear in time: constant over it stays constant, and a ramp in space stays a ramp; prefix rows stay; gradients reach the table."""
    old, new = (4, 4, 4), (2, 8, 8)
    rows = torch.arange(4.0).view(1, 4, 1, 1).expand(4, 4, 4, 2).reshape(1, 64, 2)  # the row's number
    table = torch.cat([torch.full((1, 3, 2), 7.0), rows], 1).requires_grad_()
    found = resized_table(table, old, new, 3)
    grid = found[:, 3:].unflatten(1, new)
    assert found.shape == (1, 3 + 128, 2) and (found[:, :3] == 7).all() and torch.allclose(grid[:, 0], grid[:, 1])
    assert torch.allclose(grid[0, 0, 3:5, 0, 0].diff(), torch.tensor([0.5]), atol=0.1)
    found.sum().backward()
    assert (table.grad != 0).all() and resized_table(table, old, old, 3) is table


def test_only_visible_patches_are_seen():
    model, clip = small(), torch.randn(2, 3, 4, 8, 8)
    visible = torch.tensor([[0, 3, 5], [1, 2, 7]])
    found = model.encode(clip, visible)[0]
    changed = clip.clone()
    changed[0, :, :2, :4, 4:] += 1  # patch 1: the second in the first row
    assert found.shape == (2, 4 + 3, 32) and torch.equal(model.encode(changed, visible)[0], found)
    assert not torch.equal(model.encode(changed)[0], model.encode(clip)[0])


def test_groups_for_the_optimizer():
    model = small()
    names = {name for group in parameter_groups(model, 0.05) if group["weight_decay"] == 0 for name in group["names"]}
    assert {"pos_embed", "cls_token", "blocks.0.ls1.gamma", "blocks.1.norm1.weight"} <= names and "blocks.0.attn.qkv.weight" not in names
    assert model.layer_ids()["blocks.1.mlp.fc1.weight"] == 2 and model.layer_ids()["pos_embed"] == 0


def test_the_official_layout_goes_both_ways():
    model = small(input_size=(4, 8, 8), patch_size=(1, 4, 4))
    config = interop.to_official_config(model)
    described = interop.describe(interop.to_official(model), config, "official", "here")
    assert InternVideoNextConfig(**described.fields) == model.config
    with pytest.raises(ModelError, match="3 channels"):
        interop.to_official(small(in_chans=1))


def test_what_no_shape_tells_is_asked_for():
    state = small(patch_size=(1, 4, 4)).state_dict()
    with pytest.raises(CheckpointError, match="Put num_heads into its config.json"):
        interop.describe(state, {"img_size": 8, "num_frames": 4}, "official", "here")
    with pytest.raises(CheckpointError, match="position table for 16 patches.*Put img_size and num_frames"):
        interop.describe(state, {"num_heads": 4}, "official", "here")
    with pytest.raises(CheckpointError, match="Did you mean 'depth'"):
        interop.describe(state, {"dephts": 4}, "official", "here")
    with pytest.raises(CheckpointError, match="separate tables"):
        interop.describe(state, {"sep_pos_embed": True}, "official", "here")


@pytest.mark.parametrize(
    ("changes", "words"), [({"embed_dim": 40}, "multiple of 16"), ({"num_heads": 5}, "num_heads=5"), ({"layer_scale": 0.0}, "null for none"), ({"drop_path": 1.0}, "0..1")]
)
def test_wrong_configs_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        InternVideoNextConfig(**{**SMALL, **changes})


@pytest.mark.parametrize("pool", ["avg", "attention"])
def test_a_probe_leaves_the_encoder_alone(pool):
    encoder, clip = small(drop_path=0.5), {"video": torch.randn(3, 3, 4, 8, 8)}
    model = InternVideoNextClassifier.from_encoder(encoder, 5, pool=pool, head="probe").train()
    trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"head", "fc_norm"} | ({"clip_projector"} if pool == "attention" else set())
    assert torch.equal(model.encode(clip["video"])[0], encoder.encode(clip["video"])[0]) and model(clip).shape == (3, 5)
    with pytest.raises(DataError, match="at least 2 samples"):
        model({"video": clip["video"][:1]})


def test_a_classifier_takes_another_pooling_and_head():
    old = InternVideoNextClassifierConfig(**SMALL, num_classes=5)
    model = InternVideoNextClassifier(old)
    change = InternVideoNextClassifier.change_from(InternVideoNextClassifier, old, InternVideoNextClassifierConfig(**SMALL, num_classes=3, pool="attention"), new_head=True)
    assert {rule.pattern for rule in change.new} == {r"fc_norm\..*", r"head\..*"} == {rule.pattern for rule in change.unused}
    assert model.outputs({"video": torch.randn(2, 3, 4, 8, 8)})["logits"].shape == (2, 5)


def test_fine_tuning_and_evaluation_know_it(tmp_path):
    """From a folder of the encoder to a classifier on the built-in set, and what `zoo evaluate` measures on both."""
    model = zoo.create("video/internvideo-next-tiny-motion")
    model.save_pretrained(tmp_path / "encoder")
    few = {"data.motion.samples": 48, "data.motion.test_samples": 24}
    recipe = replace(default_recipe(str(tmp_path / "encoder"), data="motion"), {**few, "drop_path": 0.0})
    source, objective = recipe.build()
    classifier = objective.export()
    assert isinstance(classifier, InternVideoNextClassifier) and classifier.config.num_classes == len(motion.CLASSES) == len(source.classes)
    assert classifier.name == "video/internvideo-next-classifier-motion"
    assert torch.equal(classifier.blocks[1].mlp.fc1.weight, model.blocks[1].mlp.fc1.weight)
    data = LabelledVideos("motion", motion=motion.MotionConfig(samples=48, test_samples=24))
    rows = results([probed(*data.build_plain(model.preprocess))], AsItIs(model))
    assert [row["metric"] for row in rows] == ["accuracy", "accuracy"]
