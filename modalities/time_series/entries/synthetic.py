"""The forecaster that comes with the project: trained on generated series alone."""

from modalities.registry import ModelEntry

NAME = "time_series/ttm-tiny-synth"
FIELDS = {
    "patch_length": 64, "d_model": 128, "num_layers": 2, "adaptive_patching_levels": 3, "decoder_d_model": 96, "decoder_num_layers": 1, "dropout": 0.0, "head_dropout": 0.0,
    "missing": "mean", "minimum_scale": 1e-10, "resolution_prefix_tuning": True, "frequency_token_vocab_size": 15, "gate_mode": "sigmoid",
    "multi_quantile_head": True, "mq_use_decoder_pool": True, "mq_cond_path": "steps", "mq_hidden": 16,
}  # fmt: skip
"""Of TTMConfig. The vocabulary is that of `modalities.time_series.frequency`."""
WORDS = {
    "what": "A small network without attention that reads up to 512 steps of the past of a series in patches and forecasts the next 96 at once, as nine quantiles from 10 % to 90 %. "
    "It was trained from scratch on generated series alone, a million windows that were each seen once: exponential smoothing and SARIMA processes, trends and seasons of very "
    "different sizes (periods of 4, 5, 7, 12, 24, 48, 52, 60, 96, 144, 168, 288, 336, 365 and any other length), Gaussian processes (KernelSynth), the prior of ForecastPFN, processes that change "
    "their regime, uneven cycles, counts, intermittent demand, steps, spikes, and mixtures of them (TSMixup), with gaps, outliers and histories of 16 to 512 steps. No real series was used, neither "
    "to train it nor to choose it.",
    "limits": "It is tiny and was trained for about an hour on a shared processor core; larger models that saw real series are better. It reads 512 steps, so seasons longer than about 250 steps "
    "(the year of daily data) are hardly seen. Each channel is forecast by itself and covariates are not read. Beyond 96 steps the median is fed back and the intervals there are too narrow. "
    "Telling the sampling interval (`frequency`) helps it to know the season. Sudden changes that nothing in the context announces cannot be foreseen.",
}
"""What its card says otherwise than that of other TTMs."""

MODELS = [ModelEntry(NAME, "time_series/ttm", "TTM with quantiles, context 512, horizon 96, trained on generated series alone; weights included", 519_882, FIELDS, "pretrained/ttm-tiny-synth", words=WORDS)]
RECIPES = {NAME: "modalities.time_series.recipes.ttm:ttm_tiny_synth"}
