"""One picture of an identity: pose, expression, light, covers and camera, drawn with OpenCV.

The contours are lifted onto the head's surface, turned, projected and filled; light falls on the person's normals;
a camera with tone curve, blur and noise takes the picture.  `scene` numbers styling, light, clothes and covers,
`image` numbers pose, expression and camera, so that the frames of one video share what such frames share.
"""

from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import NamedTuple

import cv2
import numpy as np

from records.rehearsal import contours
from records.rehearsal.contours import Shape
from records.rehearsal.identity import (FRAME, MAP, MIDDLE_Y, SCENE, SPAN, Identity, displacement, draws, height,
                                        varied)

# Five landmarks of the aligned 112 x 112 crop (insightface's), and the distance between its eyes.
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
                     [70.7299, 92.2041]])
EYE_DISTANCE = 35.24 / 112                                           # of the side of an aligned crop
PIVOT = np.array([0.0, 0.35, -0.35])                                 # the head turns about this point


@dataclass(frozen=True)
class Difficulty:
    """Strength of everything that changes between two pictures of one person; 0 everywhere = passport photographs."""
    yaw: float = 20.0          # degrees, standard deviation
    pitch: float = 10.0        # degrees, standard deviation
    roll: float = 9.0          # degrees, standard deviation (alignment removes most of it)
    sway: float = 1.0          # factor on the column `within` of the parameter table
    light: float = 1.0         # how far the lamp moves from the front, and how deep the shadows are
    exposure: float = 0.30     # standard deviation of the logarithm of the overall gain
    tint: float = 0.10         # standard deviation of the logarithm of each colour channel's gain
    contrast: float = 0.18     # standard deviation of the logarithm of gamma
    blur: float = 0.035        # mean of the Gaussian's sigma, in distances between the eyes
    noise: float = 7.0         # mean amplitude, in grey levels
    covers: float = 0.22       # probability of a cap, a scarf or a hand
    detector: float = 0.030    # error of the five landmarks, in distances between the eyes, standard deviation
    compression: float = 1.0   # 0: JPEG quality 95; 1: 55 to 95

    def scaled(self, factor: float) -> "Difficulty":
        """Everything `factor` times as strong: the one knob."""
        return Difficulty(*[factor * getattr(self, field.name) for field in fields(self)])


class Picture(NamedTuple):
    """rgb: uint8 [H, W, 3].  landmarks: float32 [5, 2], x and y as a detector would find them, with its errors.

    quality: 0 (unusable) to 1 (sharp, frontal, free).  jpeg: quality at which the picture should be stored.
    """
    rgb: np.ndarray
    landmarks: np.ndarray
    quality: float
    jpeg: int


class View(NamedTuple):
    """Where the camera stands: rotation [3, 3], distance in eye distances, and the similarity to pixels."""
    rotation: np.ndarray
    distance: float
    similarity: complex = 1.0
    shift: complex = 0.0


def render(who: Identity, image: int, size: int, difficulty: Difficulty | None = None, *, scene: int | None = None,
           loose: bool = False) -> Picture:
    """Picture number `image` of a person.

    size: side of the aligned crop in pixels.  loose: instead of that crop, an upright photograph in which the
    face would fill about such a crop, of any side near 1.45 * size.  scene: default `image`, a scene of its own.
    Equal arguments give equal bytes.
    """
    difficulty = difficulty or Difficulty()
    styling = draws(who.seed, SCENE, who.number, image if scene is None else scene)
    frame = draws(who.seed, FRAME, who.number, image)
    p = pose_and_expression(who, styling, frame, difficulty)
    view = camera_view(frame, difficulty)
    true = project(who, p, view, contours.landmarks(p))
    found = true + difficulty.detector * eye_distance(true) * complex_normal(frame, 5)
    view, side = loose_view(view, found, size, frame) if loose else (aligned_view(view, found, size), (size, size))
    found = view.similarity * found + view.shift

    fine = max(1, round(64 / size))                                  # small pictures are drawn larger
    view = View(view.rotation, view.distance, view.similarity * fine, view.shift * fine)
    covered, shapes = dressed(p, styling, difficulty)
    canvas = background(styling, side[0] * fine, side[1] * fine)
    paint(canvas, shapes, who, p, view)
    canvas = lit(canvas, who, p, view, styling, difficulty)
    unit = abs(view.similarity) * abs(true[1] - true[0])
    rgb, harm = photographed(canvas, side, unit, styling, frame, difficulty)
    turned = 1 - view.rotation[2, 2]
    quality = float(np.exp(-(harm + 2.2 * turned + 0.35 * covered)))
    jpeg = int(95 - 40 * min(difficulty.compression, 2.0) * frame.random() ** 2)
    return Picture(rgb, np.stack([found.real, found.imag], 1).astype(np.float32), quality, max(jpeg, 20))


def pose_and_expression(who: Identity, styling, frame, difficulty: Difficulty) -> SimpleNamespace:
    """The parameters of this picture: two thirds of the variance within a person belong to the scene."""
    p = varied(who, styling, 0.8 * difficulty.sway)
    q = varied(who, frame, 0.6 * difficulty.sway)
    base = who.values.tolist()
    return SimpleNamespace(**{name: a + b - c for (name, a), b, c in
                              zip(vars(p).items(), vars(q).values(), base, strict=True)})
