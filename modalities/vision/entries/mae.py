"""The masked auto-encoder, what its encoder becomes, and their sizes."""

from typing import Any

from modalities.registry import ModelEntry, SystemEntry

PAPER = "He, Chen, Xie, Li, Dollar, Girshick: Masked Autoencoders Are Scalable Vision Learners, 2021, arXiv 2111.06377"
CITATION = """@article{he2021mae,
  title   = {Masked Autoencoders Are Scalable Vision Learners},
  author  = {He, Kaiming and Chen, Xinlei and Xie, Saining and Li, Yanghao and Doll{\\'a}r, Piotr and Girshick, Ross},
  journal = {arXiv:2111.06377},
  year    = {2021}
}"""

TASKS = {"classification": "vision/mae-vit", "segmentation": "vision/mae-segmenter"}
EXPORTS = {
    "timm": "modalities.vision.exporting:timm_export",
    "transformers": "modalities.vision.exporting:transformers_export",
}

SYSTEMS = {
    "vision/mae": SystemEntry(
        target="modalities.vision.models.mae:MAE",
        title="masked auto-encoder",
        what="A vision transformer that was trained, without labels, to fill in hidden patches of images. Most patches of an "
        "image are removed; the encoder sees the rest, and a small decoder predicts the pixels of what was removed. The encoder "
        "is then used for features or fine-tuned.",
        paper=PAPER,
        citation=CITATION,
        limits="Features are learned from the images of the training set only and carry their biases. A masked auto-encoder is at its "
        "best when it is fine-tuned; its frozen features are weaker than those of contrastive methods. Images of another size than the "
        "model's are resized by `model.preprocess`.",
        pipeline_tag="image-feature-extraction",
        tags=("masked-image-modeling", "mae", "vit"),
        picture="From above: original, masked, reconstructed. With norm_pix_loss a hidden patch is drawn with its true mean and contrast, which the model does not predict",
        snippet='batch = model.preprocess(["image.png"])  # files, PIL images, arrays or tensors\n'
        "features = model.embed(batch)  # (1, {width})\n"
        "tokens = model.tokens(batch)  # (1, {tokens}, {width}), class token first",
        tasks=TASKS,
        exports=EXPORTS,
        weights_licence="cc-by-nc-4.0",
    ),
    "vision/mae-vit": SystemEntry(
        target="modalities.vision.models.vit:ViTClassifier",
        title="vision transformer classifier, fine-tuned from a masked auto-encoder",
        what="A vision transformer with a linear head that was trained on labelled images, as the MAE paper fine-tunes its encoders.",
        paper=PAPER,
        citation=CITATION,
        limits="It knows only the classes that it was trained on and gives one of them for any image. Its accuracy holds for images that "
        "look like its training set.",
        pipeline_tag="image-classification",
        tags=("mae", "vit"),
        picture="Test images with their label and the prediction",
        snippet='logits = model(model.preprocess(["image.png"]))  # (1, {classes})\n'
        "print(logits.argmax(dim=1), model.config.class_names)",
        headless={
            "what": "The encoder of a masked auto-encoder without decoder and without head: a vision transformer that gives features, or starts a fine-tuning.",
            "limits": "Its frozen features are weaker than those of contrastive methods; it is at its best when it is fine-tuned.",
            "pipeline_tag": "image-feature-extraction",
            "snippet": 'features = model.embed(model.preprocess(["image.png"]))  # (1, {width})',
        },
        tasks=TASKS,
        exports=EXPORTS,
        weights_licence="cc-by-nc-4.0",
    ),
}

RECIPES = {
    "vision/mae-tiny-digits": "modalities.vision.recipes.mae:mae_tiny_digits",
    "vision/mae-tiny": "modalities.vision.recipes.mae:mae_tiny",
    "vision/mae-small": "modalities.vision.recipes.mae:mae_small",
    "vision/mae-base": "modalities.vision.recipes.mae:mae_base",
    "vision/mae-large": "modalities.vision.recipes.mae:mae_large",
    "vision/mae-huge": "modalities.vision.recipes.mae:mae_huge",
}


def _mae(size: str, parameters: int, summary: str, weights: str | None = None, **fields: Any) -> ModelEntry:
    return ModelEntry(f"vision/mae-{size}", "vision/mae", summary, parameters, fields, weights, _official(size))


def _official(size: str) -> tuple[str, ...]:
    """Where the authors' weights of a size are, for those that the paper has."""
    if size not in ("base", "large", "huge"):
        return ()
    return (
        f'With decoder: `zoo.from_pretrained("facebook/vit-mae-{size}")`, from the Hub.',
        f"The encoder alone: `mae_pretrain_vit_{size}.pth` of github.com/facebookresearch/mae, by "
        f"`zoo convert mae_pretrain_vit_{size}.pth --from official --to FOLDER`.",
    )


_TINY = dict(
    patch_size=(4, 4), embed_dim=64, depth=4, num_heads=4, decoder_embed_dim=48, decoder_depth=1, decoder_num_heads=4
)  # fmt: skip

MODELS = [
    _mae("tiny", 244_432, "MAE of our own size for tests and laptops, 32 x 32 RGB, patches of 4", input_size=(32, 32), **_TINY),
    _mae("tiny-digits", 236_448, "mae-tiny for 20 x 20 grey, pre-trained on cluttered digits", "pretrained/mae-tiny-digits", input_size=(20, 20), in_chans=1, **_TINY),
    _mae("small", 28_663_936, "MAE ViT-S/16 at 224, decoder 512 x 2 (as the thorax recipe)", embed_dim=384, num_heads=6, decoder_depth=2),
    _mae("base", 111_907_840, "MAE ViT-B/16 at 224, decoder 512 x 8"),
    _mae("large", 329_541_888, "MAE ViT-L/16 at 224, decoder 512 x 8", embed_dim=1024, depth=24, num_heads=16),
    _mae("huge", 657_074_508, "MAE ViT-H/14 at 224, decoder 512 x 8", patch_size=(14, 14), embed_dim=1280, depth=32, num_heads=16),
]
