"""Maps of attention: the shares that a plain computation gives, for every vision transformer of the zoo."""

import pytest
import torch
from torch import nn

import zoo
from modalities.common.attention import attention_maps
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.models.poa import POA, POAConfig
from tests.modalities.vision.references import randomise
from trainer.errors import ModelError

FIELDS = dict(input_size=(8, 12), patch_size=4, embed_dim=16, depth=3)


@pytest.mark.parametrize("kind", ["mae", "poa", "without class token"])
def test_shares_of_attention(kind):
    torch.manual_seed(0)
    if kind == "poa":
        model = randomise(POA(POAConfig(**FIELDS, head_dim=8, min_embed_dim=8, min_depth=2, prototypes=())))
    else:
        model = randomise(MAE(MAEConfig(**FIELDS, num_heads=2, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=1, class_token=kind == "mae")))
    model.train()
    batch, kept = {"image": torch.randn(2, 3, 8, 12)}, {}
    for layer in (0, -1):
        kept[layer] = attention_maps(model, batch, layer)
        assert kept[layer].shape == (2, 2, 2, 3) and (kept[layer] > 0).all()
        total = kept[layer].sum(dim=(2, 3))
        assert torch.allclose(total, torch.ones(2, 2)) if kind == "without class token" else (total < 1).all()
    assert model.training and not kept[0].equal(kept[-1])
    block = model.blocks[0]
    if kind == "mae":
        x = block.norm1(model.prepend_class_token(model.embed_patches(batch["image"])))
        q, k, _ = block.attn.qkv(x).reshape(2, 7, 3, 2, 8).permute(2, 0, 3, 1, 4)
        expected = (q[:, :, :1] @ k.transpose(2, 3) / 8**0.5).softmax(-1)[:, :, 0, 1:].reshape(2, 2, 2, 3)
        assert torch.allclose(kept[0], expected, atol=1e-6)


def test_what_has_no_such_attention():
    model = zoo.create("vision/mae-tiny")
    with pytest.raises(ModelError, match="with a block 9; this MAE has 4 blocks"):
        attention_maps(model, {"image": torch.zeros(1, 3, 32, 32)}, 9)
    model.blocks = nn.Sequential(nn.Identity())
    with pytest.raises(ModelError, match="vision transformers"):
        attention_maps(model, {"image": torch.zeros(1, 3, 32, 32)})
