"""Golden files of the official codes."""

from pathlib import Path

import pytest

from modalities.common.golden import Golden
from modalities.time_series import golden as time_series

FILES = sorted((Path(__file__).parents[2] / "golden" / "time_series").glob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_official_outputs(path):
    golden = Golden.read(path)
    computed = time_series.run(golden)
    assert computed.keys() == golden.expected.keys()
    for name, stored in golden.expected.items():
        assert computed[name].shape == stored.shape, name
        assert (computed[name] - stored).abs().max() <= 2e-5 * max(1.0, stored.abs().max().item()), name
