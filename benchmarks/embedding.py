"""Speed and memory of embedding, against the slower of decoding and network, which should overlap.

    python benchmarks/embedding.py [--network mbf] [--images 2000]

Records: the work of tools/get_feature, one view of 112x112 JPEGs.  IJB: the work of tools/ijbc_eval, loose crops decoded and
aligned, images and mirror images in one batch.  The network and the loader worker have one thread each, so that on two cores
each half has a core of its own, as GPU and CPU have.  Each measurement runs in a new process; rounds alternate, medians are
printed.  Memory: the largest anonymous memory of a process, for these images and for four times as many.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from prettytable import PrettyTable
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from backbones import get_model
from benchmarks.loader import draw_records
from benchmarks.measure import Peak, in_a_process
from engine.distributed import start_ranks
from evaluation.align import TEMPLATE
from evaluation.embed import AlignedFaces, one_thread, write_embeddings
from evaluation.inputs import InputOptions
from evaluation.models import TorchModel, find_devices
from evaluation.protocol import Images
from old_model.extraction import PartialFile, extract
from records.faces import FaceRecords
from records.images import to_input
from records.loader import ordered_loader
from utils.errors import run
from utils.opencv import cv2

BATCH = 64
CROPS = 256


def draw_crops(folder: Path, images: int) -> Images:
    """Loose crops of 200x240 pixels with the face in the middle; CROPS files are used repeatedly."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    for k in range(CROPS):
        field = cv2.resize(draw.uniform(0, 255, (12, 10, 3)).astype(np.float32), (200, 240), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(f"{folder}/{k}.jpg", np.clip(field + draw.normal(0, 4, field.shape), 0, 255).astype(np.uint8))
    names = np.array([f"{k % CROPS}.jpg" for k in range(images)])
    landmarks = (TEMPLATE + [44, 64] + draw.normal(0, 3, (images, 5, 2))).astype(np.float32)
    each = np.arange(images)
    return Images(folder, names, landmarks, np.ones(images, np.float32), each.astype(np.int32), each, each, "drawn")


def model_of(args, device: torch.device) -> torch.nn.Module:
    torch.manual_seed(0)
    return get_model(args.network, num_features=128, image_size=112).eval().to(device, memory_format=torch.channels_last)


def ready_batches(images: int) -> list[torch.Tensor]:
    batch = torch.randint(256, (BATCH, 112, 112, 3), dtype=torch.uint8)
    return [batch[:min(BATCH, images - start)] for start in range(0, images, BATCH)]


def records_work(part: str, args, images: int, folder: Path):
    ranks = start_ranks()
    faces = FaceRecords(folder / "records")
    faces.keys = faces.keys[:images]
    model = model_of(args, ranks.device)
    if part == "decoding":
        return lambda: [None for _ in ordered_loader(faces, BATCH, 0, 1, workers=1)]
    if part == "network":
        def embed():
            with torch.inference_mode():
                for batch in ready_batches(images):
                    model(to_input(batch, ranks.device)).float().cpu().numpy()
        return embed
    plan = {"images": images, "dim": 128, "batch_size": BATCH}
    file = PartialFile(folder / "f.npy", folder / "l.npy", plan | {"now": time.time()}, ranks)
    def embed(batch):
        with torch.inference_mode():
            return model(to_input(batch, ranks.device)).float().cpu().numpy()
    return lambda: extract(embed, faces, file, ranks, BATCH, workers=1)


def ijb_work(part: str, args, images: int, folder: Path):
    device, = find_devices("cuda:0" if torch.cuda.is_available() else "cpu")
    faces = draw_crops(Path(tempfile.mkdtemp(dir=folder)) / "crops", images)
    weights = folder / "model.pt"
    torch.save(model_of(args, torch.device("cpu")).state_dict(), weights)
    model = TorchModel(str(weights), args.network, [device], fp16=False, options=InputOptions())
    if part == "decoding":
        return lambda: [None for _ in DataLoader(AlignedFaces(faces, 112), BATCH, num_workers=1, worker_init_fn=one_thread)]
    if part == "network":
        return lambda: [model.replicas()[0](batch) for batch in ready_batches(images)]
    return lambda: write_embeddings(folder / "embeddings.npy", model, faces, BATCH, workers=1)


def measure(kind: str, part: str, args, images: int, folder: Path) -> tuple[float, int]:
    """(seconds, largest anonymous memory in bytes)."""
    cv2.setNumThreads(1)
    work = {"records": records_work, "IJB": ijb_work}[kind](part, args, images, folder)
    with Peak() as peak:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin, peak.bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--network", default="mbf", help="one of backbones.NETWORKS")
    parser.add_argument("--images", type=int, default=2000, help="images per measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each part, in turn")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"             # for the processes that measure
    parts = ("decoding", "network", "together")
    table = PrettyTable([f"{args.network}, 112x112", *(f"{part}, s" for part in parts), "ratio to the slower", "images/s", "MB",
                         "MB, 4 x images"], align="r")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "records").mkdir()
        draw_records(folder / "records/train", 4 * args.images)
        for kind in ("records", "IJB"):
            found = {part: [] for part in parts}
            for _ in range(args.rounds):
                for part, values in found.items():
                    values.append(in_a_process(measure, kind, part, args, args.images, folder))
            seconds = {part: statistics.median(s for s, _ in values) for part, values in found.items()}
            slower = max(seconds["decoding"], seconds["network"])
            more = in_a_process(measure, kind, "together", args, 4 * args.images, folder)[1]
            table.add_row([kind, *(f"{seconds[part]:.2f}" for part in parts), f"{seconds['together'] / slower:.2f}",
                           f"{args.images / seconds['together']:.0f}", f"{found['together'][-1][1] / 1e6:.0f}",
                           f"{more / 1e6:.0f}"])
    print(f"{table}\none thread for the network, one loader worker; batches of {BATCH}")


if __name__ == "__main__":
    run(main)
