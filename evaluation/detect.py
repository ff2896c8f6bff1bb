"""Faces in photographs: five landmarks by OpenCV's FaceDetectorYN with a model file that the user gives, and aligned faces.

No model is shipped: face_detection_yunet_*.onnx of OpenCV's model zoo is such a file.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.align import similarity, warp
from utils.errors import UserError
from utils.opencv import cv2

CANVAS = 640                # side of the square that the detector sees, in pixels; larger photographs are reduced to it
CHOICES = ("largest", "centre")
CROP_SIDE = 1.6             # side of a loose crop; 1: what the aligned face shows
CROP_SIZE = 224             # an aligned face has this side, in pixels, in a crop of a large photograph


@dataclass(frozen=True)
class Face:
    """landmarks: float64 [5, 2], x and y in pixels, in the order of evaluation.align.TEMPLATE; score: of the detector."""

    landmarks: np.ndarray
    score: float


class Detector:
    """Finds one face in each photograph.  Not for several threads at a time.

    choose: of several faces the "largest" box, or the one whose box has its centre nearest to the "centre" of the photograph.
    min_score: boxes with a smaller score do not count.  UserError if ``model`` is not a file that FaceDetectorYN can use.
    """

    def __init__(self, model: Path, choose: str = "largest", min_score: float = 0.7):
        if not model.is_file():
            raise UserError(f"no file {model}: give YuNet's model file (face_detection_yunet_*.onnx of OpenCV's model zoo) with "
                            f"--detector")
        self.model, self.choose = model, choose
        try:
            self.network = cv2.FaceDetectorYN.create(str(model), "", (CANVAS, CANVAS), min_score, 0.3, 5000)
            self.boxes(np.zeros((CANVAS, CANVAS, 3), np.uint8))
        except cv2.error as error:
            raise UserError(f"{model} is not a model file that OpenCV's FaceDetectorYN can use ({error.err}); expected YuNet's, "
                            f"face_detection_yunet_*.onnx of OpenCV's model zoo") from error

    def boxes(self, canvas: np.ndarray) -> np.ndarray:
        """float [F, 15]: x, y, width, height, five landmarks, score of each face on the canvas (BGR)."""
        found = self.network.detect(canvas)[1]
        return np.empty((0, 15)) if found is None else found.astype(np.float64)

    def __call__(self, image: np.ndarray) -> Face | None:
        """The chosen face of a photograph (uint8 [H, W, 3] BGR); None if there is none."""
        height, width = image.shape[:2]
        shrink = min(1.0, CANVAS / max(height, width))
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        canvas = np.zeros((CANVAS, CANVAS, 3), np.uint8)
        canvas[:size[1], :size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if shrink < 1 else image
        faces = self.boxes(canvas)
        faces = faces[np.isfinite(faces).all(1)]
        if not len(faces):
            return None
        if self.choose == "largest":
            chosen = faces[np.argmax(faces[:, 2] * faces[:, 3])]
        else:
            centres = faces[:, :2] + faces[:, 2:4] / 2
            chosen = faces[np.argmin(np.square(centres - np.array(size) / 2).sum(1))]
        landmarks = (chosen[4:14].reshape(5, 2) + 0.5) * (np.array([width, height]) / size) - 0.5
        usable = np.isfinite(similarity(landmarks[None])).all()
        return Face(landmarks, float(chosen[14])) if usable else None


def reduced(image: np.ndarray, landmarks: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(image, landmarks) of which the aligned face has at most 2 x size pixels a side.

    A larger photograph is reduced by the mean of its pixels first: :func:`evaluation.align.warp` looks at four pixels only, so it
    would leave most of them out.
    """
    matrix = similarity(landmarks[None], size)[0]
    factor = 2 * float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if factor >= 1:
        return image, landmarks
    height, width = image.shape[:2]
    to = max(1, round(width * factor)), max(1, round(height * factor))
    image = cv2.resize(image, to, interpolation=cv2.INTER_AREA)
    return image, (landmarks + 0.5) * (np.array(to) / (width, height)) - 0.5


def aligned(image: np.ndarray, landmarks: np.ndarray, size: int) -> np.ndarray:
    """The aligned face, uint8 [size, size, 3] BGR, of a photograph (BGR) with landmarks [5, 2]."""
    image, landmarks = reduced(image, landmarks, size)
    return warp(image, similarity(landmarks[None], size)[0], size)[:, :, ::-1]


def loose_crop(image: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(square around the face, as far as it is inside of the photograph; the landmarks in it).  Nothing is turned."""
    image, landmarks = reduced(image, landmarks, CROP_SIZE // 2)
    matrix = similarity(landmarks[None], 112)[0]
    centre = cv2.invertAffineTransform(matrix) @ [55.5, 55.5, 1]
    half = CROP_SIDE * 112 / 2 / np.hypot(matrix[0, 0], matrix[1, 0])
    low = np.maximum(np.floor(centre - half), 0).astype(int)
    high = np.minimum(np.ceil(centre + half) + 1, image.shape[1::-1]).astype(int)
    if (high <= low).any():         # landmarks outside of the photograph
        return image, landmarks
    return image[low[1]:high[1], low[0]:high[0]], landmarks - low
