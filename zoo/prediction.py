"""`zoo predict`: a model on files."""

from functools import partial
from pathlib import Path

import tyro

from modalities import registry
from modalities.common import pretrained


def predict(
    name: tyro.conf.Positional[str], files: tyro.conf.Positional[tuple[Path, ...]], /, to: Path | None = None, attention: bool = False, size: str | None = None, horizon: int | None = None
) -> None:
    """Apply a model to files: a classifier names classes, a masked auto-encoder draws reconstructions, a segmenter writes a mask for each picture, a forecasting model
    writes a table and a picture of what comes, one of circuits a table and a picture of times and slacks, a model that only gives features draws its attention.

    Args:
        name: Folder or name of the model.
        files: Files to read.
        to: Where a picture or table goes. Default: reconstruction.png, segmentation.png, attention.png, forecast.csv with forecast.png, timing.csv with timing.png. Masks of a segmenter lie beside it.
        attention: Draw what the class token of a vision transformer looks at, whatever else the model can do.
        size: Of an elastic model the part to apply: small, base, large, or width_depth as in 384_12. Default: the whole.
        horizon: Steps ahead, of a forecasting model. Default: what is usual for the sampling interval of the series.
    """
    modality = pretrained.modality_of(name)
    if horizon is not None:
        apply = partial(registry.load_task(modality, "predict_ahead", "A horizon (--horizon)"), horizon=horizon)
    elif attention:
        apply = registry.load_task(modality, "predict_attention", "A picture of the attention (--attention)")
    else:
        apply = registry.load(f"modalities.{modality}.tasks:predict")
    print(apply(pretrained.load(name, size=size), list(files), to))
