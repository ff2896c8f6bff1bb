"""What the old model leaves for the training of the new one, read from feature_save and compared with this training.

The rule: row i of every per-image array (features, labels, credible marks) belongs to image i of the record file.  Each
reader compares the number of rows, and the fingerprints of the model and of the records that the array was computed from.
"""

import logging
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.weights import fingerprint, load_state
from old_model.names import artefact, sd_of
from old_model.present import load_present
from records.facts import Facts
from utils.errors import UserError
from utils.files import refuse_cut
from utils.origin import check_origin, describe, load_array, load_origin
from utils.paths import locate
from utils.settings import Settings

ROWS_LOOKED_AT = 256        # rows in which refuse_codes looks for a number that is not whole


def load_features(feature_save: str, sd: str) -> tuple[np.ndarray, np.ndarray, Path]:
    """(features [N, d] memory-mapped, labels int [N], the file of the features) of a source-and-data name.

    UserError if a file is missing, corrupt in any byte, or does not fit the other one.
    """
    command = f"python tools/get_feature/get_feature.py configs/OLD.py --SD {sd}"
    file, label_file = artefact(feature_save, sd, "feature"), artefact(feature_save, sd, "label")
    features, labels = (load_array(path, command, whole=True) for path in (file, label_file))
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or features.ndim != 2:
        raise UserError(f"{file} holds {describe(features)}, {label_file} {describe(labels)}; expected [images, d] and int "
                        f"[images]; make both again with: {command}")
    if len(features) != len(labels):
        raise UserError(f"{file} has {len(features)} rows, {label_file} has {len(labels)}; make both again with: {command}")
    refuse_codes(file, features, command)
    return features, np.asarray(labels), file


def refuse_codes(path: Path, rows: np.ndarray, command: str) -> None:
    """UserError if features are whole numbers: codes of a quantisation, which usually has an offset and so changes all angles.

    Zeros are left to whoever computes with the rows.
    """
    some = np.asarray(rows[np.linspace(0, len(rows) - 1, min(len(rows), ROWS_LOOKED_AT)).astype(np.int64)])
    if rows.dtype.kind != "f" or some.any() and (some == np.floor(some)).all():
        raise UserError(f"{path} holds {describe(rows)} with whole numbers only, from {some.min():g} to {some.max():g}; expected "
                        f"features as the model gives them: for codes, (codes.astype(np.float32) - offset) * scale; or make them "
                        f"with: {command}")


class OldFeatures:
    """Old features of the training images: ``old[index]`` gives unit rows, float32 [B, d], without gradient.

    The file holds the raw feature of one view per image.  It is memory-mapped: for MS1MV3 with 512 dimensions it has
    10.6 GB, which all processes of a machine share.
    images, dim: rows and columns that the file must have.  records, model: fingerprints of what it must come from (None:
    not compared).  UserError if anything differs.
    """

    def __init__(self, path: Path, *, images: int, dim: int, records: str | None = None,
                 model: str | None = None):
        command = f"python tools/get_feature/get_feature.py configs/OLD.py --SD {sd_of(path)}"
        self.rows = load_array(path, command)
        if self.rows.ndim != 2 or self.rows.shape[1] != dim:
            raise UserError(f"{path} holds {describe(self.rows)}, expected [{images}, {dim}]: config.old_dim "
                            f"(None: config.embedding_size) must be the number of dimensions of the old model")
        if len(self.rows) != images:
            raise UserError(f"{path} has {len(self.rows)} rows, the training set has {images} images; "
                            f"make it for this set with: {command}")
        check_origin(path, command, records=records, model=model)
        refuse_codes(path, self.rows, command)
        self.path, self.file = path, path.stat()
        present = load_present(path, images)
        self.present = None if present is None else torch.from_numpy(present)       # bool [images]; None: all have a vector
        if self.present is not None:
            logging.getLogger("bct").info("%s: %d of %d images have no old vector; they take part without the old side's term",
                                          path, images - int(self.present.sum()), images)

    def part(self, index: Tensor, device: torch.device) -> Tensor | None:
        """bool [B] on the device: the image has an old vector; None: all images of the training set have one."""
        return None if self.present is None else self.present[index].to(device, non_blocking=True)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Unit rows float32 [B, d] for index int64 [B], both on the CPU.

        With CUDA the rows are in pinned memory: their copy to the device does not wait for what runs there. The row of an image
        without an old vector is zeros.  UserError if another row is zeros, NaN or infinite, or if the file has been cut short.
        """
        rows = unit_rows_of(self.path, self.file, self.rows, index.numpy(), self.present)
        return rows.pin_memory() if torch.cuda.is_available() else rows


def unit_rows_of(path: Path, before: os.stat_result, rows: np.ndarray, index: np.ndarray,
                 present: Tensor | None = None) -> Tensor:
    """The rows ``index`` int64 [B] of the memory-mapped features in ``path`` at norm 1, float32 [B, d].

    before: of the file when it was opened.  present: bool [N], False: the image has no vector, and its row is zeros.
    UserError if another row is zeros, NaN or infinite, or if the file has been cut short.
    """
    refuse_cut(path, before)
    chosen = torch.from_numpy(rows[index]).float()
    absent = torch.zeros(len(index), dtype=torch.bool) if present is None else ~present[index]
    chosen[absent] = 0
    norms = chosen.norm(dim=1)
    good = (norms > 0) & norms.isfinite() | absent
    if not good.all():
        raise UserError(f"{path}: the feature of image {index[int((~good).int().argmax())]} is zeros, NaN or infinite; extract "
                        f"the features again with tools/get_feature/get_feature.py")
    return F.normalize(chosen)


def old_side(cfg: Settings, data: Facts, kind: str) -> dict:
    """Where the artefact config.<kind> is, and what it must belong to: arguments of the readers here.

    data: images and fingerprint of the training set.  If the old model's file exists, the artefact must come from that very
    model.
    """
    if cfg[kind] is None:
        raise UserError(f"config.{kind} is not set: this method needs it (BCT_Methods/scenarios.py fills it in; "
                        f"several old models need a list with an entry for each)")
    model = None
    if cfg.old_model is not None and Path(cfg.old_model).is_file():
        model = fingerprint(load_state(cfg.old_model))
    return dict(path=locate(cfg[kind], cfg.feature_save), images=data.images, records=data.fingerprint, model=model)


def load_credible(path: Path, *, images: int, records: str | None = None, model: str | None = None) -> Tensor:
    """Credible marks, bool [images] on the CPU.  True: the old feature of this image may replace its new one.

    Arguments and errors as for :class:`OldFeatures`.
    """
    command = f"python tools/get_feature/denoise_credible.py --T 0.9 --SD {sd_of(path)}"
    mask = load_array(path, command)
    if mask.dtype != bool or mask.shape != (images,):
        raise UserError(f"{path} holds {describe(mask)}, expected bool [{images}] (one mark per training image); "
                        f"make it again with: {command}")
    check_origin(path, command, records=records, model=model)
    check_features(path, command)
    return torch.from_numpy(np.array(mask))


def load_labels(path: Path, *, images: int, num_classes: int, records: str | None = None,
                model: str | None = None) -> np.ndarray:
    """Classes of the images, int64 [images], from the label file next to the feature file ``path``.

    Other arguments and errors as for :class:`OldFeatures`.
    """
    command = f"python tools/get_feature/get_feature.py configs/OLD.py --SD {sd_of(path)}"
    path = path.with_name(f"{sd_of(path)}_label.npy")
    labels = np.array(load_array(path, command))
    if labels.shape != (images,) or labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(f"{path} holds {describe(labels)} with values from {labels.min()} to {labels.max()}, expected "
                        f"[{images}] classes from 0 to {num_classes} - 1; make it again with: {command}")
    check_origin(path, command, records=records, model=model)
    return labels.astype(np.int64)


def load_prototypes(path: Path, *, images: int, num_classes: int, dim: int, classes: slice,
                    records: str | None = None, model: str | None = None) -> Tensor:
    """Mean old features of the ``classes`` out of num_classes, as unit rows float32 [classes, dim].

    A class without an old vector has a row of zeros (:func:`classes_left_out`).
    Other arguments and errors as for :class:`OldFeatures`.
    """
    command = f"python tools/get_feature/get_avg_feature.py --SD {sd_of(path)}"
    prototypes = load_array(path, command)
    if prototypes.shape != (num_classes, dim):
        raise UserError(f"{path} holds {describe(prototypes)}, expected [{num_classes}, {dim}] (classes and dimensions "
                        f"of the new model); make it for this set with: {command}, and leave "
                        f"config.num_classes unset")
    check_origin(path, command, images=images, records=records, model=model)
    check_features(path, command)
    return F.normalize(torch.from_numpy(np.array(prototypes[classes], np.float32)))


def origin_from(features: Path) -> dict:
    """The origin of an array that is computed from the features in a file: theirs, and their checksum."""
    origin = load_origin(features)
    return origin | {"features": origin.get("sha256")}


def check_features(path: Path, command: str) -> None:
    """UserError if the array was computed from other features than those that are next to it now, as far as is known.

    Features of the same model and images can differ, by the input that the model was given or by the list of the images.
    """
    features = path.with_name(f"{sd_of(path)}_feature.npy")
    before, now = load_origin(path).get("features"), load_origin(features).get("sha256")
    if None not in (before, now) and before != now:
        raise UserError(f"{path} was computed from other features than {features.name} holds now; make it again with: {command}")


def classes_left_out(path: Path) -> int:
    """Classes none of whose images has an old vector, by the origin of the prototypes in ``path``."""
    return int(load_origin(path).get("classes_left_out", 0))
