"""One graph with labels of its nodes: reading, dividing, fine-tuning on it whole and with drawn neighbours, and what a classifier says of nodes."""

import csv
import gzip

import numpy as np
import pytest
import torch

from modalities.common import pretrained
from modalities.common.run import run
from modalities.graph.data import LabelledGraphs
from modalities.graph.finetune import default_recipe
from modalities.graph.nodes import LabelledNodes, is_node_set, read_nodes
from modalities.graph.preprocess import GraphPreprocess
from modalities.graph.protocols import measure
from modalities.graph.recipes.graphmae import graphmae_tiny_molecules
from modalities.graph.tasks import evaluate, predict
from tests.modalities.graph.test_sampling import large
from trainer.config import replace
from trainer.errors import ConfigError, DataError

PREPROCESS = GraphPreprocess(in_dim=6)
STARTED = {"scratch": True, "train.pictures": 0}


def arrays(**changes):
    graph, order = large(), np.random.default_rng(0).permutation(200)
    masks = {f"{name}_mask": np.isin(np.arange(200), part) for name, part in zip(("train", "val", "test"), np.split(order, [60, 100]))}
    found = {"edge_index": graph.edge_index.numpy(), "x": graph.x.numpy(), "y": graph.y.numpy(), **masks, **changes}
    return {name: value for name, value in found.items() if value is not None}


@pytest.fixture
def graph(tmp_path):
    def write(**changes):
        np.savez(tmp_path / "graph.npz", **arrays(**changes))
        return str(tmp_path / "graph.npz")

    return write


def write_ogb_nodes(folder, label):
    found, order = arrays(), np.random.default_rng(0).permutation(200)
    tables = {"edge": found["edge_index"].T, "node-feat": found["x"], "node-label": label, "num-node-list": [[200]], "num-edge-list": [[found["edge_index"].shape[1]]]}
    tables = {f"raw/{name}": value for name, value in tables.items()} | {f"split/time/{name}": part[:, None] for name, part in zip(("train", "valid", "test"), np.split(order, [60, 100]))}
    for name, rows in tables.items():
        place = folder / f"{name}.csv.gz"
        place.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(",".join("" if np.isnan(cell) else f"{cell:g}" for cell in row) for row in np.asarray(rows, float))
        place.write_bytes(gzip.compress(text.encode()))
    return str(folder)


def test_masks_of_a_file_and_the_split_of_ogb_say_the_same(graph, tmp_path):
    path, found = graph(), arrays()
    folder = write_ogb_nodes(tmp_path / "ogb", found["y"][:, None])
    assert is_node_set(path) and is_node_set(folder) and not is_node_set("molecules") and not is_node_set(graph(y=None))
    for data in (LabelledNodes(graph()), LabelledNodes(folder), LabelledNodes(graph(), fanouts=(3,))):
        train, test = data.build(PREPROCESS)
        assert len(train.chosen) == 60 and len(train.valid.chosen) == 40 and len(test.chosen) == 100 and train.held_out is test
        assert set(test.chosen) == set(np.flatnonzero(found["test_mask"])) and test.labels.tolist() == found["y"][test.chosen].tolist()
        batch = train.fetch(range(len(train)))
        assert batch.y.equal(train.labels) and batch.x[batch.root].equal(torch.from_numpy(found["x"][train.chosen]))


def test_nodes_without_masks_are_divided_by_class_and_missing_labels_left_out(graph):
    y = np.where(np.arange(200) % 2, arrays()["y"], -1)
    none = dict.fromkeys(("train_mask", "val_mask", "test_mask"))
    train, test = LabelledNodes(graph(y=y, **none), test_fraction=0.25, per_class=5).build(PREPROCESS)
    assert len(train.chosen) == 15 and len(test.chosen) == 25 and (y[train.chosen] >= 0).all() and train.valid is None and not set(train.chosen) & set(test.chosen)
    several = np.stack([np.eye(200, dtype=bool)[i % 7] | arrays()["train_mask"] for i in range(2)], axis=1)
    assert len(read_nodes(graph(train_mask=several, val_mask=None, test_mask=~several), 1).parts["train"]) == several[:, 1].sum()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"y": np.zeros(200)}, "only the class 0"), ({"y": np.full(200, -1)}, "no label at all"), ({"y": np.full(200, 0.5)}, "whole numbers, found 0.5"), ({"y": np.arange(7)}, "7 labels for 200 nodes"),
        ({"y": None}, "no labels of nodes"), ({"test_mask": None}, "and no other mask"), ({"test_mask": np.ones(3, bool)}, "true or false for each of the 200"), ({"test_mask": np.ones(200, bool)}, "both in train_mask"),
        ({"y": np.full((200, 2), 3)}, "each is 1, 0 or missing"), ({"y": np.stack([np.ones(200), np.full(200, np.nan)], 1)}, "'task 1' is missing"),
    ],
)  # fmt: skip
def test_damaged_labels_of_nodes_are_told(changes, words, graph):
    with pytest.raises(DataError, match=words):
        read_nodes(graph(**changes))


def test_wrong_options_are_told(graph):
    for options, words in (({"test_path": "x"}, "test_path"), ({"labels": ("a",)}, "labels"), ({"division": 3}, "below 1"), ({"path": "molecules"}, "not their nodes")):
        with pytest.raises(ConfigError, match=words):
            LabelledNodes(**{"path": graph(), **options}).build(PREPROCESS)
    with pytest.raises(DataError, match="fine-tuning: --task nodes"):
        LabelledGraphs(graph()).build(PREPROCESS)
    with pytest.raises(ConfigError, match="Did you mean 'nodes'"):
        default_recipe("graph/graphmae-tiny-molecules", task="node")
    for changes in ({"data.fanouts": [3]}, {"train.batch_size": 7}):
        with pytest.raises(ConfigError):
            replace(default_recipe("graph/graphmae-tiny-molecules", data=graph(), task="nodes"), changes)
    with pytest.raises(ConfigError, match="128 would put so many copies"):
        replace(graphmae_tiny_molecules(), {"data.path": graph()}).build()


@pytest.mark.parametrize("task, steps, size", [("nodes", 30, 1), ("neighbours", 20, 50)])
def test_a_classifier_of_nodes_learns_is_measured_and_names_them(task, steps, size, graph, tmp_path):
    path, changes = graph(), {**STARTED, "train.steps": steps, "train.epochs": None, "train.batch_size": size, "train.evaluate.every": steps, "train.evaluate.best": "eval/valid_accuracy"}
    export = run(replace(default_recipe("graph/graphmae-tiny-molecules", data=path, task=task), changes), tmp_path / "run")
    model = pretrained.load(str(export))
    rows = evaluate(model, path)
    assert rows[0]["metric"] == "accuracy" and rows[0]["samples"] == 100 and rows[0]["value"] > 65
    text = predict(model, [tmp_path / "graph.npz"], tmp_path / "said.csv")
    if task == "nodes":
        assert measure("nodes", str(export), path)[0] > 0.65 and len(measure("nodes", str(export), graph(train_mask=None, val_mask=None, test_mask=None))) == 10
    said = list(csv.DictReader((tmp_path / "said.csv").read_text().splitlines()))
    right = np.mean([int(row["class"]) == y for row, y in zip(said, arrays()["y"])])
    assert len(said) == 200 and right > 0.65 and (tmp_path / "said.png").exists() and text.startswith("200 nodes (")


def test_several_labels_of_nodes_are_measured_by_their_roc_curve(tmp_path):
    labels = np.where(np.random.default_rng(0).random((200, 2)) < 0.3, np.nan, np.stack([arrays()["y"] == 0, arrays()["y"] == 1], 1))
    path = write_ogb_nodes(tmp_path / "ogb", labels)
    recipe = replace(default_recipe("graph/graphmae-tiny-molecules", data=path, task="neighbours"), {**STARTED, "train.steps": 12, "train.epochs": None, "train.batch_size": 60})
    rows = evaluate(pretrained.load(str(run(recipe, tmp_path / "run"))), path)
    assert [row["metric"] for row in rows] == ["loss", "roc_auc"] and rows[1]["value"] > 60
