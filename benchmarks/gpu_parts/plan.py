"""The parts of benchmarks/gpu.py in order of worth, and how they share the time.  This process never uses the GPU itself."""

import multiprocessing
import os
import shlex
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path

from benchmarks.gpu_parts import worker
from benchmarks.gpu_parts.job import Sizes
from benchmarks.gpu_parts.results import Result, read_lines, write_results
from utils.errors import UserError

GRACE = 15.0            # seconds after its deadline at which a part is ended in the middle of a measurement
SECONDS_TO_END = 3.0    # between SIGTERM and SIGKILL
POLL = 0.2              # seconds between two looks at what a part has written
ABOUT = "about"         # module that describes the machine; its rows are the heading of the results


@dataclass(frozen=True)
class Part:
    """name: on the command line.  module: of this folder.  seconds: of a run of 8 minutes."""

    name: str
    module: str
    seconds: int
    title: str
    on_real_data: bool = False      # left out without --records and --ijb


PARTS = (
    Part("tests", "cuda_tests", 70, "Tests that need a GPU"),
    Part("machine", "machine", 10, "Speeds of the card"),
    Part("steps", "training_steps", 110, "Training step"),
    Part("kernels", "kernels", 15, "Kernels of a training step"),
    Part("heads", "head_steps", 45, "Head alone"),
    Part("embedding", "embedding_steps", 50, "Embedding, with decoding"),
    Part("loader", "loading", 35, "Loader and training step"),
    Part("methods", "method_terms", 45, "Cost of each method's terms"),
    Part("scoring", "scoring_steps", 35, "Evaluation and search"),
    Part("compiled", "compiled_steps", 60, "Training step, compiled and as a CUDA graph"),
    Part("trainings", "trainings", 5, "Methods on a real set", on_real_data=True),
)


@dataclass
class Run:
    """A run of ``seconds``.  scratch: folder of temporary files; records, ijb: of a real data set, or None."""

    device: str
    sizes: Sizes
    seconds: float
    out: Path
    scratch: Path
    records: Path | None
    ijb: Path | None

    def __call__(self, parts: list[Part]) -> tuple[dict, list[Result]]:
        """Do the parts one after the other; (heading, results).  UserError if there is no such device.

        A part may use what the parts before it have left of their time.
        """
        heading = Result(ABOUT, "")
        end = time.monotonic()
        self.do(Part(ABOUT, ABOUT, 0, ""), heading, end + 60, lambda: None)
        if heading.errors:
            raise UserError(heading.errors[0])
        about = {"command": shlex.join(["bash", "benchmarks/gpu.sh", *sys.argv[1:]]), "date": time.strftime("%Y-%m-%d %H:%M:%S")}
        about |= {key: value for row in heading.all_of("row") for key, value in row.items()}
        results = [Result(part.name, part.title) for part in parts]
        possible = [part for part in parts if self.records or not part.on_real_data]
        share = self.seconds / max(sum(part.seconds for part in possible), 1)
        for part, result in zip(parts, results, strict=True):
            if part in possible:
                end += share * part.seconds
                self.do(part, result, end, lambda: write_results(self.out, about, results))
            else:
                result.state = "left out: no --records and --ijb were given"
            print(f"== {result.name}: {result.state}", flush=True)
        return about, results

    def do(self, part: Part, result: Result, deadline: float, changed) -> None:
        """Do one part in a new process until ``deadline``; ``changed`` is called whenever ``result`` has more."""
        begin, lines = time.monotonic(), self.scratch / f"{part.name}.lines"
        result.state = "begun"
        process = self.begin(part, deadline, lines)
        try:
            while process.is_alive() and time.monotonic() < deadline + GRACE:
                process.join(POLL)
                if len(found := read_lines(lines)) > len(result.lines):
                    result.lines = found
                    changed()
            alive = process.is_alive()
        finally:
            end_all(process)
        result.lines = read_lines(lines)
        spent, given = time.monotonic() - begin, max(deadline - begin, 0)
        result.state = f"rows: {len(result.all_of('row'))}, in {spent:.0f} s of {given:.0f} s"
        if alive:
            result.state += "; ended in the middle of a measurement, because its time was over"
        elif not result.all_of("end"):
            result.lines.append({"error": f"the process of this part ended with exit code {process.exitcode}"})
        changed()

    def begin(self, part: Part, deadline: float, lines: Path) -> ForkProcess:
        """A fork has torch already.  It is safe, because this process has no threads and never used CUDA."""
        folder = self.scratch / part.name
        folder.mkdir()
        folders = {"folder": folder, "kept": self.out, "records": self.records, "ijb": self.ijb}
        process = multiprocessing.get_context("fork").Process(
            target=worker.start, args=(part.module, self.sizes, self.device, folders, deadline, lines,
                                       self.out / "log" / f"{part.name}.log"))
        process.start()
        return process


def end_all(process: ForkProcess) -> None:
    """End the process of a part, if it has not ended, and all that it started."""
    assert process.pid is not None
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.join(SECONDS_TO_END)
