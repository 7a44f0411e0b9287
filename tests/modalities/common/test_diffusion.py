"""The diffusion model of one vector given another."""

import math

import pytest
import torch

from modalities.common.diffusion import STEPS, ConditionalDiffusion, Noising, cosine_signal, time_code
from trainer.errors import ModelError


def test_the_schedule_is_the_cosine():
    """Nichol and Dhariwal, equation 17: the signal is the square of a cosine, but for the cut of the last steps."""
    signal = cosine_signal()
    steps = torch.tensor([0, 100, 500, 900])
    wanted = ((((steps + 1) / STEPS + 0.008) / 1.008 * math.pi / 2).cos() / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    assert torch.allclose(signal[steps].float(), wanted.float(), rtol=1e-4)
    assert (signal[1:] < signal[:-1]).all() and signal[-1] > 0


def test_noising_can_be_taken_back():
    noising, clean, noise, time = Noising(cosine_signal()), torch.randn(4, 6), torch.randn(4, 6), torch.tensor([0, 1, 500, 900])
    assert torch.allclose(noising.clean(noising.noised(clean, time, noise), time, noise), clean, atol=1e-3)


def test_the_step_back_is_that_of_bayes():
    """Of x_t = sqrt(a) x_{t-1} + noise, with x_{t-1} normal about the clean vector: mean and variance of the posterior."""
    signal, t, clean, noised = cosine_signal(), 400, 0.7, -0.3
    before, step = signal[t - 1].item(), (signal[t] / signal[t - 1]).item()
    precision = 1 / (1 - before) + step / (1 - step)
    mean = (math.sqrt(before) * clean / (1 - before) + math.sqrt(step) * noised / (1 - step)) / precision
    noising, time = Noising(signal), torch.tensor([t])
    assert noising.mean_back(torch.tensor([[clean]]), torch.tensor([[noised]]), time).item() == pytest.approx(mean, rel=1e-4)
    assert noising.log_back[t].exp().item() == pytest.approx(1 / precision, rel=1e-4)


def test_a_fresh_network_says_nothing():
    """All modulations and the last layer start at zero: the loss is that of the noise itself, plus a small bound."""
    torch.manual_seed(0)
    model = ConditionalDiffusion(8, 5, width=16, depth=2)
    found, between = model.network(torch.randn(3, 8), torch.tensor([0, 10, 999]), torch.randn(3, 5))
    assert not found.any() and not between.any()
    target, noise, time = torch.randn(3, 8), torch.randn(3, 8), torch.tensor([100, 500, 900])
    loss = model.loss(target, torch.randn(3, 5), time, noise)
    assert loss.shape == (3,) and (loss > noise.square().mean(1)).all()
    assert torch.equal(loss, model.loss(target, torch.randn(3, 5), time, noise))


def test_only_the_variance_learns_from_the_bound():
    model = ConditionalDiffusion(4, 3, width=8, depth=1)
    torch.nn.init.normal_(model.network.outlet.weight, std=0.1)
    target, noised, time = torch.randn(5, 4), torch.randn(5, 4), torch.randint(STEPS, (5,))
    found, between = (torch.randn(5, 4, requires_grad=True) for _ in range(2))
    model._bound(target, noised, time, found.detach(), between).sum().backward()
    assert found.grad is None and between.grad.abs().sum() > 0


def test_a_perfect_prediction_has_no_divergence():
    """With the true noise and the smallest variance the step back is the true one."""
    model, target, noise, time = ConditionalDiffusion(4, 3, 8, 1), torch.randn(6, 4), torch.randn(6, 4), torch.arange(100, 700, 100)
    noised = model.noising.noised(target, time, noise)
    assert model._bound(target, noised, time, noise, -torch.ones(6, 4)).abs().max() < 1e-3


def test_it_learns_a_distribution():
    """Vectors at +1 or -1 by the sign of the condition: samples land there."""
    torch.manual_seed(0)
    model = ConditionalDiffusion(2, 1, width=32, depth=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(300):
        sign = torch.randint(2, (256, 1)) * 2.0 - 1
        loss = model.loss(sign.expand(-1, 2) + 0.05 * torch.randn(256, 2), sign).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])
    sign = torch.tensor([[1.0], [-1.0]]).repeat(50, 1)
    assert ((model.sample(sign) * sign).mean(1) > 0).float().mean() > 0.95


def test_wrong_shapes_are_named():
    model = ConditionalDiffusion(4, 3, 8, 1)
    with pytest.raises(ModelError, match=r"targets \(N, 4\)"):
        model.loss(torch.zeros(2, 5), torch.zeros(2, 3))
    with pytest.raises(ModelError, match="found 1"):
        model.sample(torch.zeros(2, 3), steps=1)
    assert time_code(torch.tensor([0.0])).shape == (1, 256) and time_code(torch.tensor([0.0]))[0, 0] == 1
