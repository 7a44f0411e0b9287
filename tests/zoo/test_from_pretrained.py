"""`zoo.from_pretrained`: options, single files, damaged folders, what must never happen."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import zoo
from modalities.common import pretrained
from modalities.common.positions import resize_positions
from modalities.vision.interop import mae as interop
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.models.vit import ViTClassifier, ViTClassifierConfig
from tests.modalities.vision.references import randomise
from trainer.errors import CheckpointError, ConfigError, ModelError, UnknownNameError, ZooError
from zoo.testing import LocalHub

SMALL = dict(input_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A MAE, in one file and in shards, and a classifier, all ours."""
    root = tmp_path_factory.mktemp("models")
    mae = randomise(MAE(MAEConfig(**SMALL, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)))
    vit = randomise(ViTClassifier(ViTClassifierConfig(**SMALL, num_classes=3, class_names=("a", "b", "c"))))
    for model in (mae, vit):
        model.preprocess = model.default_preprocess()
    mae.name = "vision/mae-mine"
    mae.save_pretrained(root / "mae")
    mae.save_pretrained(root / "shards", max_shard_size="20KB")
    vit.save_pretrained(root / "vit")
    return root


@pytest.fixture
def copy(folders, tmp_path):
    """`copy("mae")`: a copy to damage."""
    return lambda name: Path(shutil.copytree(folders / name, tmp_path / name))


def same(a, b):
    return a.state_dict().keys() == b.state_dict().keys() and all(t.equal(b.state_dict()[n]) for n, t in a.state_dict().items())


# --- what is asked for ---


def test_the_report_of_our_own(folders):
    model = zoo.from_pretrained(folders / "mae")
    report = model.load_report
    assert report.words() == "encoder complete 30/30; decoder complete 20/20" and not report.of("renamed", "resized", "new", "unused")
    assert (report.layout, report.source, report.path) == ("modality-zoo", str(folders / "mae"), str(folders / "mae"))
    assert str(report).startswith(f"{folders / 'mae'} (modality-zoo layout, loaded 2") and model.licence is None
    assert zoo.create("vision/mae-tiny").load_report is None
    bundled = zoo.from_pretrained("vision/mae-tiny-digits").load_report
    assert bundled.source == "vision/mae-tiny-digits" and bundled.path.endswith("mae-tiny-digits")


def test_a_new_head(folders):
    torch.manual_seed(0)
    model = zoo.from_pretrained(folders / "mae", task="classification", num_outputs=10)
    assert isinstance(model, ViTClassifier) and model.config.num_classes == 10 and model.name is None
    assert model.load_report.words() == (
        "encoder complete 28/28, 2 of the file left out; decoder left out, 20 tensors; norm of the mean new; classification head new"
    )
    assert model.head.weight.std().item() == pytest.approx(2e-5, rel=0.2) and model.head.bias.eq(0).all() and model.fc_norm.weight.eq(1).all()
    token = zoo.from_pretrained(folders / "mae", task="classification", num_outputs=10, pool="token", class_names=tuple("abcdefghij"))
    assert token.load_report.words() == "encoder complete 30/30; decoder left out, 20 tensors; classification head new"
    assert token.config.class_names[2] == "c" and all(p.requires_grad for p in token.parameters())
    made = ViTClassifier.from_encoder(zoo.from_pretrained(folders / "mae"), 10)
    assert all(t.equal(made.state_dict()[n]) for n, t in model.state_dict().items() if not n.startswith("head"))
    with torch.inference_mode():
        assert model(model.preprocess(np.zeros((30, 30, 3), np.uint8))).shape == (1, 10)


def test_the_head_of_a_classifier_is_kept_or_replaced(folders):
    kept = zoo.from_pretrained(folders / "vit", task="classification")
    assert same(kept, zoo.from_pretrained(folders / "vit")) and kept.config.class_names == ("a", "b", "c")
    new = zoo.from_pretrained(folders / "vit", task="classification", num_outputs=3)  # as many, and still other ones
    assert not new.head.weight.equal(kept.head.weight) and new.config.class_names == ()
    assert "classification head new, the stored one left out, 2 tensors" in new.load_report.words()
    assert new.fc_norm.weight.equal(kept.fc_norm.weight)
    bare = zoo.from_pretrained(folders / "vit", num_classes=0, class_names=())
    assert "classification head left out, 2 tensors" in bare.load_report.words()
    probe = zoo.from_pretrained(folders / "mae", task="classification", num_outputs=4, pool="token", head="probe")
    assert {n for n, p in probe.named_parameters() if p.requires_grad} == {"head.1.weight", "head.1.bias"}


def test_another_size_and_other_channels(folders):
    plain = zoo.from_pretrained(folders / "mae")
    model = zoo.from_pretrained(folders / "mae", input_size=(24, 16), in_chans=1)
    assert model.pos_embed.equal(resize_positions(plain.pos_embed, (4, 4), (6, 4)))
    assert model.decoder_pos_embed.equal(resize_positions(plain.decoder_pos_embed, (4, 4), (6, 4)))
    torch.testing.assert_close(model.patch_embed.proj.weight, plain.patch_embed.proj.weight.sum(1, keepdim=True))
    report = model.load_report
    assert report.words() == "encoder complete 30/30, 2 resized; decoder 18/20, 2 new, 1 resized, 2 of the file left out"
    assert "position table interpolated from 4 x 4 to 6 x 4 patches" in str(report) and "in_chans: 3 in the checkpoint, 1 here" in str(report)
    assert model.preprocess.size == (24, 16) and model.preprocess.channels == 1 and model.preprocess.mean == pytest.approx((0.449,), abs=1e-3)
    with torch.inference_mode():
        assert model(model.preprocess(torch.rand(1, 30, 30))).prediction.shape == (1, 24, 16)
    bands = zoo.from_pretrained(folders / "mae", in_chans=7)
    assert bands.preprocess is None and "preprocessing: none for inputs of (7, 16, 16)" in str(bands.load_report)
    assert zoo.from_pretrained(folders / "mae", patch_size=2).config.grid == (8, 8)


def test_other_fields_of_the_config_are_said(folders):
    model = zoo.from_pretrained(folders / "mae", drop_path=0.1)
    assert model.config.drop_path == 0.1 and "drop_path: 0.0 in the checkpoint, 0.1 here" in model.load_report.notes


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, "torch.float64", torch.float32])
def test_types(folders, dtype):
    wanted = getattr(torch, dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    for name in ("mae", "shards"):
        model = zoo.from_pretrained(folders / name, dtype=dtype)
        assert {p.dtype for p in model.parameters()} == {wanted}
    head = zoo.from_pretrained(folders / "mae", dtype=dtype, task="classification", num_outputs=2)
    assert head.head.weight.dtype == wanted and head.fc_norm.weight.dtype == wanted


def test_half_precision_becomes_single_unless_asked(folders, tmp_path):
    zoo.from_pretrained(folders / "mae", dtype="float16").save_pretrained(tmp_path / "half")
    assert zoo.from_pretrained(tmp_path / "half").norm.weight.dtype == torch.float32
    assert zoo.from_pretrained(tmp_path / "half", dtype="auto").norm.weight.dtype == torch.float16
    assert "stored in float16, loaded in float32" in str(zoo.from_pretrained(tmp_path / "half").load_report)


@pytest.mark.parametrize(
    "options, error, words",
    [
        (dict(task="clasification", num_outputs=2), ConfigError, "Did you mean 'classification'"),
        (dict(task="classification"), ConfigError, "say num_outputs"),
        (dict(task="classification", num_outputs=0), ConfigError, "at least 1, found 0"),
        (dict(task="classification", num_outputs=2.5), ConfigError, "found 2.5"),
        (dict(task="classification", num_outputs=True), ConfigError, "found True"),
        (dict(num_outputs=3), ConfigError, "needs the task"),
        (dict(dtype="int8"), ConfigError, "float64, float32, float16, bfloat16, found 'int8'"),
        (dict(dtype=torch.int64), ConfigError, "found torch.int64"),
        (dict(device="nowhere"), ConfigError, "device='nowhere' cannot be used"),
        (dict(device="meta"), ConfigError, "holds no weights"),
        (dict(input_size=17), ModelError, "not divisible into patches"),
        (dict(in_chan=1), ConfigError, "Did you mean 'in_chans'"),
        (dict(in_chans="one"), ConfigError, "in_chans must be a whole number"),
        (dict(depth=3), CheckpointError, r"missing in the checkpoint \(12\): blocks.2"),
        (dict(embed_dim=48), CheckpointError, r"cls_token \(1, 1, 24\) instead of \(1, 1, 48\)"),
        (dict(class_token=False), CheckpointError, "not in the model .* cls_token"),
        (dict(pool="token"), ConfigError, "Unknown field 'pool'"),
    ],
)
def test_wrong_options_are_explained(folders, options, error, words):
    with pytest.raises(error, match=f"(?s){words}"):
        zoo.from_pretrained(folders / "mae", **options)


def test_a_classifier_needs_the_task_for_another_number_of_classes(folders):
    with pytest.raises(CheckpointError, match=r"head.weight \(3, 24\) instead of \(5, 24\)"):
        zoo.from_pretrained(folders / "vit", num_classes=5, class_names=())


# --- where it comes from ---


def test_a_file_alone_carries_its_config_and_preprocessing(folders, tmp_path):
    shutil.copyfile(folders / "mae" / "model.safetensors", tmp_path / "mine.safetensors")
    whole, alone = zoo.from_pretrained(folders / "mae"), zoo.from_pretrained(tmp_path / "mine.safetensors")
    assert same(whole, alone) and alone.preprocess == whole.preprocess and alone.name == "vision/mae-mine" and alone.config == whole.config
    (tmp_path / "mine.safetensors").rename(tmp_path / "model.safetensors")
    assert same(whole, zoo.from_pretrained(tmp_path))
    assert same(whole, zoo.from_pretrained(folders / "mae" / "model.safetensors"))
    assert same(whole, MAE.from_pretrained(folders / "mae"))


def test_modality_is_known_without_reading_weights(folders):
    assert pretrained.modality_of(folders / "mae") == pretrained.modality_of(folders / "shards") == "vision"
    assert pretrained.modality_of("vision/mae-base") == "vision"


def test_shards_are_one_model(folders):
    assert len(list((folders / "shards").glob("*.safetensors"))) > 3
    assert same(zoo.from_pretrained(folders / "mae"), zoo.from_pretrained(folders / "shards"))
    part = sorted((folders / "shards").glob("*.safetensors"))[1]
    with pytest.raises(CheckpointError, match="missing in the file"):
        zoo.from_pretrained(part)


@pytest.mark.parametrize(
    "place",
    ["../model.safetensors", "/etc/passwd", "sub/x.safetensors", "..\\x.safetensors", "x.safetensors\0", "", "model.bin", "evil.py", "x" * 300 + ".safetensors", 5, None, ["a"], {}],
)  # fmt: skip
def test_an_index_that_names_anything_but_plain_files_is_refused(copy, place, tmp_path):
    folder = copy("shards")
    secret = tmp_path / "model.safetensors"
    shutil.copyfile(sorted(folder.glob("*.safetensors"))[0], secret)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["norm.bias"] = place
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="index.json must (name plain|hold a weight_map)") as caught:
        zoo.from_pretrained(folder)
    assert len(str(caught.value)) < 1000


def test_an_index_must_tell_the_truth(copy):
    folder = copy("shards")
    path = folder / "model.safetensors.index.json"
    sound = json.loads(path.read_text())

    def refuse(words, **places):
        path.write_text(json.dumps({**sound, "weight_map": {k: v for k, v in {**sound["weight_map"], **places}.items() if v}}))
        with pytest.raises(CheckpointError, match=words):
            zoo.from_pretrained(folder)

    other = next(file for file in sound["weight_map"].values() if file != sound["weight_map"]["norm.bias"])
    refuse("'norm.bias' should be in", **{"norm.bias": other})
    refuse("'norm.bias' should be in no file", **{"norm.bias": None})
    refuse("'ghost' should be in .* is in none", ghost=other)
    refuse("nowhere.safetensors is missing", **{"norm.bias": "nowhere.safetensors"})
    path.write_text(json.dumps(sound))
    shutil.copyfile(folder / other, folder / "twice.safetensors")
    refuse("both hold", **{name: "twice.safetensors" for name in ["cls_token"]})
    path.write_text(json.dumps(sound))
    shutil.copyfile(folder / other, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds both model.safetensors and"):
        zoo.from_pretrained(folder)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub towards its HTTP library
def test_a_model_of_the_hub_keeps_where_it_came_from(folders, tmp_path):
    with LocalHub(tmp_path / "hub") as hub, hub.in_this_process(tmp_path / "home"):
        api = HfApi()
        api.create_repo("me/mae")
        commit = api.upload_folder(repo_id="me/mae", folder_path=folders / "mae").oid
        model = zoo.from_pretrained("me/mae", task="classification", num_outputs=4, input_size=24, dtype="bfloat16")
        report = model.load_report
        assert (report.source, report.repo, report.revision) == ("me/mae", "me/mae", commit) and report.date.startswith("20")
        assert str(report).startswith(f"me/mae at revision {commit} of {report.date} (modality-zoo layout, loaded 20")
        assert same(zoo.from_pretrained("me/mae", revision=commit), zoo.from_pretrained(folders / "mae"))


def test_names_that_are_no_path():
    for name in ("x" * 5000, "a\0b", "", "no/such/folder/at/all", "~nobody/x"):
        with pytest.raises((UnknownNameError, CheckpointError)):
            zoo.from_pretrained(name)


# --- what must never happen ---


def edit(folder, file="config.json", **changes):
    values = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**values, **changes}))


def test_nan_is_refused_and_can_be_looked_at(copy):
    folder = copy("mae")
    tensors = load_file(folder / "model.safetensors")
    tensors["blocks.1.mlp.fc1.weight"][3, 5] = float("nan")
    tensors["norm.bias"][0] = float("inf")
    with safe_open(folder / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(tensors, folder / "model.safetensors", metadata)
    with pytest.raises(CheckpointError, match="NaN or infinity in blocks.1.mlp.fc1.weight, norm.bias.*allow_nonfinite=True"):
        zoo.from_pretrained(folder)
    model = zoo.from_pretrained(folder, allow_nonfinite=True)
    assert model.norm.bias[0].isinf() and model.blocks[1].mlp.fc1.weight[3, 5].isnan()


@pytest.mark.parametrize("value", [10**9, 10**18, 10**30, 2**63])
@pytest.mark.parametrize("field", ["embed_dim", "depth", "num_heads", "in_chans", "mlp_ratio", "input_size", "patch_size", "decoder_embed_dim", "decoder_depth"])
def test_a_config_of_enormous_numbers_is_refused_before_anything_is_allocated(copy, field, value):
    folder = copy("mae")
    config = json.loads((folder / "config.json").read_text())["config"]
    edit(folder, config={**config, field: value})
    with pytest.raises(ZooError) as caught:
        zoo.from_pretrained(folder)
    assert "alloc" not in str(caught.value) and not isinstance(caught.value.__cause__, MemoryError)


def test_a_folder_runs_none_of_its_code(copy, tmp_path):
    """Names of code in every place that could hold one; a real process, started in that folder."""
    folder = copy("mae")
    mark = tmp_path / "executed"
    for name in ("evil.py", "modeling_evil.py", "config.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w')\n")
    tries = [
        {"model": "evil:Thing"}, {"model": "evil"}, {"auto_map": {"AutoModel": "modeling_evil.Thing"}}, {"_target_": "evil.Thing"}, {"architectures": ["evil.Thing"]},
        {"config": {"activation": "evil:Thing"}}, {"model": ["evil"]}, {"model": {"evil": 1}}, {"name": "evil:Thing"},
    ]  # fmt: skip
    code = f"""
import json, sys, zoo
sound = open("config.json").read()
for change in {tries!r}:
    values = json.loads(sound)
    values.update({{k: {{**values[k], **v}} if k == "config" else v for k, v in change.items()}})
    open("config.json", "w").write(json.dumps(values))
    try:
        zoo.from_pretrained(".")
    except zoo.ZooError as error:
        print(type(error).__name__, error)
open("config.json", "w").write(sound)
open("preprocessor_config.json", "w").write('{{"type": "evil:Thing"}}')
try:
    zoo.from_pretrained(".")
except zoo.ZooError as error:
    print(type(error).__name__, error)
assert not {{"evil", "modeling_evil"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path(zoo.__file__).parents[1])}, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not mark.exists() and "'evil:Thing' is no system of the zoo" in done.stdout and "has the type 'evil:Thing'" in done.stdout


def test_what_a_file_really_is(copy):
    for content, words in [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"PK\x03\x04" + bytes(99), "pickle.*zoo convert"),
        (b"\x80\x02}q\x00." + bytes(99), "pickle.*zoo convert"),
        (b"", "is empty"),
    ]:
        folder = copy("mae")
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=f"model.safetensors {words}|{words}"):
            zoo.from_pretrained(folder)
        shutil.rmtree(folder)
    folder = copy("mae")
    for name in ("pytorch_model.bin", "weights.pth"):
        (folder / "model.safetensors").rename(folder / name) if (folder / "model.safetensors").exists() else (folder / "pytorch_model.bin").rename(folder / name)
        with pytest.raises(CheckpointError, match=f"holds a pickle .{name}. and no model.safetensors.*zoo convert"):
            zoo.from_pretrained(folder)
        with pytest.raises(CheckpointError, match="is a pickle by its name.*zoo convert"):
            zoo.from_pretrained(folder / name)


@pytest.mark.parametrize(
    "file, changes, words",
    [
        ("config.json", {"name": {"a": 1}}, "its name as one line of text"),
        ("config.json", {"name": "a\nb"}, "its name as one line"),
        ("config.json", {"licence": ["mit"]}, "its licence as one line"),
        ("config.json", {"format_version": True}, "format version True"),
        ("config.json", {"model": 5}, "name of a system"),
        ("config.json", {"config": []}, "a mapping as config"),
        ("preprocessor_config.json", {"size": [8, 8]}, r"\(8, 8\) pixels, and its model reads 3 channel\(s\) and \(16, 16\)"),
        ("preprocessor_config.json", {"mean": ["nan"] * 3}, "mean"),
        ("preprocessor_config.json", {"std": [0, 1, 1]}, "std above 0"),
        ("preprocessor_config.json", {"type": ["image"]}, "has the type"),
    ],
)
def test_configs_that_do_not_belong_to_the_weights(copy, file, changes, words):
    folder = copy("mae")
    edit(folder, file, **changes)
    with pytest.raises(ZooError, match=words):
        zoo.from_pretrained(folder)


# --- other libraries ---


def test_licences_travel(tmp_path, folders):
    mae = zoo.from_pretrained(folders / "mae")
    state, config = interop.to_transformers(mae)
    folder = tmp_path / "theirs"
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    assert zoo.from_pretrained(folder).licence == "unknown"
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nhello")
    assert zoo.from_pretrained(folder).licence == "apache-2.0"
    for head in ("license: [", "license: 5", "license: 'a\\nb'", "- a", "a: &a [*a]"):
        (folder / "README.md").write_text(f"---\n{head}\n---\n<script>alert(1)</script>")
        assert zoo.from_pretrained(folder).licence in ("unknown", "a\\nb")
    (folder / "config.json").unlink()
    save_file({k: v.clone() for k, v in interop.to_official(mae).items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_heads": 3, "decoder_num_heads": 2}))
    official = zoo.from_pretrained(folder)
    assert official.licence == "cc-by-nc-4.0"
    official.save_pretrained(tmp_path / "ours")
    again = zoo.from_pretrained(tmp_path / "ours", task="classification", num_outputs=2)
    assert again.licence == "cc-by-nc-4.0" and ViTClassifier.from_encoder(official, 2).licence == "cc-by-nc-4.0"
    assert "license: cc-by-nc-4.0" in (tmp_path / "ours" / "README.md").read_text()


def test_what_another_library_says_and_nobody_reads_is_refused(tmp_path, folders):
    mae = zoo.from_pretrained(folders / "mae")

    def refuse(words, state, config, preprocessing=None):
        with pytest.raises(CheckpointError, match=words):
            pretrained.from_tensors(state, config, "here", preprocessing=preprocessing)

    refuse("'num_head', no argument.*Did you mean 'num_heads'", dict(mae.state_dict()), {"num_head": 3})
    state, config = interop.to_transformers(mae)
    refuse("not normalised", state, config, {"do_normalize": False})
    refuse("must be a mapping", state, config, [1])
    assert pretrained.from_tensors(state, config, "here", preprocessing={"image_mean": [0.1, 0.2, 0.3]}).preprocess.mean == (0.1, 0.2, 0.3)
    timm = interop.to_timm(mae)
    arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    refuse("'vit_nothing', which timm .* does not know", timm, {"architecture": "vit_nothing"})
    refuse("differs from the network of MAE", timm, {"architecture": "vit_base_patch16_rope_224"})
    refuse("arguments of timm that this model does not have: 'qk_norm'", timm, {"architecture": "vit_tiny_patch16_224", "model_args": {**arguments, "qk_norm": True}})
    quick = pretrained.from_tensors(timm, {"architecture": "vit_base_patch16_clip_quickgelu_224", "model_args": arguments, "num_classes": 0}, "here")
    assert quick.config.activation == "quick_gelu" and quick.config.norm_eps == 1e-5


def test_loading_says_nothing_unasked(folders, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.from_pretrained(folders / "mae", task="classification", num_outputs=2, input_size=32, dtype="bfloat16")
    assert capsys.readouterr() == ("", "")
