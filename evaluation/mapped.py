"""Features of a version behind a map."""

import numpy as np

from evaluation.map_forms import Map
from evaluation.maps import FORWARD
from evaluation.protocol import Images
from evaluation.templates import template_features
from evaluation.verification import Rows


class MappedRows:
    """``mapping(features)``: Rows that are mapped when they are read."""

    def __init__(self, features: Rows, mapping: Map):
        self.features, self.mapping, self.shape = features, mapping, (len(features), mapping.dims[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        return self.mapping(self.features[rows])


def mapped_name(name: str, kind: str, direction: str) -> str:
    """The name of a version with a map."""
    return f"{name}+{kind}" + ("-forward" if direction == FORWARD else "")


def mapped_side(views: list[np.ndarray], side: Rows, mapping: Map, images: Images | None) -> Rows:
    """One side of a version's features, mapped: images before they become templates, feature files when they are read.

    views: embeddings of the ``images``; side: rows of feature files, if there are no images.
    """
    if images is None:
        return MappedRows(side, mapping)
    return template_features([mapping(view) for view in views], images)
