import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.trainer.tars import write_shards
from trainer.errors import ConfigError, DataError
from trainer.files import sha256_of
from trainer.remote import cache_folder, expand, local_copy, scheme
from trainer.shards import Shard, Shards, write_index


class Handler(BaseHTTPRequestHandler):
    """Files of a folder; `cut` answers stop half-way; ranges are honoured."""

    def __init__(self, *arguments, state):
        self.state = state
        super().__init__(*arguments)

    def do_GET(self):
        self.state["requests"].append((self.path, self.headers.get("Range")))
        path = self.state["folder"] / self.path.lstrip("/")
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        begin = 0
        if self.headers.get("Range") and self.headers.get("If-Range") == tag:
            begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if begin else 200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        cut = self.state["cut"] > 0
        self.state["cut"] -= 1
        self.wfile.write(content[begin : begin + (len(content) - begin) // 2 if cut else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("MODALITY_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("trainer.remote.time.sleep", lambda _: None)
    state = {"folder": tmp_path / "served", "requests": [], "cut": 0}
    state["folder"].mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, state=state)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state["url"] = f"http://127.0.0.1:{httpd.server_port}"
        yield state
        httpd.shutdown()
        thread.join()


def test_fetched_once_and_whole(server):
    (server["folder"] / "a.bin").write_bytes(os.urandom(3_000_000))
    url = f"{server['url']}/a.bin"
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(local_copy, [url] * 4))
    assert len(copies) == 1 and copies.pop().read_bytes() == (server["folder"] / "a.bin").read_bytes()
    assert len(server["requests"]) == 1


def test_a_download_that_is_cut_off_goes_on(server):
    content = os.urandom(100_000)
    (server["folder"] / "a.bin").write_bytes(content)
    server["cut"] = 2
    path = local_copy(f"{server['url']}/a.bin", len(content), hashlib.sha256(content).hexdigest())
    assert path.read_bytes() == content and [r for _, r in server["requests"]] == [None, "bytes=50000-", "bytes=75000-"]
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "a.bin"]


def test_a_file_that_changed_in_between_begins_anew(server):
    (server["folder"] / "a.bin").write_bytes(b"1" * 1000)
    server["cut"] = 9
    with pytest.raises(DataError, match="cannot be fetched"):
        local_copy(f"{server['url']}/a.bin")
    (server["folder"] / "a.bin").write_bytes(b"2" * 1000)
    server["cut"] = 0
    assert local_copy(f"{server['url']}/a.bin").read_bytes() == b"2" * 1000


def test_what_does_not_fit_its_index_is_refused(server):
    (server["folder"] / "a.bin").write_bytes(b"12345")
    url = f"{server['url']}/a.bin"
    with pytest.raises(DataError, match="5 bytes, expected 6"):
        local_copy(url, size=6)
    with pytest.raises(DataError, match="another sha256"):
        local_copy(url, sha256="0" * 64)
    assert not list(cache_folder().rglob("a.bin*"))
    with pytest.raises(DataError, match="404"):
        local_copy(f"{server['url']}/none.bin")
    assert len(server["requests"]) == 3, "what is not there is not asked for again"


def test_shards_over_http(server):
    folder = write_shards(server["folder"] / "data", [3, 2])
    shards = Shards(f"{server['url']}/data/s-{{0..1}}.tar")
    assert [shards.read(i)["txt"] for i in (4, 0)] == [b"4", b"0"]
    tars = sorted(folder.glob("*.tar"))
    write_index(folder, [Shard(t.name, n, t.stat().st_size, sha256_of(t)) for t, n in zip(tars, (3, 2))])
    server["requests"].clear()
    os.environ["MODALITY_ZOO_CACHE"] += "2"
    shards = Shards(f"{server['url']}/data/index.json")
    assert len(shards) == 5 and shards.read(4)["txt"] == b"4"
    assert [path for path, _ in server["requests"]] == ["/data/index.json", "/data/s-1.tar"], "only what is read is fetched"


def test_names():
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{x,y}/{0..1}.tar") == ["x/0.tar", "x/1.tar", "y/0.tar", "y/1.tar"] and expand("a.tar") == ["a.tar"]
    assert [scheme(n) for n in ("a.tar", "/x/a:b.tar", "https://h/a", "hf://datasets/a/b/c")] == ["", "", "https", "hf"]
    for bad in ("pipe:ls", "s3://b/x", "file:///etc/passwd"):
        with pytest.raises(ConfigError, match="is not read"):
            scheme(bad)
    with pytest.raises(ConfigError, match="too many"):
        expand("{0..9999999}.tar")
    with pytest.raises(ConfigError, match="no address on the Hub"):
        local_copy("hf://name")


def test_the_hub_is_asked_for_the_right_file(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path / "f"))
    assert local_copy("hf://datasets/me/birds@v1/train/a.tar") == tmp_path / "f"
    assert asked == [(("me/birds", "train/a.tar"), {"repo_type": "dataset", "revision": "v1"})]


def test_the_hub_without_network_is_one_clear_error():
    with pytest.raises(DataError, match="hf://datasets/me/birds/a.tar cannot be fetched"):
        local_copy("hf://datasets/me/birds/a.tar")
