"""Time and memory of 1:N search over plain feature files, against the matrix products alone.

    python benchmarks/search.py [--gallery 2000000] [--probes 10000] [--dim 128] [--per-subject 50] [--device cpu]

Random features in a memory-mapped file, which the search reads block by block.  Own memory: the largest anonymous memory of
the process, without mapped files.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.inputs import random_rows
from benchmarks.measure import Peak, own_bytes, seconds
from benchmarks.scoring import products_alone
from evaluation import identification
from evaluation.models import find_devices
from evaluation.protocol import People
from utils.command_line import Parser


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--gallery", type=int, default=2_000_000, help="rows")
    parser.add_argument("--probes", type=int, default=10_000, help="rows")
    parser.add_argument("--dim", type=int, default=128, help="dimensions")
    parser.add_argument("--per-subject", type=int, default=50, help="gallery rows of a subject, which are in any order")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()

    find_devices(args.device)               # as in the evaluator: on a CPU it lets the process keep freed memory
    with tempfile.TemporaryDirectory() as folder:
        gallery, query = (random_rows(Path(folder) / f"{name}.npy", np.random.default_rng(rows), rows, args.dim)
                          for name, rows in (("gallery", args.gallery), ("probe", args.probes)))
        subjects = np.random.default_rng(0).permutation(args.gallery) // args.per_subject
        people = People(np.arange(len(gallery)), subjects)
        probes = People(np.arange(len(query)), np.random.default_rng(1).integers(0, 2 * subjects.max(), args.probes))
        queries = torch.from_numpy(np.array(query)).to(args.device)
        before = own_bytes()
        queries[:1] @ queries[:1].T             # loads libraries and kernels
        with Peak() as by_products:
            floor = seconds(lambda: products_alone(gallery, queries), queries.device)
        with Peak() as peak:
            spent = seconds(lambda: identification.search(gallery, query, people, probes, args.device), queries.device)
    mated = int(np.isin(probes.subjects, subjects).sum())
    table = PrettyTable(["", "s", "ratio", "own memory, GB"], align="r")
    table.align[""] = "l"
    table.add_row(["matrix products alone", f"{floor:.1f}", "1.00", f"{(by_products.bytes - before) / 1e9:.2f}"])
    table.add_row(["search", f"{spent:.1f}", f"{spent / floor:.2f}", f"{(peak.bytes - before) / 1e9:.2f}"])
    print(f"{table.get_string()}\n{args.probes:,} probes ({mated:,} with a mate) in {args.gallery:,} rows of "
          f"{len(np.unique(subjects)):,} subjects, {args.dim} dimensions ({gallery.nbytes / 1e9:.2f} GB mapped), on "
          f"{args.device}")


if __name__ == "__main__":
    main()
