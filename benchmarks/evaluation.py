"""Time and memory of one evaluation at IJB-C's size: pooling, 1:1, 1:N and the tables, on random embeddings.

    python benchmarks/evaluation.py [--dim 512] [--share 1.0]

469,375 images, 23,124 templates, 15,658,489 pairs, galleries of 1,772 and 1,759, 19,593 probes; the embeddings are a
memory-mapped file, as the evaluator writes them.  --share makes all counts smaller.
"""

import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.inputs import random_protocol, random_rows
from benchmarks.measure import seconds
from benchmarks.scoring import evaluation_seconds
from evaluation.formats import tidy
from evaluation.models import find_devices
from tools.ijbc_eval.report import print_tables
from utils.command_line import Parser


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--dim", type=int, default=512, help="dimensions of an embedding")
    parser.add_argument("--share", type=float, default=1.0, help="share of IJB-C's counts, in (0, 1]")
    args = parser.parse_args()

    device, = find_devices("cpu")                     # as in the evaluator: it lets the process keep freed memory
    draw = np.random.default_rng(0)
    images, pairs, protocol = random_protocol(draw, args.share)
    with tempfile.TemporaryDirectory() as folder:
        embeddings = random_rows(Path(folder) / "embeddings.npy", draw, 2, len(images), args.dim)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        spent, figures = evaluation_seconds(embeddings, images, pairs, protocol, device)
        settings = {"name": "random", "subset": "IJBC"}
        spent["tables"] = seconds(lambda: print_tables([{"settings": settings | {"protocol": name}, name: tidy(found)}
                                                        for name, found in figures.items()]), device)
    table = PrettyTable(["", "s"], align="r")
    for name, value in (*spent.items(), ("together", sum(spent.values()))):
        table.add_row([name, f"{value:.2f}"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{table.get_string()}\npeak memory {peak:.2f} GB, of which {before:.2f} GB before the evaluation (protocol, "
          f"writing the random embeddings); {len(images):,} images, {args.dim} dimensions, {len(pairs.same):,} pairs")


if __name__ == "__main__":
    main()
