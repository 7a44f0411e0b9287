"""Models in the layout of the official codes, and pictures."""

import dataclasses

import numpy as np
import pytest
import torch

import zoo
from modalities.common import pretrained
from modalities.graph.generated import GeneratedConfig, graphs
from modalities.graph.models.classifier import GraphClassifier, GraphClassifierConfig
from modalities.graph.models.encoder import GraphEncoder, GraphEncoderConfig
from modalities.graph.models.graphmae import GraphMAE, GraphMAEConfig
from modalities.graph.models.graphmae_molecules import GraphMAEMolecules, GraphMAEMoleculesConfig
from modalities.graph.objectives.graphmae import GraphMAEObjectiveConfig
from modalities.graph.pictures import draw_embeddings, draw_errors
from modalities.graph.preprocess import GraphPreprocess
from trainer.errors import CheckpointError, DataError
from zoo.cli import main


@pytest.mark.parametrize(
    "config",
    [
        GraphMAEConfig("dotgat", 5, 8, 2, 2, norm="layernorm", activation="elu", residual=True, decoder="dotgat"),
        GraphMAEConfig("gcn", 5, 8, 3, 1, norm="none", decoder="mlp", concat_hidden=True),
        GraphMAEConfig("gat", 5, 8, 1, 4, norm="batchnorm", decoder="gin"),
    ],
)
def test_graphmae_goes_to_the_official_layout_and_back(config, tmp_path, capsys):
    torch.manual_seed(0)
    model = GraphMAE(config)
    model.preprocess = model.default_preprocess()
    model.save_pretrained(tmp_path / "ours")
    assert main(["export", str(tmp_path / "ours"), "--to", "official", "--output", str(tmp_path / "theirs")]) == 0, capsys.readouterr().err
    back = zoo.from_pretrained(tmp_path / "theirs")
    assert back.load_report.layout == "official" and back.config == config
    assert all(value.equal(back.state_dict()[name]) for name, value in model.state_dict().items())


def test_an_activation_without_tensors_must_be_said():
    state = GraphMAE(GraphMAEConfig("gin", 5, 8, activation="relu")).state_dict()
    with pytest.raises(CheckpointError, match='holds no slopes of prelu.*"activation": "relu"'):
        pretrained.from_tensors(state, None, "here")
    assert pretrained.from_tensors(state, {"activation": "gelu"}, "here").config.activation == "gelu"
    assert pretrained.from_tensors(GraphMAE(GraphMAEConfig("gin", 5, 8, activation="none")).state_dict(), {"activation": None}, "here").config.activation == "none"


def test_an_encoder_for_molecules_goes_to_the_official_layout_and_back(tmp_path, capsys):
    model = GraphEncoder(GraphEncoderConfig("molecule", 2, 8, 2, activation="relu", jk="sum", pool="max"))
    model.preprocess = model.default_preprocess()
    model.save_pretrained(tmp_path / "ours")
    assert main(["export", str(tmp_path / "ours"), "--to", "official", "--output", str(tmp_path / "theirs")]) == 0, capsys.readouterr().err
    assert zoo.from_pretrained(tmp_path / "theirs").config == model.config
    GraphEncoder(GraphEncoderConfig("sage", 5, 8)).save_pretrained(tmp_path / "other")
    assert main(["export", str(tmp_path / "other"), "--to", "official", "--output", str(tmp_path / "x")]) == 1
    assert "has no encoder 'sage'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "model",
    [
        GraphEncoder(GraphEncoderConfig("gat", 5, 8, num_heads=2, norm="none")),
        GraphClassifier(GraphClassifierConfig(encoder="molecule", in_dim=2, embed_dim=8, activation="relu", bond_layer="gat", num_heads=2, num_classes=3, multi_label=True, pool="attention")),
        GraphClassifier(GraphClassifierConfig(encoder="molecule", in_dim=2, embed_dim=8, activation="relu", num_classes=3, multi_label=True, head="probe")),
        GraphMAEMolecules(GraphMAEMoleculesConfig(embed_dim=8, depth=2, decoder="gcn")),
        GraphMAEMolecules(GraphMAEMoleculesConfig(embed_dim=8, depth=2, decoder="linear")),
    ],
    ids=lambda model: model.system,
)
def test_models_of_all_kinds_go_to_the_official_layout_and_back(model, tmp_path, capsys):
    model.preprocess = model.default_preprocess()
    model.save_pretrained(tmp_path / "ours")
    assert main(["export", str(tmp_path / "ours"), "--to", "official", "--output", str(tmp_path / "theirs")]) == 0, capsys.readouterr().err
    back = zoo.from_pretrained(tmp_path / "theirs")
    assert back.system == model.system and back.load_report.layout == "official"
    assert back.config == dataclasses.replace(model.config, head="linear") if model.system == "graph/classifier" else back.config == model.config


def test_errors_are_drawn(tmp_path):
    raw = graphs("molecules", "train", GeneratedConfig(12, 4))[0][:2]
    preprocess = GraphPreprocess("types", 6)
    path = draw_errors(GraphMAE(GraphMAEConfig(in_dim=6, embed_dim=8)), GraphMAEObjectiveConfig(), [preprocess.transform(g) for g in raw], tmp_path / "x.png", "Errors")
    assert path.stat().st_size > 10_000
    with pytest.raises(DataError, match="2,000"):
        large = preprocess.transform({"edge_index": torch.zeros(2, 0, dtype=torch.long), "node_type": torch.zeros(3000, dtype=torch.long)})
        draw_errors(GraphMAE(GraphMAEConfig(in_dim=6, embed_dim=8)), GraphMAEObjectiveConfig(), [large], tmp_path / "y.png", "Errors")


def test_embeddings_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 15)
    path = draw_embeddings(rng.normal(size=(45, 5)) + 3 * labels[:, None], labels, ("a", "b", "c"), tmp_path / "e.png", "Embeddings")
    assert path.stat().st_size > 10_000
