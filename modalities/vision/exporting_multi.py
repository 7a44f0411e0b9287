"""MultiMAE's encoder for RGB, and its classifier, for timm."""

from pathlib import Path

from torch import Tensor

from modalities.common.exporting import Export, Run
from modalities.vision.exporting import TIMM_NUMBERS, TIMM_USAGE, folded, no_preprocess, timm_run, timm_sizes, write_timm
from modalities.vision.interop.mae import Fields
from modalities.vision.interop.multimae import to_timm
from modalities.vision.models.multi_input import MultiInputEncoder
from modalities.vision.models.multivit import MultiViT
from modalities.vision.pictures_maps import picture_of


def timm_export(model: MultiInputEncoder, objective: Fields) -> Export:
    """For `timm.create_model("local-dir:FOLDER", pretrained=True)`: a VisionTransformer that pools all tokens, the global one as its class token."""
    c, state = model.config, to_timm(model)
    classifier = isinstance(model, MultiViT)
    architecture, sizes = timm_sizes(c)
    arguments = {
        **sizes,
        "num_classes": c.num_classes if classifier else 0,
        "global_pool": "avg",
        "pool_include_prefix": True,
        **({"drop_path_rate": c.drop_path} if c.drop_path else {}),
        **({} if classifier else {"fc_norm": False, "final_norm": False}),  # nothing is normed after the last block
    }
    preprocess = picture_of(model.preprocess) if model.preprocess is not None else None

    def write(folder: Path) -> None:
        write_timm(folder, architecture, arguments, state, model)

    def load(folder: Path) -> Run:
        theirs = timm_run(folder)

        def run(x: Tensor) -> dict[str, Tensor]:
            found = theirs(x)
            return {**found, "tokens": found["tokens"].roll(-1, dims=1)}  # the global token comes last

        return run

    others = tuple(f"the input {domain}" for domain in c.in_domains if domain != "rgb")
    left_out = others if classifier else (*others, "the decoders, which only pre-training needs")
    notes = ("the global token, last here, is timm's class token, which comes first", *folded(model), *no_preprocess(preprocess, TIMM_NUMBERS))
    return Export("timm", write, load, TIMM_USAGE, left_out, notes)
