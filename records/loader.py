"""Batches of a data set for one rank, the same whatever the number of workers."""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from utils.errors import UserError
from utils.seed import generator


class ShuffledBatches(Sampler):
    """Index arrays of this rank's batches: global batch s is rows s*W*B ... of one permutation for all ranks.

    One rank with batches of 2B therefore sees the same global batches as two ranks with B.
    """

    def __init__(self, images: int, batch_size: int, rank: int, world_size: int, seed: int):
        self.images, self.batch_size, self.rank, self.world_size, self.seed = images, batch_size, rank, world_size, seed
        self.epoch = 0
        if len(self) == 0:
            raise UserError(f"the training set has {images} images, a step needs {batch_size * world_size} "
                            f"({world_size} x config.batch_size = {batch_size}); lower config.batch_size")

    def __len__(self) -> int:
        return self.images // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        order = torch.randperm(self.images, generator=generator(self.seed, "order", self.epoch)).numpy()
        whole = order[:len(self) * self.world_size * self.batch_size]
        yield from whole.reshape(len(self), self.world_size, self.batch_size)[:, self.rank]


class OrderedBatches(Sampler):
    """Index arrays of consecutive images: batch k belongs to rank k % W; batches in ``skip`` are left out."""

    def __init__(self, images: int, batch_size: int, rank: int, world_size: int, skip=()):
        self.images, self.batch_size = images, batch_size
        self.batches = [k for k in range(rank, -(-images // batch_size), world_size) if k not in skip]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[np.ndarray]:
        for k in self.batches:
            yield np.arange(k * self.batch_size, min((k + 1) * self.batch_size, self.images))


class Loader:
    """Triples (images uint8 [B, S, S, 3], labels int64 [B], index int64 [B]) in the batches' order."""

    def __init__(self, dataset, batches: Sampler, workers: int):
        self.batches = batches
        self.loader = DataLoader(
            dataset, batch_sampler=batches, num_workers=workers, collate_fn=whole_batch,
            pin_memory=torch.cuda.is_available(), persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None, worker_init_fn=one_thread,
            generator=torch.Generator())    # its own: how often workers start must not move the global one

    def set_epoch(self, epoch: int) -> None:
        self.batches.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.loader)


def whole_batch(batch):
    return batch


def one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)


def train_loader(dataset, batch_size: int, rank: int, world_size: int, seed: int, workers: int) -> Loader:
    """Shuffled whole batches of this rank; call set_epoch before each epoch.  workers: processes of this rank."""
    return Loader(dataset, ShuffledBatches(len(dataset), batch_size, rank, world_size, seed), workers)


def ordered_loader(dataset, batch_size: int, rank: int, world_size: int, workers: int, skip=()) -> Loader:
    """Every image once, in order, in whole batches shared by the ranks; the last batch may be short."""
    return Loader(dataset, OrderedBatches(len(dataset), batch_size, rank, world_size, skip), workers)
