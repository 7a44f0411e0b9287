"""MultiMAE against a second, plain computation from the description of the official code: options that no golden file has."""

import math

import pytest
import torch
from torch.nn import functional as F

from modalities.common.masking import mask_from_noise
from modalities.vision.models.multi_input import KEYS
from modalities.vision.models.multimae import OWN
from modalities.vision.objectives.multimae import MultiMAEObjectiveConfig
from tests.modalities.vision.test_multimae import batch, model

STRIDE, PATCH = 4, 8


def linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def norm(state, name, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)


def attend(q, k, v, heads):
    width = q.shape[-1] // heads
    parts = [
        (q[..., h * width : (h + 1) * width] @ k[..., h * width : (h + 1) * width].transpose(-1, -2) * width**-0.5).softmax(-1) @ v[..., h * width : (h + 1) * width]
        for h in range(heads)
    ]
    return torch.cat(parts, dim=-1)


def block(state, name, x, heads):
    q, k, v = linear(state, f"{name}.attn.qkv", norm(state, f"{name}.norm1", x)).chunk(3, dim=-1)
    x = x + linear(state, f"{name}.attn.proj", attend(q, k, v, heads))
    return x + linear(state, f"{name}.mlp.fc2", F.gelu(linear(state, f"{name}.mlp.fc1", norm(state, f"{name}.norm2", x))))


def positions(table, grid, mode):
    return (table if table.shape[2:] == grid else F.interpolate(table, size=grid, mode=mode, align_corners=False)).flatten(2).transpose(1, 2)


def encoder_input(state, domain, x, grid):
    """One sample of a domain to its patches (L, D)."""
    name = f"input_adapters.{domain}"
    side, mode = PATCH, "bicubic"
    if domain == "semseg":
        x, side, mode = state[f"{name}.class_emb.weight"][x].permute(2, 0, 1), PATCH // STRIDE, "bilinear"
    patches = [
        (state[f"{name}.proj.weight"] * x[:, i * side : (i + 1) * side, j * side : (j + 1) * side]).sum((1, 2, 3)) + state[f"{name}.proj.bias"]
        for i in range(grid[0])
        for j in range(grid[1])
    ]
    return torch.stack(patches) + positions(state[f"{name}.pos_emb"], grid, mode)[0]


def reference(state, c, data, keep):
    """(latent, output -> map) of one sample; `keep`: the visible patches of all inputs, in order."""
    grid = (data["image"].shape[1] // PATCH, data["image"].shape[2] // PATCH)
    length = math.prod(grid)
    x = torch.cat([encoder_input(state, domain, data[KEYS[domain]], grid) for domain in c.in_domains])[keep]
    x = torch.cat([x, state["global_tokens"][0]])
    for i in range(c.depth):
        x = block(state, f"encoder.{i}", x, c.num_heads)
    maps = {}
    for output in c.out_domains:
        name, own = f"output_adapters.{output}", OWN[output]
        seen = linear(state, f"{name}.proj_context", x)
        place = positions(state[f"{name}.pos_emb"], grid, "bilinear")[0]
        mask_token = state[f"{name}.mask_token"][0]
        whole = mask_token.repeat(len(c.in_domains) * length, 1)
        whole[keep] = seen[: len(keep)]
        marks = {d: state[f"{name}.task_embeddings.{d}"][0] for d in ("rgb", "depth", "semseg") if f"{name}.task_embeddings.{d}" in state}
        whole = whole + torch.cat([place + marks.get(d, 0) for d in c.in_domains])
        if c.use_task_queries and own in c.in_domains:
            start = c.in_domains.index(own) * length
            y = whole[start : start + length]
        else:
            y = mask_token + place + marks.get(own, 0)
        if c.use_xattn:
            context = norm(state, f"{name}.context_norm", torch.cat([whole[keep], seen[len(keep) :]]))
            k, v = linear(state, f"{name}.decoder.kv", context).chunk(2, dim=-1)
            q = linear(state, f"{name}.decoder.q", norm(state, f"{name}.query_norm", y))
            y = linear(state, f"{name}.decoder.proj", attend(q, k, v, c.decoder_num_heads))
            y = y + linear(state, f"{name}.mlp.fc2", F.gelu(linear(state, f"{name}.mlp.fc1", norm(state, f"{name}.out_norm", y))))
        for i in range(c.decoder_depth):
            y = block(state, f"{name}.decoder_transformer.{i}", y, c.decoder_num_heads)
        y = linear(state, f"{name}.out_proj", y)
        side = PATCH // STRIDE if own == "semseg" else PATCH
        pixels = torch.zeros(y.shape[1] // side**2, grid[0] * side, grid[1] * side)
        for n, values in enumerate(y):
            i, j = divmod(n, grid[1])
            pixels[:, i * side : (i + 1) * side, j * side : (j + 1) * side] = values.view(-1, side, side)
        maps[output] = pixels
    return x, maps


def reference_loss(output, predicted, data, hidden):
    """Loss of one sample of an output; `hidden` (h, w), or None for an output that is no input. NaN when nothing is hidden."""
    if output == "semseg":
        values = F.cross_entropy(predicted[None], data["semseg"][None], reduction="none")[0]
    elif output == "depth":
        values = (predicted - data["depth"]).abs().mean(0)
    else:
        wanted = data["image"].clone()
        if output == "norm_rgb":
            for i in range(0, wanted.shape[1], PATCH):
                for j in range(0, wanted.shape[2], PATCH):
                    patch = wanted[:, i : i + PATCH, j : j + PATCH].clone()
                    wanted[:, i : i + PATCH, j : j + PATCH] = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
        values = (predicted - wanted).square().mean(0)
    if hidden is None:
        return values.mean()
    counted = hidden.repeat_interleave(values.shape[0] // hidden.shape[0], 0).repeat_interleave(values.shape[1] // hidden.shape[1], 1).bool()
    return values[counted].mean()


@pytest.mark.parametrize(
    ("changes", "size", "visible"),
    [
        ({}, (16, 16), 5),
        ({"in_domains": ("depth", "rgb"), "out_domains": ("semseg", "rgb", "depth")}, (16, 16), 3),
        ({"use_task_queries": False, "num_global_tokens": 2}, (16, 16), 1),
        ({"use_xattn": False, "decoder_depth": 2}, (16, 16), 6),
        ({"context_domains": (), "decoder_depth": 0, "num_global_tokens": 0}, (16, 16), 11),
        ({"context_domains": ("semseg",), "in_domains": ("rgb",), "out_domains": ("semseg", "norm_rgb")}, (16, 16), 2),
        ({}, (24, 16), 7),
        ({"in_domains": ("rgb", "depth")}, (16, 32), 8),
        ({"input_size": (16, 24)}, (16, 24), 4),
        ({}, (16, 16), 0),
        ({}, (16, 16), 12),
    ],
    ids=["plain", "other-outputs", "no-task-queries", "no-cross-attention", "no-embeddings", "one-input", "tall", "wide", "oblong-table", "all-hidden", "none-hidden"],
)  # fmt: skip
def test_a_plain_computation_says_the_same(changes, size, visible):
    network = model(**changes)
    c, state = network.config, network.state_dict()
    generator = torch.Generator().manual_seed(2)
    data = {key: x.repeat(1, *(1,) * (x.ndim - 3), 2, 2)[..., : size[0] // step, : size[1] // step] for (key, x), step in zip(batch().items(), (1, 1, STRIDE))}
    data = {key: x + 0.3 * torch.randn(x.shape, generator=generator) if x.is_floating_point() else x for key, x in data.items()}
    count = len(c.in_domains) * size[0] * size[1] // PATCH**2
    masking = mask_from_noise(torch.rand(2, count, generator=generator), visible)
    out = network(data, masking)
    losses = MultiMAEObjectiveConfig(num_encoded_tokens=1).build(network).losses(out, data)
    found = {output: [] for output in c.out_domains}
    for i in range(2):
        sample = {key: x[i] for key, x in data.items()}
        latent, maps = reference(state, c, sample, masking.ids_keep[i])
        assert torch.allclose(out.latent[i], latent, atol=2e-5)
        for output, predicted in maps.items():
            assert torch.allclose(out.predictions[output][i], predicted, atol=2e-5), output
            mask = out.masks[OWN[output]][i] if OWN[output] in c.in_domains else None
            found[output].append(reference_loss(output, predicted, sample, mask))
    for output, values in found.items():
        assert torch.allclose(losses[output], torch.stack(values).nanmean().nan_to_num(), atol=2e-5), output
