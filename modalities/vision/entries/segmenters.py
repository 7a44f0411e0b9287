"""Semantic segmentation on the encoders of other systems. Their names come with training: no size is registered."""

from functools import partial

from modalities.registry import SystemEntry
from modalities.vision.entries import mae, multimae, spark

WHAT = "{} that says the class of every pixel: an encoder that was pre-trained without labels, and a linear or a UPerNet-like head."
KNOWN = "It knows only the classes that it was trained on and gives one of them for every pixel. Its scores hold for pictures that look like its training set."
LIMITS = KNOWN + " A vision transformer sees patches: outlines are as fine as the patches allow, much finer only with the UPerNet-like head."
HEADS = " The UPerNet-like head follows Xiao et al.: Unified Perceptual Parsing for Scene Understanding, 2018, arXiv 1807.10221"
SNIPPET = 'logits = model(model.preprocess(["image.png"]))  # (1, {classes}, height, width)\nclasses = logits.argmax(dim=1)'

segmenter = partial(SystemEntry, pipeline_tag="image-segmentation", picture="Test pictures, their labels, and the classes that the model says")

SYSTEMS = {
    "vision/mae-segmenter": segmenter(
        target="modalities.vision.models.segmenters:ViTSegmenter",
        title="vision transformer for semantic segmentation",
        what=WHAT.format("A vision transformer"),
        paper=f"{mae.PAPER}.{HEADS}",
        citation=mae.CITATION,
        limits=LIMITS,
        tags=("segmentation", "mae", "vit"),
        snippet=SNIPPET,
        tasks={"segmentation": "vision/mae-segmenter"},
        weights_licence="cc-by-nc-4.0",
    ),
    "vision/multivit-segmenter": segmenter(
        target="modalities.vision.models.segmenters:MultiSegmenter",
        title="vision transformer over several inputs for semantic segmentation",
        what=WHAT.format("A vision transformer over a picture, a depth map, or both,"),
        paper=f"{multimae.PAPER}.{HEADS}",
        citation=multimae.CITATION,
        limits=LIMITS + " It needs all of the inputs that it was trained on.",
        tags=("segmentation", "multimae", "multi-modal", "vit"),
        snippet="logits = model(model.preprocess({inputs}))  # (1, {classes}, height, width)\nclasses = logits.argmax(dim=1)",
        tasks={"segmentation": "vision/multivit-segmenter"},
        weights_licence="cc-by-nc-4.0",
    ),
    "vision/convnet-segmenter": segmenter(
        target="modalities.vision.models.segmenters:ConvNetSegmenter",
        title="convolutional network for semantic segmentation",
        what=WHAT.format("A ResNet or ConvNeXt"),
        paper=f"{spark.RESNET}.{HEADS}",
        citation=spark.RESNET_CITATION,
        limits=KNOWN + " Sides of pictures must be multiples of 32 pixels; with the linear head outlines are as coarse as that.",
        tags=("segmentation", "cnn"),
        snippet=SNIPPET,
        tasks={"segmentation": "vision/convnet-segmenter"},
    ),
}
