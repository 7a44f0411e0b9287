"""The elastic network of POA, the plain vision transformers that are its parts, and their sizes."""

from modalities.registry import ModelEntry, SystemEntry

PAPER = (
    "Zhang, Guo, Lao, Yu, Ru, Wang, Ye, He, Chen, Yang: POA: Pre-training Once for Models of All Sizes, ECCV 2024, arXiv 2408.01031"
)
CITATION = """@inproceedings{zhang2024poa,
  title     = {{POA}: Pre-training Once for Models of All Sizes},
  author    = {Zhang, Yingying and Guo, Xin and Lao, Jiangwei and Yu, Lei and Ru, Lixiang and Wang, Jian and Ye, Guo and He, Huimei and Chen, Jingdong and Yang, Ming},
  booktitle = {European Conference on Computer Vision},
  year      = {2024}
}"""
LIMITS = (
    "Features are learned from the images of the training set only and carry their biases. What two crops of one picture have in common is what is "
    "learned, so small things beside the main one may be missed. Images of another size than the model's are resized by `model.preprocess`."
)
FEATURES = "features = model.embed(model.preprocess([\"image.png\"]))  # (1, {width}), the class token"
EXPORTS = {"timm": "modalities.vision.exporting:timm_export", "transformers": "modalities.vision.exporting:transformers_export"}

SYSTEMS = {
    "vision/poa": SystemEntry(
        target="modalities.vision.models.poa:POA",
        title="elastic vision transformer, pre-trained once for all sizes",
        what="A vision transformer that was trained, without labels, so that its first channels and an even choice of its blocks are good networks of "
        "their own. Several crops of a picture are shown to a teacher (a slow average of the network), to the whole network and, in each step, to another "
        "part of it; both learn to say what the teacher says, and the part also what the whole says. A part of any size is then cut out.",
        paper=PAPER,
        citation=CITATION,
        limits=LIMITS,
        pipeline_tag="image-feature-extraction",
        tags=("poa", "self-distillation", "vit"),
        picture="What the class token looks at in the last block: the image, the mean of all heads laid over it, single heads",
        snippet=FEATURES,
        tasks={"classification": "vision/poa-vit"},
        exports=EXPORTS,
    ),
    "vision/poa-vit": SystemEntry(
        target="modalities.vision.models.poa_vit:POAViT",
        title="vision transformer classifier, fine-tuned from a part of a POA network",
        what="A vision transformer with a linear head that was trained on labelled images, beginning as a part of a POA network of its size.",
        paper=PAPER,
        citation=CITATION,
        limits="It knows only the classes that it was trained on and gives one of them for any image. Its accuracy holds for images that "
        "look like its training set.",
        pipeline_tag="image-classification",
        tags=("poa", "vit"),
        picture="Test images with their label and the prediction",
        snippet='logits = model(model.preprocess(["image.png"]))  # (1, {classes})\n'
        "print(logits.argmax(dim=1), model.config.class_names)",
        headless={
            "what": "A part of a POA network as a plain vision transformer without head. It was trained, without labels, together with parts of many other "
            "sizes. It gives features, or starts a fine-tuning.",
            "limits": LIMITS,
            "pipeline_tag": "image-feature-extraction",
            "snippet": FEATURES,
        },
        tasks={"classification": "vision/poa-vit", "segmentation": "vision/mae-segmenter"},
        exports=EXPORTS,
    ),
}

RECIPES = {
    "vision/poa-tiny-digits": "modalities.vision.recipes.poa:poa_tiny_digits",
    "vision/poa-tiny": "modalities.vision.recipes.poa:poa_tiny",
    "vision/poa-large": "modalities.vision.recipes.poa:poa",
}

_TINY = dict(
    embed_dim=64, depth=4, head_dim=16, min_embed_dim=32, min_depth=2, layer_scale=None, init_std=0.1, prototypes=(32, 64), head_hidden_dim=128, head_bottleneck_dim=32
)  # fmt: skip

MODELS = [
    ModelEntry("vision/poa-tiny", "vision/poa", "POA of our own size for tests, 32 x 32 RGB, widths 32 to 64, depths 2 to 4", 268_576, {"input_size": (32, 32), "patch_size": (4, 4), **_TINY}),
    ModelEntry("vision/poa-tiny-digits", "vision/poa", "poa-tiny for 20 x 20 grey, the built-in digits", 264_032, {"input_size": (20, 20), "patch_size": (5, 5), "in_chans": 1, **_TINY}),
    ModelEntry(
        "vision/poa-large", "vision/poa", "POA at 224, patches of 16: ViT-L down to ViT-S, 143 sizes, with its heads", 362_212_352,
        official=("The teacher of a training run of github.com/alipay/POA: `zoo convert teacher_checkpoint.pth --from official --to FOLDER`.",),
    ),
]  # fmt: skip
