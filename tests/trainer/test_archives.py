import io
import os
import tarfile
import zipfile

import pytest

from trainer.archives import ArchiveLimits, extract
from trainer.errors import CheckpointError, DataError


def tar(path, members, mode="w"):
    """Write (name, content, changes to the header) to a tar."""
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as archive:
        for name, content, *changes in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in dict(*changes).items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("ending, mode", [("tar", "w"), ("tar.gz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")])
def test_tars_come_out_as_they_went_in(tmp_path, ending, mode):
    long = "long/" + "n" * 150
    files = {"a/b.txt": b"hello", "a/empty": b"", "big": os.urandom(3 * 2**20 + 5), "exact": bytes(1024), long: b"x"}
    path = tar(tmp_path / f"x.{ending}", [("a", b"", {"type": tarfile.DIRTYPE}), *files.items()], mode)
    out = extract(path, tmp_path / "out")
    assert {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()} == files


def test_zips_come_out_as_they_went_in(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/", b"")
        archive.writestr("a/b.txt", b"hello")
    assert (extract(tmp_path / "x.zip", tmp_path / "out") / "a" / "b.txt").read_bytes() == b"hello"


@pytest.mark.parametrize(
    "member, words",
    [
        (("../evil", b"x"), "not lie below"),
        (("a/../../evil", b"x"), "not lie below"),
        (("/tmp/evil", b"x"), "not lie below"),
        (("a\\..\\evil", b"x"), "not lie below"),
        (("C:evil", b"x"), "not lie below"),
        (("link", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}), "which is a link"),
        (("link", b"", {"type": tarfile.LNKTYPE, "linkname": "ok"}), "which is a link"),
        (("device", b"", {"type": tarfile.CHRTYPE}), "a device"),
        (("pipe", b"", {"type": tarfile.FIFOTYPE}), "a pipe"),
        (("ok", b"again"), "twice"),
        (("ok/deeper", b"x"), "twice"),
        (("name\udcff", b"x"), "not UTF-8"),
    ],
)
def test_tricks_leave_nothing_behind(tmp_path, member, words):
    path = tar(tmp_path / "x.tar", [("ok", b"fine"), member])
    before = set(tmp_path.iterdir())
    with pytest.raises(DataError, match=words):
        extract(path, tmp_path / "out")
    assert set(tmp_path.iterdir()) == before


def test_links_and_encrypted_members_of_zips(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    for name, info in {"link": link, "../x": zipfile.ZipInfo("../x")}.items():
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr(info, b"/etc/passwd")
        with pytest.raises(DataError, match="link or a device|not lie below"):
            extract(tmp_path / "x.zip", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["x.zip"]


def test_limits(tmp_path):
    many = tar(tmp_path / "many.tar", [(str(i), b"") for i in range(20)])
    bomb = tar(tmp_path / "bomb.tar.gz", [("zeros", bytes(5_000_000))], "w:gz")
    for path, limits in ((many, ArchiveLimits(files=10)), (bomb, ArchiveLimits(bytes=100_000))):
        with pytest.raises(DataError, match="more than"):
            extract(path, tmp_path / "out", limits)


def test_a_header_that_asks_for_the_whole_memory_is_refused(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**33
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    with pytest.raises(DataError, match="trap or damage"):
        extract(tmp_path / "x.tar", tmp_path / "out")


def test_damage_and_absence(tmp_path):
    whole = tar(tmp_path / "x.tar.gz", [("a", os.urandom(5000))], "w:gz").read_bytes()
    plain = tar(tmp_path / "y.tar", [("a", os.urandom(5000))]).read_bytes()
    for content in (b"", b"hello" * 200, whole[:200], whole[:-4], plain[:3000], plain[:5632]):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(DataError, match="bad"):
            extract(tmp_path / "bad", tmp_path / "out")
    with pytest.raises(DataError, match="no archive"):
        extract(tmp_path / "nothing.tar", tmp_path / "out")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").touch()
    with pytest.raises(CheckpointError, match="exists already"):
        extract(tmp_path / "y.tar", tmp_path / "there")
    assert not (tmp_path / "out").exists()
