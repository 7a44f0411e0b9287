"""The one way by which tensors become a model, on a model of its own."""

import dataclasses
import threading

import pytest
import torch
from torch import nn

from modalities.common.loading import Adaptation, Change, Placement, Rule, Search, load_model, match, skeleton, transplant
from modalities.common.model import Model
from modalities.common.stored import InMemory
from trainer.errors import CheckpointError, ModelError


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    width: int = 4
    depth: int = 2
    outputs: int = 3
    length: int = 5


class Toy(Model):
    """A model with everything that loading has to do with: a computed buffer, a stored one, a table, a head."""

    system, config_class, input_key = "toy/toy", ToyConfig, "x"
    parts = {"head": "head", "": "body"}
    change = Change()

    def __init__(self, config):
        super().__init__(config)
        self.layers = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.depth))
        self.norm = nn.BatchNorm1d(config.width)
        self.table = nn.Parameter(torch.zeros(1, config.length, config.width), requires_grad=False)
        self.register_buffer("computed", torch.arange(config.width).float() * 2, persistent=False)
        self.head = nn.Linear(config.width, config.outputs)

    @classmethod
    def change_from(cls, source, old, new, new_head=False):
        return cls.change

    def init_new(self, names):
        self.head = nn.Linear(self.config.width, self.config.outputs)


HEAD = (Rule(r"head\..*", "another head"),)


@pytest.fixture
def change(monkeypatch):
    return lambda **rules: monkeypatch.setattr(Toy, "change", Change(**rules))


def stored(**changes):
    torch.manual_seed(0)
    return {**Toy(ToyConfig()).state_dict(), **changes}


def load(state, config=ToyConfig(), **options):
    weights = InMemory(state)
    source = skeleton(Toy, ToyConfig(), len(state), "here")
    model = source if config == ToyConfig() and not Toy.change.new else skeleton(Toy, config, len(state), "here")
    return load_model(model, source, weights, "here", **options)


def test_all_tensors_are_taken_without_a_copy_and_buffers_computed():
    state = stored()
    model = load(state)
    assert all(model.state_dict()[name].data_ptr() == tensor.data_ptr() for name, tensor in state.items())
    assert model.computed.equal(torch.tensor([0.0, 2, 4, 6])) and not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    assert "computed" not in model.state_dict()
    assert not model.training and not model.table.requires_grad and model.head.weight.requires_grad
    assert model.load_report.words() == f"body complete {len(state) - 2}/{len(state) - 2}; head complete 2/2"


def test_a_skeleton_takes_no_memory_and_draws_no_numbers():
    torch.manual_seed(0)
    model = skeleton(Toy, ToyConfig(width=200_000, depth=3), 100, "here")  # 480 GB
    assert all(p.is_meta for p in model.parameters()) and torch.initial_seed() == 0
    assert torch.rand(1).equal(torch.rand(1, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("changes", [{"depth": 10**9}, {"width": 2**40}, {"width": -1}, {"width": 10**30}])
def test_configs_that_no_file_can_fill_are_refused_at_once(changes):
    with pytest.raises(CheckpointError, match="here.*config describes a Toy"):
        skeleton(Toy, ToyConfig(**changes), 20, "here")


@pytest.mark.parametrize("dtype, wanted", [(None, torch.float32), (torch.float16, torch.float16), (torch.float64, torch.float64)])
def test_types(dtype, wanted):
    state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in stored().items()}
    model = load(state, placement=Placement(dtype=dtype))
    assert {p.dtype for p in model.parameters()} == {wanted} and model.computed.dtype == wanted
    assert model.norm.num_batches_tracked.dtype == torch.int64
    assert model.load_report.notes == (() if dtype == torch.float16 else (f"stored in float16, loaded in {str(wanted)[6:]}",))


def test_double_precision_is_kept_and_what_overflows_is_told():
    state = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in stored().items()}
    assert load(state).head.weight.dtype == torch.float64
    state["head.bias"] = state["head.bias"] + 1e300
    with pytest.raises(CheckpointError, match="infinity in head.bias after the change of type"):
        load(state, placement=Placement(dtype=torch.float32))
    assert load(state, placement=Placement(dtype=torch.float32, allow_nonfinite=True)).head.bias.isinf().all()


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_types_that_are_no_weights(dtype):
    with pytest.raises(CheckpointError, match=r"no weights in this type \(1\): head.bias \("):
        load(stored(**{"head.bias": torch.zeros(3).to(dtype)}))
    with pytest.raises(CheckpointError, match="num_batches_tracked"):
        load(stored(**{"norm.num_batches_tracked": torch.tensor(1.0)}))


def test_a_new_head_is_announced_and_the_old_one_named(change):
    change(new=HEAD, unused=HEAD)
    model = load(stored(), ToyConfig(outputs=7))
    assert model.head.weight.shape == (7, 4) and model.head.weight.isfinite().all() and not model.head.weight.is_meta
    assert model.load_report.words().endswith("head new, the stored one left out, 2 tensors")
    assert [row.name for row in model.load_report.of("new")] == ["head.weight", "head.bias"]


def test_what_no_rule_announces_is_an_error_with_both_lists(change):
    with pytest.raises(CheckpointError, match=r"(?s)missing in the checkpoint \(2\): head.bias \(3,\) instead of \(7,\), head.weight"):
        load(stored(), ToyConfig(outputs=7))
    with pytest.raises(CheckpointError, match=r"(?s)not in the model \(2\): layers.1.bias, layers.1.weight"):
        load(stored(), ToyConfig(depth=1))
    with pytest.raises(CheckpointError, match=r"missing in the checkpoint \(2\): layers.2.bias, layers.2.weight"):
        load(stored(), ToyConfig(depth=3))
    change(new=HEAD)
    with pytest.raises(CheckpointError, match=r"not in the model \(2\): head.bias, head.weight"):
        load(stored(), ToyConfig(outputs=7))


@pytest.mark.parametrize(
    "rules",
    [
        {"new": (*HEAD, Rule("neck.*", "x")), "unused": HEAD},
        {"new": HEAD, "unused": (*HEAD, Rule("head", "a part of a name is no match"))},
        {"new": HEAD, "unused": HEAD, "adapted": {"tables": Adaptation("x", lambda t: t)}},
    ],
)
def test_a_rule_that_matches_nothing_is_an_error(rules, change):
    change(**rules)
    with pytest.raises(ModelError, match="match no tensor: (neck.*|head|tables)"):
        load(stored(), ToyConfig(outputs=7))


def test_adapted_tensors(change):
    change(adapted={"table": Adaptation("cut", lambda table: table[:, :2])})
    state = stored(table=torch.rand(1, 5, 4))
    model = load(state, ToyConfig(length=2))
    assert model.table.equal(state["table"][:, :2])
    (row,) = model.load_report.of("resized")
    assert (row.shape, row.stored_shapes, row.note) == ((1, 2, 4), ((1, 5, 4),), "cut")


def test_a_wrong_adaptation_cannot_pass(change):
    change(adapted={"table": Adaptation("wrong", lambda table: table[:, :3])})
    with pytest.raises(RuntimeError, match="size mismatch for table"):
        load(stored(), ToyConfig(length=2))


def test_pieces_are_joined_and_may_have_another_type():
    state = stored()
    whole = state.pop("layers.0.weight")
    state |= {f"part.{i}": piece.half() for i, piece in enumerate(whole.chunk(2))}
    model = load(state, names=lambda name: ("part.0", "part.1") if name == "layers.0.weight" else (name,))
    assert model.layers[0].weight.equal(whole.half().float())
    assert [row.note for row in model.load_report.of("renamed")] == ["joined from 2"]


def test_transplanting_copies_and_keeps_what_is_new(change):
    change(new=HEAD, unused=HEAD)
    source, model = Toy(ToyConfig()), Toy(ToyConfig(outputs=9))
    head = model.head.weight.clone()
    transplant(source, model)
    assert model.layers[0].weight.equal(source.layers[0].weight) and model.head.weight.equal(head)
    assert model.layers[0].weight.data_ptr() != source.layers[0].weight.data_ptr()
    with pytest.raises(ModelError, match="layers.2.weight"):
        transplant(source, Toy(ToyConfig(depth=3)))


def test_a_search_that_is_left_ends():
    release, begun = threading.Event(), []

    class Slow:
        def searches(self):
            return [lambda: (begun.append(1), release.wait(), [])[2]] * 50

    with pytest.raises(KeyError):
        with Search(Slow()):
            threading.Timer(0.05, release.set).start()
            raise KeyError
    assert len(begun) < 50 and not [t for t in threading.enumerate() if t.name.startswith("finite")]


def test_match_wants_names_one_to_one():
    model = skeleton(Toy, ToyConfig(), 20, "here")
    meta = InMemory(stored()).meta
    assert match(model, meta, lambda name: (name,), "here").keys() == model.state_dict().keys()
    with pytest.raises(CheckpointError, match=r"missing in the file \(12\).*\n  not in the model \(12\)"):
        match(model, {f"x.{name}": tensor for name, tensor in meta.items()}, lambda name: (name,), "here")


def test_threads_do_not_count_each_others_tensors():
    def build():
        for _ in range(5):
            try:
                skeleton(Toy, ToyConfig(depth=250), 0, "here")  # 500 of at most 1000 tensors
            except CheckpointError as error:
                failed.append(error)

    failed = []
    threads = [threading.Thread(target=build) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failed
