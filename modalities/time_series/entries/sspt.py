"""SSPT and its sizes."""

from typing import Any

from modalities.registry import ModelEntry, SystemEntry

PAPER = "Pre-training Time Series Models with Stock Data Customization, KDD 2025, arXiv 2506.16746"
CITATION = """@inproceedings{sspt2025,
  title     = {Pre-training Time Series Models with Stock Data Customization},
  booktitle = {Proceedings of the ACM SIGKDD Conference on Knowledge Discovery and Data Mining},
  year      = {2025},
  note      = {arXiv:2506.16746}
}"""

SYSTEMS = {
    "time_series/sspt": SystemEntry(
        target="modalities.time_series.models.sspt:SSPT",
        title="small transformer for windows of stock features, pre-trained with the stocks' own facts",
        what="Two transformer layers without norms over the days of a window. It is pre-trained, without prices of the future, to tell the stock and its sector from a window and to say the "
        "mean close when a part of the days is hidden; then fine-tuned to say the next close, so that the stocks of a day are put into the order of their returns.",
        paper=PAPER,
        citation=CITATION,
        limits="What it says is no advice: past prices hardly tell those of tomorrow, and costs of trading are not in any figure. It knows only the stocks that it was trained on. "
        "The authors' code scales each stock by its maximum over all dates, those of the test included, and has a fault in the term of the order; ours scales by the dates of training "
        "and has the term as it is meant, and offers theirs for comparisons.",
        pipeline_tag="time-series-forecasting",
        tags=("sspt", "stocks", "transformer", "time-series"),
        snippet="# features: (stocks, features, days), as modalities.time_series.stocks makes them of prices, the close last\n"
        "print(model.embed(model.preprocess(features)).shape)  # (stocks, {width})",
    )
}

RECIPES = {f"time_series/sspt-{size}": f"modalities.time_series.recipes.fields:sspt_{size.replace('-', '_')}" for size in ("nasdaq", "tiny", "tiny-stage2")}


def _sspt(size: str, parameters: int, summary: str, **fields: Any) -> ModelEntry:
    return ModelEntry(f"time_series/sspt-{size}", "time_series/sspt", summary, parameters, fields)


MODELS = [
    _sspt("base", 398_465, "SSPT of the paper: five features of the close over 16 days, width 128, without the heads of pre-training"),
    _sspt("nasdaq", 545_396, "sspt-base with heads for pre-training on the 1,026 stocks and 112 sectors of NASDAQ", num_stocks=1026, num_sectors=112, average_price=1),
    _sspt("tiny", 26_351, "SSPT of our own size, with heads for 10 generated stocks in 3 sectors", embed_dim=32, num_stocks=10, num_sectors=3, average_price=1),
]
