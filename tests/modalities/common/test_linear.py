"""Linear layers by oneDNN are those of torch: values, gradients, what is frozen, odd shapes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from modalities.common import linear as module
from modalities.common.linear import Linear, linear, use_faster

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True, params=[pytest.param(True, marks=needs_onednn), False], ids=["onednn", "torch"])
def taken(request, monkeypatch):
    """Either library, whatever the processor."""
    monkeypatch.setattr(module, "ONEDNN_IS_FASTER", request.param)
    monkeypatch.setattr(module, "SMALLEST", 1)
    return request.param


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (2, 3, 4, 7), (0, 7), (1, 7)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients(shape, bias):
    torch.manual_seed(0)
    layer = nn.Linear(7, 11, bias=bias)
    x = torch.randn(shape, requires_grad=True)
    wanted, found = layer(x), linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(found, wanted)
    inputs = [x, *layer.parameters()]
    g = torch.randn_like(wanted)
    for a, b in zip(torch.autograd.grad(wanted, inputs, g), torch.autograd.grad(found, inputs, g)):
        torch.testing.assert_close(b, a)


def test_gradients_without_memory_of_their_own():
    """The gradient of a sum is one number, repeated; inputs may be turned or cut."""
    layer, x = nn.Linear(6, 4), torch.randn(6, 5)
    for y in (x.t(), torch.randn(5, 12)[:, ::2], torch.randn(1, 6).expand(5, 6)):
        wanted = torch.autograd.grad(layer(y).sum(), list(layer.parameters()))
        found = torch.autograd.grad(linear(y, layer.weight, layer.bias).sum(), list(layer.parameters()))
        for a, b in zip(wanted, found):
            torch.testing.assert_close(b, a)


@pytest.mark.parametrize("frozen", ["weight", "bias", "input"])
def test_what_is_frozen_gets_no_gradient(frozen):
    layer, x = use_faster(nn.Sequential(nn.Linear(3, 2)))[0], torch.randn(4, 3, requires_grad=True)
    parts = {"weight": layer.weight, "bias": layer.bias, "input": x}
    parts[frozen].requires_grad_(False)
    layer(x).square().sum().backward()
    assert {name for name, part in parts.items() if part.grad is None} == {frozen}


def test_other_types_are_torchs():
    layer, x = Linear(3, 2), torch.randn(4, 3)
    assert layer.double()(x.double()).dtype == torch.float64
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.to("meta")(x.to("meta")).shape == (4, 2)


def test_only_plain_layers_change():
    class Mine(nn.Linear):
        pass

    stack = use_faster(nn.Sequential(nn.Linear(2, 2), Mine(2, 2)))
    assert [type(layer) for layer in stack] == [Linear, Mine]
    assert list(stack.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_graphs_hold_torchs_own_operation():
    program = torch.export.export(Linear(3, 2), (torch.randn(4, 3),))
    assert "aten.linear" in str(program.graph) and "mkldnn" not in str(program.graph)


def test_operations_are_counted():
    with FlopCounterMode(display=False) as counter:
        linear(torch.randn(4, 5, 3), torch.randn(2, 3))
    assert counter.get_total_flops() == 2 * 4 * 5 * 3 * 2


def test_the_same_bits_twice():
    x, w = torch.randn(64, 48), torch.randn(32, 48)
    assert torch.equal(linear(x, w), linear(x.clone(), w.clone()))
    assert not torch.equal(linear(x, w), F.linear(x, -w))
