"""Embeddings of all images of a subset and of their mirror images, computed once and kept for later."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from evaluation.align import similarity, warp
from evaluation.models import EmbeddingModel, Replica
from evaluation.protocol import Images
from records.images import decode
from utils.errors import UserError
from utils.files import new_array, written_beside
from utils.memory import give_back_freed_memory
from utils.origin import load_array, save_origin


class AlignedFaces(Dataset):
    """Item i: (aligned face uint8 [S, S, 3] RGB, whether its file could be decoded); for worker processes."""

    def __init__(self, images: Images, size: int):
        self.folder, self.names, self.size = str(images.folder), images.names, size
        self.matrices = similarity(images.landmarks, size)
        bad = np.flatnonzero(~np.isfinite(self.matrices).all((1, 2)))
        if len(bad):
            raise UserError(f"the five landmarks of {images.names[bad[0]]} (row {bad[0] + 1} of the landmark "
                            f"file) are all one point; nothing can be aligned by them")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> tuple[np.ndarray, bool]:
        try:
            image = decode(Path(f"{self.folder}/{self.names[i]}").read_bytes(), cv2.IMREAD_COLOR_BGR)
        except (OSError, ValueError):       # an exception here would reach the user wrapped in the worker's traceback
            return np.zeros((self.size, self.size, 3), np.uint8), False
        return warp(image, self.matrices[i], self.size), True


def embeddings(model: EmbeddingModel, images: Images, folder: Path, batch_size: int, workers: int,
               force: bool = False) -> np.ndarray:
    """float32 [2, N, d] of images and mirror images, memory-mapped from a file in ``folder``.

    The file's name is made of everything that the numbers depend on (model, landmark file, image files, size,
    pixel scale, precision): it is used again when nothing of that changed, unless ``force``.
    """
    key = [images.fingerprint(), model.image_size, model.pixel_scale, model.precision]
    name = f"{model.fingerprint[:16]}_{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.npy"
    file = folder / name
    if force or not file.is_file():
        write_embeddings(file, model, images, batch_size, workers)
    else:
        print(f"embeddings from {file} (-F computes them again)")
    array = load_array(file, "the same command and -F")
    if array.shape != (2, len(images), model.dim):
        raise UserError(f"{file} holds {list(array.shape)}, expected {[2, len(images), model.dim]}; "
                        f"run again with -F")
    return array


def write_embeddings(file: Path, model: EmbeddingModel, images: Images, batch_size: int, workers: int) -> None:
    """Embed batch by batch straight into ``file``: no more than a few batches are in memory."""
    faces = AlignedFaces(images, model.image_size)
    give_back_freed_memory()                # of a former model: the loader's processes are forked
    loader = DataLoader(faces, batch_size, num_workers=workers, worker_init_fn=one_thread)
    try:
        with written_beside(file, f".{os.getpid()}") as part:
            out = new_array(part, np.float32, (2, len(images), model.dim))
            done = 0
            with tqdm(total=len(images), desc="embedding", unit=" images") as bar:
                for readable, features in embed_batches(model.replicas(), loader):
                    rows = slice(done, done + len(readable))
                    check_batch(readable, features, images, done)
                    out[:, rows] = features
                    done = rows.stop
                    bar.update(len(readable))
            out.flush()
    except torch.OutOfMemoryError as error:
        raise UserError(f"the GPU has too little memory for {batch_size} images and their mirror images; "
                        f"run with a smaller -b") from error
    save_origin(file, {"model": model.fingerprint, "images": len(images), "dim": model.dim})


def one_thread(worker: int) -> None:
    cv2.setNumThreads(0)        # the workers already fill the cores


def embed_batches(replicas: list[Replica], batches: Iterable) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (readable bool [B], features float32 [2, B, d]) in order; the replicas take the batches in turn.

    Batch k goes to replica k % n once batch k - n, its last one, is finished: every replica has one at most.
    """
    with ThreadPoolExecutor(len(replicas)) as pool:
        waiting: deque[tuple[np.ndarray, Future]] = deque()     # (readable, features) of the batches in work
        for k, (faces, readable) in enumerate(batches):
            waiting.append((readable.numpy(), pool.submit(replicas[k % len(replicas)], faces)))
            if len(waiting) == len(replicas):
                readable, features = waiting.popleft()
                yield readable, features.result()
        for readable, features in waiting:
            yield readable, features.result()


def check_batch(readable: np.ndarray, features: np.ndarray, images: Images, start: int) -> None:
    if not readable.all():
        name = images.names[start + readable.argmin()]
        raise UserError(f"{images.folder}/{name} is no image that OpenCV can decode; restore the file")
    finite = np.isfinite(features).all((0, 2))
    if not finite.all():
        name = images.names[start + finite.argmin()]
        raise UserError(f"the model gives NaN or infinity for {images.folder}/{name}; "
                        f"it may have diverged in training, or run without --fp16")
