"""Models from the Hub: what is downloaded, checked, remembered, and said when something is wrong."""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

import zoo
from modalities.common import hub, pretrained
from modalities.common.hub import fetch, hub_id, origin
from trainer.errors import CheckpointError, ConfigError, UnknownNameError, ZooError
from trainer.files import sha256_of
from zoo.testing import LocalHub

ROOT = Path(__file__).parents[3]
BUNDLED = ROOT / "modalities" / "vision" / "pretrained" / "mae-tiny-digits"
REPO = "me/digits"
WEIGHTS = "*model.safetensors"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub towards its HTTP library


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder of a Hub that holds the bundled model and files that nobody should download."""
    folder = tmp_path_factory.mktemp("published")
    with LocalHub(folder / "hub") as hub, hub.in_this_process(folder / "home"):
        api = HfApi()
        api.create_repo(REPO)
        api.upload_folder(repo_id=REPO, folder_path=BUNDLED)
        for name in ("pytorch_model.bin", "modeling.py", "notes.txt", "sub/model.safetensors"):
            api.upload_file(path_or_fileobj=b"os.system('true')", path_in_repo=name, repo_id=REPO)
        api.create_tag(REPO, tag="v1")
    return folder / "hub"


@pytest.fixture
def local_hub(published, tmp_path):
    """That Hub, with an empty cache in tmp_path/home/hub. Files come by plain HTTP, where each step can be disturbed."""
    with LocalHub(published) as hub, hub.in_this_process(tmp_path / "home", HF_HUB_DISABLE_XET=True):
        yield hub


def cached(tmp_path):
    return tmp_path / "home" / "hub" / "models--me--digits"


def expect_one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    for word in words:
        assert word in message, message


def test_only_safe_files_come_and_the_second_load_asks_once(local_hub, tmp_path):
    snapshot = fetch(REPO)
    assert {p.name for p in snapshot.folder.iterdir()} == {p.name for p in BUNDLED.iterdir()}
    assert all((snapshot.folder / p.name).read_bytes() == p.read_bytes() for p in BUNDLED.iterdir())
    assert snapshot.repo_id == REPO and len(snapshot.commit) == 40 and snapshot.date.startswith("20")
    assert origin(snapshot.folder) == snapshot == fetch(REPO, "v1") == fetch(REPO, snapshot.commit)
    assert origin(BUNDLED) is None and origin(tmp_path) is None
    before = len(local_hub.requests)
    fetch(REPO)
    assert [r.path for r in local_hub.requests[before:]] == ["/api/models/me/digits/revision/main"]
    fetch(REPO, snapshot.commit)  # a commit never changes: nothing is asked at all
    assert len(local_hub.requests) == before + 1


def test_checked_once_then_remembered(local_hub, monkeypatch):
    hashed = []
    monkeypatch.setattr(hub, "sha256_of", lambda path: hashed.append(path.name) or sha256_of(path))
    commit = fetch(REPO).commit
    fetch(REPO), fetch(REPO, commit)
    assert hashed == ["model.safetensors"]
    began = time.perf_counter()
    for _ in range(100):
        fetch(REPO, commit)
    assert (time.perf_counter() - began) / 100 < 0.005


def test_load_by_every_name(local_hub):
    expected = zoo.from_pretrained("vision/mae-tiny-digits").state_dict()
    commit = HfApi().model_info(REPO).sha
    for arguments in ((REPO,), (f"{REPO}@v1",), (REPO, "v1"), (REPO, commit)):
        found = zoo.from_pretrained(*arguments)
        assert found.preprocess is not None and all(found.state_dict()[k].equal(v) for k, v in expected.items())
    assert pretrained.modality_of(REPO) == "vision"
    with pytest.raises(ConfigError, match="for models of the Hub"):
        zoo.from_pretrained("vision/mae-tiny-digits", revision="v1")


def test_small_files_alone(local_hub):
    snapshot = fetch(REPO, weights=False)
    assert (snapshot.folder / "config.json").exists() and local_hub.count("*", WEIGHTS) == 0
    assert (fetch(REPO).folder / "model.safetensors").exists()  # and the weights later


@pytest.mark.parametrize(
    "text, found",
    [("me/x", ("me/x", None)), ("me/x@v1", ("me/x", "v1")), ("x", None), ("a/b/c", None), ("vision/mae-tny", None), ("me/x@", None),
     ("../x", None), ("me/..", None), ("./x", None), ("me/x y", None), ("me//x", None), ("/x", None), ("C:\\x", None), ("me/a--b", None)],
)  # fmt: skip
def test_what_is_a_hub_id(text, found):
    assert hub_id(text) == found


@pytest.mark.parametrize("revision", ["../../x", "/etc", "a b", "-x", ".", "a/../b", "x\n"])
def test_strange_revisions(local_hub, revision):
    with pytest.raises(ConfigError, match="no branch, tag or commit"):
        fetch(REPO, revision)


BAD_ANSWERS = [
    ({"status": 401}, UnknownNameError, "HTTP 401"),
    ({"status": 401, "headers": {"X-Error-Message": "Invalid credentials in Authorization header"}}, CheckpointError, "does not know the token"),
    ({"status": 403}, CheckpointError, "forbids"),
    ({"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, CheckpointError, "is gated"),
    ({"status": 404}, UnknownNameError, "HTTP 404"),
    ({"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}}, UnknownNameError, "HTTP 404"),
    ({"status": 404, "headers": {"X-Error-Code": "RevisionNotFound"}}, CheckpointError, "no branch, tag or commit 'main'"),
    ({"status": 429, "headers": {"Retry-After": "30"}}, CheckpointError, "a pause of 30 s"),
    ({"status": 429}, CheckpointError, "a pause (HTTP 429"),
    ({"status": 500}, CheckpointError, "internal error (HTTP 500)"),
    ({"status": 503}, CheckpointError, "internal error (HTTP 503)"),
    ({"status": 400}, CheckpointError, "refuses (HTTP 400"),
    ({"status": 200}, CheckpointError, "does not answer as a Hub"),
    ({"hang": True}, CheckpointError, "did not answer within 0.3 s"),
]


@pytest.mark.parametrize("fault, kind, words", BAD_ANSWERS, ids=lambda v: str(v)[:40])
@pytest.mark.parametrize("where", ["/api/*", "*/resolve/*/config.json", "*/resolve/*/model.safetensors"])
def test_bad_answers(local_hub, tmp_path, impatient, monkeypatch, where, fault, kind, words):
    monkeypatch.setattr(hub, "TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    local_hub.fault(path=where, method="GET", **fault)
    began = time.perf_counter()
    with pytest.raises(ZooError) as error:
        fetch(REPO)
    assert time.perf_counter() - began < 3.5
    expect_one_line(error, *([words] if where == "/api/*" else []))
    assert where != "/api/*" or isinstance(error.value, kind)
    assert not (cached(tmp_path) / ".modality-zoo").exists() and not list(cached(tmp_path).rglob("*.incomplete"))
    local_hub.heal()
    assert zoo.from_pretrained(REPO)


def test_a_hub_that_answers_but_hands_out_no_file(local_hub, monkeypatch):
    monkeypatch.setattr(hub, "TIMEOUT", 0.3)
    local_hub.fault(path="*/resolve/*", method="HEAD", hang=True)
    with pytest.raises(CheckpointError) as error:
        fetch(REPO)
    expect_one_line(error, "did not answer within 0.3 s while me/digits was downloaded")


@pytest.mark.parametrize("fault", [{"corrupt": True}, {"cut": 300_000}, {"status": 500}])
def test_disturbed_transfers_by_xet(local_hub, fault, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    local_hub.fault(path="/xet/*", times=1, **fault)
    assert (fetch(REPO).folder / "model.safetensors").read_bytes() == (BUNDLED / "model.safetensors").read_bytes()
    assert local_hub.count("GET", "/xet/*") >= 2 and local_hub.count("GET", WEIGHTS) == 0


def test_a_typo_of_a_registered_name_is_said(local_hub):
    with pytest.raises(UnknownNameError, match="Did you mean 'vision/mae-tiny-digits'"):
        zoo.from_pretrained("vison/mae-tiny-digits")
    with pytest.raises(UnknownNameError, match="nor a model of the zoo"):
        zoo.from_pretrained("runs/that-is-no-folder")


def test_private_models(local_hub, monkeypatch):
    HfApi().create_repo("me/private", private=True)
    HfApi().upload_folder(repo_id="me/private", folder_path=BUNDLED)
    assert fetch("me/private").commit
    for token, words in ((local_hub.read_token, None), ("", "without a token"), ("hf_wrong", "does not know the token")):
        monkeypatch.setenv("HF_TOKEN", token)
        if words is None:
            assert fetch("me/private").commit
        else:
            with pytest.raises(ZooError) as error:
                fetch("me/private")
            expect_one_line(error, words)
    HfApi(token=local_hub.token).delete_repo("me/private")


def test_unreachable(local_hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.perf_counter()
    with pytest.raises(CheckpointError) as error:
        fetch(REPO)
    assert time.perf_counter() - began < 2
    expect_one_line(error, "http://127.0.0.1:9 cannot be reached", str(tmp_path / "home" / "hub"), "no copy of me/digits at main")


@pytest.mark.parametrize("endpoint", ["http://", "not-an-address", "http://127.0.0.1:99999", "ftp://127.0.0.1", "http://[::1"])
def test_endpoints_that_are_none(local_hub, monkeypatch, endpoint):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(CheckpointError) as error:
        fetch(REPO)
    expect_one_line(error, endpoint, "HF_ENDPOINT")


@pytest.mark.parametrize("why", ["offline", "down", 500, 429])
def test_without_a_hub_a_full_cache_is_used(local_hub, monkeypatch, caplog, why):
    caplog.set_level(logging.WARNING, "zoo")
    snapshot = fetch(REPO)
    if isinstance(why, int):
        local_hub.fault(status=why)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", why == "offline")
    if why == "down":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch(REPO) == fetch(REPO, snapshot.commit) == snapshot
    assert zoo.from_pretrained(REPO).embed({"image": torch.zeros(1, 1, 20, 20)}).isfinite().all()
    assert ("using the copy of me/digits" in caplog.text) == (why != "offline")
    with pytest.raises(CheckpointError, match="no copy of me/digits at v1"):
        fetch(REPO, "v1")  # never fetched by this name


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json", "preprocessor_config.json", "blob"])
def test_offline_with_a_half_filled_cache(local_hub, tmp_path, monkeypatch, lost):
    folder = fetch(REPO).folder
    path = (folder / "model.safetensors").resolve() if lost == "blob" else folder / lost
    path.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError) as error:
        zoo.from_pretrained(REPO)
    expect_one_line(error, "HF_HUB_OFFLINE is set", str(folder), "model.safetensors" if lost == "blob" else lost, "missing")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert zoo.from_pretrained(REPO) and not local_hub.count("GET", "*.bin")


def test_offline_with_what_other_programs_downloaded(local_hub, monkeypatch):
    hf_hub_download(REPO, "config.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError) as error:
        fetch(REPO)
    expect_one_line(error, "model.safetensors missing")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = Path(snapshot_download(REPO))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(REPO).folder == folder
    flip((folder / "model.safetensors").resolve())
    with pytest.raises(CheckpointError) as error:
        fetch(REPO)
    expect_one_line(error, "is damaged", "model.safetensors")


def flip(path):
    """Change the last byte of a file; the size stays."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_corrupted_file_of_the_same_length(local_hub, tmp_path, name, caplog):
    caplog.set_level(logging.WARNING, "zoo")
    fault = local_hub.fault(path=f"*/{name}", method="GET", corrupt=True)
    with pytest.raises(CheckpointError) as error:
        fetch(REPO)
    expect_one_line(error, name, "arrived damaged twice", "was removed")
    assert not (cached(tmp_path) / "snapshots").joinpath(HfApi().model_info(REPO).sha, name).exists()
    local_hub.heal()
    local_hub.fault(path=fault.path, method="GET", corrupt=True, times=1)
    assert (fetch(REPO).folder / name).read_bytes() == (BUNDLED / name).read_bytes()
    assert f"{name} of me/digits is damaged and is fetched again" in caplog.text


def test_a_file_that_changed_in_the_cache_is_fetched_again(local_hub):
    path = fetch(REPO).folder / "model.safetensors"
    flip(path.resolve())
    assert fetch(REPO).folder / "model.safetensors" == path and path.read_bytes() == (BUNDLED / path.name).read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_a_download_cut_at_a_random_byte(local_hub, tmp_path, impatient, monkeypatch, seed):
    size = (BUNDLED / "model.safetensors").stat().st_size
    local_hub.fault(path=WEIGHTS, method="GET", cut=random.Random(seed).randrange(size))
    with pytest.raises(CheckpointError) as error:
        zoo.from_pretrained(REPO)
    expect_one_line(error, "while me/digits was downloaded", "load it again")
    assert not [p for p in cached(tmp_path).rglob("*") if "model.safetensors" in p.name or p.name.endswith(".incomplete")]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="model.safetensors missing"):
        fetch(REPO, only_snapshot(tmp_path).name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    local_hub.heal()
    assert zoo.from_pretrained(REPO)


def only_snapshot(tmp_path):
    (snapshot,) = (cached(tmp_path) / "snapshots").iterdir()
    return snapshot


def test_a_download_that_is_killed(local_hub, tmp_path):
    """A process that gets SIGKILL in the middle leaves nothing that looks whole, and the next one finishes."""
    fault = local_hub.fault(path=WEIGHTS, method="GET", rate=200_000, times=1)
    code = f"from modalities.common.hub import fetch; fetch({REPO!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "HF_HUB_DISABLE_XET": "1"})
    while process.poll() is None and fault.times:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    local_hub.heal()
    names = {p.name for p in only_snapshot(tmp_path).iterdir()}
    assert "config.json" in names and "model.safetensors" not in names and not (cached(tmp_path) / ".modality-zoo").exists()
    assert (fetch(REPO).folder / "model.safetensors").read_bytes() == (BUNDLED / "model.safetensors").read_bytes()


def test_eight_processes_at_once_download_once(published, tmp_path):
    code = f"""
import os, sys
import zoo, modalities.common.pretrained, modalities.vision.interop.mae, modalities.vision.models.mae
children = []
for _ in range(8):
    pid = os.fork()
    if pid == 0:
        zoo.from_pretrained({REPO!r})
        os._exit(0)
    children.append(pid)
sys.exit(sum(os.waitpid(pid, 0)[1] != 0 for pid in children))
"""
    with LocalHub(published) as hub:
        hub.fault(path="/xet/*", rate=1_000_000)  # slow enough for all to want it at the same time
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **hub.environment(tmp_path)}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert hub.count("GET", "/api/models/me/digits/revision/main") == 8
        assert hub.count("GET", "/xet/*") == 1 and hub.count("GET", "*/config.json") == 1


@pytest.mark.parametrize("case", ["no weights", "pickle alone", "shard missing", "shard outside", "index broken"])
def test_repositories_that_are_no_model(local_hub, tmp_path, case):
    files = {
        "no weights": {"config.json": b"{}"},
        "pickle alone": {"config.json": b"{}", "pytorch_model.bin": b"x"},
        "shard missing": {"model.safetensors.index.json": b'{"weight_map": {"a": "model-1.safetensors"}}'},
        "shard outside": {"model.safetensors.index.json": b'{"weight_map": {"a": "../../../evil.safetensors"}}'},
        "index broken": {"model.safetensors.index.json": b'{"weight_map": 3}'},
    }[case]
    HfApi().create_repo("me/other", exist_ok=True)
    for name, content in files.items():
        HfApi().upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="me/other")
    with pytest.raises(CheckpointError) as error:
        fetch("me/other")
    words = {"no weights": "holds no model.safetensors", "pickle alone": "holds a pickle (pytorch_model.bin)", "shard missing": "names model-1.safetensors"}
    expect_one_line(error, words.get(case, "plain .safetensors files"))
    assert not list(tmp_path.rglob("evil*"))
    HfApi().delete_repo("me/other")


def test_shards(local_hub, monkeypatch):
    from huggingface_hub import save_torch_state_dict

    model = zoo.from_pretrained("vision/mae-tiny-digits")
    monkeypatch.setattr("modalities.common.model.save_torch_state_dict", lambda state, folder, **_: save_torch_state_dict(state, folder, max_shard_size="300KB"))
    HfApi().delete_repo("me/shards", missing_ok=True)
    model.push_to_hub("me/shards")
    names = {p.name for p in fetch("me/shards").folder.iterdir()}
    assert sum(n.endswith(".safetensors") for n in names) >= 3 and "model.safetensors.index.json" in names
    found = zoo.from_pretrained("me/shards").state_dict()
    assert all(found[k].equal(v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"files": 3}', b'{"files": {"model.safetensors": 3}}', b'{"files": {"../../x": [1, 2]}}', b"\xff"])
def test_a_broken_memory_of_checks_is_as_none(local_hub, tmp_path, content):
    commit = fetch(REPO).commit
    (cached(tmp_path) / ".modality-zoo" / f"{commit}.json").write_bytes(content)
    assert fetch(REPO, commit).commit == commit


def test_a_full_disk(local_hub, tmp_path, full_disk):
    full_disk(100_000)
    with pytest.raises(CheckpointError, match="[Cc]annot write|disk"):
        fetch(REPO)
    assert not list((cached(tmp_path) / "snapshots").rglob("model.safetensors"))
