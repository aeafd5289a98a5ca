"""Locks: one holder at a time, named to the others, on any file system."""

import os
import subprocess
import sys

import pytest

from rosita.errors import RositaError
from rosita.files import hold, lock_file, release

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
