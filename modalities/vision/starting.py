"""What fine-tuning on images starts with: see `modalities.common.starting`; and the preprocessing for the inputs that shall be read."""

from modalities.common.model import Model
from modalities.common.starting import starting_point
from modalities.vision.data import ImageSet, preprocess_for
from modalities.vision.models.multi_input import MultiInputEncoder, require_domains
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.preprocess_paired import PairedPreprocess


def starting_encoder(
    name: str, task: str, data: ImageSet, inputs: tuple[str, ...], size: str | None = None, scratch: bool = False
) -> tuple[Model, type[Model], ImagePreprocess | PairedPreprocess]:
    """Encoder and class of `starting_point`, and the preprocessing for `inputs`. ConfigError when the encoder does not read them."""
    encoder, target = starting_point(name, task, "image", size, scratch)
    c, several = encoder.config, isinstance(encoder, MultiInputEncoder)
    require_domains("inputs", inputs, c.in_domains if several else ("rgb",))
    preprocess = encoder.preprocess or preprocess_for(data, c.input_size, c.in_chans, paired=task == "segmentation" or inputs != ("rgb",))
    if several:
        image = preprocess.image if isinstance(preprocess, PairedPreprocess) else preprocess
        names = getattr(preprocess, "semseg_names", ())
        preprocess = image if inputs == ("rgb",) else PairedPreprocess(image, inputs, c.semseg_classes, c.semseg_stride, names)
    return encoder, target, preprocess
