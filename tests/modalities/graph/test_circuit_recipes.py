"""Runs on circuits through the shared trainer: the auto-encoder, the timing network on it, and where circuits come from."""

import pytest
import torch

import zoo
from modalities import registry
from modalities.common.run import run
from modalities.graph.circuit_sets import CircuitSet
from modalities.graph.generated_circuits import CircuitsConfig, generate, write_circuit
from modalities.graph.models.preroutgnn import PreRoutGNN
from modalities.graph.preprocess_circuits import CircuitPreprocess
from modalities.graph.recipes.preroutgnn import ArrivalR2
from trainer.config import replace
from trainer.errors import ConfigError, DataError

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
    with pytest.raises(ConfigError, match="holds a PreRoutGNN"):
        replace(recipe, {"encoder": str(tmp_path / "timing")}).build()


def test_r2_is_one_for_the_labels_and_zero_for_their_mean():
    source = CircuitSet(circuits=1, test_circuits=2, generated=CircuitsConfig(6, 3)).build(CircuitPreprocess()).held_out

    class Says(torch.nn.Module):
        device = torch.device("cpu")

        def timing_of(self, batch):
            pins = batch.timing.mean(dim=0).expand_as(batch.timing) if self.mean else batch.timing
            return type("Timing", (), {"pins": pins})

    said = Says()
    said.export = lambda: said
    for said.mean, expected in ((False, 1.0), (True, 0.0)):
        assert ArrivalR2(source)(said)["r2"] == pytest.approx(expected, abs=1e-6)


def test_a_folder_of_circuits(tmp_path):
    for part, number in (("train", 0), ("train", 1), ("test", 2)):
        (tmp_path / part).mkdir(exist_ok=True)
        write_circuit(generate(number, CircuitsConfig(6, 3)), tmp_path / part / f"c{number}.npz")
    source = CircuitSet(str(tmp_path)).build(CircuitPreprocess())
    assert [source.id(i) for i in range(len(source))] == ["c0.npz", "c1.npz"] and len(source.held_out) == 1 and source.describe()["samples"] == 2
    with pytest.raises(DataError, match="holds no circuits"):
        CircuitSet(str(tmp_path / "train")).build(CircuitPreprocess())
    for fields, words in (({"path": str(tmp_path), "circuits": 3}, "only change"), ({"circuits": 0}, "data.circuits must be")):
        with pytest.raises(ConfigError, match=words):
            CircuitSet(**fields)
