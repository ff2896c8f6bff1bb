"""Seconds of the computations by class on the old features, for two sizes, to show how they grow.

    python benchmarks/tools.py [--images 2000000] [--classes 36000] [--dim 128] [--shuffled]

The features are in a memory-mapped file.  The limit is reading it: once for the means, twice for marks and balls.  Own memory:
the largest anonymous memory of the process, without the file.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from BCT_Methods.UniBCT.refinement import refined
from benchmarks.measure import Peak, own_bytes
from old_model.statistics import class_balls, class_blocks, class_means, credible
from utils.command_line import Parser


def draw_features(file: Path, labels: np.ndarray, dim: int) -> np.ndarray:
    """float32 [images, dim], memory-mapped: for each image the centre of its class, and noise."""
    draw = np.random.default_rng(1)
    centres = draw.standard_normal((labels.max() + 1, dim), np.float32)
    out = np.lib.format.open_memmap(file, "w+", np.float32, (len(labels), dim))
    for start in range(0, len(labels), 65_536):
        rows = slice(start, start + 65_536)
        out[rows] = centres[labels[rows]] + draw.standard_normal((len(labels[rows]), dim), np.float32)
    out.flush()
    return np.load(file, mmap_mode="r")


def refine_all(features: np.ndarray, labels: np.ndarray) -> None:
    """UniBCT's refinement without embedding the images: the old features serve as the new ones."""
    counts = np.bincount(labels)
    for block, images, _ in class_blocks(labels, counts):
        rows = torch.from_numpy(features[images])
        refined(rows, rows, counts[block], lamb=0.9, tau=0.05, as_published=False)


def measured(images: int, classes: int, dim: int, shuffled: bool) -> dict[str, tuple[float, int]]:
    """(seconds, largest own memory in bytes) of each computation, by name."""
    draw = np.random.default_rng(0)
    labels = np.sort(np.append(np.arange(classes), draw.integers(0, classes, images - classes)))
    labels = draw.permutation(labels) if shuffled else labels
    with tempfile.TemporaryDirectory() as folder:
        features = draw_features(Path(folder) / "features.npy", labels, dim)
        work = {"reading once": lambda: sum(float(features[i:i + 65_536].sum()) for i in range(0, images, 65_536)),
                "class means": lambda: class_means(features, labels),
                "credible marks": lambda: credible(features, labels, 0.9),
                "class balls": lambda: class_balls(features, labels, classes),
                "refinement": lambda: refine_all(features, labels)}
        found = {}
        for name, run in work.items():
            before, begin = own_bytes(), time.perf_counter()
            with Peak() as peak:
                run()
            found[name] = time.perf_counter() - begin, peak.bytes - before
    return found


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--images", type=int, default=2_000_000, help="rows of the larger size; the smaller has a tenth")
    parser.add_argument("--classes", type=int, default=36_000, help="classes of the larger size")
    parser.add_argument("--dim", type=int, default=128, help="dimensions")
    parser.add_argument("--shuffled", action="store_true", help="images in any order instead of sorted by class")
    args = parser.parse_args()
    small, large = (measured(args.images // part, args.classes // part, args.dim, args.shuffled) for part in (10, 1))
    table = PrettyTable(["s", f"{args.images // 10:,} images", f"{args.images:,} images", "ratio", "own memory, GB"], align="r")
    table.align["s"] = "l"
    for name, (seconds, held) in large.items():
        table.add_row([name, f"{small[name][0]:.2f}", f"{seconds:.2f}", f"{seconds / small[name][0]:.1f}", f"{held / 1e9:.2f}"])
    print(f"{table.get_string()}\n{args.classes:,} classes, {args.dim} dimensions, {torch.get_num_threads()} threads; the file "
          f"has {4 * args.images * args.dim / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
