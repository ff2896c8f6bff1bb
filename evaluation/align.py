"""Alignment: the face in a loose crop, turned, scaled and moved by its five landmarks to where the networks expect it.

Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
"""

import numpy as np

from utils.opencv import cv2

# Eyes, nose and corners of the mouth in ArcFace's 112 x 112 image, x and y in pixels, rounded to float32 as in insightface.
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
                     [70.729904, 92.2041]], np.float32).astype(np.float64)


def target(size: int) -> np.ndarray:
    """Where the five landmarks belong in a size x size image: float64 [5, 2], x and y in pixels.

    Training images of another size are resized from 112 x 112. Resizing keeps the image's *edges* in place, not the
    centre of pixel 0, so x becomes (x + 1/2) * size / 112 - 1/2.
    """
    return (TEMPLATE + 0.5) * (size / 112) - 0.5


def similarity(landmarks: np.ndarray, size: int = 112) -> np.ndarray:
    """Least-squares similarity transforms, float64 [N, 2, 3], from landmarks [N, 5, 2] (pixels) to :func:`target`.

    In the plane Umeyama's fit has a closed form: with points as complex numbers, rotation and scale are one factor a,
    which minimises sum |a (p - mean p) - (q - mean q)|^2. If all five landmarks of a face are the same point, its
    transform is NaN.
    """
    p = landmarks.astype(np.float64) @ [1, 1j]
    q = target(size) @ [1, 1j]
    mean_p, mean_q = p.mean(1, keepdims=True), q.mean()
    centred = p - mean_p
    with np.errstate(invalid="ignore"):
        a = (centred.conj() @ (q - mean_q)) / np.square(np.abs(centred)).sum(1)
    shift = mean_q - a * mean_p[:, 0]
    return np.stack([a.real, -a.imag, shift.real, a.imag, a.real, shift.imag], 1).reshape(-1, 2, 3)


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """The aligned face, uint8 [size, size, 3] RGB.  image: uint8 [H, W, 3] BGR; pixels outside of it are black."""
    return cv2.cvtColor(cv2.warpAffine(image, matrix, (size, size)), cv2.COLOR_BGR2RGB)
