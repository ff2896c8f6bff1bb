"""The similarity fit against a plain least-squares solver, and for other image sizes."""

import cv2
import numpy as np

from evaluation.align import TEMPLATE, similarity, target, warp


def by_lstsq(points: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """[[a, -b, c], [b, a, d]] that brings points nearest to goal: ten linear equations in four unknowns."""
    rows, right = [], []
    for (x, y), (u, v) in zip(points, goal, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        right += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


def test_fit_equals_the_linear_least_squares_solution():
    draw = np.random.default_rng(0)
    turn = np.array([[0.0, -1.7], [1.7, 0.0]])
    landmarks = np.stack([draw.normal(60, 30, (5, 2)), TEMPLATE @ turn.T + 9, TEMPLATE[:, ::-1],
                          TEMPLATE * [-1, 1]]).astype(np.float32)
    for size in (112, 64):
        for points, matrix in zip(landmarks, similarity(landmarks, size), strict=True):
            expected = by_lstsq(points.astype(float), target(size))
            np.testing.assert_allclose(matrix, expected, rtol=1e-9, atol=1e-9)


def test_landmarks_in_place_give_the_identity():
    np.testing.assert_allclose(similarity(TEMPLATE[None])[0], [[1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_one_point_gives_nan_and_does_not_disturb_the_others():
    found = similarity(np.stack([np.full((5, 2), 3.0), TEMPLATE]))
    assert np.isnan(found[0]).any() and np.isfinite(found[1]).all()


def test_other_sizes_are_the_112_image_resized():
    """Networks for 56 pixels are trained on 112 x 112 faces resized to 56: the same pixels must come out."""
    rough = np.random.default_rng(1).integers(0, 256, (14, 14, 3)).astype(np.uint8)
    image = cv2.resize(rough, (180, 180), interpolation=cv2.INTER_CUBIC)
    landmarks = TEMPLATE[None] * 1.2 + 20
    large = warp(image, similarity(landmarks)[0], 112)
    resized = cv2.resize(large, (56, 56), interpolation=cv2.INTER_AREA).astype(int)
    inner = (slice(4, -4), slice(4, -4))
    difference = np.abs(warp(image, similarity(landmarks, 56)[0], 56).astype(int) - resized)[inner]
    corner = np.abs(warp(image, similarity(landmarks)[0] * 0.5, 56).astype(int) - resized)[inner]
    assert difference.mean() < 1.0 < 2.0 < corner.mean()    # template * size / 112: a quarter of a pixel off


def test_colours_come_out_as_rgb_and_outside_is_black():
    blue = np.zeros((112, 112, 3), np.uint8)
    blue[..., 0] = 200                                          # BGR, as cv2 reads
    out = warp(blue, np.array([[1.0, 0, 50], [0, 1, 0]]), 112)
    assert out[5, 100].tolist() == [0, 0, 200] and out[5, 10].tolist() == [0, 0, 0]
