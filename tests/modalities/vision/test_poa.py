"""POA: the elastic network, its sizes, its official layout, and the parts that are cut out of it."""

import dataclasses
import json

import numpy as np
import pytest
import timm
import torch

import zoo
from modalities.common.golden import Golden
from modalities.vision import golden as vision
from modalities.vision.interop import poa as interop
from modalities.vision.models.elastic import block_indices
from modalities.vision.models.poa import POA, POAConfig
from modalities.vision.models.poa_vit import POAViT, extract
from tests.modalities.layouts import GOLDEN, write
from tests.modalities.vision.references import randomise
from trainer.errors import CheckpointError, ConfigError, DataError, ModelError

FILE = GOLDEN / "vision" / "poa.safetensors"
SMALL = dict(
    input_size=16, patch_size=4, embed_dim=32, depth=5, head_dim=8, min_embed_dim=16, min_depth=2, prototypes=(6, 10), head_hidden_dim=12, head_bottleneck_dim=5
)  # fmt: skip
OPTIONS = {
    "usual": {},
    "no layer scale": {"layer_scale": None},
    "no qkv bias": {"qkv_bias": False},
    "odd mlp": {"mlp_ratio": 2.6},
    "one head of one layer": {"prototypes": (7,), "head_layers": 1, "head_hidden_dim": 2048},
    "two layers": {"head_layers": 2},
    "grey, steps of two": {"in_chans": 1, "width_step": 2, "depth": 6, "depth_step": 2},
    "no heads": {"prototypes": (), "head_hidden_dim": 2048, "head_bottleneck_dim": 256, "head_layers": 1},
}


def network(seed=0, **changes):
    torch.manual_seed(seed)
    return randomise(POA(POAConfig(**{**SMALL, **changes}))).eval()


def pictures(model, count=2):
    return torch.randn(count, *model.input_shape(), generator=torch.Generator().manual_seed(1))


def test_the_official_outputs():
    golden = Golden.read(FILE)
    computed = vision.run(golden)
    assert computed.keys() == golden.expected.keys()
    worst = max((computed[n] - t).abs().max().item() / max(1, t.abs().max().item()) for n, t in golden.expected.items())
    assert worst < 5e-6


def test_a_wrong_factor_of_the_inputs_would_be_seen(monkeypatch):
    monkeypatch.setattr("modalities.vision.models.elastic.linear", lambda layer, x, out: torch.nn.functional.linear(x, layer.weight[:out, : x.shape[-1]], layer.bias[:out]))
    golden = Golden.read(FILE)
    computed = vision.run(golden)
    assert (computed["output.elastic_cls"] - golden.expected["output.elastic_cls"]).abs().max() > 1e-3


def test_the_sizes_of_the_paper():
    config = POAConfig()
    networks = config.networks()
    assert len(set(networks)) == 143 and networks[-1] == config.intact == (1024, 24)
    assert networks.count((384, 12)) == 9 and networks.count((1024, 12)) == 3 and networks.count((1024, 24)) == 1
    assert block_indices(24, 12) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 23]
    assert [config.size(name) for name in ("small", "base", "large", "448_13")] == [(384, 12), (768, 12), (1024, 24), (448, 13)]


@pytest.mark.parametrize("name, said", [("smal", "Did you mean 'small'"), ("384x12", "width_depth"), ("400_12", "steps of 64"), ("384_11", "from 12 to 24"), ("1088_24", "384 to 1024")])
def test_other_sizes_are_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        POAConfig().size(name)


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"embed_dim": 30}, "whole steps of 8"),
        ({"min_embed_dim": 40}, "found 40 to 32"),
        ({"min_depth": 0}, "min_depth"),
        ({"width_step": 3, "min_embed_dim": 8, "embed_dim": 24}, "whole steps of 24"),
        ({"small_share": 0.5}, "small_share"),
        ({"prototypes": (0,)}, "prototypes"),
        ({"embed_dim": 34, "min_embed_dim": 10}, "multiple of head_dim"),
        ({"input_size": 18}, "not divisible"),
    ],
)
def test_configs_that_make_no_network(fields, said):
    with pytest.raises((ConfigError, ModelError), match=said):
        POAConfig(**{**SMALL, **fields})


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_part_is_a_plain_vision_transformer(options):
    model = network(**options)
    x = pictures(model)
    widths, depths = zip(*model.config.networks())
    for size in {(min(widths), min(depths)), (min(widths), max(depths)), (24 if 24 in widths else 32, 3 if 3 in depths else 4), model.config.intact}:
        part = extract(model, size)
        with torch.no_grad():
            inside = model.features(x, size=size)
            assert torch.allclose(part.tokens({"image": x}), inside, atol=1e-5), size
            assert torch.equal(part.embed({"image": x}), part.tokens({"image": x})[:, 0])
        arguments = dict(img_size=16, patch_size=4, in_chans=model.config.in_chans, embed_dim=size[0], depth=size[1], num_heads=size[0] // 8, num_classes=0)
        arguments |= dict(mlp_ratio=part.config.mlp_ratio, qkv_bias=part.config.qkv_bias, init_values=part.config.layer_scale)
        theirs = timm.models.VisionTransformer(**arguments).eval()
        theirs.load_state_dict(part.state_dict(), strict=True)
        with torch.no_grad():
            assert torch.allclose(theirs(x), inside[:, 0], atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_official_layout_both_ways(options, tmp_path):
    model = network(**options)
    c = model.config
    config = {"head_dim": 8, "min_embed_dim": 16, "min_depth": 2, "width_interval": c.width_step, "depth_interval": c.depth_step}
    again = zoo.from_pretrained(write(tmp_path / "x", interop.to_official(model), config))
    assert dataclasses.replace(again.config, mlp_ratio=c.mlp_ratio) == c and int(again.config.mlp_ratio * 32) == int(c.mlp_ratio * 32)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert interop.to_official(again).keys() == interop.to_official(model).keys()


def test_official_names_are_those_of_the_golden_file():
    golden = Golden.read(FILE)
    fields, state = interop.from_layout(golden.state, golden.config)
    model = POA.from_state(POAConfig(**fields), state, "here")
    assert {name: tensor.shape for name, tensor in interop.to_official(model).items()} == {name: tensor.shape for name, tensor in golden.state.items()}


@pytest.mark.parametrize(
    "config, said",
    [
        ({"head_dim": 8, "mode": "random"}, "only mode='order'"),
        ({"head_dim": 8, "ffn_layer": "swiglu"}, "only ffn_layer='mlp'"),
        ({"head_dims": 8}, "Did you mean 'head_dim'"),
        ({"head_dim": 7}, "whole steps of 7"),
    ],
)
def test_official_configs_that_are_not_supported(config, said, tmp_path):
    with pytest.raises((CheckpointError, ConfigError), match=said):
        zoo.from_pretrained(write(tmp_path / "x", interop.to_official(network()), {"min_embed_dim": 16, "min_depth": 2, **config}))


def test_a_student_beside_the_teacher_is_told_about(tmp_path):
    state = interop.to_official(network())
    both = {f"{who}.{name}": tensor for who in ("student", "teacher") for name, tensor in state.items()}
    with pytest.raises(CheckpointError, match="keep the tensors under 'teacher.' alone"):
        zoo.from_pretrained(write(tmp_path / "x", both, {"head_dim": 8}))


def test_a_part_from_a_folder(tmp_path):
    model = network()
    model.name, model.preprocess = "vision/poa-test", model.default_preprocess()
    model.save_pretrained(tmp_path / "m")
    x = {"image": pictures(model)}
    again = zoo.from_pretrained(tmp_path / "m")
    assert isinstance(again, POA) and again.config == model.config and torch.equal(again.embed(x), model.embed(x))
    part = zoo.from_pretrained(tmp_path / "m", size="16_3")
    assert isinstance(part, POAViT) and (part.config.embed_dim, part.config.depth) == (16, 3) and part.name is None
    assert torch.allclose(part.embed(x), model.features(x["image"], size=(16, 3))[:, 0], atol=1e-5)
    report = part.load_report
    assert {name for row in report.rows for name in row.stored} == model.state_dict().keys()
    assert {row.name for row in report.rows if row.name} == part.state_dict().keys()
    moved = next(row for row in report.rows if row.name == "blocks.1.attn.qkv.weight")
    assert moved.stored == ("blocks.2.attn.qkv.weight",) and moved.note == "the first 16 of query, key and value each, times 2"
    assert "a network of 3 of the 5 blocks does not use it: 28 tensors" in str(report)
    part.save_pretrained(tmp_path / "part")
    assert torch.equal(zoo.from_pretrained(tmp_path / "part").embed(x), part.embed(x))


def test_a_part_with_a_head_and_for_other_images(tmp_path):
    model = network()
    model.preprocess = model.default_preprocess()
    model.save_pretrained(tmp_path / "m")
    clf = zoo.from_pretrained(tmp_path / "m", size="24_2", task="classification", num_outputs=4, input_size=24, in_chans=1)
    assert isinstance(clf, POAViT) and clf.config.pool == "token" and clf.preprocess.size == (24, 24)
    assert clf(clf.preprocess(np.zeros((30, 30), np.uint8))).shape == (1, 4)
    notes = {row.name: row.note for row in clf.load_report.of("resized")}
    assert notes["pos_embed"] == "the first 24 of axis 2, position table interpolated from 4 x 4 to 6 x 6 patches"
    whole = zoo.from_pretrained(tmp_path / "m", task="classification", num_outputs=4, pool="avg")
    assert whole.config.embed_dim == 32 and "norm of the mean new" in whole.load_report.words()


def test_only_elastic_models_have_sizes():
    with pytest.raises(ModelError, match="has one size only"):
        zoo.from_pretrained("vision/mae-tiny-digits", size="small")
    with pytest.raises(ModelError, match="has one size only"):
        zoo.from_pretrained("vision/mae-tiny-digits").part("small")
    model = zoo.from_pretrained("vision/mae-tiny-digits")
    assert model.part() is model
    assert network().part().config.embed_dim == 32 and network().part("16_2").config.depth == 2


def test_crops_of_another_size_have_positions_of_their_own():
    """Another grid is interpolated as in DINO: by factors that are a tenth of a patch too large."""
    model = network()
    assert model.features(torch.randn(2, 3, 8, 12), size=(16, 2)).shape == (2, 1 + 6, 16)
    found = model.positions((2, 3), 16)
    rows = model.pos_embed[:, 1:, :16].transpose(1, 2).unflatten(2, (4, 4))
    expected = torch.nn.functional.interpolate(rows, scale_factor=(2.1 / 4, 3.1 / 4), mode="bicubic").flatten(2).transpose(1, 2)
    assert torch.equal(found[:, 1:], expected) and torch.equal(found[:, :1], model.pos_embed[:, :1, :16])
    with pytest.raises(ModelError, match="takes inputs of shape"):
        model.embed({"image": torch.zeros(1, 3, 8, 12)})
    with pytest.raises(DataError, match="reads batch"):
        model.embed({"picture": torch.zeros(1)})


def test_convert_takes_the_teacher_of_a_run(tmp_path):
    from zoo.converting import convert

    state = interop.to_official(network())
    torch.save({"teacher": state}, tmp_path / "teacher_checkpoint.pth")
    (tmp_path / "config.json").write_text(json.dumps({"head_dim": 8, "min_embed_dim": 16, "min_depth": 2}))
    convert(tmp_path / "teacher_checkpoint.pth", "official", tmp_path / "out")
    assert zoo.from_pretrained(tmp_path / "out", size="16_2").config.embed_dim == 16
