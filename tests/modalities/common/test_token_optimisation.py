"""The approximation of masked-token optimisation: what its terms measure, and that it is off and harmless by default."""

import pytest
import torch
from torch.nn import functional as F

from modalities.common.token_optimisation import TokenOptimisation, TokenOptimisationConfig, attention_to
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.objectives.mae import MAEObjectiveConfig
from trainer.errors import ConfigError

SMALL = dict(input_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=3, decoder_embed_dim=16, decoder_depth=3, decoder_num_heads=2)


def model():
    torch.manual_seed(0)
    return MAE(MAEConfig(**SMALL))


def batch():
    return {"image": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))}, torch.rand(2, 16, generator=torch.Generator().manual_seed(2))


def parts(**fields):
    network, (data, noise) = model(), batch()
    out = network(data, noise, 0.5)
    return network, out, TokenOptimisation(TokenOptimisationConfig(weight=1.0, **fields), network)(network, data, out)


def test_singularity_is_a_hinge_on_the_cosine_of_hidden_and_visible_tokens():
    network, out, value = parts(attention=0.0, norm=0.0, margin=0.1)
    x, pairs = network.decoder_input(out.latent, out.masking), []
    for b in range(2):
        visible, hidden = range(9), range(9, 17)  # with the class token; hidden patches come last
        pairs += [(F.cosine_similarity(x[b, i], x[b, j], dim=0) - 0.1).clamp(min=0) for i in hidden for j in visible]
    torch.testing.assert_close(value, torch.stack(pairs).mean())


def test_attention_is_that_of_the_blocks():
    """The block's own attention, with values that are 1 at hidden tokens and 0 elsewhere, gives the share of each token."""
    network, out, _ = parts()
    x, block = network.decoder_input(out.latent, out.masking), network.decoder_blocks[0]
    hidden = torch.tensor([[0.0] * 9 + [1.0] * 8] * 2)  # the class token and the visible patches come first
    weight, bias, width = block.attn.qkv.weight, block.attn.qkv.bias, 16
    qkv = block.norm1(x) @ weight.T + bias
    q, k = (qkv[..., i * width : (i + 1) * width].unflatten(2, (2, 8)).transpose(1, 2) for i in (0, 1))
    shares = F.scaled_dot_product_attention(q, k, hidden[:, None, :, None].expand(-1, 2, -1, 8))[..., 0]  # (B, heads, N)
    expected = torch.cat([shares[b, :, hidden[b] == 0].flatten() for b in range(2)]).mean()
    torch.testing.assert_close(attention_to(block, x, hidden), expected)
    later = attention_to(network.decoder_blocks[1], block(x), hidden)
    alone = parts(attention=0.0)[2]
    torch.testing.assert_close(parts(attention=2.0)[2] - alone, 2 * (expected + 0.5 * later))


def test_the_length_of_the_mask_token():
    network, _, value = parts(attention=0.0, norm=3.0)
    torch.testing.assert_close(value - parts(attention=0.0, norm=0.0)[2], 3 * network.mask_token.square().mean())


def test_off_by_default_and_never_in_what_a_model_computes():
    data, noise = batch()
    assert "mto_approx" not in MAEObjectiveConfig().build(model()).terms
    on = MAEObjectiveConfig(mask_ratio=0.5, mto_approx=TokenOptimisationConfig(weight=0.5)).build(model())
    plain = MAEObjectiveConfig(mask_ratio=0.5).build(model())
    assert on.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(on.eval()(data, noise).loss, plain.eval()(data, noise).loss)
    losses, without = on.train()(data, noise), plain.train()(data, noise).loss
    torch.testing.assert_close(losses.loss, without + 0.5 * losses.parts["mto_approx"])
    losses.loss.backward()
    assert on.model.mask_token.grad.isfinite().all()


def test_it_does_what_it_is_for():
    """Trained on the terms alone, mask tokens turn away from visible ones and are looked at less."""
    network, (data, noise) = model(), batch()
    objective = MAEObjectiveConfig(mask_ratio=0.5, mto_approx=TokenOptimisationConfig(weight=1.0)).build(network)
    term, optimizer = objective.terms["mto_approx"], torch.optim.AdamW(network.parameters(), lr=1e-2)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        value = term(network, data, network(data, noise, 0.5))
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize("fields", [{"margin": 1.0}, {"attention": -1.0}, {"blocks": 0}, {"norm": -0.1}])
def test_wrong_settings(fields):
    with pytest.raises(ConfigError, match="mto_approx needs margin"):
        TokenOptimisationConfig(weight=1.0, **fields)


def test_settings_that_nothing_would_use():
    with pytest.raises(ConfigError, match=r"mto_approx\.margin is set, and nothing would use it: mto_approx\.weight is not"):
        TokenOptimisationConfig(margin=0.2)
    with pytest.raises(ConfigError, match="weight.*above 0, found -1"):
        TokenOptimisationConfig(weight=-1.0)
    with pytest.raises(ConfigError, match="blocks=4, and the decoder has 3"):
        MAEObjectiveConfig(mto_approx=TokenOptimisationConfig(weight=1.0, blocks=4)).build(model())
