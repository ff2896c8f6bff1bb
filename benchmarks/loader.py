"""Images per second of the training loader and of a bare loop around cv2.imdecode, and the loader's memory by epoch.

    python benchmarks/loader.py [--rec FILE.rec] [--images 100000]

Without --rec it makes 112x112 JPEGs of about 5 kB.  Rounds alternate; medians are printed.  Memory: anonymous memory of this
process and two workers after each epoch.
"""

import multiprocessing
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.feeding import fed_speed
from benchmarks.inputs import draw_records
from benchmarks.measure import family_bytes
from records.faces import FaceRecords
from records.loader import train_loader
from utils.command_line import Parser
from utils.opencv import cv2

BATCH = 128


def bare_loops(faces: FaceRecords, seconds: float, processes: int) -> float:
    """Images per second of so many bare loops at the same time: the limit of the machine's cores."""
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        return sum(pool.starmap(bare_loop, [(faces, seconds)] * processes))


def bare_loop(faces: FaceRecords, seconds: float) -> float:
    """Images per second of cv2.imdecode alone, one thread, on encoded images in memory."""
    data = [np.frombuffer(faces.jpeg(i), np.uint8) for i in range(min(len(faces), 4000))]
    begin, seen = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        for item in data:
            cv2.imdecode(item, cv2.IMREAD_COLOR)
        seen += len(data)
    return seen / (time.perf_counter() - begin)


def loader_speed(faces: FaceRecords, seconds: float, workers: int) -> float:
    """Images per second of the loader after its first batches."""
    return fed_speed(faces, BATCH, workers, seconds, torch.device("cpu"))


def memory_table(faces: FaceRecords, epochs: int) -> PrettyTable:
    loader = train_loader(faces, BATCH, 0, 1, seed=0, workers=2)
    table = PrettyTable([f"after epoch of {len(faces):,} images", "MB held"], align="r")
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for _ in loader:
            pass
        table.add_row([epoch + 1, f"{family_bytes() / 1e6:.1f}"])
    return table


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--rec", help="record file with 112x112 JPEGs (default: one with random images)")
    parser.add_argument("--images", type=int, default=100_000, help="images of the file of random images")
    parser.add_argument("--seconds", type=float, default=2, help="duration of each measurement")
    parser.add_argument("--epochs", type=int, default=10, help="epochs after which memory is measured")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way, in turn")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.rec is None:
            draw_records(Path(folder) / "train", args.images)
        faces = FaceRecords(args.rec or folder)
        ways = {f"{name}, {n}": partial(way, faces, args.seconds, n) for n in (1, 2)
                for name, way in (("bare cv2.imdecode loops", bare_loops), ("loader workers", loader_speed))}
        speeds = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                speeds[name].append(way())
        memory = memory_table(faces, args.epochs)
    median = {name: statistics.median(values) for name, values in speeds.items()}
    table = PrettyTable(["way", "images/s", "ratio to as many bare loops"], align="r")
    for name, speed in median.items():
        bare = median[f"bare cv2.imdecode loops, {name[-1]}"]
        table.add_row([name, f"{speed:.0f}", f"{speed / bare:.2f}"])
    print(f"{table}\n{memory}")


if __name__ == "__main__":
    main()
