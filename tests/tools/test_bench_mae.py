import re

from tools.bench_mae import Options, main


def test_both_compute_the_same_loss(capsys):
    assert main(Options(size="tiny", input_size=16, batch_size=2, repeats=1)) > 0
    assert float(re.search(r"losses differ by (\S+)", capsys.readouterr().out)[1]) < 1e-5
