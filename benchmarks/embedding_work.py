"""Embedding of records and of an IJB set, and its two halves alone: decoding on the CPU and the network on the device."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from backbones import get_model
from benchmarks.inputs import draw_crops, draw_records
from engine.distributed import Ranks
from evaluation.embed import AlignedFaces, one_thread, write_embeddings
from evaluation.inputs import InputOptions
from evaluation.models import TorchModel
from evaluation.protocol import Images
from old_model.extraction import PartialFile, extract
from records.faces import FaceRecords
from records.images import to_input
from records.loader import ordered_loader

KINDS = ("records", "IJB")
PARTS = ("decoding", "network", "together")


@dataclass(frozen=True)
class Embedding:
    """What is embedded and how.

    kind: "records", the work of tools/get_feature, one view; "IJB", that of tools/ijbc_eval, loose crops decoded and aligned,
    images and mirror images in one batch.  folder: of the files, which are made if they are not there.
    """

    kind: str
    folder: Path
    network: str
    images: int
    size: int = 112
    dim: int = 128
    batch: int = 64
    workers: int = 1
    fp16: bool = False

    def model(self, device: torch.device) -> torch.nn.Module:
        torch.manual_seed(0)
        model = get_model(self.network, fp16=self.fp16, num_features=self.dim, image_size=self.size)
        return model.eval().to(device, memory_format=torch.channels_last)

    def ready_batches(self) -> list[torch.Tensor]:
        batch = torch.randint(256, (self.batch, self.size, self.size, 3), dtype=torch.uint8)
        return [batch[:min(self.batch, self.images - start)] for start in range(0, self.images, self.batch)]

    def work(self, part: str, ranks: Ranks) -> Callable[[], object]:
        """A function that does one of PARTS for all images."""
        return self.records_work(part, ranks) if self.kind == "records" else self.ijb_work(part, ranks)

    def faces(self) -> FaceRecords:
        prefix = self.folder / f"records_{self.images}" / "train"
        if not prefix.parent.is_dir():
            prefix.parent.mkdir()
            draw_records(prefix, self.images)
        return FaceRecords(prefix.parent, self.size)

    def records_work(self, part: str, ranks: Ranks) -> Callable[[], object]:
        faces, model = self.faces(), self.model(ranks.device)
        if part == "decoding":
            return partial(exhaust, ordered_loader(faces, self.batch, 0, 1, workers=self.workers))

        def embed(batch: torch.Tensor) -> np.ndarray:
            with torch.inference_mode():
                return model(to_input(batch, ranks.device)).float().cpu().numpy()
        if part == "network":
            return lambda: [embed(batch) for batch in self.ready_batches()]
        plan = {"images": self.images, "dim": self.dim, "batch_size": self.batch, "now": time.time()}
        file = PartialFile(self.folder / "f.npy", self.folder / "l.npy", plan, ranks)
        return lambda: extract(embed, faces, file, ranks, self.batch, self.workers)

    def ijb_work(self, part: str, ranks: Ranks) -> Callable[[], object]:
        faces: Images = draw_crops(self.folder / "crops", self.images)
        weights = self.folder / "model.pt"
        torch.save(self.model(torch.device("cpu")).state_dict(), weights)
        model = TorchModel(str(weights), self.network, [ranks.device], fp16=self.fp16, options=InputOptions())
        if part == "decoding":
            return partial(exhaust, DataLoader(AlignedFaces(faces, self.size), self.batch, num_workers=self.workers,
                                               worker_init_fn=one_thread))
        if part == "network":
            replica, = model.replicas()
            return lambda: [replica(batch) for batch in self.ready_batches()]
        return lambda: write_embeddings(self.folder / "embeddings.npy", model, faces, self.batch, self.workers)


def exhaust(batches) -> None:
    for _ in batches:
        pass
