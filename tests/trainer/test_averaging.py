import weakref

import pytest
import torch
from torch import nn

from trainer.averaging import greedy_soup, interpolate, moving_average_, running_average, squared_distance, uniform_soup
from trainer.errors import CheckpointError, ConfigError


def states(count, seed=0):
    torch.manual_seed(seed)
    return [{"w": torch.randn(3, 2), "b": torch.randn(2), "n": torch.tensor(10 + i)} for i in range(count)]


def test_uniform_soup():
    models = states(5)
    before = [{k: v.clone() for k, v in m.items()} for m in models]
    soup = uniform_soup(iter(models))
    torch.testing.assert_close(soup["w"], torch.stack([m["w"] for m in models]).mean(0))
    assert soup["n"] == 10 and soup["n"].dtype == torch.int64
    assert all(a[k].equal(b[k]) for a, b in zip(models, before) for k in a)
    soup["w"].zero_()
    assert uniform_soup(models[:1])["w"].equal(before[0]["w"])
    assert models[0]["w"].equal(before[0]["w"])


def test_sixteen_bits_are_averaged_in_thirty_two():
    """1 + 255 * 1.0078125 in bfloat16 would stop growing at 256."""
    models = [{"w": torch.full((1,), 1.0078125, dtype=torch.bfloat16)} for _ in range(1000)]
    assert uniform_soup(models)["w"].equal(models[0]["w"]) and uniform_soup(models)["w"].dtype == torch.bfloat16
    assert running_average(models[0], {"w": models[0]["w"] * 3}, 1)["w"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    "other, words",
    [({"w": torch.zeros(2)}, "only in one of them: b"), ({"w": torch.zeros(3), "b": torch.zeros(1)}, r"other shapes: w \([23],\) and \([23],\)")],
)
def test_other_architectures_are_refused(other, words):
    first = {"w": torch.zeros(2), "b": torch.zeros(1)}
    for mix in (
        lambda: uniform_soup([first, other]),
        lambda: greedy_soup([first, other], lambda s: 0.0),
        lambda: running_average(first, other, 1),
        lambda: interpolate(first, other, 0.5),
        lambda: moving_average_(first, other, 0.5),
        lambda: squared_distance(first, other),
    ):
        with pytest.raises(CheckpointError, match=words):
            mix()


def test_nothing_to_average():
    with pytest.raises(ConfigError):
        uniform_soup([])
    with pytest.raises(ConfigError):
        greedy_soup([], lambda s: 0.0)


def scalar(*values):
    return [{"w": torch.tensor(float(v)), "n": torch.tensor(i)} for i, v in enumerate(values)]


def test_greedy_soup_keeps_what_strictly_improves():
    """The target is 2: alone 3 is best (1 off); 3 and 1 are exact; 5 spoils it; another 3 with 1 is tried and leaves it worse."""
    models, tried = scalar(1, 5, 3, -4), []

    def score(state):
        tried.append(float(state["w"]))
        return -abs(float(state["w"]) - 2)

    soup = greedy_soup(models, score)
    assert soup.scores == [-1, -3, -1, -6] and soup.order == [2, 0, 1, 3]  # of 1 and 3 the later comes first
    assert soup.ingredients == [2, 0] and soup.state["w"] == 2 and soup.score == 0 and soup.state["n"] == 2
    assert tried == [1, 5, 3, -4, 2, 3, 0]  # each alone, then 3+1, then 3+1+5, then 3+1-4
    assert [float(m["w"]) for m in models] == [1, 5, 3, -4]


def test_equal_scores_are_not_added():
    soup = greedy_soup(scalar(1, 1, 1), lambda s: 7.0)
    assert soup.order == [2, 1, 0] and soup.ingredients == [2] and soup.score == 7


def test_known_scores_are_not_measured_again():
    calls = []
    soup = greedy_soup(scalar(1, 2), lambda s: calls.append(1) or 0.0, scores=[0.5, 0.25])
    assert soup.order == [0, 1] and soup.ingredients == [0] and len(calls) == 1


def test_greedy_is_never_worse_than_the_best_single():
    torch.manual_seed(0)
    x, y = torch.randn(200, 4), torch.randint(0, 3, (200,))
    models = [{"weight": torch.randn(3, 4)} for _ in range(12)]

    def score(state):
        return float((x @ state["weight"].T).argmax(1).eq(y).float().mean())

    soup = greedy_soup(models, score)
    assert soup.score >= max(soup.scores) and score(soup.state) == soup.score
    torch.testing.assert_close(soup.state["weight"], torch.stack([models[i]["weight"] for i in soup.ingredients]).mean(0))


class Loaded:
    """Models that are made when they are indexed; counts how many tensors of them are alive at once."""

    def __init__(self, count):
        self.count, self.alive, self.most = count, weakref.WeakSet(), 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        state = {name: torch.full((4,), float(index)) for name in "abcdefgh"}
        for tensor in state.values():
            self.alive.add(tensor)
        self.most = max(self.most, len(self.alive))
        return state


def test_one_loaded_model_at_a_time():
    models = Loaded(6)
    assert uniform_soup(models[i] for i in range(6))["a"].tolist() == [2.5] * 4
    assert models.most <= 9  # 8 tensors each, and the last of the model before
    models = Loaded(6)
    assert greedy_soup(models, lambda s: float(s["a"].sum())).ingredients == [5]
    assert models.most <= 17  # the soup itself may be the best of them


def test_running_average_counts_the_start():
    models = states(4)
    average = models[0]
    for count, model in enumerate(models[1:], start=1):
        average = running_average(average, model, count)
    torch.testing.assert_close(average["w"], uniform_soup(models)["w"])
    assert average["n"] == 10


def test_interpolate():
    a, b, _ = states(3)
    assert interpolate(a, b, 0.0)["w"].equal(a["w"]) and interpolate(a, b, 1.0)["w"].equal(b["w"])
    torch.testing.assert_close(interpolate(a, b, 0.3)["b"], 0.7 * a["b"] + 0.3 * b["b"])
    assert interpolate(a, b, 1.0)["n"] == a["n"]


def test_moving_average_writes_into_the_live_model():
    layer = nn.Linear(2, 2)
    live, start = dict(layer.named_parameters()), layer.weight.detach().clone()
    moving_average_(live, {"weight": torch.ones(2, 2), "bias": torch.ones(2)}, 0.75)
    torch.testing.assert_close(layer.weight.detach(), 0.75 * start + 0.25)
    assert layer.weight.requires_grad and layer.weight.grad_fn is None


def test_squared_distance_has_a_gradient():
    a, b, _ = states(3)
    a["w"].requires_grad_()
    distance = squared_distance(a, b)
    distance.backward()
    w = a["w"].detach()
    assert distance.item() == pytest.approx(float(((w - b["w"]) ** 2).sum() + ((a["b"] - b["b"]) ** 2).sum()))
    torch.testing.assert_close(a["w"].grad, 2 * (w - b["w"]))
