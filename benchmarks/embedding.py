"""Speed and memory of embedding, against the slower of decoding and network, which should overlap.

    python benchmarks/embedding.py [--network mbf] [--images 2000]

Records: the work of tools/get_feature, one view of 112x112 JPEGs.  IJB: the work of tools/ijbc_eval, loose crops decoded and
aligned, images and mirror images in one batch.  The network and the loader worker have one thread each, so that on two cores
each half has a core of its own, as GPU and CPU have.  Each measurement runs in a new process; rounds alternate, medians are
printed.  Memory: the largest anonymous memory of a process, for these images and for four times as many.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path

from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.embedding_work import KINDS, PARTS, Embedding
from benchmarks.measure import Peak, in_a_process, seconds
from engine.distributed import start_ranks
from utils.command_line import Parser
from utils.errors import run
from utils.opencv import cv2

BATCH = 64


def measure(kind: str, part: str, network: str, images: int, folder: Path) -> tuple[float, int]:
    """(seconds, largest anonymous memory in bytes)."""
    cv2.setNumThreads(1)
    ranks = start_ranks()
    work = Embedding(kind, folder, network, images, batch=BATCH).work(part, ranks)
    with Peak() as peak:
        return seconds(work, ranks.device), peak.bytes


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--network", default="mbf", help="one of backbones.NETWORKS")
    parser.add_argument("--images", type=int, default=2000, help="images per measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each part, in turn")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"             # for the processes that measure
    table = PrettyTable([f"{args.network}, 112x112", *(f"{part}, s" for part in PARTS), "ratio to the slower", "images/s", "MB",
                         "MB, 4 x images"], align="r")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in KINDS:
            found = {part: [] for part in PARTS}
            for _ in range(args.rounds):
                for part, values in found.items():
                    values.append(in_a_process(measure, kind, part, args.network, args.images, folder))
            spent = {part: statistics.median(s for s, _ in values) for part, values in found.items()}
            slower = max(spent["decoding"], spent["network"])
            more = in_a_process(measure, kind, "together", args.network, 4 * args.images, folder)[1]
            table.add_row([kind, *(f"{spent[part]:.2f}" for part in PARTS), f"{spent['together'] / slower:.2f}",
                           f"{args.images / spent['together']:.0f}", f"{found['together'][-1][1] / 1e6:.0f}",
                           f"{more / 1e6:.0f}"])
    print(f"{table}\none thread for the network, one loader worker; batches of {BATCH}")


if __name__ == "__main__":
    run(main)
