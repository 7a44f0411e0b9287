"""The ECG classifier of CE-SSL and its sizes."""

from typing import Any

from modalities.registry import ModelEntry, SystemEntry

PAPER = "Zhou et al.: CE-SSL: Computation-Efficient Semi-Supervised Learning for ECG-based Cardiovascular Diseases Detection, 2024, arXiv 2406.14377"
CITATION = """@article{cessl2024,
  title   = {{CE-SSL}: Computation-Efficient Semi-Supervised Learning for {ECG}-based Cardiovascular Diseases Detection},
  author  = {Zhou and others},
  journal = {arXiv:2406.14377},
  year    = {2024}
}"""

SYSTEMS = {
    "time_series/ce-ssl": SystemEntry(
        target="modalities.time_series.models.ce_ssl:CESSL",
        title="ECG classifier with low-rank updates for fine-tuning on few labels",
        what="Convolutions and a causal transformer over twelve leads, with several yes-or-no answers per record. The authors pre-train it with labels on large sets; for a small set, only "
        "low-rank updates of its weights, all biases and the last layer are trained. A layer's update is left out at random in each pass, its rank follows from the gradients of a first "
        "pass, and records without labels take part in the statistics of batch norm, and in nothing else.",
        paper=PAPER,
        citation=CITATION,
        limits="It is no medical device. It says how likely each finding is that it was trained on, and of nothing else. Records must be prepared as in training: band-pass 1 to 47 Hz, each lead with "
        "mean 0 and deviation 1, cut or filled up to 6,144 points.",
        pipeline_tag="other",
        tags=("ce-ssl", "ecg", "lora", "semi-supervised", "time-series"),
        snippet="# record: (12, 6144), each lead with mean 0 and deviation 1\nlogits = model(model.preprocess(record))  # (1, {classes})\nprint(logits.sigmoid())",
        tasks={"classification": "time_series/ce-ssl"},
        weights_licence="mit",
    )
}

RECIPES = {"time_series/ce-ssl-tiny": "modalities.time_series.recipes.fields:ce_ssl_tiny"}
OFFICIAL = (
    "huggingface.co/KAZABANA/Foundation-Models-for-ECG-classification holds pickles of the three sizes: `zoo convert FILE --from official --to FOLDER`, which opens them only if they name nothing but tensors.",
)


def _ce_ssl(size: str, parameters: int, summary: str, **fields: Any) -> ModelEntry:
    return ModelEntry(f"time_series/ce-ssl-{size}", "time_series/ce-ssl", summary, parameters, fields, None, OFFICIAL if size != "tiny" else ())


MODELS = [
    _ce_ssl("base", 9_501_702, "CE-SSL base: 12 leads, width 256, 8 transformer blocks, 6 labels"),
    _ce_ssl("medium", 50_487_302, "CE-SSL medium: width 512, 12 transformer blocks", embed_dim=512, depth=12),
    _ce_ssl("large", 113_479_686, "CE-SSL large: width 768, 12 transformer blocks", embed_dim=768, depth=12),
    _ce_ssl("tiny", 66_532, "CE-SSL of our own size for tests and laptops: width 32, 1 transformer block, 4 labels", embed_dim=32, depth=1, longest=64, mask_length=16, num_classes=4),
]
