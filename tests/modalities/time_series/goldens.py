"""What the tests of golden files share."""

import json
from pathlib import Path

from modalities.common.golden import Golden
from modalities.time_series import golden as time_series
from trainer.weights import write_safetensors

FILES = Path(__file__).parents[2] / "golden" / "time_series"


def largest_error(path):
    """Largest error of a file relative to max(1, magnitude), with every stored tensor compared."""
    golden = Golden.read(path)
    computed = time_series.run(golden)
    assert computed.keys() == golden.expected.keys()
    for name, stored in golden.expected.items():
        assert computed[name].shape == stored.shape, name
    return max((computed[n] - s).abs().max().item() / max(1, s.abs().max().item()) for n, s in golden.expected.items())


def write_golden(path, model, config, state, tensors):
    """A golden file of a state, inputs and outputs; everything is stored as float32."""
    stored = {f"state.{name}": tensor for name, tensor in state.items()} | tensors
    write_safetensors({name: t.detach().float().contiguous().clone() for name, t in stored.items()}, path, {"model": model, "layout": "official", "config": json.dumps(config)})
    return path
