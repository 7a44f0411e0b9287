"""MultiMAE: masking, losses, other configurations, saving, changes on loading, export to timm."""

import json
import math

import pytest
import timm
import torch
from safetensors.torch import save_file

import zoo
from modalities.common.golden import Golden
from modalities.common.masking import mask_from_noise
from modalities.vision import golden
from modalities.vision.interop.multimae import to_official, to_timm
from modalities.vision.models.multi_input import KEYS
from modalities.vision.models.multimae import MultiMAE, MultiMAEConfig
from modalities.vision.models.multivit import MultiViT, MultiViTConfig
from modalities.vision.objectives.classification import ClassificationConfig
from modalities.vision.objectives.multimae import MultiMAEObjectiveConfig, draws_needed, log_gammas, masked_mean, shared_masking
from tests.modalities.vision.references import randomise
from tests.modalities.vision.test_golden import largest_error
from trainer.errors import CheckpointError, ConfigError, DataError, ModelError
from trainer.optim import parameter_groups
from zoo.export import export

SMALL = dict(
    input_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, semseg_classes=5, dim_class_emb=6, decoder_dim=8, decoder_depth=1, decoder_num_heads=2
)
FILES = ("multimae", "multimae_cls")
PLACE = "tests/golden/vision/"


def model(**changes):
    torch.manual_seed(0)
    return randomise(MultiMAE(MultiMAEConfig(**{**SMALL, **changes})))


def batch(samples=2, size=16, stride=4):
    generator = torch.Generator().manual_seed(1)
    semseg = torch.randint(5, (samples, size // stride, size // stride), generator=generator)
    return {"image": torch.randn(samples, 3, size, size, generator=generator), "depth": torch.randn(samples, 1, size, size, generator=generator), "semseg": semseg}


@pytest.mark.parametrize("name", FILES)
def test_official_outputs(name):
    assert largest_error(f"{PLACE}{name}.safetensors") < 5e-6


def test_the_official_layout_both_ways(tmp_path):
    for name in FILES:
        file = Golden.read(f"{PLACE}{name}.safetensors")
        save_file(file.state, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(file.config))
        again = to_official(zoo.from_pretrained(tmp_path))
        assert again.keys() == file.state.keys() and all(again[k].equal(file.state[k]) for k in again)


def test_the_architecture_is_read_from_the_shapes():
    file = Golden.read(f"{PLACE}multimae.safetensors")
    for key in ("in_domains", "out_domains", "patch_size", "num_classes", "dim_class_emb", "depth", "mlp_ratio", "decoder_dim", "decoder_depth"):
        del file.config[key]
    assert set(file.config) == {"input_size", "dim_tokens", "num_heads", "num_global_tokens", "decoder_num_heads", "num_encoded_tokens"}
    computed = golden.run(file)
    assert all((computed[n] - s).abs().max() < 2e-5 for n, s in file.expected.items())


def write(path, network, inputs, outputs, config, name):
    tensors = {f"state.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"input.{k}": v.float() for k, v in inputs.items()} | {f"output.{k}": v for k, v in outputs.items()}
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, path, {"model": name, "layout": "official", "config": json.dumps(config)})
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"in_domains": ("depth", "rgb"), "out_domains": ("semseg", "rgb")},
        {"in_domains": ("rgb",), "out_domains": ("depth", "norm_rgb"), "decoder_depth": 0},
        {"in_domains": ("semseg",), "out_domains": ("rgb",), "num_global_tokens": 2},
        {"decoder_depth": 3, "mlp_ratio": 2.5, "decoder_mlp_ratio": 1.5, "in_chans": 1, "input_size": 32},
        {"use_task_queries": False, "context_domains": ("rgb",), "depth": 5},
        {"use_xattn": False, "context_domains": (), "decoder_mlp_ratio": 2.0},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_file_of_another_configuration_is_read_as_what_it_is(changes, tmp_path):
    network = model(**changes)
    c = network.config
    data = {domain: x for domain, x in zip(("rgb", "depth", "semseg"), batch(size=c.input_size[0]).values())}
    data["rgb"] = data["rgb"][:, : c.in_chans]
    config = {"in_domains": c.in_domains, "out_domains": c.out_domains, "patch_size": 8, "num_heads": 2, "decoder_num_heads": 2, "input_size": 64, "num_classes": 5}
    if not c.use_task_queries:
        config["use_task_queries"] = False
    known = {KEYS[domain]: x for domain, x in data.items()}
    total = len(c.in_domains) * math.prod(c.grid)
    masking = mask_from_noise(torch.rand(2, total, generator=torch.Generator().manual_seed(3)), max(total // 3, 1))
    inputs = data | {"ids_keep": masking.ids_keep, "ids_restore": masking.ids_restore, "task_masks": masking.mask}
    out = network(known, masking)
    outputs = {"encoder_tokens": out.latent, **{f"pred.{k}": v for k, v in out.predictions.items()}}
    assert largest_error(write(tmp_path / "x.safetensors", network, inputs, outputs, config, "vision/multimae")) < 1e-6


def test_a_classifier_on_larger_pictures_and_the_last_token(tmp_path):
    network = randomise(MultiViT(MultiViTConfig(**{k: SMALL[k] for k in SMALL if not k.startswith("decoder")}, num_classes=3, pool="token", num_global_tokens=2)))
    data = batch(size=24)
    inputs = dict(zip(("rgb", "depth", "semseg"), data.values()))
    config = {"num_heads": 2, "use_mean_pooling": False, "num_classes": 3, "input_size": 24}
    path = write(tmp_path / "x.safetensors", network, inputs, {"logits": network(data)}, config, "vision/multivit")
    assert largest_error(path) < 1e-6


def test_a_larger_picture_interpolates_the_positions():
    network = model().input_adapters["rgb"]
    x = torch.zeros(1, 3, 32, 16)
    wanted = torch.nn.functional.interpolate(network.pos_emb, size=(4, 2), mode="bicubic") + network.proj.bias.view(1, -1, 1, 1)
    assert torch.allclose(network(x), wanted.flatten(2).transpose(1, 2), atol=1e-6)


def test_what_is_visible_decides_and_nothing_else():
    network, data = model(), batch()
    masking = mask_from_noise(torch.rand(2, 12), 4)
    before = network(data, masking).predictions
    hidden = masking.mask[:, :4].view(2, 1, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3).bool()
    changed = {**data, "image": torch.where(hidden, torch.randn(2, 3, 16, 16), data["image"])}
    assert all(torch.equal(before[k], v) for k, v in network(changed, masking).predictions.items())


def test_shares_follow_the_dirichlet_distribution():
    draws = torch.rand(4000, draws_needed(3, 64), generator=torch.Generator().manual_seed(0))
    masking = shared_masking(draws, 3, 64, 32)
    seen = (1 - masking.mask).view(4000, 3, 64).sum(2)
    assert (seen.sum(1) == 32).all() and masking.ids_keep.shape == (4000, 32)
    assert seen.mean(0).sub(32 / 3).abs().max() < 0.5
    # of Dirichlet(1, 1, 1) the variance of a share is 1/18, and rounding adds next to nothing
    assert abs((seen / 32).var(0).mean() - 1 / 18) < 0.004
    even = (1 - shared_masking(draws, 3, 64, 32, alpha=1000.0).mask).view(4000, 3, 64).sum(2)
    assert (even - 32 / 3).abs().max() <= 3
    sets = (1 - shared_masking(draws, 3, 64, 32, some_inputs=True).mask).view(4000, 3, 64).sum(2) > 0
    alone = [(sets.sum(1) == 1).float().mean(), sets[:, 0].float().mean()]
    assert abs(alone[0] - 3 / 7) < 0.06 and abs(alone[1] - 4 / 7) < 0.06


@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_gamma_variates_have_the_right_moments(alpha):
    draws = torch.rand(50_000, 1, 25, generator=torch.Generator().manual_seed(0))
    found = log_gammas(draws, torch.full((50_000, 1), alpha)).exp()
    assert abs(found.mean() - alpha) < 0.03 * max(alpha, 1) and abs(found.var() - alpha) < 0.06 * max(alpha, 1)
    assert log_gammas(torch.zeros(1, 1, 25), torch.full((1, 1), alpha)).isfinite().all()


def test_masks_belong_to_the_samples():
    objective = MultiMAEObjectiveConfig(num_encoded_tokens=5).build(model())
    keys = torch.tensor([3, 2**40, -7])
    image = torch.zeros(3, 3, 16, 16)
    whole = objective.draw_masking(image, keys)
    parts = [objective.draw_masking(image[:1], keys[i : i + 1]) for i in range(3)]
    assert torch.equal(whole.ids_keep, torch.cat([p.ids_keep for p in parts]))
    assert not torch.equal(whole.ids_keep[0], whole.ids_keep[1])


def test_samples_without_hidden_patches_do_not_count():
    values = torch.arange(8.0).view(2, 2, 2)
    assert masked_mean(values, torch.tensor([[[1.0]], [[0.0]]])) == values[0].mean()
    assert masked_mean(values, torch.zeros(2, 1, 1)) == 0
    assert masked_mean(values, None) == values.mean()
    assert masked_mean(values, torch.tensor([[[1.0, 0], [0, 0]], [[1, 1], [1, 1]]])) == (0 + 5.5) / 2


def test_the_objective_learns_a_batch_and_says_its_parts():
    objective = MultiMAEObjectiveConfig(num_encoded_tokens=8, task_balancer="uncertainty").build(MultiMAE(MultiMAEConfig(**SMALL)))
    data = {**batch(), "sample_key": torch.tensor([1, 2])}
    optimizer = torch.optim.AdamW(parameter_groups(objective, 0.05), lr=5e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        found = objective(data)
        found.loss.backward()
        optimizer.step()
        losses.append(sum(found.parts.values()).item())
    assert set(found.parts) == {"loss_rgb", "loss_depth", "loss_semseg", "loss_norm_rgb"} and losses[-1] < 0.8 * losses[0]
    assert all(s.grad is not None and s != 0 for s in objective.log_variances.values())


def test_nothing_frozen_or_positional_is_decayed():
    groups = parameter_groups(model(), 0.05)
    decayed = {name for g in groups if g["weight_decay"] for name in g["names"]}
    trained = {name for g in groups for name in g["names"]}
    assert not any(name.endswith("pos_emb") for name in trained)
    assert "global_tokens" in trained - decayed and "output_adapters.rgb.mask_token" in trained - decayed
    assert {"input_adapters.semseg.class_emb.weight", "output_adapters.rgb.task_embeddings.depth"} <= decayed


def test_saved_and_loaded_with_other_inputs_size_and_task(tmp_path):
    network = model()
    network.preprocess = network.default_preprocess()
    network.save_pretrained(tmp_path / "m")
    again = zoo.from_pretrained(tmp_path / "m")
    assert again.config == network.config and again.preprocess == network.preprocess and again.preprocess.domains == ("rgb", "depth", "semseg")
    assert again.embed(batch()).equal(network.embed(batch()))
    narrow = zoo.from_pretrained(tmp_path / "m", in_domains=("rgb",))
    assert narrow.preprocess == network.preprocess.image
    assert narrow.embed({"image": batch()["image"]}).equal(network.embed({"image": batch()["image"]}))
    larger = zoo.from_pretrained(tmp_path / "m", input_size=32)
    assert larger.preprocess.size == (32, 32) and larger(batch(size=32)).predictions["depth"].shape == (2, 1, 32, 32)
    classifier = zoo.from_pretrained(tmp_path / "m", task="classification", num_outputs=3, in_domains=("depth", "semseg"))
    assert classifier(batch()).shape == (2, 3) and classifier.preprocess.domains == ("depth", "semseg")
    with pytest.raises(DataError, match="reads 'depth', 'semseg'; this batch holds: image"):
        classifier({"image": batch()["image"]})
    segmenter = zoo.from_pretrained(tmp_path / "m", task="segmentation", num_outputs=4, in_domains=("rgb", "depth"), head="upernet", head_dim=8)
    assert segmenter(batch()).shape == (2, 4, 16, 16)
    with pytest.raises(ConfigError, match="in_domains has 'rbg'.*Did you mean 'rgb'"):
        zoo.from_pretrained(tmp_path / "m", in_domains=("rbg",))


def test_preprocessing_of_other_inputs_is_refused(tmp_path):
    network = model()
    network.preprocess = network.default_preprocess()
    network.save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "domains": ["rgb", "depth"]}))
    with pytest.raises(CheckpointError, match="its preprocessing makes .*'rgb', 'depth'.*its model reads"):
        zoo.from_pretrained(tmp_path / "m")


def test_timm_computes_the_same(tmp_path):
    sizes = {k: SMALL[k] for k in ("input_size", "patch_size", "embed_dim", "depth", "num_heads")}
    network = randomise(MultiViT(MultiViTConfig(in_domains=("rgb",), num_classes=3, **sizes)))
    theirs = timm.create_model(
        "vit_base_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3, global_pool="avg", pool_include_prefix=True
    ).eval()
    theirs.load_state_dict(to_timm(network))
    image = batch()["image"]
    assert torch.allclose(theirs(image), network({"image": image}), atol=1e-5)
    randomise(zoo.create("vision/multimae-tiny")).save_pretrained(tmp_path / "m")
    export(str(tmp_path / "m"), "timm", tmp_path / "timm")  # reads it back and compares
    assert timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).num_classes == 0
    with pytest.raises(ModelError, match="it reads rgb, depth, and its head"):
        to_timm(MultiViT(MultiViTConfig(in_domains=("rgb", "depth"), **sizes)))


def test_wrong_inputs_are_named():
    network, data = model(), batch()
    with pytest.raises(ModelError, match="holds the ids 0 to 9; the classes of this model are 0 to 4"):
        network.embed({"semseg": torch.arange(16).clamp(max=9).view(1, 4, 4)})
    with pytest.raises(ModelError, match="whole class ids"):
        network.embed({"semseg": data["semseg"].float()})
    with pytest.raises(ModelError, match=r"depth must be floating point numbers \(B, 1, H, W\)"):
        network.embed({"depth": data["image"]})
    with pytest.raises(ModelError, match="must show the same pixels"):
        network.embed({"image": data["image"], "depth": torch.zeros(2, 1, 32, 32)})
    with pytest.raises(DataError, match="this batch holds: label"):
        network.embed({"label": torch.zeros(2)})
    with pytest.raises(DataError, match="Pre-training needs 'semseg'"):
        MultiMAEObjectiveConfig(num_encoded_tokens=4).build(network)({k: data[k] for k in ("image", "depth")})
    with pytest.raises(ConfigError, match="there are 12"):
        MultiMAEObjectiveConfig(num_encoded_tokens=13).build(network)
    with pytest.raises(ConfigError, match="semseg_stride must divide"):
        MultiMAEConfig(semseg_stride=3)
    with pytest.raises(ConfigError, match="cannot be blended"):
        ClassificationConfig().build(MultiViT(MultiViTConfig(num_classes=2, **{k: SMALL[k] for k in SMALL if not k.startswith("decoder")})))


def test_pictures_and_depth_are_mixed_alike():
    sizes = {k: SMALL[k] for k in ("input_size", "patch_size", "embed_dim", "depth", "num_heads")}
    objective = ClassificationConfig(cutmix=0.0).build(MultiViT(MultiViTConfig(in_domains=("rgb", "depth"), num_classes=2, **sizes))).train()
    image = torch.rand(4, 3, 16, 16)
    mixed, _ = objective._mix({"image": image, "depth": image[:, :1].clone()}, torch.tensor([0, 1, 0, 1]))
    assert torch.equal(mixed["image"][:, :1], mixed["depth"]) and not torch.equal(mixed["image"], image)


def test_parameter_count_of_the_release():
    with torch.device("meta"):
        encoder = MultiViT(MultiViTConfig(in_domains=("rgb",), num_classes=0))
    assert sum(p.numel() for p in encoder.parameters()) == 85_798_656 - 768  # MAE's encoder without the position of the class token
