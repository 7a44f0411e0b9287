import json
import tarfile
import threading

import pytest

from trainer import packing
from trainer.errors import CheckpointError, ConfigError, DataError
from trainer.files import read_json
from trainer.packing import JOURNAL, PackConfig, Seen, check, pack, sample_key
from trainer.shards import Shards

CONFIG = PackConfig(samples_per_shard=4, workers=2)


class Numbers:
    """Samples of text; those in `bad` cannot be read."""

    modality, format, name, classes = "vision", "numbers", "numbers", ("even", "odd")

    def __init__(self, count=11, bad=()):
        self.count, self.bad, self.read, self.version = count, bad, [], 1

    def __len__(self):
        return self.count

    def id(self, index):
        return f"folder/n{index}.txt"

    def stamp(self, index):
        return str(self.version)

    def members(self, index):
        self.read.append(index)
        if index in self.bad:
            raise DataError(f"{self.id(index)} is empty")
        return {"txt": str(index).encode() * self.version, "cls": str(index % 2).encode()}

    def check(self, index):
        return Seen("text", (1,), len(self.members(index)["txt"]))

    def problems(self):
        return {}

    def class_counts(self):
        return [6, 5]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MODALITY_ZOO_CACHE", str(tmp_path / "cache"))


def content(folder):
    shards = Shards(str(folder))
    return [int(shards.read(i)["txt"]) for i in range(len(shards))]


def test_every_sample_goes_in_once_and_reads_back(tmp_path):
    pack(Numbers(), tmp_path / "out", CONFIG)
    numbers = content(tmp_path / "out")
    assert sorted(numbers) == list(range(11)) != numbers
    index = read_json(tmp_path / "out" / "index.json")
    assert [s["samples"] for s in index["shards"]] == [4, 4, 3] and index["samples"] == 11
    assert index["modality"] == "vision" and index["classes"] == ["even", "odd"] and index["class_counts"] == [6, 5]
    shards = Shards(str(tmp_path / "out"))
    assert all(int(shards.read(i)["cls"]) == n % 2 for i, n in enumerate(numbers))
    assert shards.id(0) == f"shard-00000.tar#000000000-n{numbers[0]}"


def test_the_same_samples_give_the_same_bytes_whatever_the_threads(tmp_path):
    for name, workers in (("a", 1), ("b", 4)):
        pack(Numbers(), tmp_path / name, PackConfig(4, workers=workers))
    for file in sorted((tmp_path / "a").glob("*.tar")):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    pack(Numbers(), tmp_path / "c", PackConfig(4, seed=1))
    pack(Numbers(), tmp_path / "d", PackConfig(4, in_order=True))
    assert content(tmp_path / "c") != content(tmp_path / "a") and content(tmp_path / "d") == list(range(11))


def test_a_sample_that_cannot_be_read_is_named_and_the_rest_is_gone_on_with(tmp_path):
    data = Numbers(bad=(7,))
    with pytest.raises(DataError, match=r"folder/n7.txt is empty"):
        pack(data, tmp_path / "out", PackConfig(4, in_order=True, workers=1))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [JOURNAL, "shard-00000.tar", "shard-00002.tar"]
    with pytest.raises(DataError, match="not packed to the end"):
        Shards(str(tmp_path / "out"))
    again = Numbers()
    pack(again, tmp_path / "out", PackConfig(4, in_order=True, workers=1))
    assert again.read == [4, 5, 6, 7] and content(tmp_path / "out") == list(range(11))
    excluded = pack(data, tmp_path / "less", PackConfig(4, in_order=True), {"folder/n7.txt"})
    assert content(excluded) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10] and "class_counts" not in read_json(excluded / "index.json")
    with pytest.raises(DataError, match="Nothing is left"):
        pack(Numbers(1), tmp_path / "none", CONFIG, {"folder/n0.txt"})


def test_what_is_complete_is_verified(tmp_path):
    out = pack(Numbers(), tmp_path / "out", CONFIG)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    whole = Numbers()
    pack(whole, out, CONFIG)
    assert whole.read == [] and {p.name: p.read_bytes() for p in out.iterdir()} == before
    damaged = bytearray(before["shard-00001.tar"])
    damaged[600] ^= 1
    (out / "shard-00001.tar").write_bytes(damaged)
    (out / "shard-00002.tar").unlink()
    (out / JOURNAL).write_bytes(before[JOURNAL] + b'{"name": "shard-0')  # cut short by a kill
    (out / ".tmp-shard-00002.tar-1234").write_bytes(b"half")
    pack(Numbers(), out, CONFIG)
    assert {p.name: p.read_bytes() for p in out.glob("*.tar")} == {k: v for k, v in before.items() if k.endswith(".tar")}
    assert not list(out.glob(".tmp-*"))
    changed = Numbers()
    changed.version = 2
    pack(changed, out, CONFIG)
    assert len(changed.read) == 11, "samples that changed are packed again"


def test_the_index_is_not_there_before_the_end(tmp_path):
    seen, data = [], Numbers()
    original = data.members
    data.members = lambda index: seen.append((tmp_path / "out" / "index.json").exists()) or original(index)
    pack(data, tmp_path / "out", CONFIG)
    data.version = 2
    pack(data, tmp_path / "out", CONFIG)
    assert seen == [False] * 22


def test_other_things_in_the_folder_are_left_alone(tmp_path):
    out = pack(Numbers(), tmp_path / "out", CONFIG)
    for data, config in ((Numbers(12), CONFIG), (Numbers(), PackConfig(5))):
        with pytest.raises(ConfigError, match="other data, or packed in another way"):
            pack(data, out, config)
    (out / "index.json").unlink()
    with pytest.raises(ConfigError, match="a part of other data"):
        pack(Numbers(12), out, CONFIG)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds other things"):
        pack(Numbers(), tmp_path / "mine", CONFIG)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path, full_disk):
    big = Numbers()
    big.members = lambda index: {"txt": bytes(5000)}
    full_disk(8000)
    with pytest.raises(CheckpointError, match="Cannot write"):
        pack(big, tmp_path / "out", CONFIG)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [JOURNAL]


def test_too_large_for_a_tar(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "LARGEST", 1)
    with pytest.raises(DataError, match="has 2 bytes; at most 1"):
        pack(Numbers(), tmp_path / "out", CONFIG)


def test_fields():
    for fields in ({"samples_per_shard": 0}, {"workers": 0}, {"seed": 1, "in_order": True}):
        with pytest.raises(ConfigError):
            PackConfig(**fields)


def test_keys_are_plain():
    assert sample_key(7, "a/b.c/my photo.v2.jpg") == "000000007-my_photo_v2"
    assert sample_key(7, "x.tar#0001-\u00fc") == "000000007-0001-_" and len(sample_key(1, "n" * 300 + ".png")) == 70
    assert sample_key(7, ".png") == "000000007-_png"


def test_check_reads_everything():
    data, seen = Numbers(bad=(3, 5)), []
    assert check(data, 3, seen.append) == {f"folder/n{i}.txt": f"folder/n{i}.txt is empty" for i in (3, 5)}
    assert len(seen) == 9 and sorted(data.read) == list(range(11))


def test_shards_are_plain_tars(tmp_path):
    pack(Numbers(), tmp_path / "out", CONFIG)
    with tarfile.open(tmp_path / "out" / "shard-00000.tar") as tar:
        members = tar.getmembers()
    assert [m.name.partition(".")[2] for m in members] == ["txt", "cls"] * 4 and {m.mtime for m in members} == {0}
    assert json.loads((tmp_path / "out" / JOURNAL).read_bytes().splitlines()[0])["plan"]
    assert threading.active_count() < 10
