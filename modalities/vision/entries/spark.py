"""SparK, and the convolutional networks that it pre-trains."""

from typing import Any

from modalities.registry import ModelEntry, SystemEntry

PAPER = "Tian, Jiang, Diao, Lin, Wang, Yuan: Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling, 2023, arXiv 2301.03580"
CITATION = """@inproceedings{tian2023spark,
  title     = {Designing {BERT} for Convolutional Networks: Sparse and Hierarchical Masked Modeling},
  author    = {Tian, Keyu and Jiang, Yi and Diao, Qishuai and Lin, Chen and Wang, Liwei and Yuan, Zehuan},
  booktitle = {International Conference on Learning Representations},
  year      = {2023}
}"""

RESNET = (
    "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, arXiv 1512.03385; and, of ConvNeXt: Liu, Mao, Wu, Feichtenhofer, "
    "Darrell, Xie: A ConvNet for the 2020s, 2022, arXiv 2201.03545"
)
RESNET_CITATION = """@article{he2015resnet,
  title   = {Deep Residual Learning for Image Recognition},
  author  = {He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian},
  journal = {arXiv:1512.03385},
  year    = {2015}
}"""

EXPORTS = {"timm": "modalities.vision.exporting_convnet:timm_export"}
TASKS = {"classification": "vision/convnet-classifier", "segmentation": "vision/convnet-segmenter"}

SYSTEMS = {
    "vision/spark": SystemEntry(
        target="modalities.vision.models.spark:SparK",
        title="masked auto-encoder for convolutional networks (SparK)",
        what="A ResNet or ConvNeXt that was trained, without labels, to fill in hidden parts of images. Places of 32 x 32 pixels are hidden and stay "
        "zero through all layers; learned tokens fill the holes in the maps of every resolution, and a small U-Net predicts the pixels. "
        "The backbone is then used for features or fine-tuned, as a plain network of timm.",
        paper=PAPER,
        citation=CITATION,
        limits="Features are learned from the images of the training set only and carry their biases. As a masked auto-encoder it is at its "
        "best when it is fine-tuned. Sides of images must be multiples of 32 pixels.",
        pipeline_tag="image-feature-extraction",
        tags=("masked-image-modeling", "spark", "cnn"),
        picture="From above: original, masked, reconstructed. Hidden places are drawn with their true mean and contrast, which the model does not predict",
        snippet='batch = model.preprocess(["image.png"])  # files, PIL images, arrays or tensors\n'
        "features = model.embed(batch)  # (1, {width})\n"
        "maps = model.maps(batch)  # four maps, at a 4th to a 32nd of the size",
        tasks=TASKS,
        exports=EXPORTS,
        weights_licence="mit",
    ),
    "vision/convnet": SystemEntry(
        target="modalities.vision.models.convnet:ConvNet",
        title="convolutional backbone",
        what="A ResNet or ConvNeXt without head, as a pre-training leaves it behind: Selfie (picking the right patch, Trinh et al. 2019, arXiv 1906.02940, "
        "which leaves the last stage untrained), LOOK (votes of nearest neighbours, Feng et al. 2022, arXiv 2110.06014), or SparK without its decoder.",
        paper=RESNET,
        citation=RESNET_CITATION,
        limits="Features are learned from the images of the training set only and carry their biases. Sides of images must be multiples of 32 pixels.",
        pipeline_tag="image-feature-extraction",
        tags=("cnn",),
        snippet='features = model.embed(model.preprocess(["image.png"]))  # (1, {width})',
        tasks=TASKS,
        exports=EXPORTS,
        weights_licence="mit",
    ),
    "vision/convnet-classifier": SystemEntry(
        target="modalities.vision.models.convnet:ConvNetClassifier",
        title="convolutional classifier, fine-tuned from a pre-trained backbone",
        what="A ResNet or ConvNeXt with a linear head that was trained on labelled images.",
        paper=RESNET,
        citation=RESNET_CITATION,
        limits="It knows only the classes that it was trained on and gives one of them for any image. Its accuracy holds for images that "
        "look like its training set.",
        pipeline_tag="image-classification",
        tags=("cnn",),
        picture="Test images with their label and the prediction",
        snippet='logits = model(model.preprocess(["image.png"]))  # (1, {classes})\n'
        "print(logits.argmax(dim=1), model.config.class_names)",
        headless={
            "what": "A ResNet or ConvNeXt without head that gives features, or starts a fine-tuning.",
            "limits": "Features are learned from the images of the training set only and carry their biases.",
            "pipeline_tag": "image-feature-extraction",
            "snippet": 'features = model.embed(model.preprocess(["image.png"]))  # (1, {width})',
        },
        tasks=TASKS,
        exports=EXPORTS,
    ),
}

SIZES = ("tiny", "resnet50", "resnet101", "resnet152", "resnet200", "convnext-small", "convnext-base", "convnext-large")
RECIPES = {f"vision/spark-{size}": f"modalities.vision.recipes.spark:spark_{size.replace('-', '_')}" for size in SIZES}
RECIPES |= {f"vision/{name}-{size}": f"modalities.vision.recipes.{name}:{name}_{size}" for name in ("selfie", "look") for size in ("tiny", "resnet50")}


def _spark(size: str, parameters: int, summary: str, **fields: Any) -> ModelEntry:
    official = (
        f"Of the authors (github.com/keyu-tian/SparK): `*_withdecoder_1kpretrained_spark_style.pth` for `vision/spark-{size}`, `*_timm_style.pth` or "
        "`*_official_style.pth` for the backbone alone, by `zoo convert FILE --from official --to FOLDER`.",
    )
    return ModelEntry(f"vision/spark-{size}", "vision/spark", summary, parameters, fields, official=official if size != "tiny" else ())


_SMALL = {"input_size": (96, 96), "in_chans": 1, "block": "basic", "depths": (1, 1, 1, 1), "widths": (16, 32, 64, 128)}
_CONVNEXT = {"block": "convnext", "densify_norm": "ln"}

MODELS = [
    _spark("tiny", 800_979, "SparK of our own size for tests and laptops: ConvNeXt, 96 x 96 grey",
           input_size=(96, 96), in_chans=1, depths=(1, 1, 2, 1), widths=(24, 48, 96, 192), decoder_width=64, **_CONVNEXT),
    _spark("resnet50", 52_921_835, "SparK for ResNet-50 at 224"),
    _spark("resnet101", 71_913_963, "SparK for ResNet-101 at 224", depths=(3, 4, 23, 3)),
    _spark("resnet152", 87_557_611, "SparK for ResNet-152 at 224", depths=(3, 8, 36, 3)),
    _spark("resnet200", 92_038_635, "SparK for ResNet-200 at 224", depths=(3, 24, 36, 3)),
    _spark("convnext-small", 74_383_083, "SparK for ConvNeXt-S at 224", depths=(3, 3, 27, 3), widths=(96, 192, 384, 768), **_CONVNEXT),
    _spark("convnext-base", 113_863_595, "SparK for ConvNeXt-B at 224", depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024), **_CONVNEXT),
    _spark("convnext-large", 224_083_755, "SparK for ConvNeXt-L at 224", depths=(3, 3, 27, 3), widths=(192, 384, 768, 1536), **_CONVNEXT),
    ModelEntry("vision/selfie-tiny", "vision/convnet", "Selfie for a ResNet of our own size, 96 x 96 grey, for tests and laptops", 318_304, _SMALL),
    ModelEntry("vision/selfie-resnet50", "vision/convnet", "Selfie for ResNet-50 at 224, patches of 32", 23_508_032),
    ModelEntry("vision/look-tiny", "vision/convnet", "LOOK for a ResNet of our own size, 96 x 96 grey, for tests and laptops", 318_304, _SMALL),
    ModelEntry("vision/look-resnet50", "vision/convnet", "LOOK for ResNet-50 at 224", 23_508_032),
]
