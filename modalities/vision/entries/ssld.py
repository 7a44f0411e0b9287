"""Students of timm that learn from a classifier without labels, and their sizes."""

from typing import Any

from modalities.registry import ModelEntry, SystemEntry

SYSTEMS = {
    "vision/ssld": SystemEntry(
        target="modalities.vision.models.timm_classifier:TimmClassifier",
        title="network of timm, distilled without labels",
        what="An image classifier with timm's architecture and code that learned, on images without labels, to say what a larger classifier says of the same "
        "augmented images. What it learned from is named in its recipe.",
        paper="Cui, Guo, Du, He, Li, Wu, Liu, Wen, Huang, Hu, Yu, Ding, Ma: Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve Backbones, 2021, arXiv 2103.05959",
        citation="""@article{cui2021ssld,
  title   = {Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve Backbones},
  author  = {Cui, Cheng and Guo, Ruoyu and Du, Yuning and He, Dongliang and Li, Fu and Wu, Zewu and Liu, Qiwen and Wen, Shilei and Huang, Jizhou and Hu, Xiaoguang and Yu, Dianhai and Ding, Errui and Ma, Yanjun},
  journal = {arXiv:2103.05959},
  year    = {2021}
}""",
        limits="It knows the classes of its teacher, makes its teacher's mistakes and adds its own, and is bound to the terms of its teacher's licence. The "
        "images of the paper, chosen from ImageNet-22k by a teacher, do not come with the recipe.",
        pipeline_tag="image-classification",
        tags=("distillation", "ssld", "timm"),
        snippet='logits = model(model.preprocess(["image.png"]))  # (1, {classes})\n'
        "print(logits.argmax(dim=1), model.config.class_names)",
        exports={"timm": "modalities.vision.timm_exporting:network_export"},
    ),
}

RECIPES = {
    "vision/ssld-resnet10-digits": "modalities.vision.recipes.ssld:ssld_resnet10_digits",
    "vision/ssld-resnet50d": "modalities.vision.recipes.ssld:ssld_resnet50d",
    "vision/ssld-mobilenetv3-large": "modalities.vision.recipes.ssld:ssld_mobilenetv3_large",
}


def _student(size: str, parameters: int, summary: str, **fields: Any) -> ModelEntry:
    return ModelEntry(f"vision/ssld-{size}", "vision/ssld", summary, parameters, fields)


MODELS = [
    _student("resnet10-digits", 4_927_186, "ResNet-10 of timm for 20 x 20 grey digits", architecture="resnet10t", input_size=(20, 20), in_chans=1, num_classes=10),
    _student("resnet50d", 25_576_264, "ResNet-50-D of timm, teacher ResNeXt-101 32x16d WSL", architecture="resnet50d"),
    _student("mobilenetv3-large", 5_483_032, "MobileNetV3-Large of timm, teacher the distilled ResNet-50-D", architecture="mobilenetv3_large_100"),
]
