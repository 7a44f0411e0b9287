"""Position tables: the named layouts against formulas written out, and the resize."""

import math

import pytest
import torch

from modalities.common.positions import resize_positions, sincos_1d, sincos_table
from trainer.errors import ModelError


def test_mae_puts_the_column_first():
    table = sincos_table(8, (2, 3), "column-first")
    assert table.shape == (1, 7, 8) and table.dtype == torch.float32
    assert torch.equal(table[0, 0], torch.zeros(8))
    row, column = 1, 2
    w1 = 1 / 10000 ** (1 / 2)
    expected = [math.sin(column), math.sin(column * w1), math.cos(column), math.cos(column * w1)]
    expected += [math.sin(row), math.sin(row * w1), math.cos(row), math.cos(row * w1)]
    torch.testing.assert_close(table[0, 1 + row * 3 + column], torch.tensor(expected), atol=1e-7, rtol=0)


def test_multimae_is_mae_with_swapped_halves():
    mae, multimae = sincos_table(24, (5, 5), "column-first", 0), sincos_table(24, (5, 5), "row-first", 0)
    assert torch.equal(torch.cat([mae[..., 12:], mae[..., :12]], dim=-1), multimae)


def test_videomae_interleaves_over_the_flattened_index():
    table = sincos_table(6, (2, 2, 3), "interleaved", prefix=0)
    assert table.shape == (1, 12, 6)
    for position in (0, 7, 11):
        angles = [position / 10000 ** (2 * (j // 2) / 6) for j in range(6)]
        expected = torch.tensor([math.cos(a) if j % 2 else math.sin(a) for j, a in enumerate(angles)])
        torch.testing.assert_close(table[0, position], expected, atol=1e-6, rtol=0)


def test_one_and_three_axes():
    torch.testing.assert_close(sincos_table(6, (4,), "column-first", 0)[0], sincos_1d(6, torch.arange(4)).float())
    table = sincos_table(12, (2, 3, 4), "column-first", 0)[0].unflatten(0, (2, 3, 4))
    assert torch.equal(table[0, 1, :, :4], table[1, 2, :, :4])  # the first third follows the last axis alone
    assert torch.equal(table[1, :, 2, 8:], table[1, :, 0, 8:])  # the last third follows the first axis alone


def test_tables_are_computed_in_double_precision():
    exact = sincos_1d(64, torch.tensor([1000.0]))
    assert exact.dtype == torch.float64
    w = 10000 ** (-5 / 32)
    assert abs(exact[0, 5].item() - math.sin(1000 * w)) < 1e-12


def test_an_oblong_row_first_table_keeps_rows_and_columns_apart():
    table = sincos_table(32, (2, 3), "row-first", 0).unflatten(1, (2, 3))[0]  # (2, 3, 32)
    assert (table[:, :, :16] == table[:, :1, :16]).all() and (table[:, :, 16:] == table[:1, :, 16:]).all()
    assert torch.equal(table[:, 0, :16], sincos_1d(16, torch.arange(2)).float()) and torch.equal(table[0, :, 16:], sincos_1d(16, torch.arange(3)).float())


def test_bad_tables_say_what_fits():
    with pytest.raises(ModelError, match="divisible by 4, found 30. Use 28 or 32"):
        sincos_table(30, (4, 4), "column-first")
    with pytest.raises(ModelError, match="must be even, found 5"):
        sincos_1d(5, torch.arange(3))
    with pytest.raises(ModelError, match="Unknown position layout 'mae'"):
        sincos_table(32, (2, 2), "mae")


@pytest.mark.parametrize(("old", "new"), [((4,), (7,)), ((3, 3), (4, 5)), ((2, 2, 2), (3, 2, 4))])
def test_resize_keeps_the_prefix_and_equals_interpolate(old, new):
    table = torch.randn(1, 2 + math.prod(old), 6)
    resized = resize_positions(table, old, new, prefix=2)
    assert resized.shape == (1, 2 + math.prod(new), 6)
    assert torch.equal(resized[:, :2], table[:, :2])
    mode = {1: "linear", 2: "bicubic", 3: "trilinear"}[len(old)]
    expected = torch.nn.functional.interpolate(table[:, 2:].reshape(1, *old, 6).movedim(-1, 1), size=new, mode=mode, align_corners=False)
    torch.testing.assert_close(resized[:, 2:], expected.movedim(1, -1).reshape(1, -1, 6))


def test_resize_to_the_same_grid_changes_nothing():
    table = torch.randn(1, 17, 6)
    assert torch.equal(resize_positions(table, (4, 4), (4, 4)), table)


def test_resize_checks_the_table():
    with pytest.raises(ModelError, match=r"\(1, 17, D\), found \(1, 10, 6\)"):
        resize_positions(torch.randn(1, 10, 6), (4, 4), (5, 5))
    with pytest.raises(ModelError, match="the same 1, 2 or 3 axes"):
        resize_positions(torch.randn(1, 17, 6), (4, 4), (16,))
