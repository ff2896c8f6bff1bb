"""Images per second of the training loader and of a bare loop around cv2.imdecode, and the loader's memory by epoch.

    python benchmarks/loader.py [--rec FILE.rec] [--images 100000]

Without --rec it makes 112x112 JPEGs of about 5 kB.  Rounds alternate; medians are printed.  Memory: anonymous memory of this
process and two workers after each epoch.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.measure import family_bytes
from records.faces import FaceRecords
from records.loader import train_loader
from records.recordio import RecordWriter, pack
from utils.opencv import cv2

BATCH = 128


def draw_records(prefix: Path, images: int) -> None:
    """Smooth colour fields with a little noise: they compress like aligned faces."""
    draw = np.random.default_rng(0)
    jpegs = []
    for _ in range(256):
        field = cv2.resize(draw.uniform(0, 255, (9, 9, 3)).astype(np.float32), (112, 112), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(field + draw.normal(0, 4, field.shape), 0, 255).astype(np.uint8)
        jpegs.append(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    with RecordWriter(prefix) as writer:
        writer.write(0, pack([images + 1, 1], b"", 0, 0))
        for key in range(1, images + 1):
            writer.write(key, pack([0, key], jpegs[key % len(jpegs)], key, 0))


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
    """Images per second of the loader after its first batches, which wait for the workers to start."""
    loader = train_loader(faces, BATCH, 0, 1, seed=0, workers=workers)
    batches = iter(loader)
    for _ in range(8):
        next(batches)
    begin, seen = time.perf_counter(), 0
    for images, _, _ in batches:
        seen += len(images)
        if time.perf_counter() - begin > seconds:
            break
    return seen / (time.perf_counter() - begin)


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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
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
