"""Commands that need each other, run once: what is done stays done, what stopped goes on."""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from utils.command_line import make_folder
from utils.errors import UserError
from utils.files import disk_errors, write_text

ROOT = Path(__file__).resolve().parents[2]
TERMINAL = threading.Lock()
PATIENCE = 10       # seconds that what was just killed may take to end


@dataclass(frozen=True)
class Step:
    """One command.  ``needs``: names of steps before it; a name that no step has is taken as done."""

    name: str
    command: list[str]
    needs: tuple[str, ...] = ()
    folder: Path = ROOT
    makes: Path | None = None       # without this file it is not done
    trains: bool = False            # it leaves checkpoints beside what it makes
    again: bool = False             # run it even if it is done

    @property
    def made(self) -> bool:
        return self.makes is None or self.makes.is_file()

    @property
    def checkpoints(self) -> Path:
        """The folder of a training's checkpoints."""
        return self.makes.with_name("checkpoints")

    @property
    def has_checkpoint(self) -> bool:
        return any(self.checkpoints.glob("*/complete.json"))


def hardware() -> tuple[int, int]:
    """(GPUs, CPU cores that this process may use)."""
    return torch.cuda.device_count(), len(os.sched_getaffinity(0))


class Records:
    """<out>/steps/<name>.json: which command was begun, on the results of which steps, and when it was done."""

    def __init__(self, out: Path):
        self.out, self.folder = out, out / "steps"

    def read(self, name: str) -> dict:
        try:
            return json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}

    def needs_of(self, step: Step) -> dict:
        """When each step that it needs was done."""
        return {name: self.read(name).get("done") for name in step.needs}

    def same_command(self, step: Step) -> bool:
        """Was it begun with this command?  The order of settings means nothing."""
        return sorted(self.read(step.name).get("command", [])) == sorted(step.command)

    def begun(self, step: Step) -> bool:
        return self.same_command(step) and self.read(step.name).get("needs") == self.needs_of(step)

    def done(self, step: Step) -> bool:
        return self.begun(step) and "done" in self.read(step.name) and step.made and not step.again

    def resumable(self, step: Step) -> bool:
        """A training that was begun like this and has left a checkpoint, and is not beyond its last epoch without model.pt."""
        return step.trains and self.begun(step) and step.has_checkpoint and (step.made or "done" not in self.read(step.name))

    def write(self, step: Step, **more) -> None:
        write_text(self.folder / f"{step.name}.json",
                   json.dumps({"command": step.command, "needs": self.needs_of(step)} | more, indent=1) + "\n")


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keep other reproductions out of ``folder``; a command that inherits the file number given here keeps them out, too."""
    with open(folder / "lock", "w") as file:
        for left in reversed(range(PATIENCE + 1)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if not left:
                    raise UserError(f"another reproduce.sh, or what a killed one left running, still writes to {folder.parent}; "
                                    f"wait for its end, or end it, and start again") from error
                time.sleep(1)
            except OSError:             # a file system without locks
                break
        yield file.fileno()


def run_steps(steps: list[Step], out: Path, gpus: int, cores: int) -> None:
    """Run every step that is not done, as soon as what it needs is; on GPUs one at a time, else one per core."""
    records, begin = Records(out), time.monotonic()
    refuse_other_settings(steps, out)
    jobs = 1 if gpus else max(1, min(cores, sum(step.trains for step in steps)))
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    if not gpus:        # fixed, not what happens to be idle: the bits of a training depend on its threads
        environment["OMP_NUM_THREADS"] = str(cores // jobs)
    make_folder(records.folder, "--out")
    names, finished, waiting, running = {step.name for step in steps}, set(), list(steps), {}
    with locked(records.folder) as lock, ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            ready = [step for step in waiting if not (set(step.needs) & names) - finished]
            done = [step for step in ready if records.done(step)]
            for step in done or ready[:jobs - len(running)]:
                waiting.remove(step)
                print(f"== {step.name}: " + ("done before" if done else f"{time.monotonic() - begin:.0f} s since the start"),
                      flush=True)
                if done:
                    finished.add(step.name)
                else:
                    running[pool.submit(run_step, step, records, environment, lock)] = step
            if not done:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    step = running.pop(future)
                    if future.exception() and running:
                        print(f"== {step.name} failed; first {', '.join(s.name for s in running.values())} will end", flush=True)
                    future.result()             # a failure ends this; what runs beside it goes on to its end
                    finished.add(step.name)
    print(f"== all done: {time.monotonic() - begin:.0f} s since the start")


def refuse_other_settings(steps: list[Step], out: Path) -> None:
    """A training that was done or begun with other settings is not overwritten."""
    records = Records(out)
    for step in steps:
        before = records.read(step.name).get("command", [])
        if step.trains and before and not records.same_command(step) and step.has_checkpoint:
            was, now = ([word for word in one if word not in other]
                        for one, other in ((before, step.command), (step.command, before)))
            raise UserError(f"{step.makes.parent} was trained with other settings (then: {shlex.join(was)}, now: "
                            f"{shlex.join(now)}); give another --out, or remove that folder to train it again")


def run_step(step: Step, records: Records, environment: dict, lock: int) -> None:
    """Run one command; its lines go to <out>/log/<name>.log and, with its name in front, to the terminal."""
    command, begin = step.command, time.monotonic()
    if records.resumable(step):
        command = [*command, "resume=True"]
    elif step.trains:           # anew: if it is stopped before its first epoch, the next start must not go on from these
        shutil.rmtree(step.checkpoints, ignore_errors=True)
    records.write(step)
    log = records.out / "log" / f"{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    prefix = "" if step.again else f"{step.name}  "
    with disk_errors(log), open(log, "a", buffering=1) as file:      # line by line: whoever is killed leaves what it said
        print(f"$ cd {step.folder} && {shlex.join(command)}", file=file)
        process = subprocess.Popen(command, cwd=step.folder, env=environment, text=True, errors="replace",
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[lock])
        for line in process.stdout:
            file.write(line)
            with TERMINAL:
                sys.stdout.write(prefix + line)
                sys.stdout.flush()
    if process.wait() or not step.made:
        missing = "" if step.made else f", no file {step.makes}"
        raise UserError(f"{step.name} failed (exit code {process.returncode}{missing}); its output is in {log}; started again, "
                        f"reproduce.sh goes on with it")
    records.write(step, done=time.time(), seconds=round(time.monotonic() - begin, 1))
