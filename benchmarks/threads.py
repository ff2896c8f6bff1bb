"""Images per second of a small training on a CPU, by OpenMP's threads and by how long a waiting thread spins.

    python benchmarks/threads.py [--busy 0 1 2 4] [--seconds 10] [--rounds 3]

A thread that waits for the others of its process first spins: that saves the time of waking it up, and takes the core from other
processes meanwhile.  GOMP_SPINCOUNT is the number of turns (0 with OMP_WAIT_POLICY=PASSIVE, 300,000 by default).  --busy: other
processes that do nothing but compute.  Each measurement is a new process, because OpenMP reads its settings once; rounds
alternate, medians are printed.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.steps import plain_step
from utils.command_line import Parser, at_least
from utils.errors import run

OURS = ("channels_last", "fused optimiser", "freed memory kept")
CORES = len(os.sched_getaffinity(0))
WAYS = {"1 thread": {"OMP_NUM_THREADS": "1"},
        **{f"{CORES} threads, {name}": {"OMP_NUM_THREADS": str(CORES)} | more for name, more in (
            ("default", {}), ("PASSIVE", {"OMP_WAIT_POLICY": "PASSIVE"}),
            *((f"GOMP_SPINCOUNT={turns}", {"GOMP_SPINCOUNT": str(turns)}) for turns in (300, 1000, 3000, 10_000, 30_000)))}}
BUSY = [sys.executable, "-c", "while True: pass"]


def images_per_second(seconds: float) -> float:
    """Of MobileFaceNet at 32x32 with batches of 64, in this process; after two steps that are not counted."""
    step, batch = plain_step("mbf", 32, 64, OURS, torch.device("cpu")), 64
    step(), step()
    steps, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        step()
        steps += 1
    return batch * steps / (time.perf_counter() - begin)


def measure(environment: dict[str, str], seconds: float) -> float:
    """Images per second in a new process with these variables, and without the variables of this one that they replace."""
    others = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, __file__, "--measure", "--seconds", str(seconds)], env=others | environment,
                          capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--busy", type=at_least(0, int), nargs="+", default=[0, 1, 2, 4], help="other processes that compute")
    parser.add_argument("--seconds", type=at_least(0.1, float), default=10, help="seconds of a measurement")
    parser.add_argument("--rounds", type=at_least(1, int), default=3, help="measurements of each way")
    parser.add_argument("--measure", action="store_true", help="measure in this process, as it was started")
    args = parser.parse_args()
    if args.measure:
        print(images_per_second(args.seconds))
        return
    table = PrettyTable(["", *(f"{busy} busy processes" for busy in args.busy)], align="r")
    measured: dict[tuple[str, int], list[float]] = {}
    print(f"load before: {os.getloadavg()[0]:.1f} on {CORES} cores", flush=True)
    for busy in args.busy:
        others = [subprocess.Popen(BUSY) for _ in range(busy)]
        try:
            for _ in range(args.rounds):
                for way, environment in WAYS.items():
                    measured.setdefault((way, busy), []).append(measure(environment, args.seconds))
                    print(f"{busy} busy, {way}: {measured[way, busy][-1]:.0f}", flush=True)
        finally:
            for other in others:
                other.kill()
                other.wait()
    for way in WAYS:
        table.add_row([way, *(f"{statistics.median(measured[way, busy]):.0f}" for busy in args.busy)])
    table.align[""] = "l"
    print(f"images/s, medians of {args.rounds}\n{table.get_string()}")


if __name__ == "__main__":
    run(main)
