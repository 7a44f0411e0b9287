"""TimelyGPT for signals and for codes, and their sizes."""

from modalities.registry import ModelEntry, SystemEntry

PAPER = "Song et al.: TimelyGPT: Extrapolatable Transformer Pre-training for Long-term Time-Series Forecasting in Healthcare, 2024, arXiv 2312.00817"
CITATION = """@inproceedings{song2024timelygpt,
  title     = {{TimelyGPT}: Extrapolatable Transformer Pre-training for Long-term Time-Series Forecasting in Healthcare},
  author    = {Song, Ziyang and others},
  booktitle = {Proceedings of the ACM Conference on Bioinformatics, Computational Biology, and Health Informatics},
  year      = {2024}
}"""
FAULT = (
    "In the authors' code the convolutions are centred, so that a token sees what it shall predict; a model read from their layout keeps that (causal=False). Ours see the past only."
)

SYSTEMS = {
    "time_series/timelygpt": SystemEntry(
        target="modalities.time_series.models.timelygpt:TimelyGPT",
        title="retention and convolutions over long signals",
        what="A decoder whose attention is retention: no softmax, weights that fade with distance at a rate of each head's own, memory in proportion to the length. Four points are a token; "
        "a token predicts the four points of the next one. The authors predict tokens of their own trained convolutions instead, from which no series can be told: target=\"tokens\".",
        paper=PAPER,
        citation=CITATION,
        limits=f"It forecasts points, four at a time, so long forecasts are slow and errors grow. Its channels are fixed. {FAULT}",
        pipeline_tag="time-series-forecasting",
        tags=("timelygpt", "retention", "biosignals", "time-series"),
        snippet="batch = model.preprocess(series)  # an array (T,) or (C, T), a table, or a file\n"
        "print(model.forecast(batch, horizon=24).point)  # (1, C, 24)",
    ),
    "time_series/timelygpt-codes": SystemEntry(
        target="modalities.time_series.models.timelygpt_codes:TimelyGPTCodes",
        title="retention over codes at irregular times: which one comes next",
        what="A decoder over sequences of codes (of diagnoses, say) with the times of their visits, trained to say the next code. Retention fades with the time between two visits, not with "
        "their number.",
        paper=PAPER,
        citation=CITATION,
        limits=f"It knows the codes of its vocabulary only. When the next code comes is an input and is not predicted. What it says of a person is no diagnosis. {FAULT}",
        pipeline_tag="other",
        tags=("timelygpt", "retention", "ehr", "time-series"),
        snippet='batch = model.preprocess({{"code": [1, 3, 2], "time": [0.0, 4.0, 9.5]}})\nprint(model(batch).softmax(-1).shape)  # (1, 3, codes + 1)',
    ),
}

RECIPES = {f"time_series/timelygpt-{size}": f"modalities.time_series.recipes.decoders:timelygpt_{size.replace('-', '_')}" for size in ("base", "tiny", "codes-tiny")}
SMALL = dict(embed_dim=48, key_dim=48, value_dim=48, hidden_dim=96, depth=2, num_heads=4)

MODELS = [
    ModelEntry("time_series/timelygpt-base", "time_series/timelygpt", "TimelyGPT of the paper's size for signals of one channel: 4 blocks of width 200", 2_641_612),
    ModelEntry("time_series/timelygpt-tiny", "time_series/timelygpt", "TimelyGPT of our own size for tests and laptops: 2 blocks of width 48, 256 points", 62_700, {**SMALL, "context_length": 256}),
    ModelEntry("time_series/timelygpt-codes-tiny", "time_series/timelygpt-codes", "TimelyGPT of our own size for the 24 codes of generated visits", 62_377, {**SMALL, "codes": tuple(range(1, 25))}),
]
