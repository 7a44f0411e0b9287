import json
import os
import tarfile

import psutil
import pytest
import torch

from tests.trainer.tars import write_shards, write_tar
from trainer.data import Share, Stream
from trainer.errors import ConfigError, DataError
from trainer.files import sha256_of
from trainer.shards import Shard, Shards, find_shards, is_shards, read_index, write_index
from trainer.tar_index import TarIndex, scan, tar_index


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MODALITY_ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_sample_can_be_read_on_its_own(tmp_path):
    shards = Shards(str(write_shards(tmp_path / "data", [3, 0, 4])))
    assert len(shards) == 7 and shards.counts.tolist() == [3, 0, 4] and shards.describe() == {"samples": 7, "shards": 3}
    for index in (6, 0, 3, 2):
        assert shards.read(index) == {"txt": str(index).encode(), "json": b"{}"}
        assert shards.read(index, ("txt",)) == {"txt": str(index).encode()}
    assert shards.id(3) == "s-2.tar#000003" and shards.endings(0) == ["txt", "json"]
    assert shards.where(3, "txt") == f"{tmp_path}/data/s-2.tar: 000003.txt"
    with pytest.raises(IndexError):
        shards.read(7)


def test_webdataset_s_naming(tmp_path):
    members = [("a/b.c/x.seg.PNG", b"1"), ("./y.txt", b"2"), ("a/b.c/x.jpg", b"3"), (".hidden", b""), ("noending", b""), ("z/.w.txt", b"")]
    members.append(("folder", tarfile.TarInfo("folder")))
    members[-1][1].type = tarfile.DIRTYPE
    shards = Shards(str(write_tar(tmp_path / "a.tar", members)))
    assert [shards.id(i) for i in range(len(shards))] == ["a.tar#a/b.c/x", "a.tar#y"]
    assert shards.read(0) == {"seg.png": b"1", "jpg": b"3"}, "members of a sample need not follow one another"


def test_how_shards_are_named(tmp_path):
    data = write_shards(tmp_path / "data", [2] * 12)
    braces = [shard.title for shard in find_shards(f"{data}/s-{{2..4}}.tar")[0]]
    assert braces == ["s-2.tar", "s-3.tar", "s-4.tar"]
    assert len(find_shards(str(data))[0]) == 12 and len(find_shards([f"{data}/s-0.tar", f"{data}/s-1.tar"])[0]) == 2
    assert is_shards(str(data)) and is_shards("http://host/x-{0..3}.tar") and is_shards("x/index.json") and not is_shards(str(tmp_path))
    with pytest.raises(DataError, match="no shards in"):
        find_shards(str(tmp_path))
    for bad, message in (("s-{0..3.tar", "do not pair up"), ("s-{3..1}.tar", "names nothing"), ("pipe:cat x.tar", "would run a program"), ("ftp://h/x.tar", "not read")):
        with pytest.raises(ConfigError, match=message):
            Shards(bad)


def test_an_index_saves_reading_the_headers(tmp_path, cache):
    data = write_shards(tmp_path / "data", [3, 2])
    tars = sorted(data.glob("*.tar"))
    write_index(data, [Shard(t.name, n, t.stat().st_size, sha256_of(t)) for t, n in zip(tars, (3, 2))], {"classes": ["cat"]})
    for path in (data, data / "index.json", f"{data}/s-{{0..1}}.tar"):
        shards = Shards(str(path))
        assert len(shards) == 5 and shards.about == {"classes": ["cat"]} and not cache.exists()
    assert shards.read(4)["txt"] == b"4" and cache.exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ("[]", "no index of shards"),
        ('{"shards": [], "format_version": 7}', "no index of shards"),
        ('{"shards": [{"name": "x.tar"}], "format_version": 1}', "expected name, samples, size and sha256"),
        ('{"shards": [{"name": "../x.tar", "samples": 1, "size": 1, "sha256": ""}], "format_version": 1}', "Do not trust it"),
        ('{"shards": [{"name": "pipe:x.tar", "samples": 1, "size": 1, "sha256": ""}], "format_version": 1}', "pipe"),
        ("{", "not valid JSON"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path, content, message):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises((DataError, ConfigError), match=message):
        read_index(str(tmp_path / "index.json"))


def test_shards_that_changed_are_noticed(tmp_path):
    data = write_shards(tmp_path / "data", [3])
    shards = Shards(str(data))
    write_shards(data, [5])
    with pytest.raises(DataError, match="5 samples in .* expected 3 samples"):
        shards.read(0)
    shards = Shards(str(data))
    assert len(shards) == 5 and shards.read(4)["txt"] == b"4"
    os.truncate(data / "s-0.tar", 600)
    with pytest.raises(DataError, match="000004.txt is cut off"):
        shards.read(4)


def link(kind, target="/etc/passwd"):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", link(tarfile.SYMTYPE), "'a.txt', which is a link"),
        ("a.txt", link(tarfile.LNKTYPE), "which is a link"),
        ("a.txt", link(tarfile.CHRTYPE), "a device"),
        ("/etc/a.txt", b"1", "'/etc/a.txt', whose name leads outside"),
        ("b/../../a.txt", b"1", "leads outside"),
        ("c\\a.txt", b"1", "leads outside"),
        ("ok.txt", b"2", "'ok.txt' twice"),
        ("ok.TXT", b"2", "'ok.TXT' twice"),
    ],
)
def test_members_that_a_shard_may_not_hold(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        scan(write_tar(tmp_path / "bad.tar", [("ok.txt", b"1"), (name, content)]))
    assert str(tmp_path / "bad.tar") in str(caught.value)


def test_names_that_are_not_utf8(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tarfile.TarInfo("\xe9.txt"))
    with pytest.raises(DataError, match="not UTF-8"):
        scan(tmp_path / "a.tar")


def test_damage_is_named(tmp_path):
    good = write_tar(tmp_path / "a.tar", [(f"{i}.txt", b"x" * 700) for i in range(5)])
    content = good.read_bytes()
    bad = tmp_path / "bad.tar"
    for damaged, message in (
        (content[:3000], r"bad.tar.*(cut off|damaged)"),
        (content[: 1536 * 2], "cut off or damaged after the member '1.txt'"),
        (content[:1536] + b"\xff" * 512 + content[2048:], "damaged"),
        (content[:1536] + b"garbage!" * 64, "cut off or damaged after the member '0.txt'"),
        (b"", "empty"),
        (b"hello", "no tar"),
        (b"\x1f\x8b" + content, "gzip"),
    ):
        bad.write_bytes(damaged)
        with pytest.raises(DataError, match=message):
            scan(bad)
    with pytest.raises(DataError, match="cannot be read"):
        scan(tmp_path / "none.tar")


def test_headers_that_claim_too_much_or_less_than_nothing(tmp_path):
    for size in (2**40, -512):
        info = tarfile.TarInfo("long.txt")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
        (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
        with pytest.raises(DataError, match="damaged"):
            scan(tmp_path / "a.tar")
        info.type = tarfile.REGTYPE
        (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
        with pytest.raises(DataError, match="damaged|cut off"):
            scan(tmp_path / "a.tar")


def test_the_index_of_a_tar_is_kept_and_made_again(tmp_path, cache):
    path = write_tar(tmp_path / "a.tar", [("1.txt", b"1"), ("\u00e4.txt", b"22")])
    first = tar_index(path)
    stored = next((cache / "tar").iterdir())
    assert TarIndex.load(stored).key(1) == "\u00e4" == first.key(1) and first.members(1) == TarIndex.load(stored).members(1)
    stored.write_bytes(stored.read_bytes()[:-9])
    assert TarIndex.load(stored) is None and len(tar_index(path)) == 2
    write_tar(path, [("1.txt", b"1")])
    assert len(tar_index(path)) == 1
    empty = write_tar(tmp_path / "empty.tar", [])
    assert len(tar_index(empty)) == len(tar_index(empty)) == 0


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODALITY_ZOO_CACHE", str(tmp_path / "file"))
    assert len(Shards(str(write_shards(tmp_path / "data", [3])))) == 3


def test_few_shards_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.shards.OPEN", 2)
    shards = Shards(str(write_shards(tmp_path / "data", [1] * 6)))
    before = len(os.listdir("/proc/self/fd"))
    assert [int(shards.read(i)["txt"]) for i in (0, 3, 5, 1, 0)] == [0, 3, 5, 1, 0]
    assert len(os.listdir("/proc/self/fd")) == before + 2
    del shards
    assert len(os.listdir("/proc/self/fd")) == before


def test_written_index_reads_as_it_was(tmp_path):
    write_index(tmp_path, [Shard("a.tar", 1, 2, "ab")], {"modality": "vision"})
    assert read_index(str(tmp_path / "index.json")) == ([Shard(str(tmp_path / "a.tar"), 1, 2, "ab")], {"modality": "vision"})
    assert json.loads((tmp_path / "index.json").read_text())["shards"][0]["name"] == "a.tar"


class Texts:
    """Shards whose samples hold their number."""

    def __init__(self, path, **options):
        self.shards = Shards(str(path), **options)
        self.order, self.id = self.shards.order, self.shards.id

    def __len__(self):
        return len(self.shards)

    def __getitem__(self, index):
        return {"number": torch.tensor(int(self.shards.read(index)["txt"]))}


def test_a_stream_of_shards_reads_nothing_of_what_it_skips(tmp_path, monkeypatch):
    source = Texts(write_shards(tmp_path / "data", [40] * 5), buffer=30)
    whole = [b["number"] for b in Stream(source, 10, 0, 40).batches(0, workers=0)]
    assert sorted(torch.cat(whole[:20]).tolist()) == sorted(torch.cat(whole[20:]).tolist()) == list(range(200))
    reads, read = [], os.pread
    monkeypatch.setattr("os.pread", lambda *a: reads.append(a) or read(*a))
    rest = [b["number"] for b in Stream(Texts(tmp_path / "data", buffer=30), 10, 0, 40).batches(37, workers=0)]
    assert len(reads) == 2 * 30 and all(a.equal(b) for a, b in zip(whole[37:], rest))
    assert all(b["number"].equal(a) for a, b in zip(whole, Stream(source, 10, 0, 40).batches(0, workers=2)))


def test_one_shard_for_many_readers(tmp_path):
    source = Texts(write_shards(tmp_path / "data", [12]))
    ranks = [torch.cat([b["number"] for b in Stream(source, 6, 0, 2).batches(0, 0, Share(rank, 6))]) for rank in range(6)]
    assert sorted(torch.cat(ranks).tolist()) == list(range(12)) and {len(r) for r in ranks} == {2}


def test_memory_stays_flat(tmp_path):
    source = Texts(write_shards(tmp_path / "data", [1000] * 4))
    batches = Stream(source, 100, 0, 300).batches(0, workers=1)

    def memory():
        here = psutil.Process()
        return sum(p.memory_full_info().pss for p in (here, *here.children())) / 1e6

    seen = [memory() for step, _ in enumerate(batches) if step in (60, 290)]
    assert seen[1] - seen[0] < 5


def test_full_shuffle_and_mistakes(tmp_path):
    data = write_shards(tmp_path / "data", [5, 5])
    assert sorted(Texts(data, shuffle="full").order(0, 0)) == list(range(10))
    with pytest.raises(ConfigError, match="shards or full"):
        Shards(str(data), shuffle="none")
    tars = sorted(data.glob("*.tar"))
    (data / "picture.png").write_bytes(b"")
    assert not is_shards(str(data)), "tars beside other files are downloads"
    write_index(data, [Shard(t.name, 5, t.stat().st_size, "") for t in tars])
    assert is_shards(str(data))
