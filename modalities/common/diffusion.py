"""A small diffusion model of one vector given another: the loss of MAR (Li et al. 2024, arXiv 2406.11838), for any tokens of real numbers.

A network of residual layers, modulated by the condition and the time, predicts the noise in a noised vector and how uncertain the step back is.
Noise schedule, learned variance and the two terms of the loss are those of improved diffusion models (Nichol & Dhariwal 2021, arXiv 2102.09672),
the modulation is adaLN-zero (Peebles & Xie 2022, arXiv 2212.09748). Written from the papers. Ours: at the last step back the likelihood is that of
a Gaussian, not of 8-bit pixels, since the vectors need not be pixels in -1..1. Letters: N vectors, V values, Z condition, W width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.errors import ModelError

STEPS = 1000
"""Steps of the noise schedule."""
OFFSET = 0.008
"""Keeps the first steps of the cosine schedule from being too small."""
LARGEST = 0.999
"""Largest variance that one step adds."""
LEAST = 1e-3
"""Share of a vector's variance from which samples are drawn."""
FREQUENCIES = 256
"""Width of the code of the time."""


def cosine_signal(steps: int = STEPS) -> Tensor:
    """What is left of a vector's variance after each of `steps` steps, (steps,) float64, falling from nearly 1 to nearly 0."""
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    curve = ((time + OFFSET) / (1 + OFFSET) * math.pi / 2).cos().square()
    return (1 - (1 - curve[1:] / curve[:-1]).clamp(max=LARGEST)).cumprod(0)


class Noising(nn.Module):
    """The constants of a noise schedule, as buffers that are not stored; the sums are in float64."""

    def __init__(self, signal: Tensor) -> None:
        """`signal`: see `cosine_signal`."""
        super().__init__()
        before = torch.cat([torch.ones_like(signal[:1]), signal[:-1]])
        added = 1 - signal / before  # variance that a step adds
        back = added * (1 - before) / (1 - signal)  # variance of the step back when the clean vector is known
        constants = {
            "keep": signal.sqrt(),
            "noise": (1 - signal).sqrt(),
            "log_added": added.log(),
            "log_back": torch.cat([back[1:2], back[1:]]).log(),  # of the first step it would be 0
            "mean_clean": added * before.sqrt() / (1 - signal),
            "mean_noised": (1 - before) * (signal / before).sqrt() / (1 - signal),
        }
        for name, values in constants.items():
            self.register_buffer(name, values.float(), persistent=False)

    def noised(self, clean: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """(N, V) after `time` (N,) steps."""
        return self.keep[time, None] * clean + self.noise[time, None] * noise

    def clean(self, noised: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """The vector (N, V) that `noise` was added to."""
        return (noised - self.noise[time, None] * noise) / self.keep[time, None]

    def mean_back(self, clean: Tensor, noised: Tensor, time: Tensor) -> Tensor:
        """Mean (N, V) of the step back from `noised`, given the clean vector."""
        return self.mean_clean[time, None] * clean + self.mean_noised[time, None] * noised

    def log_variance(self, between: Tensor, time: Tensor) -> Tensor:
        """Log variance (N, V) of the step back; `between` -1..1 lies between the smallest and the largest possible one."""
        return torch.lerp(self.log_back[time, None], self.log_added[time, None], (between + 1) / 2)


class ResidualLayer(nn.Module):
    """x + gate * MLP(norm(x) * (1 + scale) + shift); gate, scale and shift come from the condition and start at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, W), (N, W) -> (N, W)."""
        shift, scale, gate = self.modulation(F.silu(condition)).chunk(3, dim=-1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class NoisePredictor(nn.Module):
    """From a noised vector, the time and the condition to (noise, where its variance lies)."""

    def __init__(self, values: int, condition: int, width: int, depth: int) -> None:
        super().__init__()
        self.inlet, self.condition = nn.Linear(values, width), nn.Linear(condition, width)
        self.time = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(ResidualLayer(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation, self.outlet = nn.Linear(width, 2 * width), nn.Linear(width, 2 * values)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for layer in (self.time[0], self.time[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (*(part.modulation for part in self.layers), self.modulation, self.outlet):
            nn.init.zeros_(layer.weight)

    def forward(self, noised: Tensor, time: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(N, V), (N,), (N, Z) -> two of (N, V)."""
        x, y = self.inlet(noised), self.time(time_code(time)) + self.condition(condition)
        for layer in self.layers:
            x = layer(x, y)
        shift, scale = self.modulation(F.silu(y)).chunk(2, dim=-1)
        return self.outlet(self.norm(x) * (1 + scale) + shift).chunk(2, dim=-1)


class ConditionalDiffusion(nn.Module):
    """The distribution of vectors (N, V) given conditions (N, Z): a loss to learn it, and samples of it."""

    def __init__(self, values: int, condition: int, width: int = 1536, depth: int = 6) -> None:
        super().__init__()
        self.values = values
        self.network = NoisePredictor(values, condition, width, depth)
        self.noising = Noising(cosine_signal())

    def loss(self, target: Tensor, condition: Tensor, time: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Loss of each vector, (N,): squared error of the noise plus the bound of the likelihood, in bits, for the learned variance.

        `time` (N,) in 0..STEPS-1 and `noise` (N, V) replace the random draws. Only the variance learns from the bound.
        """
        if target.shape[1:] != (self.values,) or condition.shape[:1] != target.shape[:1]:
            raise ModelError(f"Expected targets (N, {self.values}) with a condition for each, found {tuple(target.shape)} and {tuple(condition.shape)}.")
        time = torch.randint(STEPS, target.shape[:1], device=target.device) if time is None else time
        noise = torch.randn_like(target) if noise is None else noise
        noised = self.noising.noised(target, time, noise)
        found, between = self.network(noised, time, condition)
        return (found - noise).square().mean(1) + self._bound(target, noised, time, found.detach(), between)

    def _bound(self, target: Tensor, noised: Tensor, time: Tensor, found: Tensor, between: Tensor) -> Tensor:
        """The term of the variational bound of each vector's step, (N,), in bits per value."""
        noising = self.noising
        true = noising.mean_back(target, noised, time)
        mean = noising.mean_back(noising.clean(noised, time, found), noised, time)
        log_true, log_variance = noising.log_back[time, None], noising.log_variance(between, time)
        divergence = (log_variance - log_true + (log_true - log_variance).exp() + (true - mean).square() * (-log_variance).exp() - 1) / 2
        likelihood = (math.log(2 * math.pi) + log_variance + (target - mean).square() * (-log_variance).exp()) / 2
        return torch.where(time[:, None] > 0, divergence, likelihood).mean(1) / math.log(2)

    @torch.no_grad()
    def sample(self, condition: Tensor, steps: int = 50) -> Tensor:
        """Vectors (N, V) drawn for conditions (N, Z), in `steps` of the STEPS steps, evenly chosen.

        The first is one at which LEAST of the variance is left: before, the smallest error of the noise would become a huge one of the vector.
        """
        if not 2 <= steps <= STEPS:
            raise ModelError(f"Samples are drawn in 2 to {STEPS} steps, found {steps}.")
        signal = cosine_signal()
        times = torch.linspace(0, int((signal > LEAST).sum()) - 1, steps).round().long()
        noising = Noising(signal[times]).to(condition.device)
        x = torch.randn(len(condition), self.values, device=condition.device)
        for index in reversed(range(steps)):
            time = torch.full_like(x[:, 0], index, dtype=torch.long)
            noise, between = self.network(x, times.to(time.device)[time], condition)
            mean = noising.mean_back(noising.clean(x, time, noise), x, time)
            x = mean if index == 0 else mean + (noising.log_variance(between, time) / 2).exp() * torch.randn_like(x)
        return x


def time_code(time: Tensor) -> Tensor:
    """Sinusoidal code of times (N,), (N, FREQUENCIES): cosines, then sines."""
    half = FREQUENCIES // 2
    rates = torch.exp(-math.log(10000) / half * torch.arange(half, device=time.device, dtype=torch.float32))
    angles = time[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)
