"""A graph model by way of the Hub: the code of every other modality, here with a classifier of nodes."""

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi

import zoo
from modalities.common.run import run
from modalities.graph.finetune import default_recipe
from tests.modalities.graph.test_nodes import arrays
from trainer.config import replace
from zoo import publishing
from zoo.cards import write_card
from zoo.rehearsal import fingerprint

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub towards its HTTP library


def test_a_classifier_of_nodes_is_published_and_comes_back(local_hub, tmp_path, monkeypatch):
    np.savez(tmp_path / "papers.npz", **arrays())
    recipe = default_recipe("graph/graphmae-tiny-molecules", data=str(tmp_path / "papers.npz"), task="nodes")
    changes = {"scratch": True, "train.steps": 3, "train.epochs": None}
    export = run(replace(recipe, changes), tmp_path / "run", card=write_card)
    monkeypatch.setattr(publishing, "rehearse", lambda model, *_: fingerprint(model))  # the new process: the demo has it
    publishing.publish(tmp_path / "run", repo="me/papers")
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "README.md", "confusion.png"} <= set(HfApi().list_repo_files("me/papers"))
    ours, back = zoo.from_pretrained(str(export)), zoo.from_pretrained("me/papers")
    batch = back.preprocess(tmp_path / "papers.npz")
    with torch.no_grad():
        logits = back(batch)
    assert logits.shape == (200, 3) and logits.equal(ours.eval()(batch)) and back.config.level == "node" and back.preprocess == ours.preprocess
    text = (export / "README.md").read_text()
    assert "\n- node-classification\n" in text and "graph-classification" not in text and "valid" in text
