"""AdvBCT's class balls against a loop over the images of each class."""

import numpy as np
import pytest
from method_loops import ball
from method_toys import CLASSES, old_features

from old_model.statistics import class_balls


def test_class_balls_equal_a_loop():
    features, labels = old_features()
    centres, radii, kept = class_balls(features, labels, CLASSES + 1)
    for c in range(CLASSES):
        centre, distances = ball(c)
        np.testing.assert_allclose(centres[c], centre, atol=1e-6)
        assert kept[c] == len(distances) and radii[c] == pytest.approx(distances[-1], abs=1e-6)
    assert kept[6] == 1 and (kept[CLASSES], radii[CLASSES]) == (0, 0) and not centres[CLASSES].any()
    assert sum(np.bincount(labels)) > kept.sum(), "no outlier in the toy set: the rule is not tested"
