"""Ranks end when their torchrun has died, and only then: not when a shell ends, or a thread of a healthy launcher."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.signals import StopSignal
from utils.paths import ROOT

RANK = """
import os, signal, sys, time
from pathlib import Path
from engine import launcher

launcher.SECONDS_BETWEEN_LOOKS, launcher.SECONDS_TO_SAVE = 0.05, 0.5
folder, kind = Path(sys.argv[1]), sys.argv[2]
def save(*_):
    if kind == "saves":
        (folder / "saved").touch()
        os._exit(75)
signal.signal(signal.SIGTERM, save)
launcher.watch_launcher()
(folder / "pid").write_text(str(os.getpid()))
for _ in range(400):
    time.sleep(0.05)
"""
LAUNCHER = """
import subprocess, sys, threading, time
from pathlib import Path
start = lambda: subprocess.Popen([sys.executable, "-c", *sys.argv[2:]])
if sys.argv[1] == "thread":
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
else:
    start()
if sys.argv[1] == "ends":
    while not (Path(sys.argv[3]) / "pid").is_file():
        time.sleep(0.02)
else:
    time.sleep(20)
"""


@pytest.fixture
def launch(tmp_path):
    """Starts a launcher and its rank: (launcher, the rank's process id)."""
    launchers = []

    def call(how: str, rank: str, *, elastic: bool) -> tuple[subprocess.Popen, int]:
        environment = {key: value for key, value in os.environ.items() if key != "TORCHELASTIC_RUN_ID"}
        launchers.append(subprocess.Popen([sys.executable, "-c", LAUNCHER, how, RANK, tmp_path, rank], cwd=ROOT,
                                          env=environment | ({"TORCHELASTIC_RUN_ID": "a"} if elastic else {})))
        wait_until(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
        return launchers[-1], int((tmp_path / "pid").read_text())
    yield call
    for launcher in launchers:
        launcher.kill()
        launcher.wait()
    if (tmp_path / "pid").is_file() and alive(int((tmp_path / "pid").read_text())):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def wait_until(holds, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(holds())


def alive(pid: int) -> bool:
    """Whether the process runs; nobody may have collected a dead one."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.parametrize("rank", ["saves", "hangs"])
def test_a_rank_saves_or_at_least_ends_after_its_torchrun_was_killed(launch, tmp_path, rank):
    launcher, pid = launch("waits", rank, elastic=True)
    launcher.kill()
    launcher.wait()
    assert wait_until(lambda: not alive(pid), 10)
    assert (tmp_path / "saved").exists() == (rank == "saves")


@pytest.mark.parametrize("how, elastic", [("ends", False), ("thread", True), ("waits", True)])
def test_other_ends_are_none_of_the_ranks(launch, tmp_path, how, elastic):
    """A shell that ends (nohup, &, a scheduler's script); a thread of a launcher that lives on; nothing at all."""
    launcher, pid = launch(how, "saves", elastic=elastic)
    if how == "ends":
        launcher.wait()
    time.sleep(0.5)
    assert alive(pid) and not (tmp_path / "saved").exists()


def test_a_closed_terminal_is_heard_unless_nohup_says_otherwise(one_rank):
    for handler, heard in ((lambda *_: None, "SIGHUP"), (signal.SIG_IGN, None)):
        before = signal.signal(signal.SIGHUP, handler)
        try:
            with StopSignal() as stop:
                os.kill(os.getpid(), signal.SIGHUP)
                assert stop.asked() == heard
            assert signal.getsignal(signal.SIGHUP) is handler
        finally:
            signal.signal(signal.SIGHUP, before)
