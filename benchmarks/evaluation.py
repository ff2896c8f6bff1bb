"""Time and memory of one evaluation at IJB-C's size: pooling, 1:1, 1:N and the tables, on random embeddings.

    python benchmarks/evaluation.py [--dim 512] [--share 1.0]

469,375 images, 23,124 templates, 15,658,489 pairs, galleries of 1,772 and 1,759, 19,593 probes; the embeddings are a
memory-mapped file, as the evaluator writes them.  --share makes all counts smaller.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluation.formats import tidy
from evaluation.identification import one_to_many
from evaluation.models import find_devices
from evaluation.protocol import Images, Pairs, People, Search
from evaluation.templates import template_features
from evaluation.verification import one_to_one
from tools.ijbc_eval.report import print_tables

IMAGES, PAIRS, GENUINE, GALLERIES, PROBES = 469_375, 15_658_489, 19_557, (1_772, 1_759), 19_593


def random_protocol(draw: np.random.Generator, share: float) -> tuple[Images, Pairs, Search]:
    """A random protocol with ``share`` of IJB-C's counts."""
    n, p, genuine, probes = (int(share * count) for count in (IMAGES, PAIRS, GENUINE, PROBES))
    first, second = (max(2, int(share * count)) for count in GALLERIES)
    entries = first + second
    templates = entries + probes
    owner = np.concatenate([np.arange(templates), draw.integers(0, templates, n - templates)]).astype(np.int32)
    subjects = np.concatenate([np.arange(entries), draw.integers(0, entries, probes)])
    images = Images(Path(), np.arange(n).astype(str), np.zeros((n, 5, 2), np.float32), draw.random(n, np.float32), owner,
                    draw.integers(0, n // 3, n), np.arange(templates), "")
    verify = draw.integers(entries, templates, p).astype(np.int32)
    enrol = draw.integers(0, entries, p).astype(np.int32)
    enrol[:genuine] = subjects[verify[:genuine]]
    rows = np.arange(templates, dtype=np.int32)
    galleries = {"G1": People(rows[:first], subjects[:first]), "G2": People(rows[first:entries], subjects[first:entries])}
    probe_list = People(rows[entries:], subjects[entries:])
    return images, Pairs(enrol, verify, subjects[enrol] == subjects[verify]), Search(galleries, probe_list)


def random_embeddings(file: Path, draw: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """float32 [2, count, dim], memory-mapped."""
    out = np.lib.format.open_memmap(file, "w+", np.float32, (2, count, dim))
    for view in out:
        for start in range(0, count, 16_384):
            block = view[start:start + 16_384]
            block[:] = draw.standard_normal(block.shape, np.float32)
    out.flush()
    return np.load(file, mmap_mode="r")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dim", type=int, default=512, help="dimensions of an embedding")
    parser.add_argument("--share", type=float, default=1.0, help="share of IJB-C's counts, in (0, 1]")
    args = parser.parse_args()

    find_devices("cpu")                     # as in the evaluator: it lets the process keep freed memory
    draw = np.random.default_rng(0)
    images, pairs, protocol = random_protocol(draw, args.share)
    with tempfile.TemporaryDirectory() as folder:
        embeddings = random_embeddings(Path(folder) / "embeddings.npy", draw, len(images), args.dim)
        before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, [time.perf_counter()]
        features = template_features(embeddings, images)
        times.append(time.perf_counter())
        one, _ = one_to_one(features, features, pairs)
        times.append(time.perf_counter())
        many, _ = one_to_many(features, features, protocol)
        times.append(time.perf_counter())
        settings = {"name": "random", "subset": "IJBC"}
        print_tables([{"settings": settings | {"protocol": "1:1"}, "1:1": tidy(one)},
                      {"settings": settings | {"protocol": "1:N"}, "1:N": tidy(many)}])
        times.append(time.perf_counter())
    table = PrettyTable(["", "s"], align="r")
    for name, seconds in zip(("pooling", "1:1", "1:N", "tables"), np.diff(times), strict=True):
        table.add_row([name, f"{seconds:.2f}"])
    table.add_row(["together", f"{times[-1] - times[0]:.2f}"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{table.get_string()}\npeak memory {peak:.2f} GB, of which {before:.2f} GB before the evaluation (protocol, "
          f"writing the random embeddings); {len(images):,} images, {args.dim} dimensions, {len(pairs.same):,} pairs")


if __name__ == "__main__":
    main()
