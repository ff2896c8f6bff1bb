"""Batches of a data set for one rank, the same whatever the number of workers."""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from records.faces import Faces
from utils.errors import UserError
from utils.memory import give_back_freed_memory
from utils.seed import generator

AHEAD = 4          # batches that a worker prepares before they are asked for


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


class Slots(Dataset):
    """Decodes batches into one piece of shared memory, slot by slot, again and again.

    A batch that comes in shared memory of its own costs the worker half of its time in page faults.
    """

    def __init__(self, faces: Faces, slots: int, batch_size: int, shared: bool):
        self.faces = faces
        self.images = torch.empty(slots, batch_size, faces.image_size, faces.image_size, 3, dtype=torch.uint8)
        if shared:
            self.images.share_memory_()

    def __getitems__(self, item: tuple[int, np.ndarray]) -> tuple[int, np.ndarray, np.ndarray]:
        """(slot, labels int64 [B], index int64 [B]); the images are in the slot."""
        slot, rows = item
        return slot, self.faces.fill(self.images[slot, :len(rows)].numpy(), rows), np.asarray(rows, np.int64)


class Numbered:
    """(slot, rows) of each batch, the slots in turn."""

    def __init__(self, batches, slots: int):
        self.batches, self.slots = batches, slots

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        return ((number % self.slots, rows) for number, rows in enumerate(self.batches))


class Loader:
    """Triples (images uint8 [B, S, S, 3], labels int64 [B], index int64 [B]) in the batches' order.

    batches: index arrays of at most batch_size images.  workers: processes; 0 = this one.  Without CUDA the images are
    those in the slot, which is filled again when the next batch but one is asked for, or the next epoch begins: clone what
    is kept longer.
    """

    def __init__(self, faces: Faces, batches: Sampler | list, batch_size: int, workers: int):
        self.batches = batches
        if workers:
            give_back_freed_memory()
        ahead = AHEAD * workers
        # Slots for the batches on their way, for the one that is copied, and one to spare.
        self.slots = Slots(faces, ahead + 2, batch_size, shared=workers > 0)
        self.loader = DataLoader(
            self.slots, batch_sampler=Numbered(batches, ahead + 2), num_workers=workers, collate_fn=as_it_is,
            persistent_workers=workers > 0, prefetch_factor=AHEAD if workers else None, worker_init_fn=one_thread,
            generator=torch.Generator())    # its own: how often workers start must not move the global one

    def set_epoch(self, epoch: int) -> None:
        self.batches.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        for slot, labels, index in self.loader:
            images = self.slots.images[slot, :len(index)]
            if torch.cuda.is_available():
                images = pinned_copy(images)
            yield images, torch.from_numpy(labels), torch.from_numpy(index)


def pinned_copy(images: torch.Tensor) -> torch.Tensor:
    """In memory of its own, which torch uses again only when the GPU, who copies it later, has done so."""
    out = torch.empty_like(images, pin_memory=True)
    out.numpy()[:] = images.numpy()         # torch's copy_ would take the workers' cores for it
    return out


def as_it_is(batch):
    return batch


def one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)


def train_loader(dataset, batch_size: int, rank: int, world_size: int, seed: int, workers: int) -> Loader:
    """Shuffled whole batches of this rank; call set_epoch before each epoch.  workers: processes of this rank."""
    batches = ShuffledBatches(len(dataset), batch_size, rank, world_size, seed)
    return Loader(dataset, batches, batch_size, workers)


def ordered_loader(dataset, batch_size: int, rank: int, world_size: int, workers: int, skip=()) -> Loader:
    """Every image once, in order, in whole batches shared by the ranks; the last batch may be short."""
    return Loader(dataset, OrderedBatches(len(dataset), batch_size, rank, world_size, skip), batch_size, workers)
