"""Which classes of a record file have images.  A class without one is trained, too: as a negative of everybody."""

import numpy as np

from records.faces import Faces
from utils.errors import UserError


def images_of_classes(faces: Faces) -> np.ndarray:
    """Images of each class, int64 [num_classes].  UserError if a label is not a class, or if only one person has images."""
    counts = np.bincount(faces.labels(), minlength=faces.num_classes)
    if np.count_nonzero(counts) < 2:
        raise UserError(f"{faces.path} holds one identity (label {counts.argmax()}), so nothing can be learnt; expected images "
                        f"of two or more; write the file again with tools/make_rec from the folders of several people")
    return counts


def remarks(faces: Faces, counts: np.ndarray) -> list[str]:
    """A sentence for config.num_classes if it is not what the file declares, and one for declared classes without an image.

    counts: of :func:`images_of_classes`.
    """
    sentences, classes = [], min(faces.num_classes, faces.declared)
    if faces.num_classes > faces.declared:
        empty = np.count_nonzero(counts[faces.declared:] == 0)
        if empty:
            sentences.append(f"config.num_classes = {faces.num_classes}, but {faces.path} has {faces.declared} classes: {empty} "
                             f"classes have no image and act as negatives")
    elif faces.num_classes < faces.declared:
        sentences.append(f"config.num_classes = {faces.num_classes}, but {faces.path} has {faces.declared} classes: those from "
                         f"{faces.num_classes} up have no image and are left out")
    empty = np.count_nonzero(counts[:classes] == 0)
    if empty:
        sentences.append(f"{faces.path}: {classes - empty} people, {classes} classes declared: {empty} classes have no image and "
                         f"act as negatives of everybody; {faces.how_to_renumber()}")
    return sentences
