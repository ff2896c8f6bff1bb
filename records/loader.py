"""Batches of a data set for one rank, the same whatever the number of workers."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from records.faces import Faces, Filled
from utils.errors import UserError
from utils.memory import give_back_freed_memory
from utils.opencv import cv2
from utils.seed import generator

AHEAD = 4          # batches that a worker prepares before they are asked for
SHARE, FEW = 0.01, 10       # of the images seen so far may be bad records, or so many of a short run
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)     # those that engine/signals.py listens to
NAMED = 5          # bad records that are named in the log; then every power of two


class ShuffledBatches(Sampler):
    """Index arrays of this rank's batches: global batch s is rows s*W*B ... of one permutation for all ranks.

    One rank with batches of 2B therefore sees the same global batches as two ranks with B.  An epoch that was left in
    the middle goes on after the ``seen`` first images of the permutation, whatever ranks and batch size saw them.
    """

    def __init__(self, images: int, batch_size: int, rank: int, world_size: int, seed: int):
        self.images, self.batch_size, self.rank, self.world_size, self.seed = images, batch_size, rank, world_size, seed
        self.epoch = self.seen = 0
        if len(self) == 0:
            raise UserError(f"the training set has {images} images, a step needs {batch_size * world_size} "
                            f"({world_size} x config.batch_size = {batch_size}); lower config.batch_size")

    def __len__(self) -> int:
        return self.images // (self.batch_size * self.world_size)

    def left(self) -> np.ndarray:
        """[steps, ranks, batch_size]: the images of all ranks in the steps that are left of the epoch."""
        order = torch.randperm(self.images, generator=generator(self.seed, "order", self.epoch)).numpy()[self.seen:]
        steps = len(order) // (self.world_size * self.batch_size)
        return order[:steps * self.world_size * self.batch_size].reshape(steps, self.world_size, self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from self.left()[:, self.rank]


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

    def __getitems__(self, item: tuple[int, np.ndarray]) -> tuple[int, Filled]:
        """(slot, labels, index and bad records); the images are in the slot."""
        slot, rows = item
        return slot, self.faces.take(self.images[slot, :len(rows)].numpy(), rows)


class Numbered:
    """(slot, rows) of each batch, the slots in turn."""

    def __init__(self, batches, slots: int):
        self.batches, self.slots = batches, slots

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        return ((number % self.slots, rows) for number, rows in enumerate(self.batches))


class BadRecords:
    """What this rank's loader met: images seen, and those among them whose record was bad and was replaced."""

    def __init__(self):
        self.seen, self.replaced, self.known = 0, 0, set()

    def add(self, images: int, bad: dict[int, str]) -> None:
        """Count a batch; UserError when more than SHARE of the images so far, and more than FEW, were bad."""
        self.seen += images
        self.replaced += len(bad)
        log = logging.getLogger("bct")
        for i, said in bad.items():
            if i not in self.known:
                self.known.add(i)
                if len(self.known) <= NAMED:
                    log.warning("%s; another image takes its place (config.bad_records)", said)
                elif len(self.known).bit_count() == 1:
                    log.warning("%d bad records so far, the last: %s", len(self.known), said)
        if self.replaced > max(FEW, SHARE * self.seen):
            raise UserError(f"{self.replaced} of {self.seen} images so far had a bad record, more than {100 * SHARE:g} % (and "
                            f"more than {FEW}); the last: {said}")


class Loader:
    """Triples (images uint8 [B, S, S, 3], labels int64 [B], index int64 [B]) in the batches' order.

    batches: index arrays of at most batch_size images.  workers: processes; 0 = this one.  ``bad_records`` counts the records
    that the workers had to replace (config.bad_records).  Without CUDA the images are those in the slot, which is filled again
    when the next batch but one is asked for, or the next epoch begins: clone what is kept longer.
    """

    def __init__(self, faces: Faces, batches: Sampler | list, batch_size: int, workers: int):
        self.batches, self.bad_records = batches, BadRecords()
        if workers:
            give_back_freed_memory()
        ahead = AHEAD * workers
        # Slots for the batches on their way, for the one that is copied, and one to spare.
        self.slots = Slots(faces, ahead + 2, batch_size, shared=workers > 0)
        self.loader = DataLoader(
            self.slots, batch_sampler=Numbered(batches, ahead + 2), num_workers=workers, collate_fn=as_it_is,
            persistent_workers=workers > 0, prefetch_factor=AHEAD if workers else None, worker_init_fn=begin_worker,
            generator=torch.Generator())    # its own: how often workers start must not move the global one

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        for slot, (labels, index, bad) in self.filled():
            self.bad_records.add(len(index), bad)
            images = self.slots.images[slot, :len(index)]
            if torch.cuda.is_available():
                images = pinned_copy(images)
            yield images, torch.from_numpy(labels), torch.from_numpy(index)

    def filled(self) -> Iterator[tuple[int, Filled]]:
        try:
            yield from self.loader
        except UserError as error:      # torch's frames hold it in a cycle with the workers' queues: they would end 5 s later
            raise error.with_traceback(None) from None


class TrainLoader(Loader):
    """The loader of a training: each epoch has an order of its own."""

    batches: ShuffledBatches

    def set_epoch(self, epoch: int, seen: int = 0) -> None:
        """The next pass is over the images of ``epoch`` but for the first ``seen``, counted over all ranks."""
        self.batches.epoch, self.batches.seen = epoch, seen


def pinned_copy(images: torch.Tensor) -> torch.Tensor:
    """In memory of its own, which torch uses again only when the GPU, who copies it later, has done so."""
    out = torch.empty_like(images, pin_memory=True)
    out.numpy()[:] = images.numpy()         # torch's copy_ would take the workers' cores for it
    return out


def as_it_is(batch):
    return batch


def begin_worker(_worker: int) -> None:
    """One thread; and deaf to a scheduler that tells all processes to end: the run wants its batches until it has saved."""
    cv2.setNumThreads(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=end_with_parent, args=(parent_process(),), daemon=True).start()


def end_with_parent(parent: BaseProcess) -> None:
    """A SIGTERM of the process that started this one ends it: so Python ends what is left of a run that has failed."""
    while True:
        told = signal.sigwaitinfo(SIGNALS)
        if told.si_pid == parent.pid and told.si_signo == signal.SIGTERM:
            os._exit(0)


def train_loader(dataset, batch_size: int, rank: int, world_size: int, seed: int, workers: int) -> TrainLoader:
    """Shuffled whole batches of this rank; call set_epoch before each epoch.  workers: processes of this rank."""
    batches = ShuffledBatches(len(dataset), batch_size, rank, world_size, seed)
    return TrainLoader(dataset, batches, batch_size, workers)


def ordered_loader(dataset, batch_size: int, rank: int, world_size: int, workers: int, skip=()) -> Loader:
    """Every image once, in order, in whole batches shared by the ranks; the last batch may be short."""
    return Loader(dataset, OrderedBatches(len(dataset), batch_size, rank, world_size, skip), batch_size, workers)
