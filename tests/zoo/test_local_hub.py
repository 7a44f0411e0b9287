"""The local Hub against huggingface_hub itself, over HTTP."""

import http.client
import json

import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from trainer.errors import ConfigError
from zoo.testing import Fault, LocalHub, reading

WEIGHTS = np.random.default_rng(0).standard_normal(60_000).astype("float32").tobytes()
CARD = b"---\nlicense: mit\n---\nA card."


def commit(api, files, repo="me/model", **options):
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    return api.create_commit(repo, operations, commit_message="a change", **options)


def ask(hub, method, path, body=None):
    """(status, answer) of a request that huggingface_hub would not send."""
    connection = http.client.HTTPConnection("127.0.0.1", int(hub.endpoint.rpartition(":")[2]), timeout=5)
    connection.request(method, path, body, {"Authorization": f"Bearer {hub.token}"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


@pytest.fixture
def api(local_hub):
    return HfApi()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub towards its HTTP library
@pytest.mark.parametrize("way", ["xet", "lfs", "lfs in parts", "regular"])
def test_every_way_to_upload_and_download(way, tmp_path):
    options = {"large_files": way != "regular", "xet": way != "regular", "part_size": 100_000 if "parts" in way else 1 << 26}
    with LocalHub(**options) as hub, hub.in_this_process(tmp_path, HF_HUB_DISABLE_XET=way.startswith("lfs")):
        api = HfApi()
        api.create_repo("me/model")
        half = len(WEIGHTS) // 2
        repeated = WEIGHTS[:half] + b"\0" * 300_000 + WEIGHTS[:half]  # compressible, and with chunks that occur twice
        commit(api, {"model.safetensors": WEIGHTS, "zeros.bin": repeated, "README.md": CARD, "config.json": b"{}"})
        listed = {f.path: f for f in api.list_repo_tree("me/model")}
        assert listed.keys() == {".gitattributes", "model.safetensors", "zeros.bin", "README.md", "config.json"}
        assert (listed["model.safetensors"].lfs is None) == (way == "regular")
        assert (listed["model.safetensors"].xet_hash is not None) == (way == "xet")
        for name, content in {"model.safetensors": WEIGHTS, "zeros.bin": repeated, "README.md": CARD}.items():
            with open(hf_hub_download("me/model", name), "rb") as file:
                assert file.read() == content
        commit(api, {"model.safetensors": WEIGHTS, "config.json": b"{}"})  # nothing has changed: no new commit
        assert hub.count("POST", "*/commit/*") == 1
        assert hub.count("PUT") == {"lfs": 2, "lfs in parts": 3 + 6}.get(way, 0)
        assert (hub.count("GET", "/xet/xorbs/*") > 0) == (way == "xet")


def test_revisions(api):
    api.create_repo("me/model")
    first = commit(api, {"config.json": b"1"}).oid
    api.create_tag("me/model", tag="v1")
    second = commit(api, {"config.json": b"2"}).oid
    api.create_branch("me/model", branch="old", revision=first)
    commit(api, {"extra.json": b"3"}, revision="old")
    refs = api.list_repo_refs("me/model")
    assert {b.name for b in refs.branches} == {"main", "old"} and refs.tags[0].target_commit == first
    assert [c.commit_id for c in api.list_repo_commits("me/model")][:2] == [second, first]
    for revision, content in {"main": "2", "v1": "1", "old": "1", first: "1"}.items():
        with open(hf_hub_download("me/model", "config.json", revision=revision)) as file:
            assert file.read() == content
    with pytest.raises(RevisionNotFoundError):
        api.model_info("me/model", revision="v2")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("me/model", "none.json")


def test_commits_are_atomic_and_guarded(api):
    api.create_repo("me/model")
    first = commit(api, {"a.json": b"1", "b.json": b"1"}).oid
    with pytest.raises(HfHubHTTPError, match="doesn't exist"):  # one wrong change: none is made
        api.create_commit("me/model", [CommitOperationAdd("c.json", b"1"), CommitOperationDelete("none.json")], commit_message="x")
    assert api.model_info("me/model").sha == first
    second = api.create_commit("me/model", [CommitOperationDelete("a.json")], commit_message="x", parent_commit=first).oid
    with pytest.raises(HfHubHTTPError, match="has happened since"):
        commit(api, {"b.json": b"2"}, parent_commit=first)
    assert api.model_info("me/model").sha == second and api.list_repo_files("me/model") == [".gitattributes", "b.json"]


def test_repositories_and_tokens(local_hub, api):
    api.create_repo("me/open")
    api.create_repo("me/closed", private=True)
    api.create_repo("named-by-user", exist_ok=True)
    assert api.whoami()["name"] == local_hub.user
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("me/open")
    assert api.create_repo("me/open", exist_ok=True).repo_id == "me/open"
    assert {m.id for m in api.list_models(author="me")} == {"me/open", "me/closed"}
    stranger, reader, nobody = HfApi(token=False), HfApi(token=local_hub.read_token), HfApi(token="hf_wrong")
    assert [m.id for m in stranger.list_models(author="me")] == ["me/open"]
    assert reader.model_info("me/closed").private and stranger.model_info("me/open").id == "me/open"
    for client, repo, status in ((stranger, "me/closed", 401), (stranger, "me/none", 401), (reader, "me/none", 404), (nobody, "me/open", 401)):
        with pytest.raises(HfHubHTTPError) as error:
            client.model_info(repo)
        assert error.value.response.status_code == status
    with pytest.raises(HfHubHTTPError, match="403"):
        commit(reader, {"a.json": b"1"}, repo="me/open")
    api.delete_repo("me/open")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/open")


def test_long_listings_come_in_pages(api, monkeypatch):
    monkeypatch.setattr(reading, "PAGE", 2)
    api.create_repo("me/model")
    commit(api, {f"{i}.json": b"1" for i in range(5)})
    assert len(list(api.list_repo_tree("me/model"))) == 6
    assert [f.path for f in api.get_paths_info("me/model", ["3.json", "9.json"])] == ["3.json"]
    assert len(list(snapshot_download("me/model"))) > 0


def test_survives_a_restart(tmp_path):
    for attempt in (1, 2):
        with LocalHub(tmp_path / "hub") as hub, hub.in_this_process(tmp_path / f"home-{attempt}"):
            if attempt == 1:
                HfApi().create_repo("me/model")
                made = commit(HfApi(), {"model.safetensors": WEIGHTS}).oid
            else:
                assert HfApi().model_info("me/model").sha == made
                with open(hf_hub_download("me/model", "model.safetensors"), "rb") as file:
                    assert file.read() == WEIGHTS


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", ".git/config", "a//b", ""])
def test_paths_that_lead_outside_are_refused(local_hub, path, tmp_path):
    HfApi().create_repo("me/model")
    line = json.dumps({"key": "file", "value": {"content": "eA==", "path": path, "encoding": "base64"}})
    assert ask(local_hub, "POST", "/api/models/me/model/commit/main", line)[0] == 400
    assert not [p for p in tmp_path.rglob("*") if p.name in ("x", "b", "config")]


@pytest.mark.parametrize(
    "path",
    ["/api/models/../..", "/api/models/me/..", "/api/models/%2e%2e/%2e%2e", "/me/model/resolve/main/../../repo.json",
     "/me/model/resolve/..%2f..%2frepo/x", "/upload/x/../../etc", "/nothing"],
)  # fmt: skip
def test_strange_addresses(local_hub, path):
    HfApi().create_repo("me/model")
    status, content = ask(local_hub, "GET", path)
    assert status == 404 and b"private" not in content


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b'{"files": 3}', b'{"key": 1, "value": 2}', b"\xff\xfe"])
def test_bodies_that_make_no_sense_are_answered(local_hub, body):
    HfApi().create_repo("me/model")
    for path in ("repos/create", "models/me/model/preupload/main", "models/me/model/tag/main"):
        assert ask(local_hub, "POST", f"/api/{path}", body)[0] in (400, 404), path
    assert len(HfApi().list_repo_commits("me/model")) == 1


def test_cards_are_checked(api):
    api.create_repo("me/model")
    with pytest.raises(ValueError, match="not YAML"):
        commit(api, {"README.md": b"---\nlicense: [\n---\n"})
    with pytest.warns(UserWarning, match="missing yaml"):
        commit(api, {"README.md": b"no head"})


def test_faults_hit_what_they_name(local_hub, api, impatient):
    api.create_repo("me/model")
    commit(api, {"config.json": b"12345"})
    local_hub.fault(path="*/config.json", method="GET", corrupt=True)
    with open(hf_hub_download("me/model", "config.json", force_download=True), "rb") as file:
        assert file.read() == b"12344"
    local_hub.heal()
    local_hub.fault(path="*/config.json", method="GET", cut=2, times=2)  # the client goes on where it was cut
    with open(hf_hub_download("me/model", "config.json", force_download=True), "rb") as file:
        assert file.read() == b"12345"
    local_hub.fault(status=503, times=1)
    with pytest.raises(HfHubHTTPError, match="503"):
        api.model_info("me/model")
    assert api.model_info("me/model").id == "me/model"
    for wrong in ({}, {"status": 500, "hang": True}):
        with pytest.raises(ConfigError, match="exactly one"):
            Fault(**wrong)


def test_a_port_in_use_is_said(local_hub):
    with pytest.raises(ConfigError, match="cannot be used"), LocalHub(port=int(local_hub.endpoint.rpartition(":")[2])):
        pass
