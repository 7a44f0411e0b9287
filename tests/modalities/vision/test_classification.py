"""The fine-tuning objective: mixing, smoothing, odd batches, wrong labels."""

import numpy as np
import pytest
import torch
from timm.data import Mixup
from torch.nn import functional as F

from modalities.vision.models.vit import ViTClassifier, ViTClassifierConfig
from modalities.common.classification import BatchMixup, ClassificationConfig
from trainer.errors import ConfigError, DataError

MODEL = dict(input_size=8, patch_size=4, embed_dim=12, depth=1, num_heads=2, num_classes=4)


def build(**fields):
    torch.manual_seed(0)
    objective = ClassificationConfig(**fields).build(ViTClassifier(ViTClassifierConfig(**MODEL)))
    torch.nn.init.normal_(objective.model.head.weight)
    return objective


def batch(samples):
    return {"image": torch.randn(samples, 3, 8, 8), "label": torch.arange(samples) % 4}


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_training_mixes_batches_of_any_size_and_leaves_the_batch_alone(samples):
    objective, data = build().train(), batch(samples)
    before = data["image"].clone()
    for seed in range(6):
        np.random.seed(seed)
        losses = objective(data)
        assert losses.loss.isfinite() and losses.loss.requires_grad and losses.parts == {}
    assert torch.equal(data["image"], before)


@pytest.mark.parametrize("seed", range(4))
def test_even_batches_are_mixed_as_timm_mixes_them(seed):
    arguments = dict(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=4)
    data, results = batch(6), []
    for mixer in (Mixup(**arguments), BatchMixup(**arguments)):
        np.random.seed(seed)
        results.append(mixer(data["image"].clone(), data["label"]))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_the_middle_of_an_odd_batch_is_mixed_with_itself():
    data = batch(5)
    np.random.seed(0)
    image, target = BatchMixup(mixup_alpha=0.8, label_smoothing=0.0, num_classes=4)(data["image"].clone(), data["label"])
    torch.testing.assert_close(image[2], data["image"][2])
    torch.testing.assert_close(target[2], F.one_hot(data["label"][2], 4).float())
    assert not torch.allclose(image[0], data["image"][0])


def test_without_mixing_the_labels_are_smoothed_in_training_only():
    objective, data = build(mixup=0, cutmix=0, label_smoothing=0.2), batch(5)
    logits = objective.model(data)
    off = 0.2 / 4
    soft = F.one_hot(data["label"], 4) * 0.8 + off
    torch.testing.assert_close(objective.train()(data).loss, -(soft * logits.log_softmax(1)).sum(1).mean())
    torch.testing.assert_close(objective.eval()(data).loss, F.cross_entropy(logits, data["label"]))


def test_accuracy_of_hard_labels_is_logged():
    objective, data = build().eval(), batch(5)
    losses = objective(data)
    expected = (objective.model(data).argmax(1) == data["label"]).float().mean()
    assert torch.equal(losses.parts["accuracy"], expected)
    assert not losses.parts["accuracy"].requires_grad


def test_mixing_is_decided_by_numpys_generator():
    objective, data = build().train(), batch(4)

    def loss():
        np.random.seed(3)
        return objective(data).loss

    assert torch.equal(loss(), loss())


@pytest.mark.parametrize("label", [None, torch.zeros(3), torch.zeros(2, dtype=torch.long), torch.zeros(3, 4, dtype=torch.long)])
def test_wrong_labels(label):
    data = {"image": torch.zeros(3, 3, 8, 8)} | ({} if label is None else {"label": label})
    with pytest.raises(DataError, match="3 whole class ids, found"):
        build()(data)


@pytest.mark.parametrize("fields", [{"mixup": -1}, {"mixup_prob": 1.5}, {"label_smoothing": -0.1}, {"switch_prob": 2}])
def test_bad_settings(fields):
    (name, value), *_ = fields.items()
    with pytest.raises(ConfigError, match=f"{name} must .*found {value}"):
        ClassificationConfig(**fields)


def test_a_model_without_classes_is_refused():
    with pytest.raises(ConfigError, match="num_classes of at least 1, found 0"):
        ClassificationConfig().build(ViTClassifier(ViTClassifierConfig(**MODEL | {"num_classes": 0})))
