"""Face records as a data set: (image, label, index); index i is the i-th image in record order."""

import logging
import math

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from records.recordio import RecordReader
from utils.errors import UserError

Batch = tuple[Tensor, Tensor, Tensor]
CHUNK = 1 << 16             # records per step of a pass over all labels


class Faces(Dataset):
    """Numbered images of one size: ``fill`` decodes some of them, the rest follows from it."""

    image_size: int

    def fill(self, images: np.ndarray, rows) -> np.ndarray:
        """Put the images ``rows`` into ``images`` uint8 [B, S, S, 3], RGB; their labels, int64 [B]."""
        raise NotImplementedError

    def __getitems__(self, rows) -> Batch:
        """A whole batch: images uint8 [B, S, S, 3] RGB, labels int64 [B], index int64 [B]."""
        images = np.empty((len(rows), self.image_size, self.image_size, 3), np.uint8)
        labels = self.fill(images, rows)
        return torch.from_numpy(images), torch.from_numpy(labels), torch.as_tensor(np.asarray(rows), dtype=torch.int64)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int, int]:
        image = np.empty((1, self.image_size, self.image_size, 3), np.uint8)
        return image[0], int(self.fill(image, [i])[0]), i


class FaceRecords(Faces):
    """Images of a .rec file with insightface's header and identity records, with a header alone, or with neither.

    image_size: pixels; images of another size are resized (None = the size of the first image).
    num_classes: wins over the file's own count, with a warning; None = header, or largest label + 1.
    """

    def __init__(self, path, image_size: int | None = None, num_classes: int | None = None):
        self.records = RecordReader(path)
        self.path = self.records.path
        first = int(self.records.keys.min())
        header, image = self.records.unpack(first)
        classes = None
        if header.flag > 0 and len(image) == 0:
            # insightface: [images + 1, images + 1 + classes], the classes' identity records follow the images;
            # the parts of a split: [images + 1, classes], images only.  Neither has more classes than images.
            if not np.isfinite(header.label).all():
                raise UserError(f"{self.path}: its header holds {header.label.tolist()} instead of two counts; copy or "
                                f"make the file again")
            images, second = int(header.label[0]) - 1, int(header.label[-1])
            classes = second - images - 1 if second > images else second
            self.keys = np.arange(1, images + 1)
            found = np.count_nonzero((self.records.keys >= 1) & (self.records.keys <= images))
            if found < max(images, 1):
                raise UserError(f"{self.path}: its header promises {images} images, the index has {found} of the keys "
                                f"1 to {images}; copy or make both files again")
        else:
            self.records.check_end()
            self.keys = self.records.keys
        self.num_classes = math.inf if classes is None else classes
        if classes is None:
            classes = int(self.labels().max()) + 1
        if num_classes is not None and num_classes != classes:
            logging.getLogger("bct").warning(
                "config.num_classes = %d, but %s has %d classes: %d %s", num_classes, self.path, classes,
                abs(num_classes - classes), "classes have no image and act as negatives"
                if num_classes > classes else "classes do not fit")
        self.num_classes = classes if num_classes is None else num_classes
        self.image_size = image_size or len(self.decode(0))

    def __len__(self) -> int:
        return len(self.keys)

    def label(self, i: int) -> int:
        """Class of image i; a label that is no class of this set is refused by name."""
        return self.checked(i, float(self.records.first_labels([self.keys[i]])[0]))

    def checked(self, i: int, value: float) -> int:
        if not value.is_integer() or not 0 <= value < self.num_classes:
            raise UserError(f"{self.path}: record {self.keys[i]} has label {value:g}, expected a whole number from 0 "
                            f"to {self.num_classes} - 1; correct config.num_classes or the file")
        return int(value)

    def labels(self) -> np.ndarray:
        """int64 [N]; one pass over the record headers, nothing is decoded."""
        labels = np.empty(len(self), np.int64)
        with tqdm(total=len(self), desc=f"labels of {self.path.name}", unit=" images", delay=3, disable=None) as bar:
            for start in range(0, len(self), CHUNK):
                found = self.records.first_labels(self.keys[start:start + CHUNK])
                good = (found >= 0) & (found < self.num_classes) & (found == np.floor(found))
                if not good.all():
                    self.checked(start + int(np.argmin(good)), float(found[np.argmin(good)]))
                labels[start:start + CHUNK] = found
                bar.update(len(found))
        return labels

    def jpeg(self, i: int) -> bytes:
        """The encoded image i as it is in the file."""
        return bytes(self.records.unpack(int(self.keys[i]))[1])

    def decode(self, i: int, data=None) -> np.ndarray:
        """Image i, uint8 [H, W, 3] RGB in its own size."""
        data = self.jpeg(i) if data is None else data
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if len(data) else None
        if image is None:
            key = int(self.keys[i])
            self.records.fail(key, int(self.records.offsets[self.records.row(key)]), "is no image that cv2 can decode")
        return image

    def read_into(self, target: np.ndarray, i: int) -> int:
        """Decode image i as RGB into ``target`` uint8 [S, S, 3]; its label."""
        header, data = self.records.unpack(int(self.keys[i]))
        image = self.decode(i, data)
        if image.shape != target.shape:
            image = cv2.resize(image, target.shape[1::-1], interpolation=cv2.INTER_AREA)
        target[:] = image
        return self.checked(i, float(header.label[0]))

    def fill(self, images: np.ndarray, rows) -> np.ndarray:
        self.records.prefetch(self.keys[rows])
        return np.array([self.read_into(target, int(i)) for target, i in zip(images, rows, strict=True)])

    def fingerprint(self) -> str:
        return self.records.fingerprint()


class SyntheticFaces(Faces):
    """Noise of the configured size (config.rec = "synthetic"): what training costs without disk and decoder.

    Image i begins at byte 31 * i (mod 65536) of one block of noise.
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
