"""Vision transformers for timm and transformers: which of their classes holds a model, and the files that they load.

Weights are written under the names that are on the Hub for each class, so that older versions of the libraries read them as well.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from modalities.common.exporting import Export, Run, in_transformers, quiet, transformers_files, transformers_library
from modalities.common.interop import transformers_fields
from modalities.common.model import Model
from modalities.common.vit import ViTEncoder
from modalities.vision.interop.mae import Fields, State, to_layout, to_timm, to_transformers
from modalities.vision.models.mae import MAE
from modalities.vision.models.poa import POA
from modalities.vision.models.vit import ViTClassifier
from modalities.vision.preprocess import ImagePreprocess
from trainer.errors import ModelError

ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu",
    "relu": "relu", "silu": "silu", "swish": "silu",
}  # fmt: skip
"""Our activations -> timm's names."""
ARCHITECTURES = {
    (192, 12, 3, 16): "vit_tiny_patch16_224",
    (384, 12, 6, 16): "vit_small_patch16_224",
    (768, 12, 12, 16): "vit_base_patch16_224",
    (1024, 24, 16, 16): "vit_large_patch16_224",
    (1280, 32, 16, 14): "vit_huge_patch14_224",
}
"""Width, depth, heads and patch -> timm's name. Any other size is written as the base model with other arguments."""
TIMM_EPS = 1e-6
"""Epsilon of the norms of timm's vision transformers, which no argument changes."""
TIMM_USAGE = (
    'import timm\n\nmodel = timm.create_model("local-dir:PLACE", pretrained=True).eval()  # hf-hub:NAMESPACE/NAME, once it is on the Hub\n'
    "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))"
)
"""Lines that use what was written for timm."""
TIMM_NUMBERS = "timm's own numbers stand in config.json"
RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}
"""Pillow's numbers."""


def timm_export(model: Model, objective: Fields) -> Export:
    """For `timm.create_model("local-dir:FOLDER", pretrained=True)`: a VisionTransformer with the encoder, the pooling and the head."""
    left_out, model = _left_out(model), model.part()
    c = _encoder(model, "timm's VisionTransformer").config
    if c.norm_eps > TIMM_EPS:
        raise ModelError(f"timm's VisionTransformer norms with an epsilon of {TIMM_EPS:g}, this model with norm_eps={c.norm_eps:g}, so it cannot hold it.")
    classifier = isinstance(model, ViTClassifier)
    architecture, sizes = timm_sizes(c)
    arguments = {
        **sizes,
        "num_classes": c.num_classes if classifier else 0,
        "global_pool": c.pool if classifier else "avg",
        **({} if c.qkv_bias else {"qkv_bias": False}),
        **({} if c.class_token else {"class_token": False}),
        **({} if c.activation == "gelu" else {"act_layer": ACTIVATIONS[c.activation]}),
        **({"drop_path_rate": c.drop_path} if c.drop_path else {}),
        **({"init_values": c.layer_scale} if c.layer_scale is not None else {}),
        **({} if classifier else {"fc_norm": False}),  # the mean of normed tokens, as `embed` gives it
    }
    state = _plain_head(model)
    preprocess = model.preprocess if isinstance(model.preprocess, ImagePreprocess) else None

    def write(folder: Path) -> None:
        write_timm(folder, architecture, arguments, state, model)

    return Export(
        "timm",
        write,
        timm_run,
        TIMM_USAGE,
        left_out,
        (*folded(model), *_other_eps(c.norm_eps), *no_preprocess(preprocess, TIMM_NUMBERS)),
    )


def timm_sizes(c: Any) -> tuple[str, Fields]:
    """The name in timm of the architecture that comes nearest to a config, and the sizes of the config as arguments."""
    sizes = {
        "img_size": list(c.input_size),
        "patch_size": c.patch_size[0] if len(set(c.patch_size)) == 1 else list(c.patch_size),
        "in_chans": c.in_chans,
        "embed_dim": c.embed_dim,
        "depth": c.depth,
        "num_heads": c.num_heads,
        "mlp_ratio": c.mlp_ratio,
    }
    return ARCHITECTURES.get((c.embed_dim, c.depth, c.num_heads, c.patch_size[0]), "vit_base_patch16_224"), sizes


def timm_run(folder: Path) -> Run:
    """Open a vision transformer that was written for timm, as timm's users do."""
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

    def run(x: Tensor) -> dict[str, Tensor]:
        tokens = theirs.forward_features(x)
        found = {"features": theirs.forward_head(tokens, pre_logits=True), "tokens": tokens}
        return found | ({"logits": theirs.forward_head(tokens)} if theirs.num_classes else {})

    return run


def write_timm(folder: Path, architecture: str, arguments: Fields, state: State, model: Model) -> None:
    """Write the folder that timm loads: an architecture of its own with arguments, filled strictly, with the model's preprocessing and class names."""
    with torch.device("meta"):
        theirs = timm.create_model(architecture, **arguments)
    theirs.load_state_dict(state, strict=True, assign=True)
    data: Fields = {"input_size": model.input_shape()}
    p = getattr(model.preprocess, "image", model.preprocess)  # of several inputs, that of the picture
    if isinstance(p, ImagePreprocess):
        data |= {"mean": p.mean, "std": p.std, "interpolation": p.interpolation, "crop_pct": p.crop_pct}
    names = list(getattr(model.config, "class_names", ()))
    timm.models.save_for_hf(theirs, folder, model_config={"label_names": names} if names else {}, model_args=arguments, safe_serialization=True, data_config=data)


def transformers_export(model: Model, objective: Fields) -> Export:
    """For transformers' Auto classes: ViTMAE with its decoder, ViT where the class token is used, BEiT where the mean of the patches is."""
    transformers = transformers_library()
    left_out, model = _left_out(model) if isinstance(model, POA) else (), model.part()
    if isinstance(model, MAE):
        state, config = to_transformers(model, objective)
        name, usage = "AutoModelForPreTraining", "AutoModel: the encoder alone; mask_ratio=0 shows it all patches"
    else:
        state, config = _vit(_encoder(model, "transformers"))
        headless = not model.config.num_classes
        name, usage = ("AutoModel", "pooler_output: the features") if headless else ("AutoModelForImageClassification", "")
        usage = "last_hidden_state[:, 0]: the features" if headless and model.config.pool == "token" else usage
    architecture = config["architectures"][0]
    without = architecture == "ViTModel"  # its pooler was trained for BERT's tasks: no model here has one
    options: dict[str, Any] = {"add_pooling_layer": False} if without else {}
    preprocess = model.preprocess if isinstance(model.preprocess, ImagePreprocess) and model.preprocess.channels == 3 else None

    def load(folder: Path) -> Run:
        theirs = in_transformers(folder, name, architecture, **options)
        if not isinstance(model, MAE):
            return _vit_run(theirs, model)
        with quiet(transformers.logging):
            encoder = transformers.AutoModel.from_pretrained(folder, mask_ratio=0.0, local_files_only=True)
        return _mae_run(theirs, encoder.eval(), model)

    def expected(x: Tensor) -> dict[str, Tensor]:
        return model.outputs({"image": x}) | {"prediction": model({"image": x}, _noise(x, model.patch_embed.length), config["mask_ratio"]).prediction}

    return Export(
        "transformers",
        transformers_files(state, config, None if preprocess is None else _processor(preprocess)),
        load,
        f'from transformers import AutoImageProcessor, {name}\n\nmodel = {name}.from_pretrained("PLACE"{", add_pooling_layer=False" if without else ""})' + (f"  # {usage}" if usage else "")
        + ('\nprocessor = AutoImageProcessor.from_pretrained("PLACE", backend="pil")' if preprocess else ""),
        left_out,
        (*folded(model), *_scaled(model), *no_preprocess(preprocess, "transformers has no image processor for such pictures")),
        expected if isinstance(model, MAE) else None,
    )  # fmt: skip


def _mae_run(theirs: nn.Module, encoder: nn.Module, model: MAE) -> Run:
    """What ViTMAE gives: the encoder over all patches, in their order, and the decoder's prediction under a fixed mask."""
    length = model.patch_embed.length

    def run(x: Tensor) -> dict[str, Tensor]:
        in_order = torch.arange(length).expand(len(x), -1) / length
        tokens = encoder(x, noise=in_order).last_hidden_state
        return {"features": tokens[:, 1:].mean(dim=1), "tokens": tokens, "prediction": theirs(x, noise=_noise(x, length)).logits}

    return run


def _vit_run(theirs: nn.Module, model: Model) -> Run:
    """What ViT and BEiT give. The features of a classifier are those that its head sees."""

    def run(x: Tensor) -> dict[str, Tensor]:
        trunk = theirs.base_model(x)
        pooled = trunk.last_hidden_state[:, 0] if model.config.pool == "token" else trunk.pooler_output
        logits = {"logits": theirs(x).logits} if model.config.num_classes else {}
        return {"features": pooled, "tokens": trunk.last_hidden_state, **logits}

    return run


def _vit(model: ViTClassifier) -> tuple[State, Fields]:
    """State and config.json of transformers' ViT (pooled by the class token) or BEiT (by the mean of the patches, then a norm).

    BEiT's keys have no bias. That of ours adds one number to all of a query's scores, which the softmax takes away again.
    """
    c = model.config
    mean, headless = c.pool == "avg", not c.num_classes
    reasons = {
        "it has no class token": not c.class_token,
        f"its input {c.input_size} is not square": len(set(c.input_size)) > 1,
        f"its patch {c.patch_size} is not square": len(set(c.patch_size)) > 1,
    }
    family, architecture = ("beit", "Beit") if mean else ("vit", "ViT")
    architecture += "Model" if headless else "ForImageClassification"
    if any(reasons.values()):
        raise ModelError(f"transformers' {architecture} cannot hold this model: {next(r for r, hit in reasons.items() if hit)}.")
    own = _without_factors(_plain_head(model), c.depth) if c.layer_scale is not None else _plain_head(model)
    if mean and not c.qkv_bias:
        own |= {f"blocks.{i}.attn.qkv.bias": torch.zeros(3 * c.embed_dim) for i in range(c.depth)}
    state: State = {}
    for name, tensor in own.items():
        if name.startswith("head."):
            state[name.replace("head.", "classifier.")] = tensor
        elif name.startswith("fc_norm."):
            state[name.replace("fc_norm.", "beit.pooler.layernorm.")] = tensor
        else:
            state |= {_family(theirs, family): part for theirs, part in to_layout({name: tensor}, "transformers").items()}
    state = {name: tensor for name, tensor in state.items() if not (mean and name.endswith("attention.key.bias"))}
    if headless:
        state = {name.removeprefix(f"{family}."): tensor for name, tensor in state.items()}
    config = {
        "architectures": [architecture],
        "model_type": family,
        **transformers_fields(c, labels=not headless),
        "image_size": c.input_size[0],
        "patch_size": c.patch_size[0],
        **({"qkv_bias": c.qkv_bias} if not mean else {}),
    }
    beit = {
        "use_absolute_position_embeddings": True, "use_relative_position_bias": False, "use_shared_relative_position_bias": False,
        "layer_scale_init_value": 0.0, "use_mean_pooling": True, "use_mask_token": False, "drop_path_rate": c.drop_path,
    }  # fmt: skip
    return state, config | (beit if mean else {})


def _family(name: str, family: str) -> str:
    return f"{family}.{name.removeprefix('vit.')}"


def _plain_head(model: Model) -> State:
    """The encoder and head under timm's names; the batch norm of a linear probe, fixed after training, is put into its linear layer."""
    if getattr(model.config, "head", "linear") != "probe":
        return to_timm(model)
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    return kept | {f"head.{name}": tensor for name, tensor in model.linear_head().items()}


def _without_factors(state: State, depth: int) -> State:
    """A state whose LayerScale factors are part of the linear layers before them: the same function."""
    state = dict(state)
    for i in range(depth):
        for factors, layer in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
            gamma = state.pop(f"blocks.{i}.{factors}.gamma")
            state[f"blocks.{i}.{layer}.weight"] = gamma[:, None] * state[f"blocks.{i}.{layer}.weight"]
            state[f"blocks.{i}.{layer}.bias"] = gamma * state[f"blocks.{i}.{layer}.bias"]
    return state


def _processor(preprocess: ImagePreprocess) -> Fields:
    """preprocessor_config.json of the image processor that resizes the shorter side and cuts out the centre."""
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": int(min(preprocess.size) / preprocess.crop_pct)},
        "resample": RESAMPLE[preprocess.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": preprocess.size[0], "width": preprocess.size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }


def _encoder(model: Model, place: str) -> Any:
    if not isinstance(model, ViTEncoder):
        raise ModelError(f"{place} holds vision transformers; this is a {type(model).__name__}.")
    return model


def _noise(x: Tensor, length: int) -> Tensor:
    """The same masking noise (B, L) for both sides."""
    return torch.rand(len(x), length, generator=torch.Generator().manual_seed(0))


def _left_out(model: Model) -> tuple[str, ...]:
    """What only pre-training needs, in words."""
    if isinstance(model, POA):
        return (f"the heads ({len(model.heads.state_dict())} tensors) and the mask token, which only pre-training needs",)
    if not isinstance(model, MAE):
        return ()
    tensors = len(model.state_dict()) - len(to_timm(model))
    return (f"the decoder ({tensors} tensors), which only pre-training needs",)


def folded(model: Model) -> tuple[str, ...]:
    """What is said of a linear probe's batch norm."""
    return ("the batch norm before the head of the probe is part of its linear layer",) if getattr(model.config, "head", "") == "probe" else ()


def _scaled(model: Model) -> tuple[str, ...]:
    return ("the factors of LayerScale are part of the linear layers before them",) if model.config.layer_scale is not None else ()


def _other_eps(eps: float) -> tuple[str, ...]:
    return (f"norms add {TIMM_EPS:g} to the variance instead of {eps:g}",) if eps != TIMM_EPS else ()


def no_preprocess(preprocess: ImagePreprocess | None, what: str) -> tuple[str, ...]:
    """What is said where the other library does not hold the preprocessing."""
    return () if preprocess is not None else (f"the preprocessing of this model is not part of it: {what}",)
