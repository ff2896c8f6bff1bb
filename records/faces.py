"""Face records as a data set: (image, label, index); index i is the i-th image in record order."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from records.images import decode
from records.recordio import Header, RecordReader
from utils.errors import UserError
from utils.opencv import cv2

Batch = tuple[Tensor, Tensor, Tensor]
T = TypeVar("T")
CHUNK = 1 << 16             # records per step of a pass over all labels
MAX_LABEL = 1 << 24         # labels are float32 in the file, which holds every whole number below this one
# Classes of a file without header: more of them than both numbers is an error, because each class needs memory in the head.
MAX_CLASSES = 1 << 20
MAX_CLASSES_PER_IMAGE = 100
MAX_BAD_IN_A_ROW = 100      # bad records that one replacement may step over


def renumber_command(path) -> str:
    """The command that writes a record file again with its people numbered from 0 without a gap."""
    return f"python tools/make_rec/make_rec.py --from-rec {path} --out FOLDER"


class Filled(NamedTuple):
    """What is in a batch.  labels, index: int64 [B], of the images in it; bad: {image asked for: what is wrong with it}."""

    labels: np.ndarray
    index: np.ndarray           # type: ignore[assignment]  # hides tuple.index, which has no use here
    bad: dict[int, str]


class Faces(Dataset):
    """Numbered images of one size.  A subclass has ``fill``, ``__len__``, ``labels`` and ``fingerprint``.

    needs_workers: whether loader processes make reading faster.  Images are uint8 [S, S, 3]; a data set of other things
    overrides ``shape`` and ``dtype``.  path, num_classes, declared: of a data set that is read from a file; ``declared`` is its
    own count of classes.
    """

    image_size: int
    path: Path
    num_classes: int
    declared: int
    needs_workers = True
    dtype = torch.uint8

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return self.image_size, self.image_size, 3

    def fill(self, images: np.ndarray, rows) -> np.ndarray:
        """Decode the images ``rows`` (B numbers) into ``images`` uint8 [B, S, S, 3], RGB; returns their labels, int64 [B]."""
        raise NotImplementedError

    def take(self, images: np.ndarray, rows) -> Filled:
        """As :meth:`fill`, but a data set may put other images in the place of those that it cannot read."""
        return Filled(self.fill(images, rows), np.array(rows, np.int64), {})

    def labels(self) -> np.ndarray:
        """Classes of all images, int64 [N]."""
        raise NotImplementedError

    def how_to_renumber(self) -> str:
        """What closes gaps between the classes, for messages."""
        return f"number the people without gaps with: {renumber_command(self.path)}"

    def __getitems__(self, rows) -> Batch:
        """A whole batch: images uint8 [B, S, S, 3] RGB, labels int64 [B], index int64 [B]."""
        images = np.empty((len(rows), self.image_size, self.image_size, 3), np.uint8)
        labels, index, _ = self.take(images, rows)
        return torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(index)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int, int]:
        image = np.empty((1, self.image_size, self.image_size, 3), np.uint8)
        labels, index, _ = self.take(image, [i])
        return image[0], int(labels[0]), int(index[0])


class FaceRecords(Faces):
    """Images of a .rec file with insightface's header and identity records, with a header alone, or with neither.

    image_size: pixels; images of another size are resized (None: the size of the first image).
    num_classes: replaces the file's own count, ``declared`` (None: by the header, or largest label + 1).
    bad_records: what to do about a record that cannot be read, whose image cannot be decoded, or whose label is not a class.
    "stop": UserError.  "skip": the next good image in record order takes its place (after the last image, the first); labels
    and index of a batch are those of the images in it.
    """

    def __init__(self, path, image_size: int | None = None, num_classes: int | None = None, bad_records: str = "stop"):
        self.bad_records = bad_records
        self.records = RecordReader(path, whole=bad_records == "stop")
        self.path = self.records.path
        first = int(self.records.keys.min())
        header, image = self.records.unpack(first)
        self.values: np.ndarray | None = None
        if header.flag > 0 and len(image) == 0:
            images, self.declared = self.counts(header)
            self.keys = np.arange(1, images + 1)
            if num_classes is None and not 0 < self.declared <= images:
                raise UserError(f"{self.path}: its header promises {self.declared} classes for {images} images; copy or make the "
                                f"file again, or write one without empty classes with: {renumber_command(self.path)}")
        else:
            self.records.check_end()
            self.keys = self.records.keys
            self.num_classes = MAX_LABEL
            self.declared = int(self.labels().max()) + 1
            if num_classes is None and self.declared > max(MAX_CLASSES, MAX_CLASSES_PER_IMAGE * len(self)):
                raise UserError(f"{self.path}: its largest label is {self.declared - 1}, but it has {len(self)} images; number "
                                f"the classes from 0 with: {renumber_command(self.path)}")
        self.num_classes = self.declared if num_classes is None else num_classes
        self.image_size = image_size or len(self.decode(0))

    def counts(self, header: Header) -> tuple[int, int]:
        """(images, classes) that the header record promises; UserError if the images are not those of the index.

        insightface: [images + 1, images + 1 + classes], and an identity record for each class after the images.
        The parts of a split: [images + 1, classes], and no such records.  Neither has more classes than images.
        """
        if len(header.label) != 2 or not all(float(number).is_integer() for number in header.label):
            raise UserError(f"{self.path}: its header holds {header.label[:5].tolist()} instead of two counts; copy or "
                            f"make the file again")
        images, second = int(header.label[0]) - 1, int(header.label[1])
        classes = second - images - 1 if second > images else second
        present = np.count_nonzero((self.records.keys >= 1) & (self.records.keys <= images))
        if present < max(images, 1):
            raise UserError(f"{self.path}: its header promises {images} images, the index has {present} of the keys "
                            f"1 to {images}; copy or make both files again")
        return images, classes

    def __len__(self) -> int:
        return len(self.keys)

    def label(self, i: int) -> int:
        """Class of image i; UserError, which names the record, if its label is not a class of this data set."""
        return self.checked(i, float(self.records.first_labels([self.keys[i]])[0]))

    def checked(self, i: int, value: float) -> int:
        """``value`` as the label of image i; UserError if it is not a class."""
        if not value.is_integer() or not 0 <= value < self.num_classes:
            raise UserError(f"{self.path}: record {self.keys[i]} has label {value:g}, expected a whole number from 0 "
                            f"to {self.num_classes} - 1; correct config.num_classes or the file")
        return int(value)

    def label_values(self) -> np.ndarray:
        """The label of each image as it is in the file, float32 [N]; NaN for a corrupt record with bad_records = "skip".

        One pass over the record headers, in which no image is decoded; the result is kept.
        """
        if self.values is None:
            values = np.empty(len(self), np.float32)
            with tqdm(total=len(self), desc=f"labels of {self.path.name}", unit=" images", delay=3, disable=None) as bar:
                for start in range(0, len(self), CHUNK):
                    chunk = self.records.first_labels(self.keys[start:start + CHUNK], self.bad_records == "skip")
                    values[start:start + CHUNK] = chunk
                    bar.update(len(chunk))
            self.values = values
        return self.values

    def right_labels(self) -> np.ndarray:
        """bool [N]: the label of the image is a class of this data set."""
        values = self.label_values()
        return (values >= 0) & (values < self.num_classes) & (values == np.floor(values))

    def labels(self) -> np.ndarray:
        """Classes of all images, int64 [N].  UserError for a label that is not a class.

        With bad_records = "skip" a bad header has the label of the next good one.
        """
        values, right = self.label_values(), self.right_labels()
        labels = np.where(right, values, 0).astype(np.int64)
        for i in np.flatnonzero(~right).tolist():
            labels[i] = self.next_label(i) if self.bad_records == "skip" else self.checked(i, float(values[i]))
        return labels

    def next_label(self, i: int) -> int:
        """The label of the image that takes the place of image i, by the headers alone."""
        return self.first_good(i, lambda j: self.checked(j, float(self.records.first_labels([self.keys[j]])[0])))[0]

    def first_good(self, i: int, read: Callable[[int], T]) -> tuple[T, int, str]:
        """(read(j), j, what is wrong with image i or "") for the first j of i, i + 1, ..., 0, ... that ``read`` can read."""
        problem = ""
        for j in range(i, i + 1 + min(MAX_BAD_IN_A_ROW, len(self) - 1)):
            try:
                return read(j % len(self)), j % len(self), problem
            except UserError as error:
                problem = problem or str(error)
        raise UserError(f"{problem}; config.bad_records = \"skip\" found none among the next {j - i} images that could take "
                        f"its place")

    def jpeg(self, i: int) -> bytes:
        """The encoded image i as it is in the file."""
        return bytes(self.records.unpack(int(self.keys[i]))[1])

    def decode(self, i: int, data=None) -> np.ndarray:
        """Image i in its own size, uint8 [H, W, 3] RGB.  data: its encoded bytes if they have been read already."""
        try:
            return decode(self.jpeg(i) if data is None else data)
        except ValueError as error:
            key = int(self.keys[i])
            self.records.fail(key, int(self.records.offsets[self.records.row(key)]),
                              f"is not an image that OpenCV can decode ({error})")

    def read_into(self, target: np.ndarray, i: int) -> int:
        """Decode image i as RGB into ``target`` uint8 [S, S, 3]; returns its label."""
        header, data = self.records.unpack(int(self.keys[i]))
        image = self.decode(i, data)
        if image.shape != target.shape:
            image = cv2.resize(image, target.shape[1::-1], interpolation=cv2.INTER_AREA)
        target[:] = image
        return self.checked(i, float(header.label[0]))

    def fill(self, images: np.ndarray, rows) -> np.ndarray:
        self.records.prefetch(self.keys[rows])
        return np.array([self.read_into(target, int(i)) for target, i in zip(images, rows, strict=True)])

    def take(self, images: np.ndarray, rows) -> Filled:
        if self.bad_records == "stop":
            return super().take(images, rows)
        self.records.prefetch(self.keys[rows])
        labels, index, bad = np.empty(len(rows), np.int64), np.array(rows, np.int64), {}
        for k, i in enumerate(index.tolist()):
            labels[k], index[k], problem = self.first_good(i, partial(self.read_into, images[k]))
            if problem:
                bad[i] = problem
        return Filled(labels, index, bad)

    def fingerprint(self) -> str:
        return self.records.fingerprint()


class SyntheticFaces(Faces):
    """Noise of the configured size (config.rec = "synthetic"), to measure training without disk and decoder.

    Image i begins at byte 31 * i (mod 65536) of one block of noise.  Its label is i modulo the number of classes.
    """

    def __init__(self, num_images: int, num_classes: int, image_size: int):
        self.num_images, self.num_classes, self.image_size = num_images, num_classes, image_size
        self.noise = np.random.default_rng(0).integers(0, 256, 65536 + 3 * image_size**2, np.uint8)

    def __len__(self) -> int:
        return self.num_images

    def label(self, i: int) -> int:
        return i % self.num_classes

    def labels(self) -> np.ndarray:
        return np.arange(len(self)) % self.num_classes

    def image(self, i: int) -> np.ndarray:
        side = self.image_size
        return self.noise[31 * i % 65536:][:3 * side**2].reshape(side, side, 3)

    def jpeg(self, i: int) -> bytes:
        return cv2.imencode(".jpg", self.image(i))[1].tobytes()

    def fill(self, images: np.ndarray, rows) -> np.ndarray:
        for target, i in zip(images, rows, strict=True):
            if not 0 <= i < len(self):
                raise IndexError(f"image {i} of {len(self)}")
            target[:] = self.image(int(i))
        return np.asarray(rows, np.int64) % self.num_classes

    def fingerprint(self) -> str:
        return f"synthetic {self.num_images} {self.num_classes} {self.image_size}"
