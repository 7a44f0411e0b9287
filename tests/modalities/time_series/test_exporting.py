"""Forecasters as other libraries have them, and as graphs: written, read back, the same forecasts."""

import pytest
import torch

import zoo
from modalities.time_series.exporting import example
from modalities.time_series.models.chronos2 import Chronos2, Chronos2Config
from modalities.time_series.models.chronos_bolt import ChronosBolt, ChronosBoltConfig
from modalities.time_series.models.flowstate import FlowState, FlowStateConfig
from modalities.time_series.models.from_transformers import PatchConfig, PatchForecaster, TimesFM, TimesFMConfig
from modalities.time_series.models.gpht import GPHT, GPHTConfig
from modalities.time_series.models.time_moe import TimeMoE, TimeMoEConfig
from modalities.time_series.models.ttm import TTM
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.preprocess import SeriesPreprocess
from tests.modalities.vision.references import randomise
from zoo.cli import main

T5 = dict(patch_size=4, patch_stride=4, quantiles=(0.2, 0.5, 0.9), embed_dim=16, depth=1, num_heads=2, head_dim=6, mlp_dim=20)
TINY = dict(context_length=32, prediction_length=6, patch_length=8, d_model=16, num_layers=1, adaptive_patching_levels=2, decoder_d_model=8, decoder_num_layers=1)
TOGETHER = dict(num_input_channels=4, prediction_channel_indices=(0, 2), exogenous_channel_indices=(1,), enable_forecast_channel_mixing=True, decoder_mode="mix_channel")
OFFICIAL = {
    "ttm": lambda: TTM(TTMConfig(**TINY, resolution_prefix_tuning=True, multi_quantile_head=True)),
    "ttm with covariates": lambda: TTM(TTMConfig(**TINY, **TOGETHER, masked_context=True, categorical_vocab_size_list=(3, 4))),
    "chronos-bolt": lambda: ChronosBolt(ChronosBoltConfig(**T5, context_length=32, prediction_length=5, decoder_depth=1)),
    "chronos-2": lambda: Chronos2(Chronos2Config(**T5, context_length=32, max_output_patches=2)),
    "time-moe": lambda: TimeMoE(TimeMoEConfig(context_length=40, horizons=(1, 4, 8), embed_dim=16, mlp_dim=12, depth=1, num_heads=4, experts=3, chosen=2)),
    "flowstate": lambda: FlowState(FlowStateConfig(context_length=64, embed_dim=12, depth=1, state_dim=8, hippo_blocks=2, patch_length=8, basis_dim=7, quantiles=(0.1, 0.5, 0.9))),
    "gpht": lambda: GPHT(GPHTConfig(context_length=24, token_length=6, pooling=(2, 1), embed_dim=16, hidden_dim=20, num_heads=2, stage_layers=1, dropout=0.0)),
}
TRANSFORMERS = {
    "timesfm": lambda: TimesFM(TimesFMConfig("timesfm2_5", dict(hidden_size=16, intermediate_size=16, head_dim=8, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=1, patch_length=4,
                                                                 horizon_length=8, context_length=16, output_quantile_len=8))),
    "patchtst": lambda: PatchForecaster(PatchConfig("patchtst", dict(context_length=16, prediction_length=6, patch_length=4, patch_stride=4, num_input_channels=2, d_model=8, num_hidden_layers=1, ffn_dim=8,
                                                                     num_attention_heads=2))),
}  # fmt: skip


def written(model, to, tmp_path):
    """The model in a folder of ours, exported from there; the exit code."""
    model.preprocess = model.preprocess or model.default_preprocess()
    model.save_pretrained(tmp_path / "ours")
    return main(["export", str(tmp_path / "ours"), "--to", to, "--output", str(tmp_path / "theirs")])


@pytest.mark.parametrize("to, kind", [*(("official", kind) for kind in OFFICIAL), *(("transformers", kind) for kind in TRANSFORMERS)])
def test_to_the_layout_of_its_library_and_back(to, kind, tmp_path, capsys):
    torch.manual_seed(0)
    model = randomise((OFFICIAL | TRANSFORMERS)[kind]()).eval()
    assert written(model, to, tmp_path) == 0, capsys.readouterr().err
    back, batch = zoo.from_pretrained(tmp_path / "theirs"), example(model, 2)
    assert back.load_report.layout == to and back.state_dict().keys() == model.state_dict().keys()
    ours, theirs = (each.forecast(batch, model.direct_horizon + 3 * (kind != "ttm with covariates")) for each in (model, back))
    assert ours.point.equal(theirs.point) and (ours.quantiles is None or ours.quantiles.equal(theirs.quantiles))


def test_what_the_official_class_has_not_is_refused_by_name(tmp_path, capsys):
    assert main(["export", "time_series/ttm-tiny-synth", "--to", "official", "--output", str(tmp_path / "x")]) == 1
    said = capsys.readouterr().err
    assert "missing=mean" in said and "official class" in said and not (tmp_path / "x").exists()
    assert main(["export", "time_series/ttm-tiny-synth", "--to", "timm", "--output", str(tmp_path / "x")]) == 1
    assert "Targets for it: official, onnx, torch-export" in capsys.readouterr().err


def test_what_is_left_behind_is_said(tmp_path, capsys):
    model = TTM(TTMConfig(**TINY))
    model.preprocess = SeriesPreprocess(frequency="h", targets=("load",))
    assert written(model, "official", tmp_path) == 0 and "names of columns" in capsys.readouterr().out


def test_a_graph_forecasts_series_with_gaps(tmp_path, capsys):
    model = zoo.from_pretrained("time_series/ttm-tiny-synth")
    assert main(["export", "time_series/ttm-tiny-synth", "--to", "torch-export", "--output", str(tmp_path / "graph")]) == 0, capsys.readouterr().err
    graph = torch.export.load(tmp_path / "graph" / "model.pt2").module()
    series = torch.randn(5, 1, 512).cumsum(2)
    series[:, :, 100:130] = torch.nan
    point, quantiles = graph(series)
    said = model.forecast({"series": series}, 96)
    assert point.allclose(said.point, atol=1e-4) and quantiles.allclose(said.quantiles, atol=1e-4)
    assert "NaN where a value is missing" in (tmp_path / "graph" / "README.md").read_text()


def test_chronos_bolt_goes_as_a_graph(tmp_path, capsys):
    assert written(randomise(OFFICIAL["chronos-bolt"]()).eval(), "torch-export", tmp_path) == 0, capsys.readouterr().err


def test_what_depends_on_values_is_no_graph(tmp_path, capsys):
    assert written(OFFICIAL["time-moe"](), "onnx", tmp_path) == 1
    said = capsys.readouterr()
    assert "A TimeMoE cannot be written as a graph" in said.err and not said.out and not (tmp_path / "theirs").exists()
