"""Runs on circuits through the shared trainer: the auto-encoder, the timing network on it, and where circuits come from."""

import numpy as np
import pytest
import torch

import zoo
from modalities import registry
from modalities.common.run import run
from modalities.graph.circuit_evaluation import TimingR2, slack
from modalities.graph.circuit_sets import CircuitSet
from modalities.graph.generated_circuits import CircuitsConfig, generate, write_circuit
from modalities.graph.models.preroutgnn import PreRoutGNN, Timing
from modalities.graph.preprocess_circuits import GRAPH, CircuitPreprocess
from trainer.config import replace
from trainer.errors import ConfigError, DataError
from zoo.cli import main

SMALL = {"data.circuits": 4, "data.test_circuits": 2, "data.generated.gates": 6, "data.generated.inputs": 3, "train.batch_size": 2, "train.steps": 2, "model.hidden_dim": 8, "model.mlp_dim": 8}


def test_the_encoder_goes_from_run_to_run(tmp_path):
    run(replace(registry.find_recipe("graph/circuit-autoencoder-tiny"), SMALL), tmp_path / "coder")
    recipe = replace(registry.find_recipe("graph/preroutgnn-tiny"), {**SMALL, "encoder": str(tmp_path / "coder"), "model.gcn_dim": 8, "model.cell_dim": 8})
    source, objective = recipe.build()
    coder = zoo.from_pretrained(tmp_path / "coder")
    assert all(value.equal(coder.encoder.state_dict()[name]) for name, value in objective.model.encoder.state_dict().items())
    export = run(recipe, tmp_path / "timing")
    model = zoo.from_pretrained(export)
    assert isinstance(model, PreRoutGNN) and model.preprocess == CircuitPreprocess()
    assert model.embed(model.preprocess(generate(0))).shape == (1, 8)
    kept = zoo.from_pretrained(run(replace(recipe, {"freeze_encoder": True}), tmp_path / "kept"))
    for made, same in ((model, False), (kept, True)):
        assert all(value.equal(coder.encoder.state_dict()[name]) for name, value in made.encoder.state_dict().items()) is same
    assert not kept.timing.state_dict()["up.0.weight"].equal(objective.model.timing.state_dict()["up.0.weight"])
    for changes, words in (({"encoder": "", "freeze_encoder": True}, "give encoder=RUN"), ({"model.latent_dim": 0}, "without encoder")):
        with pytest.raises(ConfigError, match=words):
            replace(recipe, changes)
    with pytest.raises(ConfigError, match="holds a PreRoutGNN"):
        replace(recipe, {"encoder": str(tmp_path / "timing")}).build()


class Says(torch.nn.Module):
    """Says the labels, or their mean."""

    device = torch.device("cpu")

    def __init__(self, mean):
        super().__init__()
        self.mean = mean

    def export(self):
        return self

    def timing_of(self, batch):
        said = Timing(batch.timing, batch.net_delays, batch.cell_delays)
        return Timing(*(values.mean(dim=0).expand_as(values) for values in said)) if self.mean else said


def test_r2_is_one_for_the_labels_and_zero_for_their_mean():
    source = CircuitSet(circuits=1, test_circuits=2, generated=CircuitsConfig(gates=6, inputs=3)).build(CircuitPreprocess()).held_out
    measure = TimingR2(source)
    right, mean = (measure(Says(mean)) for mean in (False, True))
    assert set(right) == {"arrival", "slack", "slew", "net_delay", "cell_delay", "arrival_flat", "slack_flat"}
    assert all(value == pytest.approx(1.0, abs=1e-6) for value in right.values())
    assert all(mean[name] == pytest.approx(0.0, abs=1e-6) for name in ("arrival", "slew", "cell_delay")) and mean["arrival_flat"] > 0
    assert measure.row("slack_flat", 0.93)["detail"].startswith("all corners at once")
    for circuit in source.circuits:
        circuit.required[:] = torch.nan
    assert "slack" not in TimingR2(source).higher_is_better and "arrival_flat" in TimingR2(source).higher_is_better


def test_circuits_to_measure_on_can_be_larger():
    same, larger = (CircuitSet(circuits=2, test_circuits=2, test_gates=gates, generated=CircuitsConfig(gates=6, spread=1, inputs=3)).build(CircuitPreprocess()) for gates in (None, 60))
    assert min(c.num_nodes for c in larger.held_out.circuits) > 2 * max(c.num_nodes for c in same.held_out.circuits)
    assert [c.num_nodes for c in larger.circuits] == [c.num_nodes for c in same.circuits]


def test_slack_is_what_is_to_spare():
    arrival, required = torch.tensor([[1.0, 1, 5, 5]]), torch.tensor([[0.5, 2, 6, torch.nan]])
    assert slack(arrival, required)[0, :3].tolist() == [0.5, -1.0, 1.0] and slack(arrival, required)[0, 3].isnan()


def test_zoo_evaluate_and_predict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = zoo.create("graph/preroutgnn-tiny", gcn_dim=8, cell_dim=8)
    model.save_pretrained("model")
    circuit, bare = generate(0, CircuitsConfig(gates=6, inputs=3)), generate(1, CircuitsConfig(6, 3))
    write_circuit(circuit, tmp_path / "full.npz")
    ports = (bare["x"][:, :2] > 0.5).all(axis=1)[:, None]
    write_circuit({key: np.where(ports, bare[key], np.nan) if key in ("arrival", "slew") else bare[key] for key in [*GRAPH, "net_index", "cell_index", "arrival", "slew"]}, tmp_path / "bare.npz")
    assert main(["evaluate", "model", "--data", "full.npz", "--to", "rows.json"]) == 0
    said = capsys.readouterr().out
    assert "R2 of slacks on 1 samples of full" in said and "squared error of times" in said
    assert main(["predict", "model", "full.npz", "bare.npz"]) == 0
    said = capsys.readouterr().out
    assert "full.npz:" in said and "worst late slack" in said and "bare.npz:" in said and "no slacks" in said
    rows = (tmp_path / "timing.csv").read_text().splitlines()
    assert len(rows) == 1 + len(circuit["x"]) + len(bare["x"]) and rows[0].startswith("circuit,pin,level,arrival_early_rise") and "nan" not in "".join(rows)
    assert (tmp_path / "timing.png").stat().st_size > 10_000
    given = np.flatnonzero((circuit["x"][:, :2] > 0.5).all(axis=1))[0]
    assert [float(v) for v in rows[1 + given].split(",")[3:11]] == pytest.approx([*circuit["arrival"][given], *circuit["slew"][given]], rel=1e-4)
    assert main(["evaluate", "model", "--data", "full.npz", "--per_class", "3"]) != 0 and "have no classes" in capsys.readouterr().err
    zoo.create("graph/circuit-autoencoder-tiny").save_pretrained("coder")
    assert main(["evaluate", "coder", "--data", "full.npz"]) == 0 and "squared error of pins" in capsys.readouterr().out
    assert main(["predict", "coder", "full.npz"]) != 0 and "Train the timing network" in capsys.readouterr().err


def test_a_folder_of_circuits(tmp_path):
    for part, number in (("train", 0), ("train", 1), ("test", 2)):
        (tmp_path / part).mkdir(exist_ok=True)
        write_circuit(generate(number, CircuitsConfig(gates=6, inputs=3)), tmp_path / part / f"c{number}.npz")
    source = CircuitSet(str(tmp_path)).build(CircuitPreprocess())
    assert [source.id(i) for i in range(len(source))] == ["c0.npz", "c1.npz"] and len(source.held_out) == 1 and source.describe()["samples"] == 2
    (tmp_path / "test" / "c2.npz").unlink()
    with pytest.raises(DataError, match="holds no circuits"):
        CircuitSet(str(tmp_path)).build(CircuitPreprocess())
    assert len(CircuitSet(str(tmp_path / "train")).build(CircuitPreprocess())) == len(CircuitSet(str(tmp_path / "train")).build_test(CircuitPreprocess())) == 2
    for fields, words in (({"path": str(tmp_path), "circuits": 3}, "only change"), ({"path": str(tmp_path), "test_gates": 9}, "data.test_gates"), ({"circuits": 0}, "data.circuits must be")):
        with pytest.raises(ConfigError, match=words):
            CircuitSet(**fields)
