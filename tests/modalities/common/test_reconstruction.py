"""The masked auto-encoder and its loss, in one, two and three dimensions."""

import pytest
import torch

from modalities.common.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from modalities.common.masking import gather_tokens
from modalities.common.patches import patchify
from modalities.common.reconstruction import MaskedReconstruction, MaskedReconstructionConfig
from trainer.errors import ConfigError, ModelError
from trainer.optim import parameter_groups

SMALL = dict(embed_dim=24, depth=1, num_heads=3, decoder_embed_dim=12, decoder_depth=1, decoder_num_heads=2)
SHAPES = [((12,), (2,), "interleaved"), ((8, 12), (2, 4), "column-first"), ((4, 8, 8), (2, 4, 4), "interleaved")]


class Autoencoder(MaskedAutoencoder):
    system, input_key = "test/mae", "x"


def build(size=(8, 8), patch=(2, 2), layout="column-first", in_chans=2, class_token=True, **objective):
    torch.manual_seed(0)
    config = MaskedAutoencoderConfig(input_size=size, patch_size=patch, in_chans=in_chans, position_layout=layout, class_token=class_token, **SMALL)
    return MaskedReconstruction(Autoencoder(config), MaskedReconstructionConfig(**objective))


@pytest.mark.parametrize(("size", "patch", "layout"), SHAPES)
@pytest.mark.parametrize("class_token", [True, False])
def test_shapes_and_gradients(size, patch, layout, class_token):
    objective = build(size, patch, layout, class_token=class_token, mask_ratio=0.5)
    batch = {"x": torch.randn(3, 2, *size)}
    out = objective.model(batch, mask_ratio=0.5)
    length = objective.model.patch_embed.length
    assert out.latent.shape == (3, class_token + length // 2, 24)
    assert out.prediction.shape == objective.target(batch).shape
    objective(batch).loss.backward()
    grads = {n for n, p in objective.model.named_parameters() if p.grad is not None and p.grad.any()}
    unused = {n for n, p in objective.model.named_parameters() if p.requires_grad} - grads
    assert not unused


def test_the_encoder_does_not_see_hidden_patches():
    objective = build()
    x, noise = torch.randn(2, 2, 8, 8), torch.rand(2, 16)
    out = objective.model({"x": x}, noise)
    hidden = out.masking.mask.reshape(2, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    changed = objective.model({"x": x + 100 * hidden}, noise)
    assert torch.equal(out.prediction, changed.prediction)


def test_latents_do_not_depend_on_the_order_of_the_noise():
    objective = build(mask_ratio=0.5).eval()
    x = torch.randn(1, 2, 8, 8)
    noise = torch.cat([torch.arange(8.0), torch.arange(8.0) + 10])[None]
    swapped = noise.clone()
    swapped[0, [0, 3]] = noise[0, [3, 0]]
    a, b = (objective.model({"x": x}, n, 0.5) for n in (noise, swapped))
    torch.testing.assert_close(a.prediction, b.prediction, atol=1e-5, rtol=0)


def test_loss_is_the_mean_over_all_hidden_patches():
    objective = build(norm_pix_loss=False)
    batch = {"x": torch.randn(2, 2, 8, 8)}
    noise = torch.rand(2, 16)
    out = objective.model(batch, noise)
    target = patchify(batch["x"], (2, 2))
    assert torch.equal(objective.target(batch), target)
    errors = [(out.prediction[b, i] - target[b, i]).square().mean() for b in range(2) for i in range(16) if out.masking.mask[b, i]]
    torch.testing.assert_close(objective(batch, noise).loss, torch.stack(errors).mean())


def test_what_no_loss_looks_at_is_left_out():
    """The predictions of the hidden patches alone, and their gradients, are those of the whole decoder."""
    objective = build()
    batch, noise = {"x": torch.randn(2, 2, 8, 8)}, torch.rand(2, 16)
    whole, part = objective.model(batch, noise), objective.model(batch, noise, everywhere=False)
    hidden = gather_tokens(whole.prediction, whole.masking.ids_hidden)
    torch.testing.assert_close(part.prediction, hidden, atol=1e-6, rtol=1e-5)
    parameters = [p for p in objective.model.parameters() if p.requires_grad]
    for a, b in zip(torch.autograd.grad(part.prediction.square().sum(), parameters), torch.autograd.grad(hidden.square().sum(), parameters)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_normalised_targets_use_the_unbiased_variance():
    objective = build()
    x = torch.randn(2, 2, 8, 8)
    patches = patchify(x, (2, 2))
    expected = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True, unbiased=True) + 1e-6) ** 0.5
    torch.testing.assert_close(objective.target({"x": x}), expected)
    assert objective.target({"x": torch.full((1, 2, 8, 8), 3.0)}).abs().max() == 0  # a flat patch is no division by zero


def test_same_seed_same_loss_to_the_bit():
    def run():
        objective = build()
        torch.manual_seed(7)
        loss = objective({"x": torch.randn(4, 2, 8, 8)}).loss
        loss.backward()
        return loss, objective.model.patch_embed.proj.weight.grad

    (a, ga), (b, gb) = run(), run()
    assert torch.equal(a, b) and torch.equal(ga, gb)


@pytest.mark.parametrize("norm", [True, False])
def test_pictures_paste_what_was_visible(norm):
    objective = build(norm_pix_loss=norm)
    batch, noise = {"x": torch.randn(2, 2, 8, 8)}, torch.rand(2, 16)
    shown = objective.reconstruct(batch, noise)
    hidden = objective.model(batch, noise).masking.mask[:, :, None].bool()
    patches = {k: patchify(v, (2, 2)) for k, v in shown.items()}
    assert torch.equal(shown["original"], batch["x"])
    assert not patches["masked"][hidden.expand_as(patches["masked"])].any()
    visible = ~hidden.expand_as(patches["masked"])
    assert torch.equal(patches["masked"][visible], patches["original"][visible])
    assert torch.equal(patches["reconstruction"][visible], patches["original"][visible])
    if norm:  # a perfect prediction of the normalised target shows the input itself
        objective.model.forward = lambda b, n, r: type("R", (), {"prediction": objective.target(b), "masking": build().model.draw_masking(b["x"], n, r)})
        torch.testing.assert_close(objective.reconstruct(batch, noise)["reconstruction"], batch["x"], atol=1e-5, rtol=1e-5)


def test_an_input_in_half_precision_gives_a_loss_in_single():
    objective = build().to(torch.bfloat16)
    assert objective({"x": torch.randn(2, 2, 8, 8, dtype=torch.bfloat16)}).loss.dtype == torch.float32


def test_mixed_precision_runs():
    objective = build()
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective({"x": torch.randn(2, 2, 8, 8)}).loss
    assert loss.dtype == torch.float32 and loss.isfinite()


def test_tokens_are_decayed_and_tables_frozen_in_pretraining():
    decay = {n: g["weight_decay"] for g in parameter_groups(build().model, 0.05) for n in g["names"]}
    assert decay["cls_token"] == decay["mask_token"] == 0.05
    assert "pos_embed" not in decay and "decoder_pos_embed" not in decay
    assert decay["decoder_norm.weight"] == decay["decoder_pred.bias"] == 0


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.7])
def test_bad_ratios(ratio):
    with pytest.raises(ConfigError, match=f"found {ratio}"):
        MaskedReconstructionConfig(mask_ratio=ratio)
    with pytest.raises(ModelError, match=f"found {ratio}"):
        build().model({"x": torch.zeros(1, 2, 8, 8)}, mask_ratio=ratio)


def test_contradictory_settings():
    with pytest.raises(ConfigError, match="hides none of the 16 patches"):
        build(mask_ratio=0.0)
    with pytest.raises(ConfigError, match="at least 2 values"):
        build((4, 4), (1, 1), in_chans=1)
    with pytest.raises(ConfigError, match="decoder_embed_dim=12 cannot be split into decoder_num_heads=5"):
        MaskedAutoencoderConfig(**SMALL | {"decoder_num_heads": 5})
    with pytest.raises(ModelError, match=r"\(2, 16\), found \(2, 15\)"):
        build().model({"x": torch.zeros(2, 2, 8, 8)}, torch.rand(2, 15))
