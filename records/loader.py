"""Batches of a data set for one rank, the same for any number of workers."""

import logging
import math
import mmap
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

BATCHES_AHEAD = 4           # batches that a worker prepares before they are asked for
MAX_BAD_SHARE = 0.01        # share of the images seen so far whose records may be bad
MAX_BAD_FEW = 10            # bad records that a short run may have, whatever their share
NAMED_BAD = 5               # bad records that are named in the log; after these, every power of two
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)       # the signals that engine/signals.py listens to


class ShuffledBatches(Sampler):
    """Index arrays int64 [B] of this rank's batches.

    All ranks (W of them) have the same permutation of the images; global batch s is its rows s * W * B to (s + 1) * W * B.
    One rank with batches of 2B therefore sees the same global batches as two ranks with B.  An epoch that was stopped in the
    middle continues after the first ``seen`` images of the permutation, whatever the ranks and the batch size were.
    """

    def __init__(self, images: int, batch_size: int, rank: int, world_size: int, seed: int):
        self.images, self.batch_size, self.rank, self.world_size, self.seed = images, batch_size, rank, world_size, seed
        self.epoch = self.seen = 0
        if len(self) == 0:
            raise UserError(f"the training set has {images} images, a step needs {batch_size * world_size} "
                            f"({world_size} x config.batch_size = {batch_size}); lower config.batch_size")

    def __len__(self) -> int:
        return self.images // (self.batch_size * self.world_size)

    def remaining(self) -> np.ndarray:
        """The images of all ranks in the remaining steps of the epoch, int64 [steps, ranks, batch_size]."""
        order = torch.randperm(self.images, generator=generator(self.seed, "order", self.epoch)).numpy()[self.seen:]
        steps = len(order) // (self.world_size * self.batch_size)
        return order[:steps * self.world_size * self.batch_size].reshape(steps, self.world_size, self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from self.remaining()[:, self.rank]


class OrderedBatches(Sampler):
    """Index arrays of consecutive images: batch k belongs to rank k % W; the batches in ``skip`` are left out."""

    def __init__(self, images: int, batch_size: int, rank: int, world_size: int, skip=()):
        self.images, self.batch_size = images, batch_size
        self.batches = [k for k in range(rank, -(-images // batch_size), world_size) if k not in skip]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[np.ndarray]:
        for k in self.batches:
            yield np.arange(k * self.batch_size, min((k + 1) * self.batch_size, self.images))


class Slots(Dataset):
    """Decodes batches into the slots of one shared memory, which are used again and again.

    With new shared memory for each batch, a worker spends half of its time on page faults.  It is anonymous memory, which forked
    workers share, and no file of /dev/shm, which has 64 MB in a container.
    """

    def __init__(self, faces: Faces, slots: int, batch_size: int, shared: bool):
        self.faces = faces
        shape = slots, batch_size, *faces.shape
        self.images = torch.frombuffer(mmap.mmap(-1, math.prod(shape)), dtype=torch.uint8).view(shape) if shared else \
            torch.empty(shape, dtype=faces.dtype)

    def __getitems__(self, item: tuple[int, np.ndarray]) -> tuple[int, Filled]:
        """(slot, its labels, index and bad records); the images [B, S, S, 3] are in the slot."""
        slot, rows = item
        return slot, self.faces.take(self.images[slot, :len(rows)].numpy(), rows)


class Numbered(Sampler):
    """(slot, rows) of each batch; the slots take turns."""

    def __init__(self, batches, slots: int):
        self.batches, self.slots = batches, slots

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        return ((number % self.slots, rows) for number, rows in enumerate(self.batches))


class BadRecords:
    """Counts of this rank's loader: images seen, and images among them that replaced a bad record."""

    def __init__(self):
        self.seen, self.replaced, self.known = 0, 0, set()

    def add(self, images: int, bad: dict[int, str]) -> None:
        """Count a batch; UserError if more than MAX_BAD_SHARE of the images so far, and more than MAX_BAD_FEW, were bad."""
        self.seen += images
        self.replaced += len(bad)
        log = logging.getLogger("bct")
        for i, problem in bad.items():
            if i not in self.known:
                self.known.add(i)
                if len(self.known) <= NAMED_BAD:
                    log.warning("%s; another image takes its place (config.bad_records)", problem)
                elif len(self.known).bit_count() == 1:
                    log.warning("%d bad records so far, the last: %s", len(self.known), problem)
        if self.replaced > max(MAX_BAD_FEW, MAX_BAD_SHARE * self.seen):
            raise UserError(f"{self.replaced} of {self.seen} images so far had a bad record, more than {100 * MAX_BAD_SHARE:g} % "
                            f"(and more than {MAX_BAD_FEW}); the last: {problem}")


class Loader:
    """Iterates over (images uint8 [B, S, S, 3], labels int64 [B], index int64 [B]) in the order of ``batches``.

    batches: index arrays of at most batch_size images.  workers: processes that decode; 0: this process does, and always if
    ``faces`` has nothing to decode.
    ``bad_records`` counts the records that were replaced (config.bad_records).  Without CUDA the images are a view of a slot,
    which is filled again when the next batch but one is asked for, or the next epoch begins: clone what is kept longer.
    """

    def __init__(self, faces: Faces, batches: ShuffledBatches | OrderedBatches | list, batch_size: int, workers: int):
        self.batches, self.bad_records = batches, BadRecords()
        workers = workers if faces.needs_workers else 0
        if workers:
            give_back_freed_memory()
        ahead = BATCHES_AHEAD * workers
        # A slot for each batch on its way, one for the batch that the caller has, and one for the batch before it.
        self.slots = Slots(faces, ahead + 2, batch_size, shared=workers > 0)
        self.loader = DataLoader(
            self.slots, batch_sampler=Numbered(batches, ahead + 2), num_workers=workers, collate_fn=as_it_is,
            persistent_workers=workers > 0, prefetch_factor=BATCHES_AHEAD if workers else None, worker_init_fn=begin_worker,
            multiprocessing_context="fork" if workers else None,        # a spawned worker would fill slots of its own
            generator=torch.Generator())    # not the global one: its draws must not depend on how often workers start

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
        except UserError as error:      # its traceback would keep the workers' queues, and so the workers, alive for 5 s
            raise error.with_traceback(None) from None
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise UserError(f"a loader process was killed ({str(error).splitlines()[0]}): most often the memory is full; lower "
                            f"config.workers, or look for the reason with dmesg") from None


class TrainLoader(Loader):
    """The loader of a training: each epoch has an order of its own."""

    batches: ShuffledBatches

    def set_epoch(self, epoch: int, seen: int = 0) -> None:
        """The next pass is over the images of ``epoch`` but for the first ``seen``, counted over all ranks."""
        self.batches.epoch, self.batches.seen = epoch, seen


def pinned_copy(images: torch.Tensor) -> torch.Tensor:
    """A copy in pinned memory, which torch does not use again before the GPU has copied it."""
    out = torch.empty_like(images, pin_memory=True)
    out.numpy()[:] = images.numpy()         # torch's copy_ would use several threads, on the cores of the workers
    return out


def as_it_is(batch):
    return batch


def begin_worker(_worker: int) -> None:
    """One thread.  The signals of a scheduler to all processes are ignored: the run needs its batches until it has saved."""
    cv2.setNumThreads(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=end_with_parent, args=(parent_process(),), daemon=True).start()


def end_with_parent(parent: BaseProcess) -> None:
    """End at a SIGTERM of the process that started this one: Python ends the workers of a failed run with it."""
    while True:
        received = signal.sigwaitinfo(SIGNALS)
        if received.si_pid == parent.pid and received.si_signo == signal.SIGTERM:
            os._exit(0)


def train_loader(dataset, batch_size: int, rank: int, world_size: int, seed: int, workers: int) -> TrainLoader:
    """Shuffled batches of this rank, all of batch_size images; call set_epoch before each epoch.

    workers: processes of this rank.  UserError if the data set has too few images for one step.
    """
    batches = ShuffledBatches(len(dataset), batch_size, rank, world_size, seed)
    return TrainLoader(dataset, batches, batch_size, workers)


def ordered_loader(dataset, batch_size: int, rank: int, world_size: int, workers: int, skip=()) -> Loader:
    """Every image once, in order; the ranks share the batches, of which the last may be short.  skip: batches to leave out."""
    return Loader(dataset, OrderedBatches(len(dataset), batch_size, rank, world_size, skip), batch_size, workers)
