"""`zoo convert`: official releases, and pickles that are something else."""

import argparse
import io
import json
import os
import pickle
import shutil
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file

import zoo
from modalities.common.golden import Golden
from modalities.vision.interop import mae as interop
from modalities.vision.models.mae import MAE, MAEConfig
from tests.modalities.vision.references import randomise, timm_vit
from trainer.errors import CheckpointError, ConfigError
from zoo.cli import main
from zoo.converting import convert, globals_of, read_release

GOLDEN = Path(__file__).parents[1] / "golden" / "vision"


@pytest.fixture(scope="module")
def release():
    """The weights of an official release, of a width that needs no config: pre-training with decoder."""
    return randomise(MAE(MAEConfig(input_size=32, embed_dim=192, num_heads=3, depth=2, decoder_depth=1, decoder_embed_dim=512, decoder_num_heads=16)))


def as_released(state, **more):
    options = argparse.Namespace(model="mae_vit_base_patch16", lr=1e-3, device="cuda", norm_pix_loss=True, betas=(0.9, 0.95))
    return {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1.0}]}, "epoch": 800, "scaler": {}, "args": options, **more}


def test_an_official_release_becomes_a_model_folder(release, tmp_path, caplog):
    torch.save(as_released(release.state_dict()), tmp_path / "mae_visualize_vit_tiny.pth")
    assert main(["convert", str(tmp_path / "mae_visualize_vit_tiny.pth"), "--from", "official", "--to", str(tmp_path / "out")]) == 0
    assert "Licence of the weights: cc-by-nc-4.0" in caplog.text
    model = zoo.from_pretrained(tmp_path / "out")
    assert model.state_dict().keys() == release.state_dict().keys() and all(t.equal(model.state_dict()[n]) for n, t in release.state_dict().items())
    assert model.config == release.config and model.licence == "cc-by-nc-4.0" and model.preprocess.size == (32, 32)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["licence"] == "cc-by-nc-4.0"
    card = ModelCard((tmp_path / "out" / "README.md").read_text())
    assert card.data.license == "cc-by-nc-4.0" and card.data.library_name == "modality-zoo" and "mae" in card.data.tags
    for needed in ("mae_visualize_vit_tiny.pth", "sha256", "forbids commercial use", "encoder complete 30/30; decoder complete 20/20", "@article{he2021mae"):
        assert needed in card.text, needed
    image = tmp_path / "image.png"
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(image)
    snippet = card.text.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", str(tmp_path / "out")).replace("image.png", str(image))
    exec(compile(snippet, "card", "exec"), {})  # the snippet for this very model runs


@pytest.mark.parametrize("file, words", [("mae_official", "decoder complete"), ("mae_finetune", "classification head complete")])
def test_the_goldens_convert_from_either_kind_of_file(file, words, tmp_path):
    golden = Golden.read(GOLDEN / f"{file}.safetensors")
    (tmp_path / "arguments.json").write_text(json.dumps(golden.config))
    torch.save({"model": golden.state}, tmp_path / "x.pth")
    save_file(golden.state, tmp_path / "x.safetensors")
    for ending in ("pth", "safetensors"):
        folder = convert(tmp_path / f"x.{ending}", "official", tmp_path / ending, config=tmp_path / "arguments.json")
        assert words in zoo.from_pretrained(folder).load_report.words()
    assert (tmp_path / "pth" / "model.safetensors").read_bytes() == (tmp_path / "safetensors" / "model.safetensors").read_bytes()


def test_transformers_and_timm_with_their_config_beside(tmp_path, release):
    state, config = interop.to_transformers(release)
    torch.save(OrderedDict(state), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    model = zoo.from_pretrained(convert(tmp_path / "pytorch_model.bin", "transformers", tmp_path / "out"))
    assert model.licence == "apache-2.0" and model.preprocess.mean == (0.5,) * 3 and model.config.norm_eps == 1e-6
    with pytest.raises(CheckpointError, match="transformers layout by its tensors and config, not in the official"):
        convert(tmp_path / "pytorch_model.bin", "official", tmp_path / "wrong")
    torch.save(timm_vit().state_dict(), tmp_path / "timm.bin")
    arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    (tmp_path / "timm.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "global_pool": "avg", "model_args": arguments}))
    folder = convert(tmp_path / "timm.bin", "timm", tmp_path / "timm", config=tmp_path / "timm.json", licence="mit")
    assert zoo.from_pretrained(folder).licence == "mit" and not (tmp_path / "wrong").exists()


class Touch:
    """What an attacker would put into a pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_malicious_pickle_is_refused_with_the_name_and_nothing_runs(release, tmp_path, capsys):
    mark = tmp_path / "executed"
    for name, content in [("inside", as_released(release.state_dict(), extra=Touch(mark))), ("alone", Touch(mark)), ("as weights", {"model": {"norm.bias": Touch(mark)}})]:
        torch.save(content, tmp_path / f"{name}.pth")
        assert main(["convert", str(tmp_path / f"{name}.pth"), "--from", "official", "--to", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert "wants to import posix.system" in error and "was not opened" in error and "Traceback" not in error
    assert not mark.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "value, name",
    [
        (Counter("ab"), "collections.Counter"), ({1, 2}, "builtins.set"), (torch.device("cpu"), "torch.device"), (Path("x"), "pathlib.PosixPath"), (torch.float32, "torch.float32"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"), (print, "builtins.print"), (bytearray(b"x"), "builtins.bytearray"), (torch.Size([1]), "torch.Size"),
        (torch.eye(2).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
    ],
)  # fmt: skip
def test_only_tensors_and_options_may_be_named(value, name, tmp_path):
    torch.save({"model": {"a": torch.ones(2)}, "x": value}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=f"import .*{name}"):
        read_release(tmp_path / "x.pth")


def test_imports_are_found_without_running_anything():
    class Stacked:
        def __reduce__(self):
            return os.getcwd, ()

    assert globals_of(pickle.dumps(OrderedDict(), 2)) == {"collections.OrderedDict"}
    assert globals_of(pickle.dumps(Stacked(), 2)) == {"posix.getcwd"}
    assert globals_of(pickle.dumps(Stacked(), 4)) == {"something by STACK_GLOBAL"}
    assert globals_of(b"(iposix\nsystem\n.") == {"posix.system"}
    with pytest.raises(ValueError):
        globals_of(b"cposix\nsystem\n")


def archive(path, compression=zipfile.ZIP_STORED, **records):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in records.items():
            file.writestr(f"archive/{name}", content)
    return path


def test_archives_that_are_not_of_torch_save(tmp_path):
    plain = pickle.dumps({}, 2)
    cases = [
        (archive(tmp_path / "bomb.pth", zipfile.ZIP_DEFLATED, **{"data.pkl": plain + bytes(10**7)}), "compressed or encrypted"),
        (archive(tmp_path / "script.pth", **{"data.pkl": plain, "constants.pkl": plain}), "TorchScript"),
        (archive(tmp_path / "none.pth", **{"weights": b"x"}), "TorchScript"),
        (archive(tmp_path / "damaged.pth", **{"data.pkl": plain[:-3]}), "damaged archive"),
        (archive(tmp_path / "empty.pth", **{"data.pkl": plain, "version": "3\n"}), "no weights by name|cannot be read"),
    ]
    for path, words in cases:
        with pytest.raises(CheckpointError, match=words):
            read_release(path)
    (tmp_path / "cut.pth").write_bytes((tmp_path / "script.pth").read_bytes()[:60])
    with pytest.raises(CheckpointError, match="damaged"):
        read_release(tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match="is no file"):
        read_release(tmp_path / "nothing.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>")
    with pytest.raises(CheckpointError, match="HTML page"):
        read_release(tmp_path / "page.pth")


def test_a_file_of_torch_before_1_6(tmp_path):
    """As the authors of pretrain-gnns saved theirs."""
    state = Golden.read(GOLDEN.parent / "graph" / "pretrain_gnns.safetensors").state
    own = OrderedDict((name.removeprefix("gnn."), tensor) for name, tensor in state.items() if name.startswith("gnn."))
    old = io.BytesIO()
    torch.save(own, old, _use_new_zipfile_serialization=False)
    (tmp_path / "supervised_contextpred.pth").write_bytes(old.getvalue())
    convert(tmp_path / "supervised_contextpred.pth", layout="official", to=tmp_path / "out")
    model = zoo.from_pretrained(tmp_path / "out")
    assert model.system == "graph/encoder" and all(model.state_dict()[f"encoder.{name}"].equal(tensor) for name, tensor in own.items())
    torch.save({"a": Touch(tmp_path / "mark")}, tmp_path / "evil.pth", _use_new_zipfile_serialization=False)
    for name, content, words in [
        ("cut", old.getvalue()[:200], "is a pickle, and none that torch.save wrote, or it is damaged"), ("short", old.getvalue()[:-8], "cannot be read as weights"),
        ("other", pickle.dumps(own, 2), "does not begin with torch's mark"), ("evil", (tmp_path / "evil.pth").read_bytes(), "wants to import"),
    ]:  # fmt: skip
        (tmp_path / f"{name}.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match=words):
            read_release(tmp_path / f"{name}.pth")


def test_what_is_no_weight_is_named(tmp_path):
    for content, words in [
        ({"model": {"a": torch.ones(2), "epoch": 3}}, "'epoch' is a int, not a tensor"),
        ({"state": {"a": torch.ones(2)}}, "'state' is a dict, not a tensor"),
        ([torch.ones(2)], "holds a list and no weights"),
        ({"model": {}}, "no weights by name"),
        ({"model": {3: torch.ones(2)}}, "3 is a Tensor, not a tensor|3 is a Tensor"),
        ({"model": {"a": torch.ones(1).expand(10**12)}}, "claims .1000000000000,. and holds 4 bytes"),
    ]:
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=words):
            read_release(tmp_path / "x.pth")


def test_damaged_pickles_raise_nothing_but_our_error(release, tmp_path):
    torch.save(as_released({"norm.bias": torch.arange(50.0), "norm.weight": torch.ones(50)}), tmp_path / "sound.pth")
    whole = (tmp_path / "sound.pth").read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        place, bit, cut = (int(torch.randint(n, (), generator=generator)) for n in (len(whole), 8, len(whole)))
        damaged[place] ^= 1 << bit
        (tmp_path / "x.pth").write_bytes(damaged[:cut] if cut % 3 == 0 else damaged)
        try:
            read_release(tmp_path / "x.pth")
        except CheckpointError as error:
            assert str(tmp_path / "x.pth") in str(error)
            refused += 1
    assert refused > 100


def test_wrong_layouts_and_places(release, tmp_path):
    torch.save(release.state_dict(), tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="official, transformers, timm; found 'offical'. Did you mean 'official'"):
        convert(tmp_path / "x.pth", "offical", tmp_path / "out")
    with pytest.raises(CheckpointError, match="not in the timm"):
        convert(tmp_path / "x.pth", "timm", tmp_path / "out")
    torch.save({**release.state_dict(), "norm.bias": torch.full((192,), torch.nan)}, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match="NaN or infinity in norm.bias"):
        convert(tmp_path / "nan.pth", "official", tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="holds other files"):
        convert(tmp_path / "x.pth", "official", tmp_path / "mine")
    assert not (tmp_path / "out").exists()
    folder = convert(tmp_path / "x.pth", "official", tmp_path / "out")
    convert(tmp_path / "x.pth", "official", tmp_path / "out")  # again, in its place
    shutil.rmtree(folder)
