"""Commands that need each other's results: each is run once, and a training that was stopped is resumed."""

import json
import os
import shlex
import shutil
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from evaluation.protocol import Images
from records.recordio import RecordReader
from tools.reproduce.commands import Commands
from utils.command_line import make_folder
from utils.errors import UserError
from utils.files import disk_errors, file_hash, write_text
from utils.locks import hold_folder
from utils.paths import ROOT

TERMINAL = threading.Lock()
SPINS = "1000"              # turns that a waiting thread of OpenMP spins, as environment.sh sets it and says why
SECONDS_FOR_LOCK = 10       # that a command of a killed reproduction may take to end


@dataclass(frozen=True)
class Step:
    """One command.

    needs: names of the steps that must be done before it; a name that no step has counts as done.
    makes: a file; if it is missing the step is not done.  trains: the command leaves checkpoints next to ``makes``.
    again: run the command even if the step is done.  data: fingerprint of the images that it works on.
    """

    name: str
    command: list[str]
    needs: tuple[str, ...] = ()
    folder: Path = ROOT
    makes: Path | None = None
    trains: bool = False
    again: bool = False
    data: str = ""

    @property
    def made(self) -> bool:
        return self.makes is None or self.makes.is_file()

    @property
    def checkpoints(self) -> Path:
        """The folder of a training's checkpoints."""
        assert self.makes is not None
        return self.makes.with_name("checkpoints")

    @property
    def has_checkpoint(self) -> bool:
        return any(self.checkpoints.glob("*/complete.json"))


def hardware() -> tuple[int, int]:
    """(GPUs, CPU cores that this process may use)."""
    return torch.cuda.device_count(), len(os.sched_getaffinity(0))


class Records:
    """<out>/steps/<name>.json: which command was started, on the results of which steps, and when it was done."""

    def __init__(self, out: Path):
        self.out, self.folder = out, out / "steps"

    def read(self, name: str) -> dict:
        """The record of a step; empty if there is none or it is corrupt: the step then runs again."""
        try:
            return json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}

    def needs_of(self, step: Step) -> dict:
        """When each step that ``step`` needs was done, by name."""
        return {name: self.read(name).get("done") for name in step.needs}

    def same_command(self, step: Step) -> bool:
        """Whether the step was started with this command, whatever the order of the settings."""
        return sorted(self.read(step.name).get("command", [])) == sorted(step.command)

    def begun(self, step: Step) -> bool:
        """Whether the step was started with this command, on these images and the present results of the steps that it needs."""
        return (self.same_command(step)
                and self.read(step.name).get("needs") == self.needs_of(step)
                and self.read(step.name).get("data") == step.data)

    def done(self, step: Step) -> bool:
        return self.begun(step) and "done" in self.read(step.name) and step.made and not step.again

    def resumable(self, step: Step) -> bool:
        """Whether ``step`` is a training that was started like this, left a checkpoint, and is not done but without model.pt."""
        return step.trains and self.begun(step) and step.has_checkpoint and (step.made or "done" not in self.read(step.name))

    def write(self, step: Step, **more) -> None:
        write_text(self.folder / f"{step.name}.json",
                   json.dumps({"command": step.command, "data": step.data, "needs": self.needs_of(step)} | more, indent=1) + "\n")


def run_steps(steps: list[Step], out: Path, gpus: int, cores: int) -> None:
    """Run every step that is not done, as soon as the steps that it needs are; on GPUs one at a time, else one per core."""
    records, begin = Records(out), time.monotonic()
    refuse_other_settings(steps, out)
    jobs = 1 if gpus else max(1, min(cores, sum(step.trains for step in steps)))
    environment = {"GOMP_SPINCOUNT": SPINS} | os.environ | {"PYTHONUNBUFFERED": "1"}
    if not gpus:        # the same number in each run, whatever else runs: the bits of a training depend on its threads
        environment["OMP_NUM_THREADS"] = str(cores // jobs)
    make_folder(records.folder, "--out")
    names, waiting = {step.name for step in steps}, list(steps)
    finished: set[str] = set()
    running: dict[Future, Step] = {}
    refusal = (f"another reproduce.sh, or a command of a killed one, still writes to {out}; wait until it has ended, or end it, "
               f"and start again")
    with (hold_folder(records.folder, refusal, SECONDS_FOR_LOCK) as lock, Commands() as commands,
          ThreadPoolExecutor(jobs) as pool):
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
                    all_cores = {"OMP_NUM_THREADS": str(cores)} if step.again and not gpus else {}      # the page runs alone
                    running[pool.submit(run_step, step, records, environment | all_cores, lock, commands)] = step
            if not done:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    step = running.pop(future)
                    if future.exception() and running and not commands.name:
                        print(f"== {step.name} failed; {', '.join(s.name for s in running.values())} will end first", flush=True)
                    future.result()             # a failure ends the reproduction, after the commands that are running have ended
                    finished.add(step.name)
    print(f"== all done: {time.monotonic() - begin:.0f} s since the start", flush=True)


def on_data(steps: list[Step], records: Path, evaluated: Images, embeddings: Path | None) -> list[Step]:
    """The steps with the fingerprint of what each works on: train.rec, or for the first page ``evaluated``.

    embeddings: of an old model that exists, of ``evaluated``; None if it embeds them itself.
    """
    train = RecordReader(records / "train").fingerprint()
    images = evaluated.fingerprint() + (file_hash([embeddings]) if embeddings else "")
    return [replace(step, data=images if step.name == "first" else train) for step in steps]


def refuse_other_settings(steps: list[Step], out: Path) -> None:
    """UserError if a training with other settings or on other images has left a checkpoint in the folder of one of ``steps``."""
    records = Records(out)
    for step in steps:
        before = records.read(step.name).get("command", [])
        if not (step.trains and before and step.has_checkpoint):
            continue
        if (data := records.read(step.name).get("data")) != step.data:
            other = "on another train.rec than today's" if data else "by an earlier version, which did not note its train.rec"
            raise UserError(f"{step.checkpoints.parent} was trained {other}; give another --out, or remove {out} to train "
                            f"everything again")
        if not records.same_command(step):
            was, now = ([word for word in one if word not in other]
                        for one, other in ((before, step.command), (step.command, before)))
            raise UserError(f"{step.checkpoints.parent} was trained with other settings (then: {shlex.join(was)}, now: "
                            f"{shlex.join(now)}); give another --out, or remove that folder to train it again")


def run_step(step: Step, records: Records, environment: dict, lock: tuple[int, ...], commands: Commands) -> None:
    """Run one command.  Its output goes to <out>/log/<name>.log and to the terminal, with its name before each line.

    UserError if it fails, ends without the file that it makes, or was ended by a signal.
    """
    command, begin = step.command, time.monotonic()
    if records.resumable(step):
        command = [*command, "resume=True"]
    elif step.trains:           # starts over: if it is stopped before its first epoch, the next start must not resume from these
        shutil.rmtree(step.checkpoints, ignore_errors=True)
    records.write(step)
    log = records.out / "log" / f"{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    prefix = "" if step.again else f"{step.name}  "
    with disk_errors(log), open(log, "a", buffering=1) as file:      # line by line: the log of a killed command is complete
        print(f"$ cd {step.folder} && {shlex.join(command)}", file=file)
        process = commands.start(command, step.folder, environment, lock)
        for line in process.stdout or ():
            file.write(line)
            with TERMINAL:
                sys.stdout.write(prefix + line)
                sys.stdout.flush()
    if commands.wait(process) or not step.made:
        missing = "" if step.made else f", no file {step.makes}"
        raise UserError(f"{step.name} failed (exit code {process.returncode}{missing}); its output is in {log}; start "
                        f"reproduce.sh again to continue with this step")
    records.write(step, done=time.time(), seconds=round(time.monotonic() - begin, 1))
