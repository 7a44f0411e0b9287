"""Publishing to a Hub over HTTP, and back."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi, constants
from PIL import Image

import zoo
from modalities import registry
from modalities.common import hub
from trainer.errors import CheckpointError, ConfigError
from zoo import publishing, uploading
from zoo.cli import main
from zoo.publishing import publish
from zoo.rehearsal import fingerprint
from zoo.testing import LocalHub

ROOT = Path(__file__).parents[2]
REPO = "me/model"
QUICK = ["--train.steps", "4", "--train.batch_size", "4", "--train.log_every", "2", "--train.pictures", "1", "--train.workers", "0"]
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub towards its HTTP library


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    root = tmp_path_factory.mktemp("run")
    (root / "photos").mkdir()
    for i in range(8):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40, 3), "uint8")).save(root / "photos" / f"{i}.png")
    assert main(["pretrain", "vision/mae-tiny", "--data.path", str(root / "photos"), "--to", str(root / "run"), *QUICK]) == 0
    return root / "run"


@pytest.fixture
def quickly(monkeypatch):
    """Leave out the new process that publishing starts: other tests have it."""
    monkeypatch.setattr(publishing, "rehearse", lambda model, folder, card: fingerprint(model))


def elsewhere(code, hub, home):
    """What a new process prints that talks to this Hub, with an empty cache."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **hub.environment(home)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_whole_way(local_hub, run, tmp_path):
    commit = publish(run, repo=REPO, to=tmp_path / "copy")
    api = HfApi()
    assert [m.id for m in api.list_models(author="me")] == [REPO]
    assert [c.title for c in api.list_repo_commits(REPO)] == ["Publish with modality-zoo", "initial commit"]
    names = {p.name for p in (tmp_path / "copy").iterdir()}
    assert names == {"README.md", "attention.png", "config.json", "curves.png", "model.safetensors", "neighbours.png", "origin.json", "picture.png", "preprocessor_config.json"}
    assert set(api.list_repo_files(REPO)) == names | {".gitattributes"}
    code = f"import zoo; from zoo.rehearsal import fingerprint as f; print(f(zoo.from_pretrained({REPO!r})), f(zoo.from_pretrained({REPO!r}, {commit!r})))"
    assert set(elsewhere(code, local_hub, tmp_path / "elsewhere")) == {fingerprint(zoo.from_pretrained(run))}
    assert f'zoo.from_pretrained("{REPO}")' in (tmp_path / "copy" / "README.md").read_text()
    assert local_hub.count("POST", "/v1/xorbs/*") == 1 and local_hub.count("GET", "/xet/xorbs/*") >= 2  # it went by Xet, and came back by it


@pytest.mark.parametrize("way", ["xet", "lfs", "regular"])
@pytest.mark.parametrize("how", ["publish", "push_to_hub"])
def test_every_way_to_a_hub(run, quickly, tmp_path, way, how):
    model = zoo.from_pretrained(run)
    with LocalHub(xet=way != "regular", large_files=way != "regular") as local, local.in_this_process(tmp_path, HF_HUB_DISABLE_XET=way == "lfs"):
        if how == "publish":
            publish(run, repo=REPO)
            assert len(HfApi().list_repo_commits(REPO)) == 2
        else:
            assert model.push_to_hub(REPO).startswith(local.endpoint)
        again = zoo.from_pretrained(REPO)
        assert fingerprint(again) == fingerprint(model) and again.preprocess == model.preprocess
        assert all(again.state_dict()[k].equal(v) for k, v in model.state_dict().items())


def test_dry_run_sends_and_writes_nothing(local_hub, run, quickly, tmp_path, capsys):
    assert publish(run, repo=REPO, to=tmp_path / "copy", dry_run=True) is None
    said = capsys.readouterr().out
    assert "model.safetensors" in said and "me/model (public)" in said and "Nothing was sent" in said
    assert not local_hub.requests and not (tmp_path / "copy").exists()


def test_a_private_repository(local_hub, run, quickly, monkeypatch):
    publish(run, repo=REPO, private=True)
    assert HfApi().model_info(REPO).private
    HfApi().create_repo("me/open")
    with pytest.raises(ConfigError, match="can be seen by all"):
        publish(run, repo="me/open", private=True)


def test_publishing_again(local_hub, run, quickly, monkeypatch):
    """The same is no new commit; other weights replace the old ones, shards and all, in one."""
    from huggingface_hub import save_torch_state_dict

    with monkeypatch.context() as patch:
        patch.setattr("modalities.common.model.save_torch_state_dict", lambda state, folder, **_: save_torch_state_dict(state, folder, max_shard_size="400KB"))
        publish(run, repo=REPO)
    assert "model.safetensors.index.json" in HfApi().list_repo_files(REPO)
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=REPO)
    first = publish(run, repo=REPO)
    assert publish(run, repo=REPO) == first == HfApi().model_info(REPO).sha
    files = set(HfApi().list_repo_files(REPO))
    assert "notes.txt" in files and "model.safetensors" in files and not [f for f in files if "-of-" in f or "index" in f]


def edit(card, words):
    card.write_text(card.read_text().replace("<!-- generated: limits -->", f"{words}\n\n<!-- generated: limits -->"))


def test_publishing_again_keeps_what_a_person_wrote(local_hub, run, quickly, tmp_path):
    """On the Hub and in a folder: words, a picture of one's own, other files; the facts around them are new."""
    to = tmp_path / "copy"
    publish(run, to=to, repo=REPO)
    edit(to / "README.md", "My words, ![mine](mine.png).")
    shutil.copy(to / "picture.png", to / "mine.png")
    (to / "notes").mkdir()
    (to / "notes" / "a.txt").write_text("note")
    publish(run, to=to)
    assert "My words, ![mine](mine.png)." in (to / "README.md").read_text() and (to / "mine.png").exists() and (to / "notes" / "a.txt").exists()
    publish(to, repo="me/from-the-folder")
    assert {"mine.png", "origin.json", "curves.png"} <= set(HfApi().list_repo_files("me/from-the-folder"))
    edit(to / "README.md", "More words.")
    HfApi().upload_file(path_or_fileobj=to / "README.md", path_in_repo="README.md", repo_id=REPO)
    publish(run, repo=REPO)
    text = hub.fetch(REPO).folder.joinpath("README.md").read_text()
    assert "More words." in text and "My words" in text and f'zoo.from_pretrained("{REPO}")' in text
    edit(to / "README.md", "Still more.")
    with pytest.raises(CheckpointError, match="both hold words of somebody's own"):
        publish(run, repo=REPO, to=to)
    (to / "README.md").write_text("Mine alone.")
    with pytest.raises(CheckpointError, match="no generated blocks"):
        publish(run, to=to)
    assert (to / "README.md").read_text() == "Mine alone." and (to / "model.safetensors").exists()


def test_a_commit_of_somebody_else_is_not_overwritten(local_hub, run, quickly, tmp_path):
    publish(run, repo=REPO, to=tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text("{}")
    seen = uploading.check_repository(REPO, private=False)
    theirs = HfApi().create_commit(REPO, [CommitOperationAdd("README.md", b"---\nlicense: mit\n---\nMine")], commit_message="by hand").oid
    with pytest.raises(CheckpointError, match="412.*has happened since"):
        uploading.upload(tmp_path / "copy", REPO, False, seen)
    assert HfApi().model_info(REPO).sha == theirs


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("what", ["/upload/*", "*/commit/main", "*/preupload/*"])
def test_an_upload_cut_at_a_random_byte(run, quickly, tmp_path, impatient, seed, what):
    """Nothing of it is visible, and the same command finishes."""
    with LocalHub() as local, local.in_this_process(tmp_path, HF_HUB_DISABLE_XET=True):
        publish(run, repo=REPO)
        before = HfApi().model_info(REPO)
        model = zoo.from_pretrained(run)
        with torch.no_grad():
            next(model.parameters()).add_(1)
        model.save_pretrained(tmp_path / "changed", card=(run / "export" / "README.md").read_text())
        local.fault(path=what, cut=random.Random(seed).randrange(500_000 if what == "/upload/*" else 300))
        with pytest.raises(CheckpointError) as error:
            publish(tmp_path / "changed", repo=REPO)
        assert "\n" not in str(error.value) and re.search("same command starts it again", str(error.value))
        after = HfApi().model_info(REPO)
        assert after.sha == before.sha and fingerprint(zoo.from_pretrained(REPO)) == fingerprint(zoo.from_pretrained(run))
        local.heal()
        assert publish(tmp_path / "changed", repo=REPO) != before.sha
        assert fingerprint(zoo.from_pretrained(REPO)) == fingerprint(model)


def test_a_hub_that_gives_back_something_else(local_hub, run, quickly, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    local_hub.fault(path="*/resolve/*/config.json", method="GET", corrupt=True)
    with pytest.raises(CheckpointError, match="config.json of me/model arrived damaged twice"):
        publish(run, repo=REPO)


def test_reasons_not_to_begin(local_hub, run, quickly, tmp_path, monkeypatch, impatient):
    for arguments, words in (
        ({}, "--repo NAMESPACE/NAME"),
        ({"to": tmp_path / "x", "private": True}, "--private is for"),
        ({"repo": "model"}, "Expected namespace/name"),
        ({"repo": "vision/model"}, "Expected namespace/name"),
        ({"repo": "me/model@v1"}, "Expected namespace/name"),
    ):
        with pytest.raises(ConfigError, match=words):
            publish(run, **arguments)
    with pytest.raises(CheckpointError, match="no record.json"):
        publish(tmp_path, repo=REPO)
    for token, words in (("", "needs a token with write access"), ("hf_wrong", "does not know the token"), (local_hub.read_token, "HTTP 403")):
        with monkeypatch.context() as patch:
            patch.setenv("HF_TOKEN", token)
            with pytest.raises(CheckpointError, match=words):
                publish(run, repo=REPO)
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        publish(run, repo=REPO)
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="cannot be reached.*Nothing was sent"):
        patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        publish(run, repo=REPO)
    local_hub.fault(path="/api/models/*", hang=True)
    monkeypatch.setattr(hub, "TIMEOUT", 0.3)
    with pytest.raises(CheckpointError, match="did not answer within 0.3 s"):
        publish(run, repo=REPO)
    local_hub.heal()
    assert not list(HfApi().list_models())


def test_what_is_not_fit_is_not_published(local_hub, run, quickly, tmp_path):
    model = zoo.from_pretrained(run)
    card = (run / "export" / "README.md").read_text()
    for name, text, words in (("license", "---\nlicense: [\n---\nx", "not valid"), ("empty", "", "does not name")):
        model.save_pretrained(tmp_path / name, card=text)
        with pytest.raises(CheckpointError, match=words):
            publish(tmp_path / name, repo=REPO)
    with torch.no_grad():
        model.norm.weight.fill_(1e38)
    model.save_pretrained(tmp_path / "huge", card=card)
    with pytest.raises(CheckpointError, match="NaN or infinity for an example input"):
        publish(tmp_path / "huge", repo=REPO)
    assert not local_hub.count("POST", "/api/repos/create")


def test_a_snippet_that_fails_is_found_in_a_new_process(run, tmp_path, monkeypatch):
    system = registry.systems()["vision/mae"]
    monkeypatch.setitem(registry.systems(), "vision/mae", replace(system, snippet="model.embedd(3)"))
    with pytest.raises(CheckpointError, match="no attribute 'embedd'"):
        publish(run, to=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_code_in_a_card_is_never_run(run, tmp_path, caplog):
    """A folder may come from anywhere; its card is published as it is, and only the zoo's own snippet would be run."""
    model = zoo.from_pretrained(run)
    evil = f'import zoo\n\nmodel = zoo.from_pretrained("x")\nopen({str(tmp_path / "pwned")!r}, "w")'
    card = re.sub(r"```python\n.*?```", lambda _: f"```python\n{evil}\n```", (run / "export" / "README.md").read_text(), count=1, flags=re.S)
    model.save_pretrained(tmp_path / "model", card=card, files={"picture.png": run / "export" / "picture.png"})
    with caplog.at_level("WARNING", "zoo"):
        publish(tmp_path / "model", to=tmp_path / "copy")
    assert "was not run" in caplog.text and not (tmp_path / "pwned").exists()
    assert (tmp_path / "copy" / "picture.png").exists()


def test_command_line(local_hub, run, quickly, capsys):
    assert main(["publish", str(run), "--repo", REPO]) == 0
    assert main(["show", REPO]) == 0
    said = capsys.readouterr().out
    assert "Hub            me/model, commit" in said and "How to use it" in said
    picture = next((run.parent / "photos").iterdir())
    assert main(["predict", REPO, str(picture), "--to", str(run.parent / "drawn.png")]) == 0
    assert main(["hub", "sreve"]) == 1
    assert "Did you mean 'serve'" in capsys.readouterr().err


def test_hub_serve(tmp_path):
    command = [sys.executable, "-m", "zoo.cli", "hub", "serve", "--folder", str(tmp_path / "hub"), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    lines = [line for line in iter(process.stdout.readline, "Ctrl-C stops it.\n")]
    exports = dict(re.findall(r"export (\w+)=(\S+)", "".join(lines)))
    api = HfApi(endpoint=exports["HF_ENDPOINT"], token=exports["HF_TOKEN"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        api.create_repo(REPO)
        assert api.model_info(REPO).id == REPO
    process.send_signal(signal.SIGINT)
    assert "stays in" in process.communicate(timeout=10)[0] and process.returncode == 0
