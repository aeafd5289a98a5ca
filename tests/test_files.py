"""Locks: one holder at a time, named to the others, on any file system; writing through links."""

import ntpath
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from rosita import files
from rosita.errors import RositaError
from rosita.files import (
    atomic_write,
    hold,
    lock_file,
    read_json,
    read_sealed,
    release,
    values_hash,
    write_json,
    write_sealed,
)

HOLD_IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from rosita.files import lock_file
held = lock_file(Path(sys.argv[1]), "busy with")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_names_the_process_that_has_it_and_ends_with_it(tmp_path):
    lock = tmp_path / "folder" / ".lock"
    command = [sys.executable, "-c", HOLD_IN_ANOTHER_PROCESS, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RositaError, match=f"^busy with process {other.pid}; wait for it"):
            lock_file(lock, "busy with")
        other.kill()
    held = lock_file(lock, "busy with")
    assert lock.read_text() == f"process {os.getpid()}\n"
    release(held)
    assert not lock.exists()


def test_a_number_too_long_to_be_read_is_an_error_that_says_where(tmp_path):
    most = sys.get_int_max_str_digits()
    (tmp_path / "a.json").write_text(
        '{"b": 1,\n "c": -' + "9" * most + ', "d": ' + "8" * 5000 + "}"
    )
    with pytest.raises(RositaError, match=rf"a.json is not JSON: .* {most:,} digits at line 2 col"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("9" * most)
    assert read_json(tmp_path / "a.json") == 10**most - 1


def test_removing_a_link_leaves_what_it_names(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    for name, place in (("a", "folder"), ("b", "folder/file"), ("c", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / place)
        files.remove(tmp_path / name)
    assert os.listdir(tmp_path) == ["folder"] and (tmp_path / "folder" / "file").exists()
    files.remove(tmp_path / "folder")
    files.remove(tmp_path / "folder")  # gone already
    assert os.listdir(tmp_path) == []


def test_a_path_on_another_drive_of_windows_stays_whole(monkeypatch):
    monkeypatch.setattr(files, "os", SimpleNamespace(path=ntpath))
    assert files.relative_path(r"C:\data\CoLA", r"C:\work") == r"..\data\CoLA"
    assert files.relative_path(r"D:\data\CoLA", r"C:\work") == r"D:\data\CoLA"


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_without_the_kernels_locks_a_marker_stands_in_for_one(tmp_path, monkeypatch):
    import errno
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = tmp_path / ".lock"
    with hold(lock, "busy with"):
        with pytest.raises(RositaError, match=f"^busy with process {os.getpid()};"):
            lock_file(lock, "busy with")
    assert not lock.exists()
    with hold(lock, "busy with"):
        pass


def test_what_a_link_names_is_written_and_a_pipe_is_never_replaced(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    with atomic_write(tmp_path / "link.txt", through=True) as file:
        file.write("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    with atomic_write(pipe, through=True) as file:
        file.write("a label")
    reader.join()
    assert got == ["a label"] and pipe.is_fifo()


def test_a_sealed_record_that_is_altered_or_another_ones_is_none(tmp_path):
    path, other = tmp_path / "done.json", tmp_path / "logits.json"
    write_sealed(path, {"rows": 3})
    assert read_sealed(path) == {"rows": 3}
    other.write_bytes(path.read_bytes())
    assert read_sealed(other) is None
    path.write_text(path.read_text().replace("3", "4"))
    assert read_sealed(path) is None and read_sealed(tmp_path / "none.json") is None
    earlier = {"rows": 3}  # of a version that did not write its name
    write_json(path, {**earlier, "check": values_hash(earlier)})
    assert read_sealed(path) == earlier
