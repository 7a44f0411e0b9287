"""Checkpoints: whole or not at all, and what is read is what was written."""

import errno
import json
import os
import shutil
import sys

import pytest
import torch

from tests.trainer.toy import CONFIG, fit
from trainer import checkpoint
from trainer.checkpoint import MANIFEST, Snapshot, clean, list_checkpoints, load_checkpoint, newest, save_checkpoint
from trainer.config import replace
from trainer.errors import CheckpointError

POINTS = ("folder made", "half written", "before rename", "after rename")


def snapshot(step):
    """A state that can be told from that of any other step."""
    shared = {"objective": {"w": torch.full((50,), float(step)), "b": torch.ones(3)}, "progress": {"step": step}}
    return Snapshot(step, shared, [{"torch": torch.full((4,), step % 251, dtype=torch.uint8)}], sharded=False)


def save(folder, step, keep=2, **options):
    return save_checkpoint(folder, snapshot(step), keep, **options)


def steps(folder):
    return [checkpoint.step_of(path) for path in list_checkpoints(folder)]


def require_right(folder):
    """Every checkpoint that is read is right; returns their steps."""
    for path in list_checkpoints(folder):
        state, step = load_checkpoint(path), checkpoint.step_of(path)
        assert state["progress"] == {"step": step} and (state["objective"]["w"] == step).all()
    return steps(folder)


def in_a_child(action):
    """Run `action` in a forked child, which ends with status 0 afterwards unless it ended itself; returns the status."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_named_point_leaves_the_old_checkpoint(tmp_path, monkeypatch, point):
    save(tmp_path, 10)
    monkeypatch.setattr(checkpoint, "reached", lambda now: os._exit(9) if now == point else None)
    assert in_a_child(lambda: save(tmp_path, 20)) == 9
    assert len(list(tmp_path.iterdir())) == 2 and require_right(tmp_path) == [10]
    clean(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000010"] and newest(tmp_path).name == "step-00000010"
    monkeypatch.undo()
    save(tmp_path, 20)
    assert require_right(tmp_path) == [10, 20]


@pytest.mark.parametrize("point", POINTS)
def test_an_error_at_a_named_point_leaves_no_rest(tmp_path, monkeypatch, point):
    def fail(now):
        if now == point:
            raise error

    save(tmp_path, 10)
    monkeypatch.setattr(checkpoint, "reached", fail)
    for error, seen in ((OSError(errno.EIO, "Input/output error"), CheckpointError), (KeyboardInterrupt(), KeyboardInterrupt)):
        with pytest.raises(seen):
            save(tmp_path, 20)
        clean(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["step-00000010"] and require_right(tmp_path) == [10]


def test_a_kill_before_any_change_of_the_disk(tmp_path):
    """Die before the first, second, ... opening, renaming or removing of a file: while a damaged checkpoint of the same step is
    replaced and the older ones are removed."""
    for step in (10, 20, 30):
        save(tmp_path / "before", step, keep=9)
    (tmp_path / "before" / "step-00000030" / "state.json").write_text("{}")
    outcomes, count, status = set(), 0, 9
    while status:
        count += 1
        folder = tmp_path / str(count)
        shutil.copytree(tmp_path / "before", folder)
        status = in_a_child(lambda: die_at(count, folder))
        good = {path for path in list_checkpoints(folder) if unharmed(path)}
        assert all((load_checkpoint(path)["objective"]["w"] == checkpoint.step_of(path)).all() for path in good)
        outcomes.add(tuple(sorted(checkpoint.step_of(path) for path in good)))
        assert newest(folder) == max(good)
        clean(folder)
        assert all(path.name.startswith("step-") and (path / MANIFEST).exists() for path in folder.iterdir())
        assert good | {folder / "step-00000030"} >= set(list_checkpoints(folder)) >= good
        shutil.rmtree(folder)
    assert count > 50 and outcomes == {(10, 20), (10, 20, 30), (20, 30), (30,)}


def unharmed(path):
    try:
        return bool(checkpoint.verify(path))
    except CheckpointError:
        return False


def die_at(count, folder):
    """Save in `folder`, but end at the `count`-th call that touches it."""
    seen = 0

    def watch(event, arguments):
        nonlocal seen
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree") and str(folder) in str(arguments[0]):
            seen += 1
            if seen == count:
                os._exit(9)

    sys.addaudithook(watch)
    save(folder, 30, keep=1)


def test_the_manifest_is_written_last(tmp_path, monkeypatch):
    seen = {}

    def look(point):
        seen[point] = steps(tmp_path), {p.name.partition("-")[0] for p in tmp_path.iterdir()}

    monkeypatch.setattr(checkpoint, "reached", look)
    path = save(tmp_path, 10)
    assert seen == {**{point: ([], {".tmp"}) for point in POINTS[:3]}, "after rename": ([], {"step"})} and steps(tmp_path) == [10]
    files = json.loads((path / MANIFEST).read_text())["files"]
    assert set(files) == {"state.json", "state/tensors.safetensors", "ranks/00000.json", "ranks/00000.safetensors"}


def test_a_flipped_bit_anywhere_is_found(tmp_path, caplog):
    save(tmp_path, 10)
    path = save(tmp_path, 20)
    files = [p for p in path.rglob("*") if p.is_file()]
    assert len(files) == 5
    for file in files:
        content = file.read_bytes()
        for place in range(0, len(content), 7 if file.name == MANIFEST else max(1, len(content) // 5)):
            for bit in (0, 4):
                damaged = bytearray(content)
                damaged[place] ^= 1 << bit
                file.write_bytes(damaged)
                assert newest(tmp_path).name == "step-00000010", f"{file.name} byte {place} bit {bit}"
        for damaged in (b"", content[:-2], content + b"."):
            file.write_bytes(damaged)
            assert newest(tmp_path).name == "step-00000010"
        file.unlink()
        assert newest(tmp_path).name == "step-00000010"
        file.write_bytes(content)
    assert newest(tmp_path) == path and "cannot be used" in caplog.text


@pytest.mark.parametrize("version", [1, 99, None, "2"])
def test_other_format_versions(tmp_path, caplog, version):
    save(tmp_path, 10)
    reformat(save(tmp_path, 20), version)
    assert newest(tmp_path).name == "step-00000010" and f"has checkpoint format {version!r}; this version of modality-zoo reads 2" in caplog.text
    reformat(tmp_path / "step-00000010", version)
    with pytest.raises(CheckpointError, match=r"No checkpoint .* can be used. The newest: .*step-00000020 has checkpoint format"):
        newest(tmp_path)


def reformat(path, version):
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**manifest, "format_version": version}))


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"format_version": 2}', '{"format_version": 2, "files": {"state.json": 1}}', "\x00\x01", ""])
def test_a_manifest_that_is_none(tmp_path, text):
    save(tmp_path, 10)
    (save(tmp_path, 20) / MANIFEST).write_text(text)
    assert newest(tmp_path).name == "step-00000010"


def test_which_checkpoints_are_kept(tmp_path):
    for step in range(1, 8):
        save(tmp_path, step, keep=2, also={3, None, 5})
    assert require_right(tmp_path) == [3, 5, 6, 7]
    save(tmp_path, 8, keep=1)
    assert steps(tmp_path) == [8]


def test_steps_beyond_eight_digits_are_in_order(tmp_path):
    for step in (99_999_998, 99_999_999, 100_000_000, 100_000_001):
        save(tmp_path, step)
    assert steps(tmp_path) == [100_000_000, 100_000_001] and newest(tmp_path).name == "step-100000001"


def test_damaged_checkpoints_do_not_push_good_ones_out(tmp_path):
    """After falling back from damaged ones, the next saves must not remove what is good for the sake of what is not."""
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    for step in (20, 30):
        (tmp_path / f"step-{step:08d}" / "state.json").write_text("{}")
    assert newest(tmp_path).name == "step-00000010"
    save(tmp_path, 15, keep=1)
    assert newest(tmp_path).name == "step-00000015"
    for step in (20, 25, 30):
        save(tmp_path, step, keep=1)
        assert newest(tmp_path).name == f"step-{step:08d}"
    assert require_right(tmp_path) == [30]


def test_folders_of_others_are_left_alone(tmp_path):
    path = save(tmp_path, 10)
    for name in ("step-00000010.bak", "step-notes", "step-00000099 (copy)", "best"):
        shutil.copytree(path, tmp_path / name)
    (tmp_path / "step-notes" / MANIFEST).unlink()
    clean(tmp_path)
    save(tmp_path, 20, keep=1)
    assert newest(tmp_path).name == "step-00000020" and len(list(tmp_path.iterdir())) == 5


def test_an_old_checkpoint_that_cannot_be_removed(tmp_path, monkeypatch, caplog):
    """The new one counts."""
    save(tmp_path, 10)
    rename = type(tmp_path).rename

    def refuse(path, target):
        if path.name == "step-00000010":
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", refuse)
    save(tmp_path, 20, keep=1)
    assert require_right(tmp_path) == [10, 20] and "step-00000010 could not be removed" in caplog.text


def test_not_enough_room_is_known_before_writing(tmp_path, monkeypatch):
    save(tmp_path, 10)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(CheckpointError, match=r"needs about 1 MB and the disk has 1 MB free. The older checkpoints are kept. Free some space"):
        save(tmp_path, 20)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000010"]


@pytest.mark.parametrize("size", [0, 100, 330, 600])
def test_a_disk_that_fills_up_while_writing(tmp_path, full_disk, size):
    """At the tensors, at the state, at the manifest."""
    save(tmp_path, 10)
    full_disk(size)
    with pytest.raises(CheckpointError, match="Cannot write .*step-00000020"):
        save(tmp_path, 20)
    full_disk(10**9)
    clean(tmp_path)
    assert require_right(tmp_path) == [10] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("point", POINTS)
def test_the_folder_is_removed_while_saving(tmp_path, monkeypatch, point):
    def remove(now):
        if now == point:
            shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr(checkpoint, "reached", remove)
    with pytest.raises(CheckpointError, match="Cannot write .*step-00000010.*removed"):
        save(tmp_path / "run" / "checkpoints", 10)
    monkeypatch.undo()
    save(tmp_path / "run" / "checkpoints", 20)
    assert require_right(tmp_path / "run" / "checkpoints") == [20]


def test_weights_that_are_not_finite_are_never_written():
    for bad in (float("nan"), float("inf")):
        with pytest.raises(CheckpointError, match="The model at step 21 holds NaN or infinity in objective.w"):
            Snapshot(21, {"objective": {"w": torch.tensor(bad)}}, [{}], sharded=False)


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    fit(tmp_path / "a")
    with pytest.raises(CheckpointError, match="another optimizer"):
        fit(tmp_path / "a", config=replace(CONFIG, {"optim.weight_decay": 0.0}), resume=True)
