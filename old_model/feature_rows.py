"""Stored features of a finished model as a training set, in the place of images (networks of backbones/feature_maps.py).

Row i of NAME_feature.npy [N, d] (or NAME.npy) is image i of a record file, its class is in NAME_label.npy, int [N].  Rows may be
raw: each is scaled to norm 1 when it is read.  There is nothing to decode and nothing to mirror.
"""

from pathlib import Path

import numpy as np
import torch

from backbones.feature_maps import is_feature_network
from old_model.features import refuse_codes, unit_rows_of
from old_model.names import sd_of
from records.faces import MAX_CLASSES, MAX_CLASSES_PER_IMAGE, Faces
from utils.arrays import open_npy
from utils.errors import UserError
from utils.origin import check_origin, describe, load_array, load_origin
from utils.paths import locate
from utils.settings import Settings

COMMAND = "python tools/get_feature/get_feature.py or tools/import_features/import_features.py"


def is_of_features(cfg: Settings) -> bool:
    """Whether a training with these settings is on stored features."""
    return is_feature_network(cfg.network)


def feature_file(cfg: Settings) -> Path:
    """The file of config.rec for a training on features: a name in feature_save or a path, with or without .npy.

    UserError if it is not there.
    """
    names = [cfg.rec] if cfg.rec.endswith(".npy") else [cfg.rec, f"{cfg.rec}.npy"]
    files = [locate(name, cfg.feature_save) for name in names]
    found = next((file for file in files if file.is_file() and file.suffix == ".npy"), None)
    if found is None:
        raise UserError(f"no file {files[-1]}: config.network = {cfg.network} is trained on stored features; expected "
                        f"config.rec = NAME_feature.npy, which {COMMAND} writes")
    return found


def label_file(features: Path) -> Path:
    """The file of the classes of a feature file."""
    return features.with_name(f"{sd_of(features)}_label.npy")


def feature_dim(cfg: Settings) -> int:
    """d of the features of config.rec, by the header of the file."""
    file = feature_file(cfg)
    try:
        return open_npy(file).shape[-1]
    except ValueError as error:
        raise UserError(f"{file} is not a whole .npy file ({error}); make it again with: {COMMAND}") from error


class FeatureRows(Faces):
    """Rows float32 [B, d] of norm 1, with class and number, in place of images.

    num_classes: replaces the count by the labels, ``declared``.  UserError if the files are missing, corrupt or do not fit each
    other; for a row of zeros, NaN or infinity when it is read.
    """

    needs_workers = False
    dtype = torch.float32

    def __init__(self, path: Path, num_classes: int | None = None):
        self.path, self.file = path, path.stat()
        self.rows, labels = load_array(path, COMMAND), load_array(label_file(path), COMMAND, whole=True)
        if self.rows.ndim != 2 or labels.shape != self.rows.shape[:1] or labels.dtype.kind not in "iu":
            raise UserError(f"{path} holds {describe(self.rows)}, {label_file(path)} {describe(labels)}; expected features "
                            f"[images, d] and classes int [images]; make both again with: {COMMAND}")
        refuse_codes(path, self.rows, COMMAND)
        self.records = load_origin(path).get("records")
        check_origin(label_file(path), COMMAND, records=self.records)
        self.declared = int(labels.max()) + 1
        self.num_classes = num_classes or self.declared
        if labels.min() < 0 or self.declared > self.num_classes or \
                num_classes is None and self.declared > max(MAX_CLASSES, MAX_CLASSES_PER_IMAGE * len(labels)):
            raise UserError(f"{label_file(path)} holds classes from {labels.min()} to {labels.max()} for {len(labels)} images; "
                            f"expected whole numbers from 0 without large gaps, below config.num_classes if that is set")
        self.classes = np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape[1:]

    def label(self, i: int) -> int:
        return int(self.classes[i])

    def labels(self) -> np.ndarray:
        return self.classes

    def how_to_renumber(self) -> str:
        return f"number the classes in {label_file(self.path)} from 0 without gaps"

    def fill(self, images: np.ndarray, rows) -> np.ndarray:
        """Write the rows of norm 1 into ``images`` float32 [B, d]; returns their labels, int64 [B]."""
        rows = np.asarray(rows, np.int64)
        images[:] = unit_rows_of(self.path, self.file, self.rows, rows).numpy()
        return self.classes[rows]

    def fingerprint(self) -> str | None:
        """Of the record file that the features are of; None if their origin is not known."""
        return self.records
