"""Linear layers by oneDNN are those of torch: values, gradients, what is frozen, odd shapes."""

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
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


@pytest.mark.parametrize("strict", [True, False])
def test_graphs_take_any_batch(strict, monkeypatch):
    monkeypatch.setattr(module, "SMALLEST", 20)
    program = torch.export.export(Linear(3, 2), (torch.randn(4, 3),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=strict)
    assert "aten.linear" in str(program.graph) and "product" not in str(program.graph)
    assert program.module()(torch.randn(2, 3)).shape == (2, 2)


@pytest.mark.parametrize("given", [(2, 3, 7), (6, 7)], ids=str)
def test_a_compiled_layer_keeps_the_product(taken, given):
    """In one graph, forward and backward; the bits are those without the compiler, and new values need no new graph."""
    torch.manual_seed(0)
    stack = use_faster(nn.Sequential(nn.Linear(7, 11), nn.GELU(), nn.Linear(11, 5, bias=False)))
    stack[2].weight.requires_grad_(False)
    graphs = []

    def keep(graph, inputs):
        graphs.append(str(graph.graph))
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    compiled = torch.compile(stack, backend=aot_autograd(fw_compiler=keep), fullgraph=True)
    for _ in range(3):
        x, wanted, found = torch.randn(given, requires_grad=True), [], []
        inputs = [x, stack[0].weight, stack[0].bias]
        for net, outputs in ((stack, wanted), (compiled, found)):
            y = net(x)
            outputs += [y, *torch.autograd.grad(y.square().sum(), inputs)]
        assert all(map(torch.equal, wanted, found))
    assert [graph.count("modality_zoo.product.default") for graph in graphs] == ([2, 3] if taken else [0, 0])


@needs_onednn
def test_the_operation_is_well_formed():
    x, weight = torch.randn(2, 3, 7), torch.randn(7, 11).t()
    for bias in (None, torch.randn(11)):
        torch.library.opcheck(module.PRODUCT, (x, weight, bias))


def test_no_second_derivatives_by_onednn(taken):
    layer, x = Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    if not taken:
        return first.sum().backward()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_operations_are_counted():
    with FlopCounterMode(display=False) as counter:
        linear(torch.randn(4, 5, 3), torch.randn(2, 3))
    assert counter.get_total_flops() == 2 * 4 * 5 * 3 * 2


def test_the_same_bits_twice():
    x, w = torch.randn(64, 48), torch.randn(32, 48)
    assert torch.equal(linear(x, w), linear(x.clone(), w.clone()))
    assert not torch.equal(linear(x, w), F.linear(x, -w))
