"""The encoder of InternVideo-Next, what it becomes, its two stages of training, and their sizes."""

from typing import Any

from modalities.registry import ModelEntry, SystemEntry

PAPER = "Wang et al.: InternVideo-Next: Towards General Video Foundation Models without Video-Text Supervision, 2026, arXiv 2512.01342"
CITATION = """@article{wang2025internvideonext,
  title   = {{InternVideo-Next}: Towards General Video Foundation Models without Video-Text Supervision},
  author  = {Wang and others},
  journal = {arXiv:2512.01342},
  year    = {2025}
}"""
OURS = (
    "The encoder computes what the official code computes. The training is written from the paper and the released code, with details of our own: the predictor is "
    "made of plain transformer blocks unless ModernBERT is asked for, the shape of hidden blocks is drawn for each clip, any image encoder can be the teacher, "
    "and each decoder of stage 1 reads its own layer, where the released code reads one and the same."
)

SYSTEMS = {
    "video/internvideo-next": SystemEntry(
        target="modalities.video.models.internvideo_next:InternVideoNext",
        title="video encoder trained to predict pixels by diffusion and its own features, without labels or text",
        what="A vision transformer over space and time, trained in two stages without labels. In the first it sees a quarter of each frame, and a small diffusion model "
        "draws the hidden pixels from what a predictor says of them, while a frozen image encoder gives meaning. In the second it predicts what the frozen model of the first "
        f"stage says of hidden blocks. {OURS}",
        paper=PAPER,
        citation=CITATION,
        limits="Features are learned from the videos and the image teacher of the training only and carry their biases. The attention pooling is trained in stage 1 and "
        "left as it is in stage 2; `embed` gives the mean of the tokens. It sees one short clip at a time.",
        pipeline_tag="video-classification",
        tags=("internvideo-next", "jepa", "diffusion", "vit", "video"),
        snippet='batch = model.preprocess(["clip.npy"])  # video files, folders of frames, arrays or tensors\n'
        "features = model.embed(batch)  # (1, {width})\n"
        "tokens = model.tokens(batch)  # (1, {tokens}, {width})",
        tasks={"classification": "video/internvideo-next-classifier"},
    ),
    "video/internvideo-next-classifier": SystemEntry(
        target="modalities.video.models.internvideo_next_classifier:InternVideoNextClassifier",
        title="video classifier on the encoder of InternVideo-Next",
        what="The encoder of InternVideo-Next with a linear head on the mean or the attention pooling of its tokens, trained on labelled videos: whole, or as a probe "
        "on the frozen encoder.",
        paper=PAPER,
        citation=CITATION,
        limits="It knows only the classes that it was trained on and gives one of them for any video. Its accuracy holds for videos that look like its "
        "training set, at the same frame rate.",
        pipeline_tag="video-classification",
        tags=("internvideo-next", "vit", "video"),
        picture="Test clips with their label and the prediction",
        snippet='logits = model(model.preprocess(["clip.npy"]))  # (1, {classes})\n'
        "print(logits.argmax(dim=1), model.config.class_names)",
        tasks={"classification": "video/internvideo-next-classifier"},
    ),
}

RECIPES = {
    f"video/internvideo-next-{size}{ending}": f"modalities.video.recipes.internvideo_next:{stage}_{size.replace('-', '_')}"
    for size in ("tiny-motion", "base", "large", "1b")
    for stage, ending in (("stage1", ""), ("stage2", "-stage2"))
}
"""Stage 1 bears the name of the model that it makes."""


def _encoder(size: str, parameters: int, summary: str, **fields: Any) -> ModelEntry:
    return ModelEntry(f"video/internvideo-next-{size}", "video/internvideo-next", summary, parameters, fields, None, _official(size))


def _official(size: str) -> tuple[str, ...]:
    """Where the authors' weights of a size are, for those that were released."""
    if size not in ("base", "large"):
        return ()
    return (f"huggingface.co/revliter/internvideo_next_{size}_p14_res224_f16: `zoo convert FILE --from official --to FOLDER`, which takes the encoder's tensors and no others.",)


MODELS = [
    _encoder("tiny-motion", 223_264, "InternVideo-Next of our own size, 8 frames of 16 x 16 grey, patches of 2 x 4 x 4, for the built-in set of moving shapes", input_size=(8, 16, 16),
             patch_size=(2, 4, 4), in_chans=1, embed_dim=64, depth=4, num_heads=4, layer_scale=0.1, class_tokens=2, pool_heads=4, pool_dim=64),
    _encoder("base", 91_017_804, "InternVideo-Next ViT-B/14, 16 frames of 224"),
    _encoder("large", 311_034_188, "InternVideo-Next ViT-L/14, 16 frames of 224", embed_dim=1024, depth=24, num_heads=16),
    _encoder("1b", 1_023_602_636, "InternVideo-Next of 1 billion parameters, 16 frames of 224 in patches of 14", embed_dim=1408, depth=40, mlp_ratio=48 / 11, num_heads=16),
]  # fmt: skip
