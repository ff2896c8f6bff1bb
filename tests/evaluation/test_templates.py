"""Template features in all eight modes against plain loops."""

from pathlib import Path

import numpy as np
import pytest

from evaluation import templates
from evaluation.protocol import Images
from evaluation.templates import MODES, Mode, template_features


def images_of(template: list[int], media: list[int], scores=None) -> Images:
    ids, rows = np.unique(template, return_inverse=True)
    n = len(template)
    scores = np.ones(n) if scores is None else scores
    return Images(Path(), np.array(["x"] * n), np.zeros((n, 5, 2)), np.asarray(scores, np.float32),
                  rows.astype(np.int32), np.array(media), ids, "")


def in_loops(views, images: Images, mode: Mode) -> np.ndarray:
    """Image by image, medium by medium, template by template, in float64."""
    out = []
    for row in range(len(images.template_ids)):
        media = {}
        for i in np.flatnonzero(images.templates == row):
            x = views[0][i].astype(float) + (views[1][i] if mode.flip else 0)
            x = x / np.sqrt((x * x).sum()) if mode.normalise else x
            x = x * float(images.scores[i]) if mode.detector else x
            media.setdefault(images.media[i], []).append(x)
        total = sum(sum(features) / len(features) for features in media.values())
        out.append(total / np.sqrt((total * total).sum()))
    return np.array(out)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_mode_equals_the_loops(mode, monkeypatch):
    monkeypatch.setattr(templates, "IMAGES_PER_BLOCK", 7)           # several blocks
    draw = np.random.default_rng(0)
    images = images_of(draw.integers(10, 30, 80), draw.integers(0, 6, 80), draw.random(80))
    views = draw.standard_normal((2, 80, 12)).astype(np.float32)
    np.testing.assert_allclose(template_features(views, images, mode), in_loops(views, images, mode), atol=1e-6)


def test_the_eight_modes_are_eight_different_results():
    draw = np.random.default_rng(1)
    images = images_of(draw.integers(0, 5, 40), draw.integers(0, 6, 40), draw.random(40))
    views = draw.standard_normal((2, 40, 4)).astype(np.float32)
    found = [template_features(views, images, mode) for mode in MODES]
    assert [str(mode) for mode in MODES] == ["N0D0F0", "N0D0F1", "N0D1F0", "N0D1F1",
                                             "N1D0F0", "N1D0F1", "N1D1F0", "N1D1F1"]
    for i, one in enumerate(found):
        assert all(np.abs(one - other).max() > 1e-3 for other in found[:i])


def test_a_video_counts_as_much_as_a_photograph():
    """Three frames along x and one photograph along y: 45 degrees.  A medium is shared by two templates."""
    views = np.zeros((2, 5, 2), np.float32)
    views[0, :3, 0], views[0, 3, 1], views[0, 4, 1] = 1, 1, 1
    images = images_of([4, 4, 4, 4, 9], [7, 7, 7, 8, 7])
    np.testing.assert_allclose(template_features(views, images), [[0.5 ** 0.5, 0.5 ** 0.5], [0, 1]], atol=1e-7)


def test_features_of_nothing_stay_zero():
    assert template_features(np.zeros((2, 1, 3), np.float32), images_of([1], [1])).tolist() == [[0, 0, 0]]
