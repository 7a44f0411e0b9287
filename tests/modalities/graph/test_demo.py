"""The demo of graphs with a few steps: trained, published and loaded back by the same code as every other modality's.

The demo of videos (tests/zoo) starts the new processes; here their part is done in this one.
"""

import dataclasses
import json
import subprocess

from modalities import registry
from modalities.graph import demo
from modalities.graph.generated import GeneratedConfig
from trainer.config import replace
from zoo import cli, publishing
from zoo import demo as runner

FEW = {"train.steps": 3, "train.batch_size": 16, "train.pictures": 0}


def test_the_demo_of_graphs_runs_with_few_steps(tmp_path, monkeypatch, capsys):
    whole, recipe = demo.DEMO, replace(registry.find_recipe(demo.DEMO.recipe), {**FEW, "data.generated": GeneratedConfig(200, 60)})
    monkeypatch.setattr(runner.registry, "find_recipe", lambda name: recipe)
    monkeypatch.setattr(demo, "DEMO", dataclasses.replace(whole, finetune=lambda *arguments: replace(whole.finetune(*arguments), FEW)))
    monkeypatch.setattr(runner, "SEEDS", (0,))
    monkeypatch.setattr(publishing, "rehearse", lambda model, *_: publishing.fingerprint(model))

    real = subprocess.run

    def here(command, **options):
        if "zoo.cli" not in command:
            return real(command, **options)
        code = cli.main(command[3:])
        return subprocess.CompletedProcess(command, code, capsys.readouterr().out, "")

    monkeypatch.setattr(runner.subprocess, "run", here)
    results = runner.run_demo("graph", tmp_path / "d")
    assert results.keys() == {"probe", "knn", "finetune", "kinds of atoms", "degrees", "seconds"} and json.loads((tmp_path / "d" / "results.json").read_text()) == results
    assert ".npz: " in capsys.readouterr().out and (tmp_path / "d" / "reconstructions.png").exists()
    card = (tmp_path / "d" / "published" / demo.DEMO.published / "README.md").read_text()
    assert "5-NN on degrees" in card and "GraphMAE" in card and "`edge_index` (2, edges)" in card
