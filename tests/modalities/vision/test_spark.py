"""SparK: golden files, other networks against an independent reference, masks, loss, pictures, recipe."""

from pathlib import Path

import pytest
import torch

import zoo
from modalities import registry
from modalities.common import pretrained
from modalities.common.golden import Golden
from modalities.vision import golden as vision
from modalities.vision.digits import SceneConfig
from modalities.vision.interop.spark import to_official
from modalities.vision.models.spark import SparK, SparKConfig
from modalities.vision.objectives.spark import SparKObjectiveConfig
from tests.small import pictures
from tests.modalities.vision.spark_reference import lively, write_golden
from tests.modalities.vision.test_golden import largest_error
from trainer.config import replace, to_dict
from trainer.errors import CheckpointError, ConfigError, ModelError
from zoo.converting import convert

FILES = sorted((Path(__file__).parents[2] / "golden" / "vision").glob("spark_*.safetensors"))
TINY = dict(input_size=64, depths=(1, 1, 1, 1), widths=(4, 4, 6, 6), decoder_width=32, block="basic")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_official_outputs(path):
    assert largest_error(path) < 2e-5


def test_both_files_are_there():
    assert [p.stem for p in FILES] == ["spark_convnext", "spark_resnet"]


CASES = {
    "basic blocks": dict(block="basic", depths=(2, 1, 2, 1), widths=(6, 8, 8, 10), input_size=(64, 64)),
    "bottlenecks, not square": dict(block="bottleneck", depths=(1, 2, 1, 3), widths=(4, 4, 6, 6), input_size=(64, 96)),
    "convnext, not square": dict(block="convnext", depths=(2, 1, 3, 1), widths=(6, 8, 10, 12), input_size=(96, 32), densify_norm="ln"),
    "as wide as the decoder": dict(block="convnext", depths=(1, 1, 1, 1), widths=(6, 8, 10, 32), input_size=(64, 64), densify_norm="ln"),
    "one place visible": dict(block="basic", depths=(1, 1, 1, 1), widths=(6, 6, 6, 6), input_size=(64, 64), hidden_ratio=1.0, samples=4),
    "all visible": dict(block="basic", depths=(1, 1, 1, 1), widths=(6, 6, 6, 6), input_size=(64, 64), hidden_ratio=0.0),
    "four channels, no norm": dict(block="bottleneck", depths=(1, 1, 1, 1), widths=(4, 4, 4, 4), input_size=(64, 64), in_chans=4, densify_norm="none"),
}


@pytest.mark.parametrize("case", CASES)
def test_other_networks_give_what_the_official_way_gives(case, tmp_path):
    """Both modes, every map, every gradient of the backbone."""
    write_golden(tmp_path / "x.safetensors", decoder_width=32, **CASES[case])
    assert largest_error(tmp_path / "x.safetensors") < 5e-5


def test_batch_statistics_are_those_of_the_visible_places():
    """One step in training mode moves the running mean to that of the visible values, whatever lies hidden."""
    torch.manual_seed(0)
    model = lively(SparK(SparKConfig(**TINY))).train()
    image, active = torch.randn(3, 3, 64, 64), torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 0, 0]]).bool().view(3, 1, 2, 2)
    before = model.backbone.bn1.running_mean.clone()
    seen = model.backbone.conv1(image * active.repeat_interleave(32, 2).repeat_interleave(32, 3))
    model.see({"image": image}, active)
    visible = active.repeat_interleave(16, 2).repeat_interleave(16, 3)[:, 0]
    expected = 0.9 * before + 0.1 * seen.permute(0, 2, 3, 1)[visible].mean(0)
    assert torch.allclose(model.backbone.bn1.running_mean, expected, atol=1e-5)


@pytest.mark.parametrize("block", ["basic", "convnext"])
def test_hidden_pixels_change_nothing_but_the_loss(block):
    torch.manual_seed(0)
    model = lively(SparK(SparKConfig(**TINY | {"block": block, "densify_norm": "ln"}))).eval()
    image, active = torch.randn(2, 3, 64, 64), torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]]).bool().view(2, 1, 2, 2)
    hidden = ~active.repeat_interleave(32, 2).repeat_interleave(32, 3)
    with torch.no_grad():
        one, other = (model.see({"image": x}, active) for x in (image, torch.where(hidden, 7.0, image)))
    assert one.image.equal(other.image) and all(torch.equal(a, b) for a, b in zip(one.maps, other.maps))
    for x in one.maps:
        gone = ~active.repeat_interleave(x.shape[2] // 2, 2).repeat_interleave(x.shape[3] // 2, 3)
        assert not x[gone.expand_as(x)].any() and x.any()


def test_masks_follow_the_sample_keys():
    model = SparK(SparKConfig(**TINY | {"input_size": 96}))
    image, keys = torch.randn(4, 3, 96, 96), torch.tensor([5, -7, 11, 5])
    masks = model.draw_masking(image, None, 0.6, keys).mask
    again = torch.cat([model.draw_masking(image[i : i + 1], None, 0.6, keys[i : i + 1]).mask for i in range(4)])
    assert masks.equal(again) and masks[0].equal(masks[3]) and masks.sum(1).tolist() == [5] * 4  # of 9, round(3.6) = 4 stay


def test_the_visible_ones_are_rounded():
    counts = {ratio: SparK(SparKConfig(**TINY | {"input_size": 224})).keep_count(ratio) for ratio in (0.6, 0.75, 0.0, 0.98)}
    assert counts == {0.6: 20, 0.75: 12, 0.0: 49, 0.98: 1}  # MAE would keep 19 of 49
    with pytest.raises(ModelError, match="leaves 0 of the 4 places of 32 x 32 pixels visible"):
        SparK(SparKConfig(**TINY)).keep_count(0.9)


def test_a_mask_that_hides_nothing_is_refused():
    with pytest.raises(ConfigError, match="mask_ratio=0.1 hides none of the 4 places"):
        SparKObjectiveConfig(mask_ratio=0.1).build(SparK(SparKConfig(**TINY)))


def test_too_few_places_for_a_batch_norm_are_an_error_of_ours():
    objective = SparKObjectiveConfig(mask_ratio=0.75).build(SparK(SparKConfig(**TINY))).train()
    with pytest.raises(ModelError, match="Only 1 place of the batch is visible on the map of 2 x 2"):
        objective({"image": torch.randn(1, 3, 64, 64)})


def test_the_objective_learns_a_batch():
    torch.manual_seed(0)
    objective = SparKObjectiveConfig(mask_ratio=0.5).build(SparK(SparKConfig(**TINY | {"widths": (16, 16, 32, 32)})))
    batch, noise = {"image": torch.nn.functional.interpolate(torch.randn(4, 3, 4, 4), size=64, mode="bilinear")}, torch.rand(4, 4)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = objective(batch, noise).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("block", ["bottleneck", "convnext"])
def test_recomputed_blocks_give_the_same_gradients(block):
    from trainer.parallel import recompute

    torch.manual_seed(0)
    objective = SparKObjectiveConfig(mask_ratio=0.5).build(lively(SparK(SparKConfig(**TINY | {"block": block, "depths": (2, 2, 2, 2)})))).eval()
    batch, noise = {"image": torch.randn(2, 3, 64, 64)}, torch.rand(2, 4)
    plain = torch.autograd.grad(objective(batch, noise).loss, list(objective.parameters()))
    recompute(objective)
    first, second = objective(batch, noise).loss, objective(batch, 1 - noise).loss  # another mask in between
    again = torch.autograd.grad(first, list(objective.parameters()))
    assert second != first and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, again))


def test_a_picture_shows_visible_places_as_they_are():
    torch.manual_seed(0)
    objective = SparKObjectiveConfig(mask_ratio=0.5).build(SparK(SparKConfig(**TINY))).eval()
    image = torch.randn(2, 3, 64, 64)
    shown = objective.reconstruct({"image": image}, torch.tensor([[0.0, 1, 2, 3], [3, 2, 1, 0]]))
    assert shown["original"].equal(image) and shown["masked"][0, :, :32].equal(image[0, :, :32]) and not shown["masked"][0, :, 32:].any()
    assert shown["reconstruction"][0, :, :32].allclose(image[0, :, :32], atol=1e-6) and not shown["reconstruction"][0, :, 32:].equal(image[0, :, 32:])


@pytest.mark.parametrize("name", [p.stem for p in FILES])
def test_the_official_layout_goes_both_ways(name):
    golden = Golden.read(FILES[0].with_name(f"{name}.safetensors"))
    model = pretrained.from_tensors(golden.state, golden.config, "here")
    back = to_official(model)
    assert back.keys() == golden.state.keys() | {"norm_black"}
    assert all(back[key].equal(golden.state[key]) for key in back if key not in ("norm_black", "imn_m", "imn_s"))
    assert back["norm_black"].shape == (1, 3, 64, 64) and not back["norm_black"].any() and back["imn_m"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    unused = {row.stored: row.note for row in model.load_report.of("unused")}
    assert unused.keys() == {("imn_m",), ("imn_s",)} and "does not use it" in unused["imn_m",]
    again = pretrained.from_tensors(back, None, "here")
    assert again.config == model.config and all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values()))


def test_an_authors_file_is_converted(tmp_path):
    """Weights under "module", with the arguments among them."""
    golden = Golden.read(FILES[1])
    torch.save({"module": {**golden.state, "config": {"mask_ratio": 0.6, "sbn": False}}, "epoch": 1600}, tmp_path / "resnet.pth")
    model = zoo.from_pretrained(convert(tmp_path / "resnet.pth", layout="official", to=tmp_path / "m"))
    assert model.licence == "mit" and model.config.channels == (8, 16, 16, 24) and model.config.input_size == (224, 224)
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in pretrained.from_tensors(golden.state, None, "here").state_dict().items())


@pytest.mark.parametrize(
    ("config", "message"),
    [({"layers": [2, 1, 1, 1]}, r"missing in the file \(18\): sparse_encoder.sp_cnn.layer1.1"), ({"mask_ration": 0.5}, "Did you mean 'mask_ratio'"),
     ({"block": "basic"}, "not in the model"), ({"decoder_width": 48}, "must be a multiple of 32")],
)  # fmt: skip
def test_a_config_that_contradicts_the_tensors_is_refused(config, message):
    golden = Golden.read(FILES[1])
    with pytest.raises((CheckpointError, ConfigError), match=message):
        pretrained.from_tensors(golden.state, {**golden.config, **config}, "here")


def test_a_golden_file_of_another_system_is_refused():
    golden = Golden.read(FILES[1])
    state = {name.removeprefix("sparse_encoder.sp_cnn."): t for name, t in golden.state.items() if name.startswith("sparse_")}
    object.__setattr__(golden, "state", state)
    with pytest.raises(CheckpointError, match="its weights are those of a vision/convnet"):
        vision.run(golden)


def test_the_recipes_build(tmp_path):
    """The paper's numbers, and one step of the tiny recipe up to its picture."""
    paper = registry.find_recipe("vision/spark-convnext-small")
    assert (paper.train.optim.name, paper.train.optim.betas, paper.model.drop_path, paper.data.augment.crop_scale) == ("lamb", (0.9, 0.999), 0.2, (0.67, 1.0))
    assert registry.find_recipe("vision/spark-resnet50").train.optim.betas == (0.9, 0.95)
    changes = {"data.path": str(pictures(tmp_path / "pictures")), "data.scenes": to_dict(SceneConfig())}
    tiny = replace(registry.find_recipe("vision/spark-tiny"), changes)
    source, objective = tiny.build()
    assert objective.export().name == "vision/spark-tiny" and source[0]["image"].shape == (1, 96, 96)
    tiny.draw(objective, source)(objective, tmp_path / "x.png", "title")
    assert (tmp_path / "x.png").stat().st_size > 1000
