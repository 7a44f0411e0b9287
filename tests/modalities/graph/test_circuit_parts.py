"""Circuits in parts: what the order-preserving partition keeps, training on parts, and networks that are computed block by block."""

import numpy as np
import pytest
import torch

from modalities import registry
from modalities.graph.circuit_parts import PartsConfig, cut_out, divide
from modalities.graph.circuit_sets import CircuitSource
from modalities.graph.circuits import same_tables
from modalities.graph.generated_circuits import CircuitsConfig, generate
from modalities.graph.models import blocks
from modalities.graph.models.preroutgnn import PreRoutGNN, PreRoutGNNConfig
from modalities.graph.objectives.timing import TimingConfig
from modalities.graph.preprocess import collate
from modalities.graph.preprocess_circuits import CircuitPreprocess
from trainer.config import replace
from trainer.errors import ConfigError

FIELDS = dict(hidden_dim=8, depth=3, mlp_dim=8, gcn_dim=8, net_dim=8, cell_dim=8, pool_dim=4, table_dim=8, table_heads=2)


@pytest.fixture(scope="module")
def circuit():
    """Its pins have a mark, the last capacitance."""
    made = generate(1, CircuitsConfig(gates=40, inputs=4))
    made["x"][:, -1] = np.arange(len(made["x"]))
    return CircuitPreprocess().transform(made)


def edges_of(part):
    """Wires and arcs by the marks of their ends."""
    mark = part.x[:, -1].long()
    return {(kind, *pair) for kind in ("net_index", "cell_index") for pair in mark[part[kind]].T.tolist()}


@pytest.mark.parametrize("pins", [1, 50, 10**6])
def test_every_pin_has_one_part_and_nothing_leads_backwards(circuit, pins):
    levels = divide(circuit.level, pins)
    assert [step.start for step in levels] == [0, *(step.stop for step in levels[:-1])] and levels[-1].stop == int(circuit.level.max()) + 1
    assert all(len(step) % 2 == 0 for step in levels[:-1])
    counts = torch.bincount(circuit.level)
    for step in levels[:-1]:  # large enough, and not two levels ago
        assert counts[step.start : step.stop].sum() >= pins and (len(step) == 2 or counts[step.start : step.stop - 2].sum() < pins)
    parts = [cut_out(circuit, step) for step in levels]
    owner = torch.full((circuit.num_nodes,), -1)
    for number, part in enumerate(parts):
        own = part.x[part.valid > 0, -1].long()
        assert (owner[own] == -1).all()
        owner[own] = number
    assert (owner >= 0).all()
    for ends in (circuit.net_index, circuit.cell_index):
        assert (owner[ends[0]] <= owner[ends[1]]).all()
    assert (owner.sort(stable=True).values == owner[circuit.level.argsort(stable=True)]).all()  # parts follow the levels


def test_one_part_is_the_whole(circuit):
    (step,) = divide(circuit.level, 10**6)
    part = cut_out(circuit, step)
    assert all(part[key].nan_to_num().equal(circuit[key].nan_to_num()) for key in circuit.keys()) and part.valid.all()


@pytest.mark.parametrize("sources", [False, True])
def test_a_part_is_the_circuit_between_its_levels(circuit, sources):
    whole = edges_of(circuit)
    for step in divide(circuit.level, 60):
        part = cut_out(circuit, step, PartsConfig(padding=4, sources=sources))
        mark = part.x[:, -1].long()
        assert all(part[key].equal(circuit[key][mark]) for key in ("x", "level", "timing", "net_delays"))  # levels stay those of the whole
        assert (part.valid > 0).equal((part.level >= step.start) & (part.level < step.stop))
        near = (part.level >= step.start - 4) & (part.level < step.stop + 4)
        assert near.all() or sources
        assert edges_of(part) == {edge for edge in whole if {edge[1], edge[2]} <= set(mark.tolist())}
        if sources:
            own = set(mark[part.valid > 0].tolist())
            assert {edge for edge in whole if edge[2] in own} <= edges_of(part)
        arcs = {tuple(pair): row for pair, row in zip(circuit.cell_index.T.tolist(), circuit.cell_attr[circuit.cell_kind])}
        assert all(row.equal(arcs[tuple(pair)]) for pair, row in zip(mark[part.cell_index].T.tolist(), part.cell_attr[part.cell_kind]))


def test_pins_around_a_part_are_not_scored(circuit):
    torch.manual_seed(0)
    model = PreRoutGNN(PreRoutGNNConfig(**FIELDS))
    step = divide(circuit.level, 60)[1]
    batch = collate([cut_out(circuit, step)])
    around = batch.valid == 0
    assert around.any() and not around.all()
    with torch.no_grad():
        losses = [TimingConfig().build(model).losses(model.timing_of(batch, teacher=True), batch)]
        timing = model.timing_of(batch, teacher=True)
        batch.timing[around] += 5.0
        batch.net_delays[around] += 5.0
        losses.append(TimingConfig().build(model).losses(timing, batch))
    assert all(losses[0].parts[name] == losses[1].parts[name] for name in ("arrival", "slew", "net_delay"))


def test_runs_on_parts():
    small = {"data.circuits": 2, "data.test_circuits": 1, "data.generated.gates": 30, "data.generated.inputs": 3, "data.parts.pins": 40}
    recipe = replace(registry.find_recipe("graph/preroutgnn-tiny"), {**small, "model.gcn_dim": 8, "model.cell_dim": 8})
    source, objective = recipe.build()
    assert source.divided and len(source) > 4 and not source.held_out.divided and "levels 0 to" in source.id(0)
    assert "parts" in source.describe() and source.describe()["circuits"] == 2
    objective(collate([source[i] for i in range(len(source))])).loss.backward()
    coder, objective = replace(registry.find_recipe("graph/circuit-autoencoder-tiny"), small).build()
    assert len(coder) == len(source) and objective(collate([coder[0], coder[1]])).loss > 0
    with pytest.raises(ConfigError, match="data.parts.pins to 0"):
        replace(recipe, {"objective.teacher": False}).build()
    assert not replace(recipe, {"objective.teacher": False, "data.parts.pins": 0}).build()[0].divided
    with pytest.raises(ConfigError, match="at least 0"):
        PartsConfig(pins=-1)


def test_blocks_change_nothing(circuit, monkeypatch):
    torch.manual_seed(0)
    model = PreRoutGNN(PreRoutGNNConfig(**FIELDS, dropout=0.1))
    batch = collate([CircuitSource([circuit], "x", {})[0]])

    def computed(numbers):
        monkeypatch.setattr(blocks, "NUMBERS", numbers)
        model.zero_grad()
        model.eval()
        with torch.no_grad():
            said = model.timing_of(batch)
        loss = TimingConfig().build(model)(batch).loss
        loss.backward()
        return [*said, loss.detach(), *(p.grad.clone() for p in model.parameters())]

    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in zip(computed(10**8), computed(2000)))


def test_arcs_share_tables_and_circuits_keep_theirs():
    raw = [generate(i, CircuitsConfig(gates=20, inputs=3)) for i in range(2)]
    raw[1]["cell_attr"] = raw[1]["cell_attr"] + np.arange(len(raw[1]["cell_attr"]), dtype=np.float32)[:, None]  # each has its own
    one, other = (CircuitPreprocess().transform(circuit) for circuit in raw)
    assert len(one.cell_attr) == len(np.unique(raw[0]["cell_attr"], axis=0)) < len(raw[0]["cell_attr"]) and len(other.cell_attr) == len(raw[1]["cell_attr"])
    batch = collate([one, other, one])
    expected = np.concatenate([raw[i]["cell_attr"] for i in (0, 1, 0)])
    assert batch.cell_attr[batch.cell_kind].equal(torch.from_numpy(expected))
    empty = same_tables(torch.zeros(0, 512))
    assert empty[0].shape == (0, 512) and empty[1].shape == (0,)
