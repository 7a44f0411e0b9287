"""VideoMAE: sizes, masks, the objective, saving and loading, what the classifier takes over."""

import pytest
import torch

import zoo
from modalities import registry
from modalities.common import pretrained
from modalities.common.masking import mask_from_flags, tube_mask
from modalities.video.models.videomae import VideoMAE, VideoMAEConfig
from modalities.video.models.vit import VideoClassifier, VideoClassifierConfig
from modalities.video.objectives.videomae import VideoMAEObjectiveConfig
from trainer.errors import ConfigError, ModelError
from trainer.optim import parameter_groups

SMALL = dict(input_size=(4, 16, 16), patch_size=(2, 4, 4), embed_dim=24, depth=2, num_heads=3, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)


@pytest.mark.parametrize(("size", "encoder", "whole"), [("small", 21.9, 24.0), ("base", 86.2, 94.2), ("large", 303.9, 343.0), ("huge", 631.6, 692.5)])
def test_parameter_counts_of_the_official_models(size, encoder, whole):
    with torch.device("meta"):
        model = pretrained.create(f"video/videomae-{size}")
    counts = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(counts.values()) == registry.find(f"video/videomae-{size}").parameters
    assert round(sum(counts.values()) / 1e6, 1) == whole
    assert round(sum(n for name, n in counts.items() if not name.startswith(("decoder_", "mask_token"))) / 1e6, 1) == encoder


def test_a_tube_hides_the_same_places_in_every_slot():
    masking = tube_mask(torch.rand(3, 196, generator=torch.Generator().manual_seed(0)), 8, 0.9)
    slots = masking.mask.view(3, 8, 196)
    assert (slots == slots[:, :1]).all() and (slots[:, 0].sum(1) == 176).all()  # int(0.9 * 196)
    assert masking.ids_keep.shape == (3, 160) and masking.ids_hidden.shape == (3, 1408)
    for ids, value in ((masking.ids_keep, 0), (masking.ids_hidden, 1)):
        assert (ids.diff(dim=1) > 0).all() and (masking.mask.gather(1, ids) == value).all()
    same = mask_from_flags(masking.mask.bool())
    assert same.ids_keep.equal(masking.ids_keep) and same.ids_restore.equal(masking.ids_restore)


def test_flags_that_are_no_mask_are_refused():
    with pytest.raises(ModelError, match="equally many"):
        mask_from_flags(torch.tensor([[True, False, False], [True, True, False]]))
    with pytest.raises(ModelError, match="leave some"):
        mask_from_flags(torch.ones(2, 3, dtype=torch.bool))


def test_only_queries_and_values_have_a_bias_and_the_mask_token_is_not_decayed():
    model = VideoMAE(VideoMAEConfig(**SMALL))
    names = {name for name, _ in model.named_parameters()}
    assert {"blocks.0.attn.qkv.q_bias", "blocks.0.attn.qkv.v_bias"} <= names and not [n for n in names if n.endswith("qkv.bias") or "pos_embed" in n]
    undecayed = {n for group in parameter_groups(model, 0.05) if group["weight_decay"] == 0 for n in group["names"]}
    assert {"mask_token", "blocks.1.attn.qkv.q_bias", "norm.weight"} <= undecayed and "decoder_embed.weight" not in undecayed


def test_targets_are_normalised_for_each_tubelet_and_channel():
    model = VideoMAE(VideoMAEConfig(**SMALL))
    objective = VideoMAEObjectiveConfig(mask_ratio=0.5).build(model)
    target = objective.target({"video": torch.randn(2, 3, 4, 16, 16)}).view(2, 32, 32, 3)
    assert target.mean(dim=2).abs().max() < 1e-5 and (target.std(dim=2) - 1).abs().max() < 1e-4
    plain = VideoMAEObjectiveConfig(mask_ratio=0.5, norm_pix_loss=False).build(model)
    pixels = torch.rand(1, 4, 3, 16, 16)
    video = model.default_preprocess().normalise(pixels)
    assert plain.target({"video": video}).sub(plain.target({"video": video})).abs().max() == 0
    assert plain.target({"video": video})[0, 0].view(2, 4, 4, 3)[1, 2, 3].allclose(pixels[0, 1, :, 2, 3], atol=1e-6)


def test_the_loss_looks_at_hidden_tubelets_only_and_masks_follow_the_samples():
    torch.manual_seed(0)
    model = VideoMAE(VideoMAEConfig(**SMALL)).eval()
    objective = VideoMAEObjectiveConfig(mask_ratio=0.5).build(model)
    batch = {"video": torch.randn(2, 3, 4, 16, 16), "sample_key": torch.tensor([5, 9])}
    out = model(batch, mask_ratio=0.5, everywhere=False)
    again = model({"video": batch["video"].flip(0), "sample_key": torch.tensor([9, 5])}, mask_ratio=0.5)
    assert out.masking.mask.equal(again.masking.mask.flip(0)) and not out.masking.mask[0].equal(out.masking.mask[1])
    assert out.prediction.shape == (2, 16, 96)
    shown = objective.reconstruct(batch)
    changed = (shown["original"] != shown["reconstruction"]).any(dim=1)
    assert changed.float().mean() > 0.4 and (shown["masked"] == 0.5).float().mean() > 0.45
    places = changed.view(2, 2, 2, 4, 4, 4, 4).any(dim=(2, 4, 6))
    assert (places[:, 0] == places[:, 1]).all()  # the same places in both slots of time


def test_the_objective_learns_a_batch():
    torch.manual_seed(0)
    objective = VideoMAEObjectiveConfig(norm_pix_loss=False, mask_ratio=0.5).build(VideoMAE(VideoMAEConfig(**SMALL)))
    batch, noise = {"video": torch.randn(2, 3, 4, 16, 16)}, torch.rand(2, 16)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = objective(batch, noise).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("fields", [{"mask_ratio": 1.0}, {"mask_ratio": 0.01}])
def test_a_mask_that_hides_all_or_nothing_is_refused(fields):
    with pytest.raises(ConfigError, match="mask_ratio"):
        VideoMAEObjectiveConfig(**fields).build(VideoMAE(VideoMAEConfig(**SMALL)))


def test_saved_and_loaded_it_computes_the_same_and_stores_no_table(tmp_path):
    model = VideoMAE(VideoMAEConfig(**SMALL)).eval()
    model.preprocess = model.default_preprocess()
    model.save_pretrained(tmp_path / "m")
    again = zoo.from_pretrained(tmp_path / "m")
    assert "pos_embed" not in again.state_dict() and again.pos_embed.equal(model.pos_embed) and again.preprocess == model.preprocess
    batch = {"video": torch.randn(2, 3, 4, 16, 16)}
    assert torch.equal(again.embed(batch), model.embed(batch))


def test_another_input_makes_the_table_anew(tmp_path):
    model = VideoMAE(VideoMAEConfig(**SMALL))
    model.preprocess = model.default_preprocess()
    model.save_pretrained(tmp_path / "m")
    longer = zoo.from_pretrained(tmp_path / "m", input_size=(6, 16, 24))
    assert longer.pos_embed[0, :32].equal(model.pos_embed[0]) and longer.pos_embed.shape == (1, 72, 24)
    assert longer.preprocess.frames == 6 and longer.preprocess.size == (16, 24)
    assert longer.tokens({"video": torch.zeros(1, 3, 6, 16, 24)}).shape == (1, 72, 24)


def test_a_classifier_takes_the_encoder_over():
    model = VideoMAE(VideoMAEConfig(**SMALL, last_norm_eps=1e-5))
    classifier = VideoClassifier.from_encoder(model, 5, head_dropout=0.5)
    assert classifier.config.last_norm_eps == 1e-5 and classifier.blocks[1].attn.qkv.weight.equal(model.blocks[1].attn.qkv.weight)
    batch = {"video": torch.randn(2, 3, 4, 16, 16)}
    assert not classifier.train()(batch).equal(classifier(batch)) and classifier.eval()(batch).equal(classifier(batch))
    assert classifier.layer_ids()["blocks.1.attn.qkv.q_bias"] == 2 and classifier.layer_ids()["head.weight"] == 3


def test_an_encoder_without_norm_becomes_a_classifier_too():
    classifier = VideoClassifier.from_encoder(VideoMAE(VideoMAEConfig(**SMALL, encoder_norm=False)), 5)
    assert classifier({"video": torch.randn(2, 3, 4, 16, 16)}).shape == (2, 5)


def test_configs_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="frames, height, width"):
        VideoMAEConfig(input_size=(16, 16), patch_size=(4, 4))
    with pytest.raises(ConfigError, match="head_dropout"):
        VideoClassifierConfig(head_dropout=1.0)
    with pytest.raises(ModelError, match="not divisible"):
        VideoMAEConfig(input_size=(5, 16, 16), patch_size=(2, 4, 4))
