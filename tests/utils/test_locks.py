"""One process at a time holds a folder: until its block ends, until it is killed, or until a command that has the lock ends."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.locks import hold_folder
from utils.paths import ROOT

REFUSAL = "another run writes to this folder"
# A process that holds the folder argv[1] and prints the id of a child that sleeps; argv[2] says how the child is made.
HOLDER = """
import os, subprocess, sys, time
from pathlib import Path
from utils.locks import hold_folder

with hold_folder(Path(sys.argv[1]), "refused", 0) as descriptors:
    if sys.argv[2] == "fork":
        if os.fork():
            time.sleep(60)
        child = os.getpid()
    elif sys.argv[2] == "command":
        child = subprocess.Popen(["sleep", "60"]).pid
    else:
        child = subprocess.Popen(["sleep", "60"], pass_fds=descriptors).pid
    print(child, flush=True)
    time.sleep(60)
"""


def taken(folder: Path, patience: float = 0) -> bool:
    """Whether another process holds the folder."""
    try:
        with hold_folder(folder, REFUSAL, patience):
            return False
    except UserError as error:
        assert str(error) == REFUSAL
        return True


def test_the_second_holder_is_refused_until_the_first_has_ended(tmp_path):
    with hold_folder(tmp_path, REFUSAL, 0) as descriptors:
        assert os.path.samefile(f"/proc/self/fd/{descriptors[0]}", tmp_path / "lock")
        with get_context("spawn").Pool(1) as pool:
            assert pool.apply(taken, (tmp_path,))
        assert taken(tmp_path)                          # another part of this process
    assert not taken(tmp_path) and (tmp_path / "lock").is_file()


def test_an_error_in_the_block_releases_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), hold_folder(tmp_path, REFUSAL, 0):
        raise ZeroDivisionError
    assert not taken(tmp_path)


def test_a_holder_that_is_about_to_end_is_waited_for(tmp_path):
    code = ("import sys, time\nfrom pathlib import Path\nfrom utils.locks import hold_folder\n"
            "with hold_folder(Path(sys.argv[1]), '', 0):\n    print(flush=True)\n    time.sleep(1)")
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE) as first:
        first.stdout.readline()
        assert taken(tmp_path) and not taken(tmp_path, patience=30)


@pytest.mark.parametrize("child, kept", [("fork", False), ("command", False), ("command with the lock", True)])
def test_after_a_kill_only_a_command_with_the_lock_keeps_others_out(tmp_path, child, kept):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path, child], cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        sleeper = int(first.stdout.readline())
        try:
            assert taken(tmp_path)
            first.kill()
            first.wait()
            assert taken(tmp_path) == kept
        finally:
            os.kill(sleeper, signal.SIGKILL)
        assert not taken(tmp_path, patience=30)         # the kernel may take a moment to end the child


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_refuses_nobody(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(fcntl, "flock", flock)
    with hold_folder(tmp_path, REFUSAL, 0) as descriptors:
        assert descriptors == () and not taken(tmp_path)


def test_a_missing_folder_is_made_and_one_that_cannot_be_made_is_a_sentence(tmp_path):
    assert not taken(tmp_path / "new/run") and (tmp_path / "new/run/lock").is_file()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*/file/run/lock: Not a"), hold_folder(tmp_path / "file/run", REFUSAL, 0):
        pass


def test_the_wait_ends_in_time(tmp_path):
    with hold_folder(tmp_path, REFUSAL, 0):
        begin = time.monotonic()
        assert taken(tmp_path, patience=0.3)
        assert 0.3 <= time.monotonic() - begin < 5
