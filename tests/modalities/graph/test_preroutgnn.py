"""PreRoutGNN: the timing engine against another way to count, the networks, what they read, and their layouts."""


from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import nn

import zoo
from modalities.common import pretrained
from modalities.graph.circuit_timing import EARLY, Wires
from modalities.graph.circuits import AXIS, HEADER, levels
from modalities.graph.generated_circuits import CircuitsConfig, generate, write_circuit
from modalities.graph.interop import preroutgnn as interop
from modalities.graph.models.circuit_autoencoder import CircuitAutoEncoder, CircuitAutoEncoderConfig
from modalities.graph.models.circuit_layers import TableAttention
from modalities.graph.models.preroutgnn import PreRoutGNN, PreRoutGNNConfig
from modalities.graph.objectives.circuit_reconstruction import CircuitReconstructionConfig
from modalities.graph.objectives.timing import TimingConfig
from modalities.graph.preprocess_circuits import CircuitPreprocess
from trainer.errors import CheckpointError, ConfigError, DataError
from zoo.cli import main
from zoo.converting import read_release

SMALL = CircuitsConfig(gates=8, inputs=3)
FIELDS = dict(hidden_dim=8, depth=3, mlp_dim=8, gcn_dim=8, net_dim=8, cell_dim=8, pool_dim=4, table_dim=8, table_heads=2)


def small():
    torch.manual_seed(0)
    return PreRoutGNN(PreRoutGNNConfig(**FIELDS)).eval()


def test_the_engine_agrees_with_paths_followed_one_by_one():
    circuit, wires = generate(0, replace(SMALL, technologies=1.0)), Wires()
    into = {}
    for edge, (begin, end) in enumerate(circuit["net_index"].T):
        into.setdefault(int(end), []).append(("net", edge, int(begin)))
    for edge, (begin, end) in enumerate(circuit["cell_index"].T):
        into.setdefault(int(end), []).append(("cell", edge, int(begin)))
    length, capacitance = np.abs(circuit["net_attr"]).sum(axis=1), circuit["x"][:, 6:]
    load = np.zeros((len(capacitance), 4))
    for edge, (begin, end) in enumerate(circuit["net_index"].T):
        load[begin] += wires.capacitance * length[edge] + capacitance[end]

    def at(pin, corner):
        if pin not in into:
            return circuit["arrival"][pin, corner], circuit["slew"][pin, corner]
        ways = []
        for kind, edge, begin in into[pin]:
            time, slew = at(begin, corner)
            if kind == "net":
                half = wires.capacitance * length[edge] / 2
                delay = wires.resistance * length[edge] * (half + capacitance[pin, corner]) * (0.9 if EARLY[corner] else 1.1)
                ways.append((time + delay, (slew**2 + (2.2 * delay) ** 2) ** 0.5))
                continue
            found = []
            for table in (corner, corner + 4):
                axes = circuit["cell_attr"][edge, :HEADER].reshape(8, 15)[table, 1:].reshape(2, AXIS)
                values = circuit["cell_attr"][edge, HEADER:].reshape(8, AXIS, AXIS)[table]
                point = [np.clip(value, axis[0], axis[-1]) for value, axis in zip((slew, load[pin, corner]), axes)]
                found.append(RegularGridInterpolator(tuple(axes), values)(point)[0])
            ways.append((time + found[0], found[1]))
        return (min if EARLY[corner] else max)(ways)

    for pin in range(len(load)):
        for corner in range(4):
            assert np.allclose(at(pin, corner), (circuit["arrival"][pin, corner], circuit["slew"][pin, corner]), atol=1e-5)


def test_generated_circuits_follow_from_their_number():
    first, again, other = generate(3, SMALL), generate(3, SMALL), generate(4, SMALL)
    assert all(np.array_equal(first[key], again[key]) for key in first) and first["x"].shape != other["x"].shape
    assert first["endpoint"].any() and (first["required"][first["endpoint"]] > 0).all()
    for fields, words in (({"gates": 0}, "at least 1 gate"), ({"technologies": 0.5}, "technologies=0.5")):
        with pytest.raises(ConfigError, match=words):
            CircuitsConfig(**fields)


def test_a_technology_shows_in_all_pins_and_in_no_single_one():
    def gates(circuit):
        return (circuit["x"][:, :2] < 0.5).all(axis=1)  # their input pins

    wide = CircuitsConfig(gates=100, spread=1, technologies=4.0)
    circuits = [generate(number, wide) for number in range(12)]
    sizes = np.array([generate(number, wide)["x"][gates(c), 9].mean() / generate(number, replace(wide, technologies=1.0))["x"][gates(c), 9].mean() for number, c in enumerate(circuits)])
    means, single = (np.array([choose(c["x"][gates(c), 9]) for c in circuits]) for choose in (np.mean, lambda pins: pins[0]))
    assert sizes.max() / sizes.min() > 4 and sizes.min() >= 0.25 and sizes.max() <= 4
    assert np.corrcoef(np.log(sizes), np.log(means))[0, 1] > 0.95 > 0.9 > np.corrcoef(np.log(sizes), np.log(single))[0, 1]
    slowness = []
    for circuit in circuits:  # of wires whose length and load are known
        begin, end = circuit["net_index"]
        length = np.abs(circuit["net_attr"]).sum(axis=1)
        slowness.append(np.median(circuit["net_delay"][end, 2] / (1.1 * length * (length + circuit["x"][end, 8]))))
    assert np.allclose(slowness, 0.1 / sizes**2, rtol=1e-3)


def test_levels_are_the_longest_ways():
    edges = torch.tensor([[0, 1, 0, 3], [1, 2, 2, 2]])
    assert levels(edges, 5, "x").tolist() == [0, 1, 2, 0, 0]
    assert levels(torch.empty(2, 0, dtype=torch.long), 2, "x").tolist() == [0, 0]


def test_attention_on_tables_is_that_of_torch():
    torch.manual_seed(0)
    ours = TableAttention(8, 2)
    nn.init.normal_(ours.in_proj_bias)
    query, keys, values = torch.randn(5, 3, 8), torch.randn(5, 3, 49), torch.randn(5, 3, 49)
    plain = nn.MultiheadAttention(8, 2, kdim=1, vdim=1, batch_first=True)
    plain.load_state_dict(ours.state_dict())
    expected = plain(query.flatten(0, 1)[:, None], keys.flatten(0, 1)[..., None], values.flatten(0, 1)[..., None])[0][:, 0].unflatten(0, (5, 3))
    assert torch.allclose(ours(query, keys, values), expected, atol=1e-5)


def test_circuits_of_a_batch_do_not_touch():
    model, raw = small(), [generate(i, SMALL) for i in range(2)]
    read = CircuitPreprocess()
    with torch.inference_mode():
        both, alone = model.outputs(read(raw)), [model.outputs(read(one)) for one in raw]
    for name, value in both.items():
        assert torch.allclose(value, torch.cat([one[name] for one in alone]), atol=1e-5), name
    assert both["features"].shape == (2, 8)


def test_the_teacher_is_level_by_level_where_the_labels_are_what_was_found():
    model, batch = small(), CircuitPreprocess()([generate(i, SMALL) for i in range(2)])
    with torch.inference_mode():
        found = model.timing_of(batch)
        batch.timing = found.pins
        for one, other in zip(model.timing_of(batch, teacher=True), found):
            assert torch.allclose(one, other, atol=1e-5)


def test_training_lowers_both_losses_and_the_encoder_is_taken_over():
    torch.manual_seed(0)
    fields = {name: value for name, value in FIELDS.items() if name in ("hidden_dim", "depth", "mlp_dim")}
    coder = zoo.create("graph/circuit-autoencoder-tiny", **fields)
    batch = coder.preprocess([generate(i, SMALL) for i in range(2)])
    assert _lowered(CircuitReconstructionConfig(kl_weight=1e-3).build(coder), batch) < 0.8
    assert set(CircuitReconstructionConfig(kl_weight=1e-3).build(coder)(batch).parts) == {"reconstruction", "kl"}
    model = PreRoutGNN.built_on(coder, PreRoutGNNConfig(**FIELDS))
    assert isinstance(coder, CircuitAutoEncoder) and model.latent(batch).equal(coder.latent(batch)) and model.preprocess == coder.preprocess
    assert _lowered(TimingConfig().build(model), batch, 30) < 0.8
    loss = TimingConfig(teacher=False).build(model)(batch)
    loss.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert set(loss.parts) == {"arrival", "slew", "net_delay", "cell_delay"}


def _lowered(objective, batch, steps=12):
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    first = objective(batch).loss.item()
    for _ in range(steps):
        optimizer.zero_grad()
        objective(batch).loss.backward()
        optimizer.step()
    return objective(batch).loss.item() / first


def test_pins_without_label_add_nothing_and_count():
    raw = generate(0, SMALL)
    source = (raw["x"][:, :2] > 0.5).all(axis=1)
    hidden = {**raw, "arrival": np.where(source[:, None], raw["arrival"], np.nan).astype(np.float32)}
    batch, whole = CircuitPreprocess()(hidden), CircuitPreprocess()(raw)
    assert batch.labelled.sum() == source.sum() and whole.labelled.all() and batch.timing.isfinite().all()
    model = small()
    with torch.inference_mode():
        assert all(a.equal(b) for a, b in zip(model.timing_of(batch), model.timing_of(whole)))  # labels are no input
        losses = TimingConfig().build(model).losses(model.timing_of(batch), batch)
    assert losses.parts["arrival"] == 0  # the primary inputs are as given


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_official_layout_and_back(dropout, tmp_path, capsys):
    torch.manual_seed(0)
    model = PreRoutGNN(PreRoutGNNConfig(**FIELDS, frequencies=3, max_level=50, latent_dim=3, message_dim=5, dropout=dropout))
    model.preprocess = model.default_preprocess()
    model.save_pretrained(tmp_path / "ours")
    assert main(["export", str(tmp_path / "ours"), "--to", "official", "--output", str(tmp_path / "theirs")]) == 0, capsys.readouterr().err
    back = zoo.from_pretrained(tmp_path / "theirs")
    assert back.load_report.layout == "official" and back.config == model.config
    assert all(value.equal(back.state_dict()[name]) for name, value in model.state_dict().items())
    circuit = write_circuit(generate(0, SMALL), tmp_path / "circuit.npz")
    with torch.inference_mode():
        assert back.embed(back.preprocess(circuit)).equal(model.eval().embed(model.preprocess([str(circuit)])))


def test_a_timing_network_without_encoder(tmp_path, capsys):
    torch.manual_seed(0)
    model = PreRoutGNN(PreRoutGNNConfig(**FIELDS, latent_dim=0)).eval()
    model.preprocess = CircuitPreprocess()
    batch = model.preprocess(generate(0, SMALL))
    assert model.features(batch).shape[1] == model.config.pin_dim and not any(name.startswith("encoder.") for name in model.state_dict())
    model.save_pretrained(tmp_path / "ours")
    assert main(["export", str(tmp_path / "ours"), "--to", "official", "--output", str(tmp_path / "theirs")]) == 0, capsys.readouterr().err
    back = zoo.from_pretrained(tmp_path / "theirs")
    assert replace(back.config, **{name: FIELDS[name] for name in ("hidden_dim", "depth", "mlp_dim")}) == model.config
    with torch.inference_mode():
        assert torch.allclose(back.timing_of(batch).pins, model.timing_of(batch).pins, atol=1e-6)
    with pytest.raises(CheckpointError, match=r"encoder\.layer0"):  # its first layer may as well have read latents
        pretrained.from_tensors(interop.to_official(model), None, "timing.pt", "official")
    with pytest.raises(ConfigError, match="latent_dim must be at least 1"):
        CircuitAutoEncoderConfig(latent_dim=0)


def test_a_release_with_its_networks_under_two_keys(tmp_path, capsys):
    """`PreRoutGNN.pt` as the official code saves it; a decoder may lie beside the encoder."""
    model, theirs = small(), {}
    for name, value in interop.to_official(model).items():
        part, _, rest = name.partition(".")
        theirs.setdefault(part, {})[rest] = value
    assert set(theirs) == {"encoder", "model"}
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 5e-4, "params": [0]}]}
    torch.save({"epoch": 7, **theirs, "optimizer": optimizer}, tmp_path / "PreRoutGNN.pt")
    (tmp_path / "config.json").write_text('{"num_heads": 2}')  # no shape tells it
    assert main(["convert", str(tmp_path / "PreRoutGNN.pt"), "--from", "official", "--to", str(tmp_path / "ours")]) == 0, capsys.readouterr().err
    back = zoo.from_pretrained(tmp_path / "ours")
    assert back.config == model.config and all(value.equal(back.state_dict()[name]) for name, value in model.state_dict().items())
    coder = CircuitAutoEncoder(CircuitAutoEncoderConfig(hidden_dim=8, depth=3, mlp_dim=8))
    decoder = {name.removeprefix("decoder."): value for name, value in interop.to_official(coder).items() if name.startswith("decoder.")}
    for parts, report in (({**theirs, "decoder": decoder}, "left out"), ({"encoder": theirs["encoder"], "decoder": decoder}, "decoder complete")):
        torch.save({"epoch": 7, **parts}, tmp_path / "more.pt")
        state = read_release(tmp_path / "more.pt")
        made = pretrained.from_tensors(state, {"num_heads": 2}, "more.pt", "official")
        assert report in str(made.load_report), made.load_report
    torch.save({"epoch": 7, "encoder": theirs["encoder"]}, tmp_path / "half.pt")
    with pytest.raises(CheckpointError):
        pretrained.from_tensors(read_release(tmp_path / "half.pt"), None, "half.pt", "official")


def _changed(**changes):
    raw = generate(0, SMALL)
    return {**raw, **{key: change(raw[key].copy()) for key, change in changes.items()}}


def _put(place, value):
    def change(array):
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    "raw, words",
    [
        ([], "no circuits"),
        (3, "is a int"),
        ("nowhere.npz", "nowhere.npz is no .npz file"),
        ({"x": np.zeros((2, 10))}, "lacks net_attr, cell_attr"),
        (_changed(x=lambda x: x[:, :9]), r"x must have the shape \(\d+, 10\)"),
        (_changed(x=lambda x: x[:0]), "no pins"),
        (_changed(x=_put((4, 3), np.nan)), "x of row 4 is NaN"),
        (_changed(arrival=_put(0, np.nan)), "pin 0 is a primary input without arrival"),
        (_changed(slew=_put((1, 2), -1)), "pin 1 is a primary input"),
        (_changed(net_delay=_put((5, 0), -1)), "net_delay of pin 5 is negative"),
        (_changed(net_index=_put((0, 2), -1)), "edge 2 of net_index leads from pin -1"),
        (_changed(cell_index=_put((1, 0), 10**6)), "edge 0 of cell_index"),
        (_changed(net_index=lambda e: e.astype(float) + 0.5), "net_index must hold two rows"),
        (_changed(net_index=lambda e: np.stack([e[0], np.append(e[1][:-1], e[1][0])])), "ends more than one wire"),
        (_changed(cell_index=lambda e: np.stack([e[1], e[1]])), "lie on or behind a cycle"),
    ],
)
def test_bad_circuits(raw, words):
    with pytest.raises(DataError, match=words):
        CircuitPreprocess()(raw)


def test_wrong_options_and_wrong_batches():
    for fields, words in (({"depth": 1}, "depth"), ({"table_heads": 3}, "table_heads"), ({"dropout": 1.0}, "dropout"), ({"gcn_dim": 0}, "gcn_dim"), ({"frequencies": -1}, "frequencies")):
        with pytest.raises(ConfigError, match=words):
            PreRoutGNNConfig(**fields)
    with pytest.raises(DataError, match="A circuit needs net_attr"):
        small().embed({"x": torch.zeros(2, 10)})
    batch = CircuitPreprocess()(generate(0, SMALL))
    del batch["cell_delays"]
    with pytest.raises(DataError, match="lacks cell_delays"):
        TimingConfig().build(small())(batch)


def _bare(x, nets, cells):
    """A circuit without labels: pins (N, 2) are (is a port, drives), and everything else is made up."""
    rng = np.random.default_rng(0)
    features = np.concatenate([np.array(x, float), rng.random((len(x), 8))], axis=1)
    nets, cells = (np.array(ends, np.int64).reshape(-1, 2).T for ends in (nets, cells))
    times = np.where((features[:, :2] > 0.5).all(axis=1)[:, None], 0.5, np.nan).repeat(4, axis=1)
    return {
        "x": features, "net_index": nets, "net_attr": rng.random((nets.shape[1], 2)), "cell_index": cells, "cell_attr": rng.random((cells.shape[1], 512)), "arrival": times, "slew": times,
    }  # fmt: skip


PORT_IN, PORT_OUT, PIN_IN, PIN_OUT = (1, 1), (1, 0), (0, 0), (0, 1)
INVERTER = [PORT_IN, PIN_IN, PIN_OUT, PORT_OUT]


@pytest.mark.parametrize(
    "circuit, level",
    [
        (_bare([PORT_IN, PORT_OUT], [(0, 1)], []), [0, 1]),  # a single net
        (_bare([PORT_IN, PORT_OUT, PIN_IN], [(0, 1)], []), [0, 1, 0]),  # an isolated pin
        (_bare(INVERTER * 2, [(0, 1), (2, 3), (4, 5), (6, 7)], [(1, 2), (5, 6)]), [0, 1, 2, 3] * 2),  # two circuits in one
        (_bare([PIN_IN, PIN_OUT, PORT_OUT], [(1, 2)], [(0, 1)]), [0, 1, 2]),  # a gate that nothing drives
        (_bare([PORT_IN, PIN_IN, PIN_OUT], [(0, 1)], [(1, 2), (1, 2)]), [0, 1, 2]),  # two arcs side by side
    ],
)
def test_unusual_circuits(circuit, level):
    batch = CircuitPreprocess()(circuit)
    assert batch.level.tolist() == level
    with torch.inference_mode():
        said = small().outputs(batch)
    assert all(value.isfinite().all() for value in said.values())
    undriven = torch.tensor([number == 0 for number in level]) & (batch.labelled == 0)
    assert (said["pins"][undriven] == 0).all()  # nothing says when signals come there
    raw = {**circuit, "net_delay": np.zeros((len(level), 4)), "cell_delay": np.zeros((circuit["cell_index"].shape[1], 4))}
    losses = TimingConfig().build(small())(CircuitPreprocess()(raw))
    losses.loss.backward()
    assert losses.loss.isfinite()


def test_required_times_are_checked_and_those_that_mean_none_left_out():
    raw = generate(0, SMALL)
    read = CircuitPreprocess()({**raw, "required": np.where(raw["endpoint"][:, None], raw["required"], 1e30).astype(np.float32), "endpoint": None})
    assert read.required.isfinite().all(dim=1).equal(torch.from_numpy(raw["endpoint"])) and CircuitPreprocess()(raw).required.isnan().equal(read.required.isnan())
    with pytest.raises(DataError, match=r"required must have the shape \(\d+, 4\)"):
        CircuitPreprocess()({**raw, "required": raw["required"][:, :3]})
