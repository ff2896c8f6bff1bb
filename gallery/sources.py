"""Where new vectors come from: images that a model embeds, vectors that were computed elsewhere, or a map of the stored ones.

Images of an entry, in this order: the file whose path below the folder is the id, with or without its ending; the file whose name
is the id; all files in the folder that is called like the id. Or a table id,path with a row for each image. Several images of one
entry become the mean of their embeddings. An embedding is the mean of those of the image and of its mirror image, as in compare.
"""

import csv
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from evaluation.detect import Detector, aligned
from evaluation.models import EmbeddingModel
from evaluation.photos import aligned_check, detector_check
from gallery.store import Id
from old_model.vectors import cleaned, read_vectors, without_ending
from records.folders import LeftOut, look
from records.pictures import has_ending
from serving.upgrade import VectorMap
from utils.errors import UserError
from utils.opencv import cv2

BATCH = 128             # images that are embedded at a time


class Source(Protocol):
    """New vectors by id."""

    dim: int
    block: int          # entries that move at a time; if the worker is killed, as many are embedded again

    def has(self, ids: list[Id]) -> np.ndarray:
        """Which ids have an image or a vector, bool [n]; no image is opened."""

    def vectors(self, ids: list[Id], stored: np.ndarray) -> tuple[np.ndarray, dict[Id, str]]:
        """(float32 [n, d], {id: why it has none}); the rows of the latter are 0.  stored: the old vectors, [n, d_old]."""


class StoredVectors:
    """The stored vectors behind a forward map: no image is needed."""

    def __init__(self, mapping: VectorMap):
        self.mapping, self.dim, self.block = mapping, mapping.weight.shape[1], 1000

    def has(self, ids: list[Id]) -> np.ndarray:
        return np.ones(len(ids), bool)

    def vectors(self, ids: list[Id], stored: np.ndarray) -> tuple[np.ndarray, dict[Id, str]]:
        """A mapped vector has the norm of the stored one, so what the norm says about the image is kept."""
        norm = np.linalg.norm(stored.astype(np.float64), axis=1)
        good = np.isfinite(norm) & (norm > 0)
        out = np.zeros((len(ids), self.dim), np.float32)
        mapped = self.mapping((stored[good] / norm[good, None]).astype(np.float32))
        length = np.linalg.norm(mapped, axis=1)
        out[good] = mapped * (norm[good] / np.where(length > 0, length, 1))[:, None]
        return out, {entry: "its stored vector holds NaN, infinity or only zeros"
                     for entry, usable in zip(ids, good, strict=True) if not usable}


class GivenVectors:
    """Vectors in a file, as tools/import_features reads it."""

    def __init__(self, file: Path, ids: Path | None):
        found = read_vectors(file, ids)
        self.values, self.dim, self.file, self.block = found.values, found.values.shape[1], file, 1000
        self.place = {name: row for row, name in enumerate(found.ids)}
        if len(self.place) < len(found.ids):
            raise UserError(f"{len(found.ids) - len(self.place)} ids of {ids or file} occur twice; expected a vector for each id")

    def has(self, ids: list[Id]) -> np.ndarray:
        return np.array([cleaned(str(entry)) in self.place for entry in ids], bool)

    def vectors(self, ids: list[Id], stored: np.ndarray) -> tuple[np.ndarray, dict[Id, str]]:
        out, without = np.zeros((len(ids), self.dim), np.float32), {}
        for row, entry in enumerate(ids):
            place = self.place.get(cleaned(str(entry)))
            if place is None:
                without[entry] = f"no vector in {self.file}"
            else:
                out[row] = self.values[place]
        return out, without


class Images:
    """Images by id, below a folder or listed in a table."""

    def __init__(self, place: Path):
        self.place = place
        self.exact: dict[str, list[Path]] = {}
        self.names: dict[str, list[Path]] = {}
        self.folders: dict[str, list[Path]] = {}
        if place.is_dir():
            self.read_folder()
        elif place.is_file() and place.suffix.lower() in (".csv", ".tsv"):
            self.read_table()
        else:
            raise UserError(f"--images {place}: expected a folder of images, or a table .csv of id,path")

    def read_folder(self) -> None:
        for folder, inside, files in os.walk(self.place):
            inside.sort()
            for path in (Path(folder, name) for name in sorted(files) if has_ending(Path(name))):
                inner = cleaned(path.relative_to(self.place).as_posix())
                for key in (inner, without_ending(inner)):
                    self.exact.setdefault(key, []).append(path)
                for key in (path.name, without_ending(path.name)):
                    self.names.setdefault(cleaned(key), []).append(path)
                if path.parent != self.place:
                    self.folders.setdefault(cleaned(path.parent.name), []).append(path)
        if not self.exact:
            raise UserError(f"--images {self.place}: the folder has no pictures")

    def read_table(self) -> None:
        with open(self.place, newline="", encoding="utf-8-sig") as lines:
            rows = [row for row in csv.reader(lines, delimiter="\t" if self.place.suffix.lower() == ".tsv" else ",") if row]
        rows = rows[rows[:1] == [["id", "path"]]:]
        wrong = next((row for row in rows if len(row) != 2), None)
        if wrong is not None or not rows:
            raise UserError(f"--images {self.place}: expected rows of id,path, found {str(wrong or 'none')[:80]}")
        for entry, path in rows:
            self.exact.setdefault(cleaned(entry), []).append(self.place.parent / path)

    def of(self, entry: Id) -> list[Path]:
        """The files of an entry; UserError if two files with the same name could be meant."""
        key = cleaned(str(entry))
        if self.place.is_file() or key in self.folders and key not in self.exact and key not in self.names:
            return self.exact.get(key, []) or self.folders.get(key, [])
        found = self.exact.get(key) or self.names.get(key) or []
        if len(set(found)) > 1:
            raise UserError(f"the id {entry} belongs to {found[0]} and to {found[1]}; give a table id,path with --images")
        return found[:1]


class EmbeddedImages:
    """Images that a model embeds."""

    def __init__(self, images: Images | None, model: EmbeddingModel, reader: "Reader", rate: float | None = None):
        """rate: images per second at most."""
        self.images, self.model, self.dim, self.rate, self.block = images, model, model.dim, rate, 2 * BATCH
        self.replica, self.reader = model.replicas()[0], reader
        self.next = 0.0             # when the next image may be embedded

    def has(self, ids: list[Id]) -> np.ndarray:
        files = [self.files(entry) for entry in ids]
        return np.array([bool(paths) and all(path.is_file() for path in paths) for paths in files], bool)

    def files(self, entry: Id) -> list[Path]:
        return self.images.of(entry) if self.images else []

    def vectors(self, ids: list[Id], stored: np.ndarray) -> tuple[np.ndarray, dict[Id, str]]:
        files = {entry: self.files(entry) for entry in ids}
        without = {entry: "no image" for entry in ids if not files[entry]}
        jobs = [(row, path) for row, entry in enumerate(ids) for path in files[entry]]
        out, count = np.zeros((len(ids), self.dim), np.float32), np.zeros(len(ids), int)
        with ThreadPoolExecutor(self.reader.threads) as pool:
            for start in range(0, len(jobs), BATCH):
                chunk = jobs[start:start + BATCH]
                read = list(pool.map(self.reader, [path for _, path in chunk]))
                faces = [(row, face) for (row, _), face in zip(chunk, read, strict=True) if isinstance(face, np.ndarray)]
                for (row, path), face in zip(chunk, read, strict=True):
                    if not isinstance(face, np.ndarray):
                        without[ids[row]] = f"{path}: {face}"
                if faces:
                    self.wait(len(faces))
                    rows, found = [row for row, _ in faces], self.embed(np.stack([face for _, face in faces]))
                    np.add.at(out, rows, found)
                    np.add.at(count, rows, 1)
        for row, entry in enumerate(ids):
            if entry in without:            # an entry with one unusable image of several would be another entry
                out[row], count[row] = 0, 1
        return out / np.maximum(count, 1)[:, None], without

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """Mean embeddings of images and mirror images, float32 [B, d].  faces: uint8 [B, S, S, 3] RGB."""
        return self.replica(torch.from_numpy(faces)).mean(0)

    def wait(self, images: int) -> None:
        """Sleep as long as --rate asks for."""
        if self.rate:
            now = time.monotonic()
            time.sleep(max(0.0, self.next - now))
            self.next = max(self.next, now) + images / self.rate


class Reader:
    """Reads a picture as an aligned face of ``size`` pixels."""

    def __init__(self, size: int, resize: bool, detector: Detector | None):
        """detector: the pictures are photographs, in which it finds the face; None: they are aligned faces.

        resize: they may be larger.
        """
        self.size, self.align = size, detector is not None
        self.check = detector_check(detector) if detector else aligned_check(size, resize)
        self.threads = 1 if detector else 4         # a detector works for one thread at a time

    def __call__(self, path: Path) -> np.ndarray | str:
        """uint8 [S, S, 3] RGB, or why there is none."""
        found = look(path, self.face)
        return f"{found.kind} {found.detail}".strip() if isinstance(found, LeftOut) else found.found

    def face(self, data: bytes, image: np.ndarray) -> np.ndarray:
        landmarks = self.check(data, image).landmarks
        if self.align:
            image = aligned(image, landmarks, self.size)
        elif len(image) != self.size:
            image = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(image[:, :, ::-1])
