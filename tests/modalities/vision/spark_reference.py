"""SparK's masked networks the way the official code makes them, independent of ours: timm's network, every layer replaced, a global mask.

In the official code a layer multiplies what it gives by the mask (or norms the visible rows alone); written from that description.
"""

import json
import re

import torch
from safetensors.torch import save_file
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from modalities.common.patches import patchify
from modalities.vision.interop.spark import to_official
from modalities.vision.models.spark import SparK, SparKConfig

MASK = None
"""(B, 1, f, g) bool, for all layers, as in the official code."""


def at(x):
    """The mask at the size of (B, C, H, W)."""
    return nn.functional.interpolate(MASK.float(), size=x.shape[-2:], mode="nearest")


def rows(layer, x):
    """A layer of rows (N, C) on the visible places of a map that ends with its channels."""
    mask = at(x.permute(0, 3, 1, 2))[:, 0].bool()
    out = torch.zeros_like(x)
    out[mask] = layer(x[mask])
    return out


class Multiplied(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        out = self.layer(x)
        return out * at(out)


class RowsFirst(nn.Module):
    """A norm of maps (B, C, H, W) as one of rows."""

    def __init__(self, norm):
        super().__init__()
        self.norm = nn.BatchNorm1d(norm.num_features) if isinstance(norm, nn.BatchNorm2d) else nn.LayerNorm(norm.normalized_shape, norm.eps)
        self.norm.load_state_dict(norm.state_dict())

    def forward(self, x):
        return rows(self.norm, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class RowsLast(nn.Module):
    """A norm of maps that end with their channels."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return rows(self.norm, x)


def converted(network):
    for name, layer in list(network.named_children()):
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
            setattr(network, name, Multiplied(layer))
        elif isinstance(layer, nn.BatchNorm2d) or type(layer).__name__ == "LayerNorm2d":
            setattr(network, name, RowsFirst(layer))
        elif isinstance(layer, nn.LayerNorm):
            setattr(network, name, RowsLast(layer))
        elif type(layer).__name__ == "Mlp":
            setattr(network, name, converted_mlp(layer))
        else:
            converted(layer)
    return network


def converted_mlp(mlp):
    """What comes after the linear layers of a ConvNeXt block is multiplied before it is added."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = mlp

        def forward(self, x):
            return self.mlp(x) * at(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    return Masked()


def dense_twin(model):
    """timm's network with the weights of a backbone of ours."""
    c = model.config
    if c.block == "convnext":
        twin = ConvNeXt(in_chans=c.in_chans, num_classes=0, depths=c.depths, dims=c.widths)
        twin.head = nn.Identity()
    else:
        twin = ResNet(Bottleneck if c.block == "bottleneck" else BasicBlock, c.depths, num_classes=0, in_chans=c.in_chans, channels=c.widths)
    twin.load_state_dict(model.backbone.state_dict())
    return twin.train(model.training)


def maps_of(twin, x):
    if isinstance(twin, ConvNeXt):
        x, stages = twin.stem(x), twin.stages
    else:
        x, stages = twin.maxpool(twin.act1(twin.bn1(twin.conv1(x)))), (twin.layer1, twin.layer2, twin.layer3, twin.layer4)
    found = []
    for stage in stages:
        x = stage(x)
        found.append(x.clone())
    return found


def lively(model, seed=0):
    """Random weights and statistics of sensible size everywhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                fan = tensor[0].numel() if tensor.ndim > 1 else 1
                one = name.endswith(("running_var", "gamma")) or (tensor.ndim == 1 and name.endswith("weight"))
                tensor.copy_(1 + 0.2 * noise.clamp(-2, 2) if one else noise * (0.3 if tensor.ndim == 1 else 1.5 / fan**0.5))
    return model


def forward(model, image, active):
    """(maps, densified, image, loss, gradients by our names) the official way; the model's own decoder, whose layers are ordinary."""
    global MASK
    MASK = active
    twin = converted(dense_twin(model)).train(model.training)
    norms = [RowsFirst(norm) if not isinstance(norm, nn.Identity) else norm for norm in model.densify_norms]
    for norm in norms:
        norm.train(model.training)
    maps = maps_of(twin, image * at(image))
    densified = []
    for norm, project, token, x in zip(norms, model.densify_projs, model.mask_tokens, maps[::-1]):
        densified.append(project(torch.where(at(x).bool(), norm(x), token.expand_as(x))))
    out = model.dense_decoder(densified)
    target, prediction = patchify(image, (32, 32)), patchify(out, (32, 32))
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    hidden = (~active).flatten(1).float()
    loss = ((prediction - target).square().mean(-1) * hidden).sum() / (hidden.sum() + 1e-8)
    names, weights = zip(*((name, p) for name, p in twin.named_parameters()))
    plain = (re.sub(r"\.norm\.(weight|bias)$", r".\1", name.replace(".layer.", ".").replace(".mlp.mlp.", ".mlp.")) for name in names)
    grads = dict(zip(plain, torch.autograd.grad(loss, weights, allow_unused=True)))
    return maps, densified, out, loss.detach(), {n: g for n, g in grads.items() if g is not None}


def write_golden(path, hidden_ratio=0.5, config=(), samples=2, seed=0, **network):
    """A golden file in the official layout, with what the reference computes; returns the model."""
    model = lively(SparK(SparKConfig(**network)), seed)
    c = model.config
    generator = torch.Generator().manual_seed(seed + 1)
    image = torch.randn(samples, c.in_chans, *c.input_size, generator=generator)
    length = c.grid[0] * c.grid[1]
    order = torch.rand(samples, length, generator=generator).argsort(1)
    active = (order < max(round(length * (1 - hidden_ratio)), 1)).view(samples, 1, *c.grid)
    tensors = {"input.image": image, "input.active": active.float()}
    state = {name: tensor.clone() for name, tensor in to_official(model).items() if name != "norm_black"}
    for mode in ("eval", "train"):
        model.train(mode == "train")
        maps, densified, out, loss, gradients = forward(model, image, active)
        tensors |= {f"output.{mode}_feat{i}": x for i, x in enumerate(maps)} | {f"output.{mode}_to_dec{i}": x for i, x in enumerate(densified)}
        tensors |= {f"output.{mode}_loss": loss, f"output.{mode}_rec_sum_per_channel": out.sum((2, 3)), f"output.{mode}_rec_patch0": patchify(out, (32, 32))[:, 0, ::16]}
    tensors |= {f"grad.{name}": g for name, g in to_official(model, {f"backbone.{n}": g for n, g in gradients.items()}).items()}
    tensors |= {f"state.{name}": tensor for name, tensor in state.items()}
    metadata = {"model": "vision/spark", "layout": "official", "config": json.dumps(dict(config))}
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path, metadata)
    return model
