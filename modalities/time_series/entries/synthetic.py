"""What is trained on generated series alone, weights included."""

from modalities.registry import ModelEntry

FIELDS = {
    "patch_length": 64, "d_model": 128, "num_layers": 2, "adaptive_patching_levels": 3, "decoder_d_model": 96, "decoder_num_layers": 1, "dropout": 0.0, "head_dropout": 0.0,
    "missing": "mean", "minimum_scale": 1e-10, "resolution_prefix_tuning": True, "frequency_token_vocab_size": 15,
    "multi_quantile_head": True, "mq_use_decoder_pool": True, "mq_cond_path": "steps", "mq_hidden": 16, "gate_mode": "sigmoid",
}  # fmt: skip
"""Of TTMConfig. The vocabulary is that of `modalities.time_series.frequency`."""

MODELS = [
    ModelEntry(
        "time_series/ttm-tiny-synth", "time_series/ttm", "TTM with quantiles, context 512, horizon 96, pre-trained on generated series alone, weights included", 520_000, FIELDS,
        "pretrained/ttm-tiny-synth",
    ),
]  # fmt: skip
RECIPES = {"time_series/ttm-tiny-synth": "modalities.time_series.recipes.synthetic:ttm_tiny_synth"}
