"""Embeddings of all images of a subset and of their mirror images, computed once and kept in a file."""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from evaluation.align import similarity, warp
from evaluation.models import EmbeddingModel, Replica, describe
from evaluation.protocol import Images
from records.images import decode
from utils.errors import UserError
from utils.files import new_array, written_beside
from utils.memory import give_back_freed_memory
from utils.opencv import cv2
from utils.origin import load_array, load_origin, save_origin
from utils.parts import remove_left_parts

UNREADABLE, READABLE, OUTSIDE = range(3)    # an image file: not decoded; decoded; decoded, but its landmarks are outside of it
MIN_INSIDE = 3                              # landmarks of five that are inside an image whose face is; a profile may lack two


class AlignedFaces(Dataset):
    """Item i: (aligned face uint8 [S, S, 3] RGB, UNREADABLE, READABLE or OUTSIDE); read by worker processes."""

    def __init__(self, images: Images, size: int):
        """size: S, pixels; UserError if the landmarks of an image are all one point."""
        self.folder, self.names, self.size = str(images.folder), images.names, size
        self.matrices, self.landmarks = similarity(images.landmarks, size), images.landmarks
        unusable = np.flatnonzero(~np.isfinite(self.matrices).all((1, 2)))
        if len(unusable):
            row = unusable[0]
            raise UserError(f"expected five different landmarks of {images.names[row]} (row {row + 1} of the landmark file), "
                            f"found one point five times; correct the row")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        try:
            image = decode(Path(f"{self.folder}/{self.names[i]}").read_bytes(), cv2.IMREAD_COLOR_BGR)
        except (OSError, ValueError):       # an exception in a worker would reach the user inside a traceback
            return np.zeros((self.size, self.size, 3), np.uint8), UNREADABLE
        x, y = self.landmarks[i].T
        inside = (x >= 0) & (x < image.shape[1]) & (y >= 0) & (y < image.shape[0])
        return warp(image, self.matrices[i], self.size), READABLE if inside.sum() >= MIN_INSIDE else OUTSIDE


def embeddings(model: EmbeddingModel, images: Images, folder: Path, batch_size: int, workers: int,
               force: bool = False) -> np.ndarray:
    """Embeddings of images and mirror images, float32 [2, N, d], memory-mapped from a file in ``folder``.

    The file's name is made of everything that the numbers depend on (model, landmark file, image files, image size,
    input, output, precision). If the file exists it is used, unless ``force``.  workers: processes that read and align
    images.  UserError if an image or the file cannot be read, or if the model gives NaN or infinity.
    """
    key = [images.fingerprint(), model.image_size, str(model.input), model.output, model.precision]
    name = f"{model.fingerprint[:16]}_{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.npy"
    file = folder / name
    if force or not file.is_file():
        write_embeddings(file, model, images, batch_size, workers)
    else:
        print(f"using the embeddings in {file} (-F computes them again)")
    array = load_array(file, "the same command and -F")
    if note := outside_note(array):
        print(f"warning: {note}")
    if array.shape != (2, len(images), model.dim):
        raise UserError(f"{file} holds {list(array.shape)}, expected {[2, len(images), model.dim]}; run again with -F")
    return array


def outside_note(array: np.ndarray) -> str | None:
    """What to say about embeddings of images whose landmarks are outside of them, without a full stop; None: there are none."""
    file = getattr(array, "filename", None)
    outside = load_origin(Path(file)).get("outside") if file else None
    if not outside:
        return None
    return (f"The landmarks of {outside[0]:,} images lie outside of them (first: {outside[1]}): are they those of the uncropped "
            f"pictures? The aligned faces are mostly black")


def write_embeddings(file: Path, model: EmbeddingModel, images: Images, batch_size: int, workers: int) -> None:
    """Embed batch by batch into ``file``; only a few batches are in memory at a time."""
    faces = AlignedFaces(images, model.image_size)
    remove_left_parts(file.parent)          # of any model: a killed run leaves gigabytes, and the next one is often of another
    give_back_freed_memory()                # a model used before left some, and the forked workers would inherit it
    loader = DataLoader(faces, batch_size, num_workers=workers, worker_init_fn=one_thread, collate_fn=as_arrays)
    try:
        with written_beside(file) as part:
            out = new_array(part, np.float32, (2, len(images), model.dim))
            done, outside = 0, []
            with tqdm(total=len(images), desc="embedding", unit=" images") as bar:
                for readable, features in embed_batches(model.replicas(), loader):
                    rows = slice(done, done + len(readable))
                    check_batch(readable, features, images, done)
                    out[:, rows] = features
                    outside += [images.names[done + i] for i in np.flatnonzero(readable == OUTSIDE)]
                    done = rows.stop
                    bar.update(len(readable))
            out.flush()
    except torch.OutOfMemoryError as error:
        raise UserError(f"the GPU has too little memory for {batch_size} images and their mirror images; "
                        f"run with a smaller -b") from error
    origin = {"model": model.fingerprint, "images": len(images)} | describe(model)
    save_origin(file, origin | ({"outside": [len(outside), str(outside[0])]} if outside else {}))


def as_arrays(items: list[tuple[np.ndarray, bool]]) -> tuple[np.ndarray, np.ndarray]:
    """A batch as arrays, which come through a pipe: tensors would need /dev/shm, which has 64 MB in a container."""
    return np.stack([face for face, _ in items]), np.array([readable for _, readable in items])


def one_thread(worker: int) -> None:
    cv2.setNumThreads(0)        # there is a worker per core already


def embed_batches(replicas: list[Replica], batches: Iterable) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (readable int [B], as AlignedFaces has it; features float32 [2, B, d]) for each batch, in order; replicas take turns.

    Batch k goes to replica k % n as soon as that replica has finished batch k - n: each replica has one batch at a time.
    """
    with ThreadPoolExecutor(len(replicas)) as pool:
        waiting: deque[tuple[np.ndarray, Future]] = deque()     # (readable, features) of the batches in work
        for k, (faces, readable) in enumerate(batches):
            waiting.append((readable, pool.submit(replicas[k % len(replicas)], torch.from_numpy(faces))))
            if len(waiting) == len(replicas):
                readable, features = waiting.popleft()
                yield readable, features.result()
        for readable, features in waiting:
            yield readable, features.result()


def check_batch(readable: np.ndarray, features: np.ndarray, images: Images, start: int) -> None:
    """UserError that names the first image of the batch that was not decoded or whose embedding is not finite."""
    if not readable.all():
        name = images.names[start + readable.argmin()]
        raise UserError(f"{images.folder}/{name} is not an image that OpenCV can decode; restore the file")
    finite = np.isfinite(features).all((0, 2))
    if not finite.all():
        name = images.names[start + finite.argmin()]
        raise UserError(f"the model gives NaN or infinity for {images.folder}/{name}; run without --fp16, or check whether its "
                        f"training diverged")
