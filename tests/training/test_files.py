"""Files, folders and locks: whole or not at all, nobody else's, and nothing of the user's lost."""

import os
import stat

import pytest

from stn_ext.training import files, locks
from stn_ext.training.errors import UserError


def is_own(path):
    return path.name.startswith("own")


def test_a_file_is_written_under_a_name_that_nobody_can_foresee(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(
        os, "replace", lambda source, target: names.append(source.name) or os.rename(source, target)
    )
    for _ in range(2):
        files.write_atomically(tmp_path / "a.txt", "a")
    assert len(set(names)) == 2 and all(name.startswith(".a.txt.") for name in names)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_link_in_the_place_of_a_temporary_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * 16)
    files.temporary_name(tmp_path / "a.txt").symlink_to(victim)
    with pytest.raises(UserError, match=r"cannot write .*a\.txt: File exists"):
        files.write_atomically(tmp_path / "a.txt", "a")
    assert victim.read_text() == "mine"


def test_the_directory_is_flushed_after_the_new_name(tmp_path, monkeypatch):
    flushed, flush = [], os.fsync
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: flushed.append((stat.S_ISDIR(os.fstat(fd).st_mode), os.listdir(tmp_path))) or flush(fd),
    )
    files.write_atomically(tmp_path / "a.txt", "a")
    assert [is_directory for is_directory, _ in flushed] == [False, True]
    assert flushed[1][1] == ["a.txt"]


def test_files_are_written_together_or_not_at_all(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("a.txt", "b.txt", "c.txt")]
    files.write_together(dict.fromkeys(paths, "old"))
    assert [path.read_text() for path in paths] == ["old"] * 3

    def full(descriptor, flush=os.fsync):
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode) and os.fstat(descriptor).st_size > 3:
            raise OSError(28, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    for large in paths:
        contents = dict.fromkeys(paths, b"new") | {large: b"larger"}
        with pytest.raises(UserError, match=f"cannot write {large}: No space left on device"):
            files.write_together(contents)
        assert [path.read_text() for path in paths] == ["old"] * 3
        assert sorted(tmp_path.iterdir()) == paths


@pytest.mark.parametrize(
    "place, message",
    [
        (lambda path: path.mkdir(), "it is a folder"),
        (os.mkfifo, "it is a named pipe"),
        (lambda path: path.symlink_to("elsewhere"), "it is a link"),
        (lambda path: path.symlink_to(path.name), "it is a link"),
    ],
)
def test_what_would_be_lost_is_not_replaced(tmp_path, place, message):
    path = tmp_path / "a.txt"
    place(path)
    before = os.lstat(path)
    with pytest.raises(UserError, match=f"a.txt: expected a regular file, but {message}"):
        files.check_replaceable(path)
    assert os.path.samestat(os.lstat(path), before) and os.listdir(tmp_path) == ["a.txt"]


def test_a_place_is_tried_under_the_name_that_writing_needs(tmp_path):
    path = tmp_path / "a.txt"
    files.check_replaceable(path)
    path.write_text("old")
    files.check_replaceable(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    for wrong, message in ((tmp_path / ("x" * 250), "File name too long"), (path / "b", "Not a directory")):
        with pytest.raises(UserError, match=f"cannot write {wrong}: {message}"):
            files.check_replaceable(wrong)


def test_what_was_left_of_one_file_is_cleared_and_of_others_not(tmp_path):
    path = tmp_path / "a[1]*.txt"
    left = files.temporary_name(path)
    others = [files.temporary_name(tmp_path / "a1b.txt"), tmp_path / ".a[1]*.txt.tmp", path]
    for file in (left, *others):
        file.write_text("half")
    files.clear_temporaries_of(path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_earlier_runs_are_numbered_and_none_is_lost(tmp_path):
    log, checkpoint = tmp_path / "log", tmp_path / "checkpoint"
    patterns = [(log, "*.txt"), (checkpoint, "*.pth")]
    log.mkdir()
    checkpoint.mkdir()
    (checkpoint / "previous").mkdir()
    (checkpoint / "previous/7.pth").write_text("from before there were numbers")
    for number in range(1, 4):
        (log / "a.txt").write_text(str(number))
        if number != 2:
            (checkpoint / "1.pth").write_text(str(number))
        files.set_aside(patterns)
    assert [(log / f"previous/{number}/a.txt").read_text() for number in (1, 2, 3)] == ["1", "2", "3"]
    assert (checkpoint / "previous/1/1.pth").read_text() == "1"
    assert (checkpoint / "previous/3/1.pth").read_text() == "3"
    assert (checkpoint / "previous/7.pth").exists() and files.set_aside(patterns) == []


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_directory_is_replaced_and_what_is_the_users_stays(tmp_path, monkeypatch, in_one_step):
    if not in_one_step:
        monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
    directory = tmp_path / "results"
    (directory / "below").mkdir(parents=True)
    for name in ("own.txt", "own2.txt", "notes.txt", "below/own.png", "below/notes.txt"):
        (directory / name).write_text("old")
    (directory / "link").symlink_to("nothing")
    files.replace_directory(directory, lambda new: (new / "own.txt").write_text("new"), is_own)
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
    assert found == {"own.txt", "notes.txt", "below/notes.txt", "link"}
    assert (directory / "own.txt").read_text() == "new" and os.listdir(tmp_path) == ["results"]


def test_a_directory_stays_where_the_new_one_fails(tmp_path):
    directory = tmp_path / "results"
    directory.mkdir()
    (directory / "own.txt").write_text("old")

    def fail(new):
        (new / "own.txt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot replace .*results: No space left on device"):
        files.replace_directory(directory, fail, is_own)
    assert (directory / "own.txt").read_text() == "old" and os.listdir(tmp_path) == ["results"]


def test_a_lock_is_one_processs_and_says_whose(tmp_path):
    directory = files.make_directory(tmp_path / "run")
    with locks.locked(directory, "a training"):
        message = f"in use by a training, process {os.getpid()} on .*, since 2"
        with pytest.raises(UserError, match=message), locks.locked(directory, "a test"):
            pass
    with locks.locked(directory, "a test"):
        assert (tmp_path / ".run.lock").read_text().startswith(f"a test, process {os.getpid()} on ")
    assert os.listdir(directory) == []


def test_a_lock_follows_no_link(tmp_path):
    directory, victim = files.make_directory(tmp_path / "run"), tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".run.lock").symlink_to(victim)
    with pytest.raises(UserError, match="cannot write the lock"), locks.locked(directory, "a training"):
        pass
    assert victim.read_text() == "mine"
