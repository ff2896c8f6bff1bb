"""Commands that need each other, run once: what is done stays done, what stopped goes on."""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import torch

from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TERMINAL = threading.Lock()


@dataclass(frozen=True)
class Step:
    """One command.  ``needs``: names of steps before it; a name that no step has is taken as done."""

    name: str
    command: list[str]
    needs: tuple[str, ...] = ()
    folder: Path = ROOT
    makes: Path | None = None       # without this file it is not done
    trains: bool = False            # stopped in the middle it goes on after its last epoch, with resume=True
    again: bool = False             # run it even if it is done

    @property
    def checkpoint(self) -> Path:
        return self.makes.with_name("checkpoint_gpu_0.pt")


def hardware() -> tuple[int, int]:
    """(GPUs, CPU cores that this process may use)."""
    return torch.cuda.device_count(), len(os.sched_getaffinity(0))


class Records:
    """<out>/steps/<name>.json: which command was begun, on the results of which steps, and when it was done."""

    def __init__(self, out: Path):
        self.folder = out / "steps"
        self.folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> dict:
        try:
            return json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}

    def begun_with(self, step: Step) -> dict:
        """What the step's record must say: the command, and when each step that it needs was done."""
        return {"command": step.command, "needs": {name: self.read(name).get("done") for name in step.needs}}

    def begun(self, step: Step) -> bool:
        record = self.read(step.name)
        return all(record.get(key) == value for key, value in self.begun_with(step).items())

    def done(self, step: Step) -> bool:
        whole = step.makes is None or step.makes.is_file()
        return self.begun(step) and "done" in self.read(step.name) and whole and not step.again

    def write(self, step: Step, **more) -> None:
        part = self.folder / f"{step.name}.json.part"
        part.write_text(json.dumps(self.begun_with(step) | more, indent=1) + "\n")
        os.replace(part, part.with_suffix(""))


def run_steps(steps: list[Step], out: Path, gpus: int, cores: int) -> None:
    """Run every step that is not done, as soon as what it needs is; on GPUs one at a time, else one per core."""
    records, begin = Records(out), time.monotonic()
    refuse_other_settings(steps, records)
    jobs = 1 if gpus else max(1, min(cores, sum(step.trains for step in steps)))
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    if not gpus:        # fixed, not what happens to be idle: the bits of a training depend on its threads
        environment["OMP_NUM_THREADS"] = str(cores // jobs)
    names, finished, waiting, running = {step.name for step in steps}, set(), list(steps), {}
    with ThreadPoolExecutor(jobs) as pool:
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
                    running[pool.submit(run_step, step, records, out, environment)] = step
            if not done:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    finished.add(running.pop(future).name)
                    future.result()             # a failure ends this; what runs beside it goes on to its end
    print(f"== all done: {time.monotonic() - begin:.0f} s since the start")


def refuse_other_settings(steps: list[Step], records: Records) -> None:
    """A training that was done or begun with other settings is not overwritten."""
    for step in steps:
        before = records.read(step.name).get("command")
        if step.trains and before not in (None, step.command) and step.checkpoint.is_file():
            other = sorted(set(before) ^ set(step.command))
            raise UserError(f"{step.checkpoint.parent} was trained with other settings (differing: {shlex.join(other)}); "
                            f"give another --out, or remove that folder to train it again")


def run_step(step: Step, records: Records, out: Path, environment: dict) -> None:
    """Run one command; its lines go to <out>/log/<name>.log and, with its name in front, to the terminal."""
    command, begin = step.command, time.monotonic()
    if step.trains and step.checkpoint.is_file() and records.begun(step):
        command = [*command, "resume=True"]
    records.write(step)
    log = out / "log" / f"{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    prefix = "" if step.again else f"{step.name}  "
    with open(log, "a") as file:
        print(f"$ cd {step.folder} && {shlex.join(command)}", file=file, flush=True)
        process = subprocess.Popen(command, cwd=step.folder, env=environment, text=True, errors="replace",
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for line in process.stdout:
            file.write(line)
            with TERMINAL:
                sys.stdout.write(prefix + line)
                sys.stdout.flush()
    if process.wait():
        raise UserError(f"{step.name} failed (exit code {process.returncode}); its output is in {log}; started again, "
                        f"reproduce.sh goes on with it")
    records.write(step, done=time.time(), seconds=round(time.monotonic() - begin, 1))
