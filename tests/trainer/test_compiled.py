"""A compiled run computes what the run does without the compiler, is compiled once, and goes on after a crash.

The backend calls torch's operations one by one: the real one takes minutes.
"""

from functools import partialmethod

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from tests.trainer.toy import CONFIG, CountedFit, Crash, fit, lines, same, weights
from trainer.config import replace
from trainer.parallel import compile_module, recompute

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at the inputs of the second block


class Residual(nn.Module):
    def __init__(self, turns=0):
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.turns = turns

    def forward(self, x):
        return x + self.layer(x).tanh().roll(self.turns, -1)


class Blocks(CountedFit):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Residual(), Residual())


@pytest.fixture
def graphs(monkeypatch):
    """Counts the graphs that are compiled."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=counter, fullgraph=True))
    with torch._dynamo.config.patch(recompile_limit=8):
        yield counter
    torch._dynamo.reset()


@pytest.mark.parametrize("how", ["whole", "blocks"])
def test_a_compiled_run(tmp_path, graphs, how):
    plain = fit(tmp_path / "plain", objective=Blocks)
    assert graphs.frame_count == 0
    config = replace(CONFIG, {"compile": how})
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / how, Crash(14), config=config, objective=Blocks)
    assert graphs.frame_count == 1  # one graph for all steps, and for all blocks
    compiled = fit(tmp_path / how, config=config, objective=Blocks, resume=True)
    assert graphs.frame_count <= 2 and compiled.restarts == 1
    assert same(weights(compiled), weights(plain)) and lines(tmp_path / how) == lines(tmp_path / "plain")


def test_recomputed_blocks_are_compiled(graphs):
    net, x = nn.Sequential(Residual(), Residual()), torch.randn(3, 16)
    wanted = torch.autograd.grad(net(x).sum(), list(net.parameters()))
    recompute(net)
    compile_module(net, "blocks")
    for _ in range(2):
        assert all(map(torch.equal, torch.autograd.grad(net(x).sum(), list(net.parameters())), wanted))
    assert 1 <= graphs.frame_count <= 2  # the second block's input has a gradient


def test_many_blocks_that_differ_are_all_compiled(graphs):
    net = nn.Sequential(*(Residual(i) for i in range(10)))
    compile_module(net, "blocks")
    for _ in range(2):
        net(torch.randn(3, 16))
    assert graphs.frame_count == len(net)
