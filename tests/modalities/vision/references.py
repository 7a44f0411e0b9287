"""Reference models of other libraries with random weights, and golden files made from them."""

import json
import math

import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

SMALL_MAE = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96, "image_size": 16, "patch_size": 4,
    "num_channels": 3, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64, "layer_norm_eps": 1e-6, "norm_pix_loss": True, "mask_ratio": 0.75,
}  # fmt: skip
SMALL_VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5, "global_pool": "avg"}


def randomise(model, seed=0):
    """Give every parameter (also frozen tables and tokens) a random value of sensible size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 0.3 if p.ndim < 2 else 1 / math.sqrt(max(p[0].numel(), 1)) if not name.endswith(("token", "embed", "embeddings")) else 0.5
            p.copy_(torch.randn(p.shape, generator=generator) * scale + (1.0 if p.ndim == 1 and "norm" in name and "weight" in name else 0.0))
    return model.eval()


def transformers_mae(seed=0, **changes):
    """transformers' ViTMAEForPreTraining, small, with random weights everywhere (a fresh one has zero tables)."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    return randomise(ViTMAEForPreTraining(ViTMAEConfig(**{**SMALL_MAE, **changes})), seed)


def timm_vit(seed=0, **changes):
    """timm's VisionTransformer, small, with random weights everywhere."""
    return randomise(VisionTransformer(**{**SMALL_VIT, **changes}), seed)


def official_names(tensors):
    """Tensors by transformers' in-memory names -> by the official names, the long way round and independent of `interop`."""
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in [
            ("vit.embeddings.patch_embeddings.projection", "patch_embed.proj"), ("vit.embeddings.position_embeddings", "pos_embed"),
            ("vit.embeddings.", ""), ("decoder.decoder_layers", "decoder_blocks"), ("vit.layers", "blocks"), ("vit.layernorm", "norm"),
            ("decoder.", ""), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("attention.o_proj", "attn.proj"),
        ]:  # fmt: skip
            name = name.replace(old, new)
        renamed[name] = tensor
    for name in [n for n in renamed if "attention.q_proj" in n]:
        parts = [renamed.pop(name.replace("q_proj", f"{x}_proj")) for x in "qkv"]
        renamed[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    return renamed


def saved_by_transformers(model, folder):
    """State and config.json as transformers' own save_pretrained writes them."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


def hub_names(state):
    """What version 5 saved -> the historical names of the files on the Hub."""
    return {k.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers."): v for k, v in state.items()}


def images(model_config, samples=2, seed=1):
    """Random normalised images and masking noise for a transformers config."""
    generator = torch.Generator().manual_seed(seed)
    c = model_config
    noise = torch.rand(samples, (c.image_size // c.patch_size) ** 2, generator=generator)
    return torch.randn(samples, c.num_channels, c.image_size, c.image_size, generator=generator), noise


def write_mae_golden(path, model, folder, layout, grad="grad", drop=()):
    """A golden file of a masked auto-encoder with the gradient of every weight. `drop` names config fields left out."""
    c = model.config
    image, noise = images(c)
    model.requires_grad_(True)
    out = model(pixel_values=image, noise=noise)
    latent = model.vit(pixel_values=image, noise=noise).last_hidden_state
    names, parameters = zip(*model.named_parameters())
    gradients = dict(zip(names, torch.autograd.grad(out.loss, parameters)))
    tensors = {"input.image": image, "input.noise": noise, "output.latent": latent, "output.pred": out.logits, "output.mask": out.mask,
               "output.ids_restore": out.ids_restore.float(), "output.loss": out.loss}  # fmt: skip
    if layout == "official":
        state, gradients = official_names(model.state_dict()), official_names(gradients)
        config = {"img_size": c.image_size, "patch_size": c.patch_size, "in_chans": c.num_channels, "embed_dim": c.hidden_size,
                  "depth": c.num_hidden_layers, "num_heads": c.num_attention_heads, "decoder_embed_dim": c.decoder_hidden_size,
                  "decoder_depth": c.decoder_num_hidden_layers, "decoder_num_heads": c.decoder_num_attention_heads,
                  "mlp_ratio": c.intermediate_size / c.hidden_size, "norm_pix_loss": c.norm_pix_loss, "norm_eps": c.layer_norm_eps,
                  "mask_ratio": c.mask_ratio}  # fmt: skip
        tensors["output.unpatchified"] = model.unpatchify(out.logits)[:1]
    else:
        state, config = saved_by_transformers(model, folder)
        values = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict({**values, **gradients})
        gradients, _ = saved_by_transformers(model, folder)  # the gradients under the names on disk
        model.load_state_dict(values)
        if layout == "transformers":
            state, gradients = hub_names(state), hub_names(gradients)
    tensors |= {f"state.{k}": v for k, v in state.items()} | {f"{grad}.{k}": v for k, v in gradients.items()}
    config = {k: v for k, v in config.items() if k not in drop}
    metadata = {"model": "vision/mae", "layout": "official" if layout == "official" else "transformers", "config": json.dumps(config)}
    save_file({k: v.detach().clone() for k, v in tensors.items()}, path, metadata)


def write_vit_golden(path, model, arguments, old_side=3, decay=None, drop=()):
    """A golden file of a fine-tuning classifier (timm's, which the official class inherits) with all gradients."""
    generator = torch.Generator().manual_seed(2)
    c = {"in_chans": 3, "mlp_ratio": 4.0, "qkv_bias": True, "norm_eps": 1e-6, **SMALL_VIT, **arguments}
    c["global_pool"] = c["global_pool"] == "avg"
    image = torch.randn(3, c["in_chans"], c["img_size"], c["img_size"], generator=generator)
    features = model.forward_head(model.forward_features(image), pre_logits=True)
    tensors = {"input.image": image, "output.features": features, "output.logits": model.head(features)}
    if c["num_classes"]:
        tensors["input.label"] = torch.tensor([0, c["num_classes"] - 1, 1])
        tensors["output.loss"] = F.cross_entropy(tensors["output.logits"], tensors["input.label"])
        names, parameters = zip(*model.named_parameters())
        tensors |= {f"grad.{n}": g for n, g in zip(names, torch.autograd.grad(tensors["output.loss"], parameters))}
    table = torch.randn(1, 1 + old_side**2, c["embed_dim"], generator=generator)
    grid = c["img_size"] // c["patch_size"]
    rows = table[:, 1:].reshape(1, old_side, old_side, -1).permute(0, 3, 1, 2)
    rows = F.interpolate(rows, size=(grid, grid), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)
    tensors |= {"input.pos_embed_pretrained": table, "output.pos_embed_interpolated": torch.cat([table[:, :1], rows], dim=1)}
    tensors |= {f"state.{k}": v for k, v in model.state_dict().items()}
    config = {k: v for k, v in c.items() if k not in drop}
    metadata = {"model": "vision/mae_vit", "layout": "official", "config": json.dumps(config)}
    if decay is not None:
        rule = {}
        for name, p in model.named_parameters():
            depth = 0 if name.startswith(("cls_token", "pos_embed", "patch_embed")) else int(name.split(".")[1]) + 1 if "blocks" in name else c["depth"] + 1
            rule[name] = [decay ** (c["depth"] + 1 - depth), 0.0 if p.ndim == 1 or name in ("cls_token", "pos_embed") else 0.05]
        metadata["layer_decay"] = json.dumps({"layer_decay": decay, "weight_decay": 0.05, "params": rule})
    save_file({k: v.detach().clone() for k, v in tensors.items()}, path, metadata)
