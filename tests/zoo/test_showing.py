import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from modalities import registry
from modalities.vision.interop.mae import to_official, to_timm, to_transformers
from trainer.files import write_json
from trainer.weights import write_safetensors
from zoo.cli import main

ROOT = Path(__file__).parents[2]


def shown(capsys, name):
    assert main(["show", str(name), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", registry.entries())
def test_registered_names(name, capsys):
    """What is said without torch is what the model is."""
    entry = registry.find(name)
    said = shown(capsys, name)
    model = zoo.create(name) if entry.parameters < 1e6 else None
    assert said["parameters"] == entry.parameters and said["licence"] == "apache-2.0" and f"# {name}" in said["card"]
    if entry.folder is None:
        assert said["place"] is None and said["files"] == {} and said["results"] == []
        inputs = model and {key: list(shape) for key, shape in model.input_shapes().items()}
        assert model is None or (said["input"] == inputs and said["preprocessing"] == model.preprocess.values())
    else:
        assert said["bytes_on_disk"] == sum(p.stat().st_size for p in entry.folder.iterdir()) == sum(said["files"].values())
        expected = {
            "vision/mae-tiny-digits": ("image-classification", "digits-cluttered", "accuracy fine-tuned, 10 labels per class, mean of 3 seeds", 74.82),
            "time_series/ttm-tiny-synth": ("time-series-forecasting", "statsmodels", "coverage of the 80 % interval, mean over data sets", 84.9),
        }[name]
        assert dict(zip(("task", "data", "metric", "value"), expected), split="test") in said["results"]
    assert main(["show", name]) == 0
    out = capsys.readouterr().out
    assert f"{entry.parameters:,}" in out and "## Limits" in out and "<!--" not in out and "\x1b" not in out


def test_a_folder_says_what_the_weights_are(tmp_path, capsys):
    model = zoo.create("vision/mae-tiny", in_chans=1)
    model.licence = "cc-by-nc-4.0"
    model.save_pretrained(tmp_path / "model")
    for place in (tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        said = shown(capsys, place)
        assert said["parameters"] == sum(p.numel() for p in model.parameters()) and said["input"] == {"image": [1, 32, 32]}
        assert said["licence"] == "cc-by-nc-4.0" and said["preprocessing"] == model.preprocess.values() and said["title"].startswith("vision/mae,")
    (tmp_path / "model" / "model.safetensors").unlink()
    assert main(["show", str(tmp_path / "model")]) == 1
    assert "holds no model.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["official", "timm", "transformers"])
def test_layouts_of_others(layout, tmp_path, capsys):
    model = zoo.create("vision/mae-tiny")
    arguments = {"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4}
    state, config = {
        "official": lambda: (to_official(model), {"num_heads": 4, "decoder_num_heads": 4}),
        "timm": lambda: (to_timm(model), {"architecture": "vit_base_patch16_224", "num_classes": 0, "global_pool": "token", "model_args": arguments}),
        "transformers": lambda: to_transformers(model),
    }[layout]()
    write_json(tmp_path / "config.json", config)
    write_safetensors(state, tmp_path / "model.safetensors")
    said = shown(capsys, tmp_path)
    assert said["parameters"] == sum(tensor.numel() for tensor in state.values()) and said["input"] == {"image": [3, 32, 32]}


@pytest.mark.parametrize(
    "card",
    ["---\nmodel-index: 3\nmodality_zoo: 7\nlicense: [a]\n---\n# X\n\x1b]0;pwned\x07\u202e", "---\nlicense: [\n---\n# X", "<!-- generated: a -->\n# X", "# X", ""],
)
def test_a_foreign_card_cannot_harm(card, tmp_path, capsys):
    zoo.create("vision/mae-tiny").save_pretrained(tmp_path / "model", card=card)
    said = shown(capsys, tmp_path / "model")
    assert said["parameters"] == 244_432 and said["results"] == [] and said["licence"] == "apache-2.0"
    assert main(["show", str(tmp_path / "model")]) == 0
    out = capsys.readouterr().out
    assert ("# X" in out) == bool(card) and not {"\x1b", "\x07", "\u202e"} & set(out)


def test_mistakes(capsys, tmp_path):
    assert main(["show", str(tmp_path)]) == 1
    assert "holds no model.safetensors" in capsys.readouterr().err
    assert main(["show", "vision/mae-bse"]) == 1
    assert "Did you mean 'vision/mae-base'" in capsys.readouterr().err


def test_a_terminal_gets_the_card_formatted():
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "zoo.cli", "show", "vision/mae-tiny"], cwd=ROOT, stdout=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"})
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # Linux's way to say that the other side has closed
        pass
    assert process.wait(timeout=20) == 0
    text = seen.decode()
    assert "\x1b[1" in text and "244,432" in text and "## Limits" not in text and "Limits" in text
