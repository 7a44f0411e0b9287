"""CE-SSL: the official outputs, updates of low rank, what trains, batch norm of unlabelled records, its layout."""

import pytest
import torch
from torch import nn

import zoo
from modalities.common.low_rank import LowRankLinear, allocate, importances, low_rank_layers
from modalities.time_series.interop import ce_ssl as interop
from modalities.time_series.models.ce_ssl import CESSL, CESSLConfig
from modalities.time_series.objectives.ecg import ECGClassificationConfig
from tests.modalities.time_series.goldens import FILES, largest_error, write_golden
from tests.modalities.vision.references import randomise
from trainer.errors import ConfigError, DataError, ModelError

SMALL = dict(in_chans=2, embed_dim=16, depth=1, longest=8, mask_length=4, num_classes=3)


def small(**changes):
    return randomise(CESSL(CESSLConfig(**{**SMALL, **changes})))


def records(count=3, length=256, seed=0):
    return torch.randn(count, 2, length, generator=torch.Generator().manual_seed(seed))


def test_official_outputs():
    assert largest_error(FILES / "ce_ssl.safetensors") < 5e-6


def test_other_golden_files(tmp_path):
    """Ranks of each layer's own, more blocks, no unlabelled records."""
    model, x = small(depth=2, ranks=(1, 2, 3, 1, 2, 3, 4, 4, 4, 2, 2, 2, 1, 5, 2, 3), skip=0.25), records()
    for layer in low_rank_layers(model).values():
        layer.skip = 0.0
    with torch.no_grad():
        said = model({"series": x})
    assert said.shape == (3, 3)
    path = write_golden(tmp_path / "x.safetensors", "time_series/ce_ssl", {"dropout_coef": 0.25}, interop.to_official(model), {"input.ecg": x[:, :, None], "output.logits_eval": said})
    assert largest_error(path) < 1e-5
    described = interop.describe(interop.to_official(model), interop.to_official_config(model), "official", "here")
    assert CESSLConfig(**{**described.fields, "ranks": tuple(described.fields["ranks"])}) == model.config


def test_a_fresh_update_changes_nothing_and_a_merged_one_stays():
    torch.manual_seed(0)
    layer, x = LowRankLinear(5, 4), torch.randn(3, 5)
    plain = layer(x)
    layer.set_rank(2, skip=0.4)
    assert layer(x).equal(plain) and layer.lora_A.shape == (2, 5) and layer.lora_B.shape == (4, 2)
    nn.init.normal_(layer.lora_B)
    found = {tuple(layer(x).flatten().tolist()) for _ in range(40)}
    assert len(found) == 2 and tuple(plain.flatten().tolist()) in found  # with the update and without
    change = layer.lora_B @ layer.lora_A
    weight = layer.weight.detach().clone()
    layer.merge()
    assert torch.allclose(layer.weight, weight + 0.6 * change) and layer.lora_A is None and list(dict(layer.named_parameters())) == ["weight", "bias"]
    with pytest.raises(ConfigError, match="probability below 1"):
        layer.set_rank(1, skip=1.0)


def test_merging_a_model_gives_the_plain_one():
    model, x = small(ranks=(2,)), {"series": records()}
    said = model(x)
    plain = model.merged()
    assert plain.config.ranks == () and not any("lora" in name for name in plain.state_dict()) and plain(x).allclose(said, atol=1e-4)


def test_importances_and_ranks():
    model = small(ranks=(4,))
    for layer in low_rank_layers(model).values():
        nn.init.zeros_(layer.lora_B)
    objective = ECGClassificationConfig(cutmix=0.0).build(model)
    scores = importances(objective({"series": records(), "label": torch.ones(3, 3)}).loss, model)
    assert list(scores) == list(model.updated_layers()) and all(score > 0 for score in scores.values())
    assert allocate([0.3, 0.1, 0.2, 0.9], 16, 0.5) == [16, 8, 8, 16] and allocate([1.0, 2.0], 6, 0.5) == [2, 6]
    with pytest.raises(ModelError, match="Give it ranks first"):
        importances(torch.ones(()), small())


def test_unlabelled_records_change_the_statistics_and_nothing_else():
    batch = {"series": records(), "label": torch.ones(3, 3), "unlabelled": 3 + records(5, seed=1)}
    with_them, without = (ECGClassificationConfig(cutmix=0.0).build(small()) for _ in range(2))
    with_them.train()(batch)
    without.train()({key: batch[key] for key in ("series", "label")})
    assert not with_them.model.encoder_layers[0].bn1.running_mean.allclose(without.model.encoder_layers[0].bn1.running_mean)
    assert with_them.eval().logits(batch).shape == (3, 3) and torch.equal(with_them.logits(batch), with_them.model(batch))


def test_records_are_mixed_as_their_labels():
    torch.manual_seed(0)
    objective = ECGClassificationConfig().build(small(multi_label=False))
    series = torch.arange(3.0).view(3, 1, 1).expand(3, 2, 256)
    mixed, label = objective._mixed(series, torch.eye(3))
    assert torch.allclose(mixed[:, 0].mean(1), label @ torch.arange(3.0)) and torch.allclose(label.sum(1), torch.ones(3)) and not label.equal(torch.eye(3))
    loss = objective.train()({"series": records(), "label": torch.tensor([0, 2, 1])}).loss
    assert loss.isfinite()


def test_what_trains():
    model = small(ranks=(2,))
    ECGClassificationConfig(train="updates").build(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"encoder_layers.0.bn1.bias", "classifier.1.weight", "transformer_layers.0.fc1.lora_A"} <= trained
    assert not trained & {"encoder_layers.0.bn1.weight", "classifier.0.weight", "transformer_layers.0.self_attention.c_attn.weight"}
    with pytest.raises(ConfigError, match="this model has none"):
        ECGClassificationConfig(train="updates").build(small())


def test_another_head_and_updates_on_a_checkpoint(tmp_path):
    model, x = small(), {"series": records()}
    model.save_pretrained(tmp_path)
    found = zoo.from_pretrained(tmp_path, task="classification", num_outputs=5, ranks=(2,), skip=0.2)
    assert found(x).shape == (3, 5) and found.embed(x).allclose(model.embed(x), atol=1e-5) and len(low_rank_layers(found)) == 13
    assert "new" in found.load_report.words()
    kept = zoo.from_pretrained(tmp_path, ranks=(2,))
    assert kept(x).allclose(model(x), atol=1e-5)


def test_wrong_inputs_are_named():
    with pytest.raises(ModelError, match="2 leads of 64 to 512 points, found"):
        small().embed({"series": torch.randn(1, 2, 60)})
    with pytest.raises(DataError, match=r"of shape \(3, 3\), found none"):
        ECGClassificationConfig().build(small())({"series": records()})
    for changes, words in (({"embed_dim": 24}, "multiple of 16"), ({"ranks": (1, 2)}, "ranks needs none, one or 13"), ({"skip": 1.0}, "skip a probability")):
        with pytest.raises(ConfigError, match=words):
            CESSLConfig(**{**SMALL, **changes})
