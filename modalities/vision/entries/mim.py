"""Other ways to train a masked auto-encoder: the same network under names of their own, with the words that differ."""

from typing import Any

from modalities.registry import ModelEntry
from modalities.vision.entries import mae

MIMIC = {
    "title": "masked auto-encoder that mimics a teacher",
    "what": "A vision transformer that was trained, without labels, to fill in hidden patches of images and, at the same time, to say at the "
    "visible patches what a frozen teacher says of the whole image there. The encoder is then used for features or fine-tuned.",
    "paper": "Gao, Zhang, Fang, Lin, Li, Li, Qiao, Li: Mimic before Reconstruct: Enhancing Masked Autoencoders with Feature Mimicking, 2023, arXiv 2303.05475",
    "citation": """@article{gao2023mimic,
  title   = {Mimic before Reconstruct: Enhancing Masked Autoencoders with Feature Mimicking},
  author  = {Gao, Peng and Zhang, Renrui and Fang, Rongyao and Lin, Ziyi and Li, Hongyang and Li, Hongsheng and Yu, Qiao},
  journal = {arXiv:2303.05475},
  year    = {2023}
}""",
    "limits": "It learns what its teacher knows, with the teacher's biases and the terms of the teacher's licence. This is the plain vision "
    "transformer, without the convolution stages with which the paper reaches its best number; the authors released no code for "
    "training and no weights of the plain one, so the kind of distance and the norm of the target are ours. Images of another size than the model's are resized by `model.preprocess`.",
}
FURTHER = {
    "title": "masked auto-encoder, further pre-trained with self-distillation",
    "what": "A masked auto-encoder whose pre-training went on, without labels, on the images of one field, twice from the same start: the first "
    "became a teacher, and the second stayed near the teacher's features of the whole image while it went on in the same way.",
    "paper": "Lee, Kang, Lee, Hwang, Kawaguchi: Self-Distillation for Further Pre-training of Transformers, ICLR 2023, arXiv 2210.02871",
    "citation": """@inproceedings{lee2023selfdistillation,
  title     = {Self-Distillation for Further Pre-training of Transformers},
  author    = {Lee, Seanie and Kang, Minki and Lee, Juho and Hwang, Sung Ju and Kawaguchi, Kenji},
  booktitle = {ICLR},
  year      = {2023}
}""",
    "limits": "It is made for the images that it was further trained on and says less of others. The weights that it began with have a licence of "
    "their own, which goes on to hold. Images of another size than the model's are resized by `model.preprocess`.",
}
THORAX = {
    "title": "masked auto-encoder for chest X-rays",
    "what": "A vision transformer that was trained, without labels, to fill in hidden patches of chest X-rays. Nine patches in ten are hidden, since "
    "X-rays of the thorax are alike, and crops are mild. The encoder is then fine-tuned to name findings.",
    "paper": "Xiao, Bai, Yuille, Zhou: Delving into Masked Autoencoders for Multi-Label Thorax Disease Classification, WACV 2023, arXiv 2210.12843",
    "citation": """@inproceedings{xiao2023delving,
  title     = {Delving into Masked Autoencoders for Multi-Label Thorax Disease Classification},
  author    = {Xiao, Junfei and Bai, Yutong and Yuille, Alan and Zhou, Zongwei},
  booktitle = {WACV},
  year      = {2023}
}""",
    "limits": "It is no medical device. Features are learned from the X-rays of the training set only and carry the biases of its hospitals, machines "
    "and patients. Images of another size than the model's are resized by `model.preprocess`.",
}

RECIPES = {
    "vision/mrmae-tiny-digits": "modalities.vision.recipes.mrmae:mrmae_tiny_digits",
    "vision/mrmae-base": "modalities.vision.recipes.mrmae:mrmae_base",
    "vision/mae-tiny-digits-further": "modalities.vision.recipes.further:mae_tiny_digits_further",
    "vision/mae-base-further": "modalities.vision.recipes.further:mae_base_further",
    "vision/mae-small-thorax": "modalities.vision.recipes.thorax:mae_small_thorax",
    "vision/mae-base-thorax": "modalities.vision.recipes.thorax:mae_base_thorax",
}


def _variant(name: str, of: str, summary: str, words: dict[str, Any]) -> ModelEntry:
    """The network of another registered name, trained otherwise."""
    plain = next(entry for entry in mae.MODELS if entry.name == of)
    return ModelEntry(name, plain.system, summary, plain.parameters, plain.fields, words=words)


MODELS = [
    _variant("vision/mrmae-tiny-digits", "vision/mae-tiny-digits", "mae-tiny for digits, whose teacher is the bundled mae-tiny-digits", MIMIC),
    _variant("vision/mrmae-base", "vision/mae-base", "MR-MAE ViT-B/16 at 224, teacher CLIP ViT-B/16", MIMIC),
    _variant("vision/mae-tiny-digits-further", "vision/mae-tiny-digits", "mae-tiny-digits, further pre-trained with self-distillation", FURTHER),
    _variant("vision/mae-base-further", "vision/mae-base", "MAE ViT-B/16, further pre-trained with self-distillation", FURTHER),
    _variant("vision/mae-small-thorax", "vision/mae-small", "MAE ViT-S/16 for chest X-rays, decoder 512 x 2", THORAX),
    _variant("vision/mae-base-thorax", "vision/mae-base", "MAE ViT-B/16 for chest X-rays, decoder 512 x 8", THORAX),
]
