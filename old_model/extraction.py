"""Old features of the images of a record file, computed by any number of ranks, batch by batch, into files on disk.

The rule: row i of the features and of the labels belongs to image i of the record file.  A run that was stopped is resumed.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from engine.distributed import Ranks
from records.loader import ordered_loader
from utils.arrays import open_npy
from utils.errors import UserError
from utils.files import damage, disk_errors, new_array, put_in_place, write_text
from utils.origin import load_origin, save_origin, short

Embed = Callable[[Tensor], np.ndarray]      # uint8 [B, S, S, 3] RGB -> float32 [B, d]
BothViews = Callable[[Tensor], np.ndarray]  # uint8 [B, S, S, 3] RGB -> float32 [2, B, d]: of the images, of their mirror images
MIRRORED = 1000         # images by which the distance to the mirror image is measured
SYNC_INTERVAL = 10.0    # seconds between two times that rows are written to the disk and their batches marked


class PartialFile:
    """Features float32 [N, d] and labels int64 [N] on disk that grow batch by batch, and a mark for each batch in them.

    The marks belong to a ``plan`` (model, records, batch size ...); with another plan the files start over.
    """

    def __init__(self, features: Path, labels: Path, plan: dict, ranks: Ranks):
        """features, labels: names of the finished files.  A collective: all ranks call it; rank 0 makes the files.

        UserError if the disk is full.
        """
        self.names = {kind: path.with_name(path.name + ".part")
                      for kind, path in (("features", features), ("labels", labels))}
        self.names["done"] = features.with_name(features.name + ".done.part")
        self.plan_file = features.with_name(features.name + ".plan.part")
        self.targets = {"features": features, "labels": labels}
        n, d, batches = plan["images"], plan["dim"], -(-plan["images"] // plan["batch_size"])
        shapes = {"features": (n, d), "labels": (n,), "done": (batches,)}
        types = {"features": np.float32, "labels": np.int64, "done": bool}
        if ranks.rank == 0 and not self.can_resume(plan, shapes):
            try:
                with disk_errors(features):
                    features.parent.mkdir(parents=True, exist_ok=True)
                    self.plan_file.unlink(missing_ok=True)
                    for kind, path in self.names.items():
                        path.unlink(missing_ok=True)        # a new inode: a process that still has the former one maps that
                        new_array(path, types[kind], shapes[kind]).flush()
            except UserError:                   # they are still empty
                for path in self.names.values():
                    path.unlink(missing_ok=True)
                raise
            write_text(self.plan_file, json.dumps(plan))
        dist.barrier()
        self.waiting: list[int] = []
        self.synced = time.monotonic()
        self.features, self.labels, self.done = (open_npy(self.names[kind], "r+") for kind in shapes)
        self.inodes = {kind: path.stat().st_ino for kind, path in self.names.items()}

    def can_resume(self, plan: dict, shapes: dict[str, tuple]) -> bool:
        """Whether an earlier run with this plan left all files in the right shape; they have their .part names again."""
        try:
            if json.loads(self.plan_file.read_text()) != plan:
                return False
            for kind, target in self.targets.items():       # stopped between two renames: this file has its name already
                kept = load_origin(target)
                if not self.names[kind].is_file() and "quick" in kept and not damage(target, kept, whole=False):
                    os.replace(target, self.names[kind])
            return all(open_npy(self.names[kind]).shape == shape for kind, shape in shapes.items())
        except (OSError, ValueError, RecursionError, UserError):
            return False

    def write(self, batch: int, rows: slice, features: np.ndarray, labels: np.ndarray) -> None:
        """Write the rows of a batch; they are marked with those of the last SYNC_INTERVAL."""
        self.features[rows], self.labels[rows] = features, labels
        self.waiting.append(batch)
        if time.monotonic() - self.synced > SYNC_INTERVAL:
            self.mark()

    def mark(self) -> None:
        """Mark the batches written so far, after their rows have reached the disk: marks are right even after a power cut."""
        with disk_errors(self.targets["features"]):
            self.features.flush()
            self.labels.flush()
        self.done[self.waiting] = True
        self.waiting, self.synced = [], time.monotonic()

    def finish(self, origin: dict) -> None:
        """Rename the arrays; one rank calls it, after all ranks have written.

        Each .json is written first: after a stop in between, an array does not fit its .json, instead of seeming to.
        UserError if another extraction has replaced the files meanwhile, which is possible on a file system without locks.
        """
        for kind, path in self.names.items():
            if not path.is_file() or path.stat().st_ino != self.inodes[kind]:
                raise UserError(f"another extraction has replaced {path}; nothing was written; run one extraction at a time, or "
                                f"give each its own feature_save=FOLDER")
        for kind, target in self.targets.items():
            save_origin(target, origin, self.names[kind])
        for kind, target in self.targets.items():
            with disk_errors(target):
                put_in_place(self.names[kind], target)
        self.plan_file.unlink()
        self.names["done"].unlink()


def refuse_to_replace(target: Path, origin: dict) -> None:
    """UserError if the array ``target`` exists and was not computed from exactly what ``origin`` says."""
    if not target.is_file():
        return
    before = load_origin(target)
    different = "; ".join(f"{what}: {short(before.get(what, 'unknown'))} there, {short(value)} now"
                          for what, value in origin.items() if before.get(what) != value)
    if different:
        records, model = (before.get(kind, f"an unknown {kind}") for kind in ("record_file", "model_file"))
        raise UserError(f"{target} holds the features of something else ({before.get('images', '?')} images of {records} by "
                        f"{model}; {different}) and is not replaced; give another feature_save=FOLDER, or --force to replace it")


def extract(embed: Embed, dataset, file: PartialFile, ranks: Ranks, batch_size: int, workers: int) -> None:
    """Embed the batches that are not yet in ``file``; batch k belongs to rank k % world_size.

    The batches are the same for any number of ranks, so the sums inside a layer have the same order and the features the same
    bits.  A collective: all ranks call it.
    """
    done = set(np.flatnonzero(file.done).tolist())
    dist.barrier()                              # all ranks have read the marks before one of them writes more
    loader = ordered_loader(dataset, batch_size, ranks.rank, ranks.world_size, workers, skip=done)
    with tqdm(total=len(dataset), initial=min(len(done) * batch_size, len(dataset)), unit=" images",
              disable=None if ranks.rank == 0 else True) as bar:
        try:
            for images, labels, index in loader:
                first = int(index[0])
                features = embed(images)
                file.write(first // batch_size, slice(first, first + len(index)), features, labels.numpy())
                bar.update(len(index) * ranks.world_size)
        finally:
            file.mark()                         # also after an error or Ctrl-C


def mirror_distances(embed: BothViews, dataset, batch_size: int) -> np.ndarray:
    """||^f - ^f_mirror||_2 of the features of at most MIRRORED images, spread evenly over the data set; float [images].

    A new feature that is as far from its old one is as close to it as the old model itself makes two views of a picture.
    """
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(MIRRORED, len(dataset))).round().astype(np.int64))
    found = []
    for start in range(0, len(rows), batch_size):
        images, _, _ = dataset.__getitems__(rows[start:start + batch_size].tolist())
        one, two = (view / np.maximum(np.linalg.norm(view, axis=1, keepdims=True), 1e-12) for view in embed(images))
        found.append(np.linalg.norm(one - two, axis=1))
    return np.concatenate(found)
