"""ResNets and ConvNeXts for timm: which of its architectures holds a model, and the files that it loads."""

from pathlib import Path

import timm
from torch import Tensor

from modalities.common.exporting import Export, Run
from modalities.common.model import Model
from modalities.vision.exporting import TIMM_NUMBERS, TIMM_USAGE, folded, no_preprocess, write_timm
from modalities.vision.interop.spark import Fields, to_timm
from modalities.vision.models.convnet import ConvNetClassifier
from modalities.vision.preprocess import ImagePreprocess

ARCHITECTURES = {
    ("basic", (2, 2, 2, 2), (64, 128, 256, 512)): "resnet18",
    ("basic", (3, 4, 6, 3), (64, 128, 256, 512)): "resnet34",
    ("bottleneck", (3, 4, 6, 3), (64, 128, 256, 512)): "resnet50",
    ("bottleneck", (3, 4, 23, 3), (64, 128, 256, 512)): "resnet101",
    ("bottleneck", (3, 8, 36, 3), (64, 128, 256, 512)): "resnet152",
    ("convnext", (3, 3, 9, 3), (96, 192, 384, 768)): "convnext_tiny",
    ("convnext", (3, 3, 27, 3), (96, 192, 384, 768)): "convnext_small",
    ("convnext", (3, 3, 27, 3), (128, 256, 512, 1024)): "convnext_base",
    ("convnext", (3, 3, 27, 3), (192, 384, 768, 1536)): "convnext_large",
}
"""Block, depths and widths -> timm's name."""
NEAREST = {"basic": "resnet18", "bottleneck": "resnet50", "convnext": "convnext_tiny"}
"""The architecture as which any other size is written, with other arguments."""


def timm_export(model: Model, objective: Fields) -> Export:
    """For `timm.create_model("local-dir:FOLDER", pretrained=True)`: a ResNet or ConvNeXt with the backbone and, of a classifier, the head."""
    state = to_timm(model)
    c = model.config
    classes = c.num_classes if isinstance(model, ConvNetClassifier) else 0
    architecture = ARCHITECTURES.get((c.block, c.depths, c.widths))
    depths, widths = ("depths", "dims") if c.block == "convnext" else ("layers", "channels")
    arguments: Fields = {"in_chans": c.in_chans, "num_classes": classes, **({"drop_path_rate": c.drop_path} if c.drop_path else {})}
    if architecture is None:
        arguments |= {depths: list(c.depths), widths: list(c.widths)}
    preprocess = model.preprocess if isinstance(model.preprocess, ImagePreprocess) else None

    def write(folder: Path) -> None:
        write_timm(folder, architecture or NEAREST[c.block], arguments, state, model)

    def load(folder: Path) -> Run:
        theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

        def run(x: Tensor) -> dict[str, Tensor]:
            last = theirs.forward_features(x)
            found = {"features": theirs.forward_head(last, pre_logits=True), "tokens": last.flatten(2).transpose(1, 2)}
            return found | ({"logits": theirs.forward_head(last)} if classes else {})

        return run

    left_out = sorted({part for part in type(model).parts.values() if part not in ConvNetClassifier.parts.values()})
    return Export(
        "timm",
        write,
        load,
        TIMM_USAGE,
        tuple(f"the {part}, which only pre-training needs" for part in left_out),
        (*folded(model), *no_preprocess(preprocess, TIMM_NUMBERS)),
    )
