"""A small reproduction, from its command line."""

import sys
import tempfile
import threading
import time
import types
from pathlib import Path

from processes import run_script, start_script

from tools.reproduce import commands, existing, reproduce
from tools.reproduce.reproduce import Recipe, parse_arguments
from utils.errors import UserError

LOCK = threading.Lock()

SMALL = ["network=mbf", "image_size=16", "batch_size=4", "num_epoch=1", "workers=0", "val_targets=[]"]


def recipe(monkeypatch, *words) -> Recipe:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *map(str, words)])
    return Recipe(parse_arguments())


class Fork:
    """In place of subprocess.Popen: a script of a step in a fork, which starts faster than an interpreter."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str], **_):
        assert command[0] == sys.executable
        with tempfile.TemporaryDirectory() as folder:
            with LOCK:
                process = start_script(*command[1:], cwd=cwd, env=env, folder=folder)
            while self.poll(process) is None:
                time.sleep(0.02)
            self.stdout = "".join(Path(folder, name).read_text() for name in ("stdout", "stderr")).splitlines(keepends=True)
        self.returncode = process.exitcode

    @staticmethod
    def poll(process) -> int | None:
        with LOCK:                  # steps are started by threads, and multiprocessing looks at the processes of all of them
            return process.exitcode

    def wait(self) -> int:
        return self.returncode


def steps_in_forks(monkeypatch) -> None:
    """What reproduce.py starts are forks from now on."""
    monkeypatch.setattr(commands, "subprocess", types.SimpleNamespace(Popen=Fork, PIPE=None, STDOUT=None))
    run = types.SimpleNamespace(run=lambda command, cwd, **_: run_script(*command[1:], cwd=cwd))
    monkeypatch.setattr(existing, "subprocess", run)


def reproduce_here(monkeypatch, capsys, *words) -> tuple[str | None, str]:
    """(the sentence with which it ended, None if it was done; its output) of reproduce.py in this process, its steps in forks."""
    steps_in_forks(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *map(str, words)])
    capsys.readouterr()
    try:
        reproduce.main()
        end = None
    except UserError as error:
        end = str(error)
    shown = capsys.readouterr()
    return end, shown.out + shown.err
