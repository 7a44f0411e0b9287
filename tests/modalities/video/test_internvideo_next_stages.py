"""Both stages of InternVideo-Next: masks, predictor, teacher, losses that fall, targets that stay, runs that go on after a crash."""

import timm
import pytest
import torch
from torch.nn import functional as F

from modalities import registry
from modalities.common.masking import gather_tokens
from modalities.common.vit import ViTEncoder
from modalities.video.models.image_teacher import _attention, open_teacher, timm_teacher
from modalities.video.models.internvideo_next import InternVideoNext, InternVideoNextConfig
from modalities.video.models.predictor import Predictor, PredictorConfig, alignment
from modalities.video.objectives.block_masks import BlockMaskConfig, context
from modalities.video.objectives.latent_prediction import LatentPredictionConfig
from modalities.video.objectives.semantic_diffusion import SemanticDiffusion, SemanticDiffusionConfig
from modalities.video.preprocess import VideoPreprocess
from tests.trainer.toy import CONFIG, Crash, same, weights
from trainer.config import replace
from trainer.errors import CheckpointError, ConfigError, ModelError, UnknownNameError
from trainer.multigrid import MultigridPlan
from trainer.trainer import Trainer

SMALL = InternVideoNextConfig((4, 16, 16), (2, 4, 4), 1, 32, 3, 4, layer_scale=0.1, class_tokens=2, pool_heads=4, pool_dim=16)
PREDICTOR = PredictorConfig(width=32, depth=2, num_heads=4, mlp_width=64)
LATENT = LatentPredictionConfig((BlockMaskConfig(3, 0.25), BlockMaskConfig(1, 0.4)), None, PREDICTOR)
SEMANTIC = SemanticDiffusionConfig("", aligned_layers=2, predictor=PREDICTOR, diffusion_width=32, diffusion_depth=1)
PREPROCESS = VideoPreprocess(frames=4, stride=1, size=(16, 16), channels=1, mean=(0.3,), std=(0.4,))


def student(**changes):
    torch.manual_seed(0)
    model = InternVideoNext(replace(SMALL, changes))
    model.preprocess = PREPROCESS
    return model


def teacher(**changes):
    torch.manual_seed(1)
    options = dict(img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3, num_classes=0) | changes
    return timm_teacher(timm.models.vision_transformer.VisionTransformer(**options), "a teacher")


def semantic(**changes):
    torch.manual_seed(2)
    return SemanticDiffusion(student(), replace(SEMANTIC, changes), teacher())


def latent():
    torch.manual_seed(2)
    return LATENT.build(student())


OBJECTIVES = {"stage 1": semantic, "stage 2": latent}


class Clips:
    """A bright bar that moves right by one or two pixels a frame."""

    in_memory = True

    def __len__(self):
        return 32

    def __getitem__(self, index):
        columns = torch.arange(16)
        frames = [((columns - index - (1 + index % 2) * t) % 16 < 5).float().expand(1, 16, 16) for t in range(4)]
        return {"video": (torch.stack(frames, 1) - 0.3) / 0.4}


def batch(count=8):
    return {"video": torch.stack([Clips()[i]["video"] for i in range(count)]), "sample_key": torch.arange(count) * 977}


@pytest.mark.parametrize(("blocks", "area", "rows", "columns"), [(8, 0.15, 16, 16), (2, 0.7, 16, 16), (3, 0.25, 4, 4), (2, 0.7, 9, 12)])
def test_block_masks(blocks, area, rows, columns):
    config, keys = BlockMaskConfig(blocks, area), torch.arange(400) * 7919
    hidden = config.hidden(keys, rows, columns, 0)
    share = hidden.float().mean(1)
    assert hidden.shape == (400, rows * columns) and (~hidden).any(1).all() and share.min() > 0.6 * area and share.max() <= min(1, blocks * area * 1.3)
    assert torch.equal(config.hidden(keys[:3], rows, columns, 0), hidden[:3])  # a sample's own, whatever the batch
    assert not torch.equal(config.hidden(keys, rows, columns, 1), hidden)
    single = BlockMaskConfig(1, area).hidden(keys, rows, columns, 0).unflatten(1, (rows, columns))
    heights, widths = single.any(2).sum(1), single.any(1).sum(1)
    assert torch.equal(heights * widths, single.sum((1, 2)))  # full rectangles
    assert rows < 9 or len({*zip(heights.tolist(), widths.tolist())}) > 1  # of several aspects


def test_the_context_is_alike_for_all():
    hidden = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    seen, masked = context(hidden, 2, None)
    assert seen.tolist() == [[1, 2, 3, 5], [2, 3, 6, 7]] and masked.tolist() == [[6, 7, 0, 4], [0, 1, 4, 5]]
    assert context(hidden, 2, 3)[0].tolist() == [[1, 2, 3], [2, 3, 6]]


def test_a_block_that_covers_everything_is_refused():
    with pytest.raises(ConfigError, match="can cover all of its 1 x 2 patches"):
        BlockMaskConfig(2, 0.99, (0.2, 5.0)).hidden(torch.zeros(1, dtype=torch.int64), 1, 2, 0)
    for wrong in ({"blocks": 0}, {"area": 1.0}, {"aspect": (2.0, 1.0)}):
        with pytest.raises(ConfigError, match="block mask"):
            BlockMaskConfig(**wrong)


@pytest.mark.parametrize("kind", ["transformer", "modernbert"])
def test_the_predictor_fills_in(kind):
    torch.manual_seed(0)
    predictor = Predictor(SMALL, replace(PREDICTOR, {"kind": kind})).eval()
    tokens, visible = torch.randn(2, 2 + 5, 32), torch.tensor([[0, 4, 9, 20, 31], [1, 2, 3, 4, 5]])
    found = predictor(tokens, visible, SMALL.grid)
    assert found.shape == (2, 32, 32)
    order = torch.tensor([3, 1, 0, 4, 2])  # the order of the visible tokens says nothing, their places do
    again = predictor(torch.cat([tokens[:, :2], tokens[:, 2:][:, order]], 1), visible[:, order], SMALL.grid)
    assert torch.allclose(found, again, atol=1e-5)
    assert not torch.allclose(found, predictor(tokens, visible.flip(0), SMALL.grid), atol=1e-3)
    found.sum().backward()
    assert predictor.mask_token.grad.abs().sum() > 0


def test_modernbert_keeps_its_last_layers(tmp_path):
    from transformers import ModernBertConfig, ModernBertModel

    layers = Predictor(SMALL, PredictorConfig("modernbert", 32, 5, 4, 48)).layers
    assert [layer.attention_type.split("_")[0] for layer in layers.layers] == ["sliding", "full", "sliding", "sliding", "full"]
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    small = ModernBertConfig(vocab_size=8, hidden_size=32, num_attention_heads=4, intermediate_size=48, num_hidden_layers=7, **tokens)
    model = ModernBertModel(small)
    model.save_pretrained(tmp_path / "bert")
    loaded = PredictorConfig("modernbert", 32, 2, 4, 48, str(tmp_path / "bert")).build()
    assert torch.equal(loaded.layers[1].mlp.Wi.weight, model.layers[6].mlp.Wi.weight)
    with pytest.raises(ConfigError, match="width, heads and mlp_width"):
        PredictorConfig("modernbert", 64, 2, 4, 48, str(tmp_path / "bert")).build()
    with pytest.raises(CheckpointError, match="cannot be read as a ModernBERT"):
        PredictorConfig("modernbert", 32, 2, 4, 48, str(tmp_path)).build()
    with pytest.raises(ConfigError, match="is for kind='modernbert'"):
        PredictorConfig(weights="somewhere")


def test_alignment():
    wanted = torch.randn(3, 4, 5)
    assert alignment(F.normalize(wanted, dim=-1), 7 * wanted).item() == pytest.approx(0, abs=1e-5)
    assert alignment(-F.normalize(wanted, dim=-1), wanted).item() == pytest.approx(4, abs=1e-5)


@pytest.mark.parametrize(
    "changes", [{}, {"global_pool": "map", "class_token": False}, {"global_pool": "avg", "class_token": False, "qk_norm": True}], ids=["token", "attention pool", "mean"]
)
def test_a_teacher_of_timm(changes):
    made = teacher(**changes).eval()
    clips = torch.rand(2, 1, 4, 16, 16)
    with torch.no_grad():
        seen = made((clips - 0.3) / 0.4, PREPROCESS, (2, 4, 4), [1, 3])
        image = F.interpolate(clips[:, :, [0, 2]].transpose(1, 2).flatten(0, 1), size=(32, 32), mode="bicubic", antialias=True).expand(-1, 3, -1, -1)
        image = (image - made.mean) / made.std
        layers = made.network.forward_intermediates(image, indices=[1, 3], output_fmt="NLC", intermediates_only=True)
        pooled = made.network(image)
    assert all(torch.allclose(a, b.reshape(2, 32, 24), atol=1e-4) for a, b in zip(seen.layers, layers))
    assert torch.allclose(seen.pooled, pooled.view(2, 2, -1).mean(1), atol=1e-4)
    assert seen.attention.shape == (2, 2, 16) and torch.allclose(seen.attention.sum(-1), torch.ones(2, 2)) and (seen.attention > 0).all()
    with torch.no_grad():
        other = made((clips - 0.3) / 0.4, PREPROCESS, (4, 8, 8), [3])  # a finer grid, every frame
    assert other.layers[0].shape == (2, 4 * 64, 24) and other.attention.shape == (2, 4, 64)


def test_where_a_teacher_looks():
    """The attention is that of the last block's class token, as torch computes it."""
    made = teacher().eval()
    layer, x = made.network.blocks[-1].attn, torch.randn(2, 17, 24)
    values = torch.zeros(2, 3, 17, 8)
    found = _attention(layer, x, 1)
    q, k, _ = layer.qkv(x).reshape(2, 17, 3, 3, 8).permute(2, 0, 3, 1, 4)
    for token in (0, 5, 16):
        values.zero_()[:, :, token] = 1  # what of this value arrives is the attention to it
        arrived = F.scaled_dot_product_attention(q[:, :, :1], k, values)[..., 0].mean((1, 2))
        assert torch.allclose(found[:, token], arrived, atol=1e-6)


def test_a_teacher_of_the_zoo():
    made = open_teacher("vision/mae-tiny-digits")
    assert isinstance(made.network, ViTEncoder) and made.grid == (5, 5) and made.width == made.pooled_width == 64
    with torch.no_grad():
        seen = made(torch.rand(2, 1, 4, 16, 16), PREPROCESS, (2, 4, 4), [0, 3])
    assert seen.layers[1].shape == (2, 32, 64) and seen.pooled.shape == (2, 64)


def test_teachers_that_are_none():
    with pytest.raises(ConfigError, match="name one in objective.teacher"):
        open_teacher("")
    with pytest.raises(UnknownNameError, match="Did you mean"):
        open_teacher("timm:vit_base_patch16_24")
    with pytest.raises(ModelError, match="no vision transformer of patches"):
        timm_teacher(timm.create_model("resnet18"), "a convnet")
    with pytest.raises(ConfigError, match="do not fit a student of 3 blocks and a teacher of 4"):
        semantic(aligned_layers=4)


def test_visible_places_follow_the_attention():
    """Per frame a quarter of the places, all different; where the teacher looks ten times as much, they are seen far more often."""
    objective = semantic()
    attention = torch.ones(500, 2, 16)
    attention[:, :, :4] = 10
    visible, hidden = objective.places(attention / attention.sum(-1, keepdim=True), torch.arange(500))
    assert visible.shape == (500, 8) and hidden.shape == (500, 24) and (visible[:, :4] < 16).all() and (visible[:, 4:] >= 16).all()
    assert torch.cat([visible, hidden], 1).sort(1)[0].equal(torch.arange(32).expand(500, -1))
    share = (visible % 16 < 4).float().mean().item()
    # 4 draws without replacement from 4 of weight 10 and 12 of weight 1: by simulation with torch.multinomial
    torch.manual_seed(0)
    expected = (torch.multinomial(attention[0, :1].expand(20_000, -1), 4) < 4).float().mean().item()
    assert share == pytest.approx(expected, abs=0.03)


def test_pixels_have_the_channel_first():
    """As pixel_unshuffle orders them, for patches of one frame."""
    objective = semantic()
    objective.model.config = replace(SMALL, {"in_chans": 3, "patch_size": (1, 4, 4)})
    clip = torch.randn(2, 3, 4, 16, 16)
    wanted = F.pixel_unshuffle(clip.transpose(1, 2).flatten(0, 1), 4).unflatten(0, (2, 4)).permute(0, 1, 3, 4, 2).flatten(1, 3)
    assert torch.equal(objective.pixels(clip), wanted)


@pytest.mark.parametrize("stage", OBJECTIVES)
def test_the_losses_fall_and_targets_stay(stage):
    objective = OBJECTIVES[stage]().train()
    frozen = objective.target if stage == "stage 2" else objective.teacher.on(torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    history = []
    for step in range(80):
        found = objective({**batch(), "sample_key": torch.arange(8) + 8 * step})
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        history.append({"loss": found.loss.item(), **{name: part.item() for name, part in found.parts.items()}})
    first, last = ({name: sum(h[name] for h in some) / len(some) for name in history[0]} for some in (history[:8], history[-8:]))
    assert all(last[name] < 0.8 * first[name] for name in first), (first, last)
    assert all(torch.equal(before[name], tensor) for name, tensor in frozen.state_dict().items()) and not frozen.training
    assert all(p.grad is None for p in frozen.parameters()) and objective.export() is objective.model


@pytest.mark.parametrize("stage", OBJECTIVES)
def test_every_trained_parameter_learns(stage):
    """Else several processes would wait for gradients that never come."""
    objective = OBJECTIVES[stage]().train()
    for parameter in objective.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)  # the modulations start at zero
    objective(batch()).loss.backward()
    assert [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("stage", OBJECTIVES)
def test_what_is_hidden_does_not_depend_on_the_batch(stage):
    if stage == "stage 1":
        objective, keys = semantic(), torch.arange(8)
        attention = torch.rand(8, 2, 16) + 0.1
        both, one = objective.places(attention, keys), objective.places(attention[3:4], keys[3:4])
        assert all(torch.equal(a[3:4], b) for a, b in zip(both, one))
    else:
        objective = latent()
        assert objective(batch()).loss.item() == objective(batch()).loss.item()


def test_the_target_is_what_stage_2_begins_with():
    objective = latent()
    assert same(objective.target.state_dict(), objective.model.state_dict())
    tokens = objective.target.encode(batch()["video"])[0][:, 2:]
    seen, hidden = torch.arange(8).expand(8, -1), torch.arange(8, 32).expand(8, -1)
    loss = objective.loss(batch()["video"], seen, hidden, tokens, SMALL.grid)
    said = objective.head(gather_tokens(objective.predictor(objective.model.encode(batch()["video"], seen)[0], seen, SMALL.grid), hidden))
    assert loss.item() == pytest.approx((2 - 2 * F.cosine_similarity(said, tokens[:, 8:], dim=-1)).mean().item(), abs=1e-5)


def fit(folder, stage, cycles, *callbacks, resume=False):
    config = replace(CONFIG, {"batch_size": 4, "steps": 9, "save_every": 2, "log_every": 1, "multigrid.cycles": cycles})
    folder.mkdir(exist_ok=True)
    objective = OBJECTIVES[stage]()
    plan = MultigridPlan(config.multigrid, 4, 9, SMALL.input_size, objective.model.size_multiple()) if cycles != "none" else None
    trainer = Trainer(objective, Clips(), config, folder, list(callbacks), plan=plan)
    trainer.fit(resume=resume)
    return trainer


@pytest.mark.parametrize("cycles", ["none", "short"])
@pytest.mark.parametrize("stage", OBJECTIVES)
def test_a_crash_leaves_no_trace(stage, cycles, tmp_path):
    whole = fit(tmp_path / "whole", stage, cycles)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "cut", stage, cycles, Crash(5))
    cut = fit(tmp_path / "cut", stage, cycles, resume=True)
    assert same(weights(cut), weights(whole)) and cut.restarts == 1
    if cycles == "short":
        assert len({whole.plan.size(s) for s in range(whole.steps)}) == 3


def test_a_reconstruction_keeps_what_is_seen():
    torch.manual_seed(0)
    objective = semantic().eval()
    shown = objective.reconstruct(batch(2), torch.tensor([3, 4]))
    assert {tuple(x.shape) for x in shown.values()} == {(2, 1, 4, 16, 16)} and 0 <= shown["original"].min() <= shown["original"].max() <= 1.01
    seen = shown["masked"] == shown["original"]
    sure = seen & (shown["original"] > 0)  # black may be hidden or black
    assert seen.float().mean() >= 0.25 and torch.allclose(shown["reconstruction"][sure], shown["original"][sure], atol=1e-5)


@pytest.mark.parametrize("name", [name for name in registry.recipes() if "internvideo" in name])
def test_every_recipe_is_there(name):
    recipe = registry.find_recipe(name)
    assert recipe.recipe == name
    if name.endswith("stage2"):
        with pytest.raises(ConfigError, match="--model RUN_OR_FOLDER"):
            recipe.build()


@pytest.mark.parametrize("changes", [{"mask_ratio": 0.0}, {"aligned_layers": 0}, {"final_weight": -1.0}])
def test_wrong_options_of_stage_1(changes):
    with pytest.raises(ConfigError, match="objective"):
        replace(SEMANTIC, changes)
