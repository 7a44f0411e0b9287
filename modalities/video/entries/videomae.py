"""VideoMAE, what its encoder becomes, and their sizes."""

from typing import Any

from modalities.registry import ModelEntry, SystemEntry

PAPER = "Tong, Song, Wang, Wang: VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training, 2022, arXiv 2203.12602"
CITATION = """@inproceedings{tong2022videomae,
  title     = {{VideoMAE}: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training},
  author    = {Tong, Zhan and Song, Yibing and Wang, Jue and Wang, Limin},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022}
}"""

EXPORTS = {"transformers": "modalities.video.exporting:transformers_export"}

SYSTEMS = {
    "video/videomae": SystemEntry(
        target="modalities.video.models.videomae:VideoMAE",
        title="masked auto-encoder for video",
        what="A vision transformer over space and time that was trained, without labels, to fill in hidden parts of short clips. The same places of "
        "all frames are hidden (tubes), so that nothing can be copied from the next frame; the encoder sees the rest, and a small decoder predicts "
        "the pixels of what was hidden. The encoder is then used for features or fine-tuned.",
        paper=PAPER,
        citation=CITATION,
        limits="Features are learned from the videos of the training set only and carry their biases. It is at its best when it is fine-tuned; frozen "
        "features are weaker. It sees one short clip at a time: what happens before or after is not known to it.",
        pipeline_tag="video-classification",
        tags=("masked-video-modeling", "videomae", "vit", "video"),
        picture="From above, frame by frame: original, masked, reconstructed. With norm_pix_loss a hidden part is drawn with its true mean and contrast, which the model does not predict",
        snippet='batch = model.preprocess(["clip.npy"])  # video files, folders of frames, arrays or tensors\n'
        "features = model.embed(batch)  # (1, {width})\n"
        "tokens = model.tokens(batch)  # (1, {tokens}, {width})",
        tasks={"classification": "video/videomae-vit"},
        exports=EXPORTS,
        weights_licence="cc-by-nc-4.0",
    ),
    "video/videomae-vit": SystemEntry(
        target="modalities.video.models.vit:VideoClassifier",
        title="video classifier, fine-tuned from a masked auto-encoder",
        what="A vision transformer over space and time with a linear head that was trained on labelled videos, as the VideoMAE paper fine-tunes its encoders.",
        paper=PAPER,
        citation=CITATION,
        limits="It knows only the classes that it was trained on and gives one of them for any video. Its accuracy holds for videos that look like its "
        "training set, at the same frame rate.",
        pipeline_tag="video-classification",
        tags=("videomae", "vit", "video"),
        picture="Test clips with their label and the prediction, and below each what all patches attend to on average in the last block",
        snippet='logits = model(model.preprocess(["clip.npy"]))  # (1, {classes})\n'
        "print(logits.argmax(dim=1), model.config.class_names)",
        headless={
            "what": "The encoder of a masked auto-encoder for video without decoder and without head: a vision transformer that gives features, or starts a fine-tuning.",
            "limits": "Its frozen features are weaker than those of contrastive methods; it is at its best when it is fine-tuned.",
            "snippet": 'features = model.embed(model.preprocess(["clip.npy"]))  # (1, {width})',
        },
        tasks={"classification": "video/videomae-vit"},
        exports=EXPORTS,
        weights_licence="cc-by-nc-4.0",
    ),
}

RECIPES = {
    f"video/videomae-{size}": f"modalities.video.recipes.videomae:videomae_{size.replace('-', '_')}"
    for size in ("tiny-motion", "tiny", "small", "base", "large", "huge")
}


def _videomae(size: str, parameters: int, summary: str, **fields: Any) -> ModelEntry:
    return ModelEntry(f"video/videomae-{size}", "video/videomae", summary, parameters, fields, None, _official(size))


def _official(size: str) -> tuple[str, ...]:
    """Where the authors' weights of a size are, for those that the paper has."""
    if size not in ("small", "base", "large", "huge"):
        return ()
    return (
        f"github.com/MCG-NJU/VideoMAE links the pre-trained `checkpoint.pth` of this size: `zoo convert checkpoint.pth --from official --to FOLDER`. "
        f"In the layout of transformers: `zoo.from_pretrained(\"MCG-NJU/videomae-{size}{'' if size in ('base', 'large') else '-finetuned-kinetics'}\")`, from the Hub.",
    )


_TINY = dict(patch_size=(2, 4, 4), embed_dim=64, depth=4, num_heads=4, decoder_embed_dim=48, decoder_depth=1, decoder_num_heads=4)

MODELS = [
    _videomae("tiny", 242_160, "VideoMAE of our own size for tests and laptops, 8 frames of 32 x 32 RGB, tubelets of 2 x 4 x 4", input_size=(8, 32, 32), **_TINY),
    _videomae("tiny-motion", 288_200, "VideoMAE of our own size for the built-in set of moving discs, 8 frames of 16 x 16 grey, a position table by axes", input_size=(8, 16, 16), in_chans=1, position_layout="column-first", **{**_TINY, "embed_dim": 72}),
    _videomae("small", 24_029_376, "VideoMAE ViT-S, 16 frames of 224, tubelets of 2 x 16 x 16, decoder 192 x 4", embed_dim=384, num_heads=6, decoder_embed_dim=192, decoder_num_heads=3),
    _videomae("base", 94_210_944, "VideoMAE ViT-B, 16 frames of 224, tubelets of 2 x 16 x 16, decoder 384 x 4"),
    _videomae("large", 342_996_992, "VideoMAE ViT-L, 16 frames of 224, tubelets of 2 x 16 x 16, decoder 512 x 12", embed_dim=1024, depth=24, num_heads=16, decoder_embed_dim=512, decoder_depth=12, decoder_num_heads=8),
    _videomae("huge", 692_487_296, "VideoMAE ViT-H, 16 frames of 224, tubelets of 2 x 16 x 16, decoder 640 x 12", embed_dim=1280, depth=32, num_heads=16, decoder_embed_dim=640, decoder_depth=12, decoder_num_heads=8),
]
