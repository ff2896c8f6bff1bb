"""Images per second from a record file that is on the disk and not in memory, for several ways of reading.

    python benchmarks/cold_reading.py [--gigabytes 16] [--folder FOLDER]

Writes a large .rec of 112x112 JPEGs into a folder on the disk to measure and drops it from the page cache before each
measurement.  The first three ways read without decoding: the speed of the disk.  The fourth is the loader of a training, and the
fifth the same loader with the file in memory, its limit.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.inputs import draw_records
from benchmarks.loader import BATCH
from records.faces import FaceRecords
from records.loader import ShuffledBatches, train_loader
from utils.command_line import Parser
from utils.errors import run
from utils.opencv import cv2


def forget(path: Path) -> None:
    """Drop the file from the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(faces: FaceRecords, batches, prefetch: bool) -> Iterator[int]:
    """Number of images of each batch, after it has been read."""
    for rows in batches:
        if prefetch:
            faces.records.prefetch(faces.keys[rows])
        for i in rows:
            faces.jpeg(int(i))
        yield len(rows)


def in_order(folder: str, turn: int) -> Iterator[int]:
    faces = FaceRecords(folder)
    whole = np.arange(len(faces) // BATCH * BATCH).reshape(-1, BATCH)
    return read(faces, whole, prefetch=False)


def shuffled(folder: str, turn: int, prefetch: bool) -> Iterator[int]:
    faces = FaceRecords(folder)
    return read(faces, ShuffledBatches(len(faces), BATCH, 0, 1, turn), prefetch)


def loader(folder: str, turn: int, part: float = 1.0) -> Iterator[int]:
    """The loader of a training, without its first batches, which wait for the workers.  part: share of the images."""
    faces = FaceRecords(folder)
    faces.keys = faces.keys[:int(part * len(faces))]
    batches = iter(train_loader(faces, BATCH, 0, 1, seed=turn, workers=2))
    for _ in range(16):
        next(batches)
    return (len(images) for images, _, _ in batches)


def speed(sizes: Iterator[int], seconds: float) -> float:
    """Images per second, measured for about ``seconds``."""
    begin, seen = time.perf_counter(), 0
    for size in sizes:
        seen += size
        if time.perf_counter() - begin > seconds:
            break
    return seen / (time.perf_counter() - begin)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=16, help="size of the file")
    parser.add_argument("--folder", default=".", help="folder on the disk to measure; not in memory (tmpfs)")
    parser.add_argument("--seconds", type=float, default=4, help="duration of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way, in turn")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    warm = "loader, 2 workers, shuffled, file in memory"
    ways = {"in order": in_order, "shuffled, the map as it is": partial(shuffled, prefetch=False),
            "shuffled, each batch asked for at once": partial(shuffled, prefetch=True),
            "loader, 2 workers, shuffled, cold": loader, warm: partial(loader, part=0.05)}
    found = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        draw_records(Path(folder) / "train", 1000)
        each = (Path(folder) / "train.rec").stat().st_size / 1000
        draw_records(Path(folder) / "train", int(args.gigabytes * 1e9 / each))
        for turn in range(args.rounds):
            for name, way in ways.items():
                forget(Path(folder) / "train.rec")
                if name == warm:
                    speed(way(folder, turn), 1e9)               # the whole part once
                found[name].append(speed(way(folder, turn), args.seconds))
    table = PrettyTable([f"a cold file of {args.gigabytes:g} GB", "images/s", "MB/s"], align="r")
    for name, values in found.items():
        table.add_row([name, f"{statistics.median(values):.0f}", f"{statistics.median(values) * each / 1e6:.1f}"])
    print(table)


if __name__ == "__main__":
    run(main)
