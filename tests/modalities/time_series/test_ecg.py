"""Generated ECG records, and the recipe that trains on them."""

import pytest
import torch

from modalities import registry
from modalities.time_series.ecg import FINDINGS, ECGConfig
from trainer.config import replace
from trainer.errors import ConfigError


def test_records_are_reproducible_and_show_their_findings():
    source = ECGConfig(noise=0.0).build()
    sample = source[4]
    assert sample["series"].shape == sample["unlabelled"].shape == (12, 1024) and sample["series"].equal(source[4]["series"])
    assert sample["series"].mean(1).abs().max() < 1e-5 and (sample["series"].std(1) - 1).abs().max() < 1e-4
    beats = {}
    for i in range(60):
        sample = source[i]
        power = sample["series"].square().mean(0)
        spectrum = torch.fft.rfft(power - power.mean()).abs()
        for finding, there in zip(FINDINGS[:2], sample["label"]):
            beats.setdefault((finding, bool(there)), []).append(float((spectrum * torch.arange(len(spectrum))).sum() / spectrum.sum()))
    mean = {key: sum(values) / len(values) for key, values in beats.items()}
    assert mean["fast", True] > mean["slow", True]


def test_the_recipe_learns():
    recipe = replace(registry.find_recipe("time_series/ce-ssl-tiny"), {"data.samples": 8, "data.test_samples": 8})
    source, objective = recipe.build()
    batch = {key: torch.stack([source[i][key] for i in range(8)]) for key in source[0]}
    objective.train()(batch).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters()) and objective.model.config.class_names == FINDINGS
    assert recipe.evaluators(source, objective)[0](objective.eval())["loss"] > 0
    with pytest.raises(ConfigError, match="set model.num_classes to 4"):
        replace(registry.find_recipe("time_series/ce-ssl-tiny"), {"model.num_classes": 3}).build()
