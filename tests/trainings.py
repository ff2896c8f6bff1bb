"""Trainings in other processes, on one rank or several, that can be killed at a given moment."""

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
    """Start the processes of one training, one for each rank.

    arguments: of the script.  method: module:class, or None for the plain one.  kill: (rank, moment, n): that rank ends by
    SIGKILL at its n-th "step", "write" (to a checkpoint's file), "rename" (of a complete file, before it) or "renamed"
    (after it).  more: {rank: additional arguments}.  folder: rank r's stderr goes to folder/log_<r>.
    """
    port, started = free_port(), []
    for rank in range(ranks):
        environment = {} if ranks == 1 else {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        kill_here = kill[1:] if kill and kill[0] == rank else None
        log = str(folder / f"log_{rank}") if folder else os.devnull
        started.append(processes.start(run, [*arguments, *(more or {}).get(rank, [])], method, environment, kill_here, log))
    return started


def free_port() -> int:
    """Below the ports that the system gives out by itself: nobody else gets it before it is used."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def run(arguments: list[str], method: str | None, environment: dict, kill: tuple[str, int] | None, log: str) -> None:
    """The training of one rank, in this process."""
    os.environ.update(environment)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    import importlib

    from engine import model_files, trainer
    from engine.loop import main
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(os.getpid())          # each process starts with another random state
    if kill:
        moment, n = kill
        if moment == "step":
            die_at(trainer.Trainer, "step", n)
        elif moment == "write":
            die_at(model_files.Hashed, "write", n)
        else:
            die_at(os, "replace", n, after=moment == "renamed")
    sys.argv = ["train.py", *arguments]
    if method is None:
        main()
    else:
        module, _, name = method.partition(":")
        main(getattr(importlib.import_module(module), name))


def die_at(owner, name: str, n: int, after: bool = False) -> None:
    """SIGKILL this process before or after the n-th call of owner.name."""
    original, calls = getattr(owner, name), []

    def call(*args, **more):
        calls.append(1)
        if len(calls) == n and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **more)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, call)


def join(started: list, seconds: float = 120) -> list[int]:
    """Exit codes; a process that still runs after ``seconds`` is killed and has code -9."""
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
    """Names of the tensors and other parts that differ between two rank files."""
    one, two = first["tensors"], second["tensors"]
    return ([name for name in one.keys() | two.keys() if name not in one or name not in two
             or not torch.equal(one[name], two[name])]
            + [name for name in ("sharded", "scaler") if first[name] != second[name]]
            + [name for name in first["random"] if not torch.equal(first["random"][name], second["random"][name])])
