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


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x):
        return x + self.layer(x).tanh()


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
    yield counter
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at the inputs of the second block
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
