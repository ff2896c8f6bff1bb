"""Old features of a record file, computed by any number of ranks into files that grow batch by batch."""

import json
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from engine.distributed import Ranks
from records.images import to_input
from records.loader import ordered_loader
from utils.arrays import open_npy
from utils.errors import UserError
from utils.files import damage, disk_errors, new_array, put_in_place, write_text
from utils.origin import load_origin, save_origin

SYNC = 10.0         # seconds between two times that rows are put on the disk and marked


class PartialFile:
    """Two arrays on disk that grow batch by batch, and a mark for each batch that is in them.

    The marks belong to a ``plan`` (model, records, batch size ...); another plan starts anew.
    """

    def __init__(self, features: Path, labels: Path, plan: dict, ranks: Ranks):
        self.names = {kind: path.with_name(path.name + ".part")
                      for kind, path in (("features", features), ("labels", labels))}
        self.names["done"] = features.with_name(features.name + ".done.part")
        self.plan_file = features.with_name(features.name + ".plan.part")
        self.targets = {"features": features, "labels": labels}
        n, d, batches = plan["images"], plan["dim"], -(-plan["images"] // plan["batch_size"])
        shapes = {"features": (n, d), "labels": (n,), "done": (batches,)}
        types = {"features": np.float32, "labels": np.int64, "done": bool}
        if ranks.rank == 0 and not self.goes_on(plan, shapes):
            try:
                with disk_errors(features):
                    features.parent.mkdir(parents=True, exist_ok=True)
                    self.plan_file.unlink(missing_ok=True)
                    for kind, path in self.names.items():
                        new_array(path, types[kind], shapes[kind]).flush()
            except UserError:                   # nothing is in them yet
                for path in self.names.values():
                    path.unlink(missing_ok=True)
                raise
            write_text(self.plan_file, json.dumps(plan))
        dist.barrier()
        self.waiting: list[int] = []
        self.synced = time.monotonic()
        self.features, self.labels, self.done = (open_npy(self.names[kind], "r+") for kind in shapes)

    def goes_on(self, plan: dict, shapes: dict[str, tuple]) -> bool:
        """Whether an earlier run with this plan has left all of its files, each whole."""
        try:
            if json.loads(self.plan_file.read_text()) != plan:
                return False
            for kind, target in self.targets.items():       # an end between two names: this one has it already
                kept = load_origin(target)
                if not self.names[kind].is_file() and "quick" in kept and not damage(target, kept, whole=False):
                    os.replace(target, self.names[kind])
            return all(open_npy(self.names[kind]).shape == shape for kind, shape in shapes.items())
        except (OSError, ValueError, RecursionError, UserError):
            return False

    def write(self, batch: int, rows: slice, features: np.ndarray, labels: np.ndarray) -> None:
        self.features[rows], self.labels[rows] = features, labels
        self.waiting.append(batch)
        if time.monotonic() - self.synced > SYNC:
            self.mark()

    def mark(self) -> None:
        """Mark what was written, after it is on the disk: a mark does not lie even after a power cut."""
        with disk_errors(self.targets["features"]):
            self.features.flush()
            self.labels.flush()
        self.done[self.waiting] = True
        self.waiting, self.synced = [], time.monotonic()

    def finish(self, origin: dict) -> None:
        """Give the arrays their names; called by one rank, when all have written.

        Each after the .json that describes it: an end in between leaves no array that seems to belong to anything.
        """
        for kind, target in self.targets.items():
            save_origin(target, origin, self.names[kind])
        for kind, target in self.targets.items():
            with disk_errors(target):
                put_in_place(self.names[kind], target)
        self.plan_file.unlink()
        self.names["done"].unlink()


@torch.inference_mode()
def extract(model: torch.nn.Module, dataset, file: PartialFile, ranks: Ranks, batch_size: int, workers: int) -> None:
    """Embed the batches that are not yet in ``file``; batch k belongs to rank k % world_size.

    Whole batches, always the same ones: a layer's sums run in the same order however many ranks there are, and
    the bits agree.
    """
    done = set(np.flatnonzero(file.done).tolist())
    dist.barrier()                              # all ranks have read the marks before one adds to them
    loader = ordered_loader(dataset, batch_size, ranks.rank, ranks.world_size, workers, skip=done)
    with tqdm(total=len(dataset), initial=min(len(done) * batch_size, len(dataset)), unit=" images",
              disable=None if ranks.rank == 0 else True) as bar:
        try:
            for images, labels, index in loader:
                features = model(to_input(images, ranks.device)).float().cpu().numpy()
                first = int(index[0])
                file.write(first // batch_size, slice(first, first + len(index)), features, labels.numpy())
                bar.update(len(index) * ranks.world_size)
        finally:
            file.mark()                         # a stop by an error or Ctrl-C loses nothing
