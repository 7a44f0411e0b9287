"""MultiMAE, what its encoder becomes, and their sizes."""

from modalities.registry import ModelEntry, SystemEntry

PAPER = "Bachmann, Mizrahi, Atanov, Zamir: MultiMAE: Multi-modal Multi-task Masked Autoencoders, 2022, arXiv 2204.01678"
CITATION = """@article{bachmann2022multimae,
  title   = {{MultiMAE}: Multi-modal Multi-task Masked Autoencoders},
  author  = {Bachmann, Roman and Mizrahi, David and Atanov, Andrei and Zamir, Amir},
  journal = {arXiv:2204.01678},
  year    = {2022}
}"""
EXPORTS = {"timm": "modalities.vision.exporting_multi:timm_export"}
TASKS = {"classification": "vision/multivit", "segmentation": "vision/multivit-segmenter"}

SYSTEMS = {
    "vision/multimae": SystemEntry(
        target="modalities.vision.models.multimae:MultiMAE",
        title="multi-modal multi-task masked auto-encoder",
        what="A vision transformer that was trained to fill in hidden patches of several aligned pictures of a scene: colour, depth and the classes of a "
        "segmentation. A few patches, shared among the inputs at random, go through one encoder; a small decoder for each output predicts the rest. "
        "The encoder is then fine-tuned on any of the inputs, and the decoders can guess a picture's depth and classes.",
        paper=PAPER,
        citation=CITATION,
        limits="Depth and segmentation may be pseudo-labels of other networks (as in the paper), whose mistakes are then learned. Depth is standardised image by "
        "image: it has neither unit nor zero, so distances cannot be read off. Class ids mean what they meant in training.",
        pipeline_tag="image-feature-extraction",
        tags=("masked-image-modeling", "multimae", "multi-modal", "depth", "segmentation"),
        picture="Each row shows a scene: the inputs, and what is predicted of everything from each input alone",
        snippet='batch = model.preprocess({inputs})  # files, PIL images, arrays or tensors; any of these inputs will do\n'
        "features = model.embed(batch)  # (1, {width})\n"
        "guesses = model.cross_predict(batch)  # every output as a map, by name",
        tasks=TASKS,
        exports=EXPORTS,
        weights_licence="cc-by-nc-4.0",
    ),
    "vision/multivit": SystemEntry(
        target="modalities.vision.models.multivit:MultiViT",
        title="vision transformer classifier over several inputs, fine-tuned from MultiMAE",
        what="A vision transformer with a linear head that was trained on labelled images, with or without depth and segmentation beside them.",
        paper=PAPER,
        citation=CITATION,
        limits="It knows only the classes that it was trained on and gives one of them for any image. It needs all of the inputs that it was trained on.",
        pipeline_tag="image-classification",
        tags=("multimae", "multi-modal", "vit"),
        picture="Test images with their label and the prediction",
        snippet="logits = model(model.preprocess({inputs}))  # (1, {classes})",
        headless={
            "title": "vision transformer over several inputs",
            "what": "The encoder of a MultiMAE, without a head.",
            "limits": "It gives features only; a head has to be trained.",
            "pipeline_tag": "image-feature-extraction",
            "snippet": "features = model.embed(model.preprocess({inputs}))  # (1, {width})",
        },
        tasks=TASKS,
        exports=EXPORTS,
        weights_licence="cc-by-nc-4.0",
    ),
}

RECIPES = {
    "vision/multimae-tiny-digits": "modalities.vision.recipes.multimae:multimae_tiny_digits",
    "vision/multimae-tiny": "modalities.vision.recipes.multimae:multimae_tiny",
    "vision/multimae-base": "modalities.vision.recipes.multimae:multimae_base",
    "vision/multimae-large": "modalities.vision.recipes.multimae:multimae_large",
}

_TINY = dict(patch_size=(4, 4), embed_dim=64, depth=4, num_heads=4, dim_class_emb=16, decoder_dim=48, decoder_depth=1, decoder_num_heads=4, semseg_stride=2)
_OFFICIAL = (
    "They are on the releases page of github.com/EPFL-VILAB/MultiMAE (`multimae-b_98_rgb+-depth-semseg_1600e_multivit-*.pth`), for "
    "`zoo convert FILE.pth --from official --to FOLDER`.",
)

MODELS = [
    ModelEntry("vision/multimae-tiny", "vision/multimae", "MultiMAE of our own size for tests and laptops, 32 x 32 RGB, depth and 20 classes", 482_496,
               dict(input_size=(32, 32), semseg_classes=20, **_TINY)),
    ModelEntry("vision/multimae-tiny-digits", "vision/multimae", "multimae-tiny for 20 x 20 grey and synthetic depth (the built-in cluttered digits)", 391_040,
               dict(input_size=(20, 20), in_chans=1, in_domains=("rgb", "depth"), out_domains=("rgb", "depth", "norm_rgb"), semseg_classes=3, **_TINY)),
    ModelEntry("vision/multimae-base", "vision/multimae", "MultiMAE ViT-B/16 at 224: RGB, depth, 133 classes; decoders 256 x 2", 98_569_360, official=_OFFICIAL),
    ModelEntry("vision/multimae-large", "vision/multimae", "MultiMAE ViT-L/16 at 224: RGB, depth, 133 classes; decoders 256 x 2", 316_762_256,
               dict(embed_dim=1024, depth=24, num_heads=16)),
]  # fmt: skip
