"""Trainings in processes of their own, on one rank or several, that can be killed at a given moment."""

import json
import os
import random
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import processes
import torch


def start(arguments: list[str], method: str | None, ranks: int = 1, kill: tuple[int, str, int] | None = None,
          more: dict[int, list[str]] | None = None, folder: Path | None = None) -> list:
    """Processes of one training, one a rank; ``arguments``: those of the script, ``method``: module:class or None.

    kill: (rank, what, n): that rank ends by SIGKILL at its n-th "step", "write" (to a checkpoint's file), "rename" (of a
    whole file, before it) or "renamed" (after it).  more: arguments of single ranks.  folder: what rank r says
    goes to folder/said_<r>.
    """
    port, started = free_port(), []
    for rank in range(ranks):
        environment = {"OMP_NUM_THREADS": "1"} if ranks == 1 else {
            "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        own = kill[1:] if kill and kill[0] == rank else None
        said = str(folder / f"said_{rank}") if folder else os.devnull
        started.append(processes.start(run, [*arguments, *(more or {}).get(rank, [])], method, environment, own, said))
    return started


def free_port() -> int:
    """Below the ports that the system gives out by itself: nobody else gets it before it is used."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def run(arguments: list[str], method: str | None, environment: dict, kill, said: str) -> None:
    os.environ.update(environment)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    import importlib

    from engine import model_files, trainer
    from engine.loop import main
    torch.set_num_threads(1)
    torch.manual_seed(os.getpid())          # each process begins with another random state
    if kill:
        what, n = kill
        if what == "step":
            die_at(trainer.Trainer, "step", n)
        elif what == "write":
            die_at(model_files.Hashed, "write", n)
        else:
            die_at(os, "replace", n, after=what == "renamed")
    sys.argv = ["train.py", *arguments]
    if method is None:
        main()
    else:
        module, _, name = method.partition(":")
        main(getattr(importlib.import_module(module), name))


def die_at(owner, name: str, n: int, after: bool = False) -> None:
    """SIGKILL this process at the n-th call of owner.name."""
    whole, left = getattr(owner, name), [n]

    def call(*args, **more):
        left[0] -= 1
        if left[0] == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(*args, **more)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, call)


def join(started: list, seconds: float = 120) -> list[int]:
    """Exit codes; whoever is still there after ``seconds`` is killed and has code -9."""
    codes = []
    for process in started:
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        codes.append(process.exitcode)
    return codes


def newest_files(output: Path) -> list[Path]:
    """The rank files of the newest checkpoint."""
    complete = max(output.glob("checkpoints/*/complete.json"), key=lambda path: int(path.parent.name))
    return [complete.with_name(name) for name in json.loads(complete.read_text())["files"]]


def differences(first: dict, second: dict) -> list[str]:
    """Names of the tensors, and the other parts, in which two rank files differ."""
    one, two = first["tensors"], second["tensors"]
    return ([name for name in one.keys() | two.keys() if name not in one or name not in two
             or not torch.equal(one[name], two[name])]
            + [name for name in ("sharded", "scaler") if first[name] != second[name]]
            + [name for name in first["random"] if not torch.equal(first["random"][name], second["random"][name])])
