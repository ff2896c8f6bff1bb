"""Templates: one unit feature from the embeddings of all images of a template.

The feature is linear in the images' embeddings: their mean within a medium (a photograph or a video), then the sum over the
media, then scaled to norm 1.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from evaluation.protocol import Images

IMAGES_PER_BLOCK = 16_384       # embeddings in memory at a time


class Mode(NamedTuple):
    """How an image's embedding enters its template; str() gives insightface's name, N0D1F1 by default."""

    normalise: bool = False     # N1: scaled to norm 1; N0: its norm, a sign of quality, counts
    detector: bool = True       # D1: weighted by the face detector's score
    flip: bool = True           # F1: the embeddings of the image and of its mirror image are added

    def __str__(self) -> str:
        return f"N{self.normalise:d}D{self.detector:d}F{self.flip:d}"


DEFAULT = Mode()
MODES = [Mode(*flags) for flags in product((False, True), repeat=3)]


def template_features(embeddings: Sequence[np.ndarray], images: Images, mode: Mode = DEFAULT) -> np.ndarray:
    """Unit features of all templates, float32 [T, d], in the order of images.template_ids.

    embeddings: float32 [2, N, d], or two arrays [N, d], of images and mirror images, as the network computed them. If they are
    mapped from a file, they are read once and not copied.
    """
    views = [np.asarray(view) for view in embeddings[:1 + mode.flip]]
    weight = image_weights(images, mode.detector)
    if mode.normalise:
        weight /= norms(views)
    count = len(images)
    sums = csr_array((weight, (images.templates, np.arange(count))), (len(images.template_ids), count))
    features = sum(sums @ view for view in views)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def image_weights(images: Images, detector: bool) -> np.ndarray:
    """Weight of each image, float32 [N]: 1 / number of images of its medium in its template; times its score if ``detector``."""
    media, medium = np.unique(images.media, return_inverse=True)
    group = images.templates.astype(np.int64) * len(media) + medium
    _, inverse, count = np.unique(group, return_inverse=True, return_counts=True)
    weight = (1 / count[inverse]).astype(np.float32)
    return weight * images.scores if detector else weight


def norms(views: Sequence[np.ndarray]) -> np.ndarray:
    """Norms of the sum of the views (images, mirror images; [N, d]), float32 [N], block by block; at least 1e-12."""
    out = np.empty(len(views[0]), np.float32)
    for start in range(0, len(out), IMAGES_PER_BLOCK):
        rows = slice(start, start + IMAGES_PER_BLOCK)
        out[rows] = np.linalg.norm(sum(view[rows].astype(np.float32, copy=False) for view in views), axis=1)
    return np.maximum(out, 1e-12)
