import re

import pytest

from tools.bench_steps import Options, main


@pytest.mark.parametrize("options", [Options("mae", "vision/mae-tiny", 2, 1), Options("videomae", "video/videomae-tiny", 2, 1)], ids=lambda o: o.step)
def test_both_compute_the_same_loss(options, capsys):
    assert main(options) > 0
    assert float(re.search(r"losses differ by (\S+);?", capsys.readouterr().out)[1]) < 1e-5
