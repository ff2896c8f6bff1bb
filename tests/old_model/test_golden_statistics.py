"""Credible marks, class means and class balls against the golden arrays 10_tools and 09_advbct."""

import numpy as np
import pytest
from golden_arrays import golden, near

from old_model.statistics import class_balls, class_means, credible


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_credible(share):
    g = golden("10_tools")
    name = f"mask_T{round(10 * share):02d}"
    assert np.array_equal(credible(g["feature"], g["label"], share), g[name])
    # The public tool takes each run of equal labels for a class: number the runs to ask ours the same question.
    runs = np.concatenate([[0], np.cumsum(np.diff(g["nc_label"]) != 0)])
    assert np.array_equal(credible(g["nc_feature"], runs, share), g[f"nc_{name}"])
    # Ours takes equal labels for a class, in any order.
    order = np.random.default_rng(0).permutation(len(g["label"]))
    assert np.array_equal(credible(g["feature"][order], g["label"][order], share), g[name][order])


def test_class_means():
    g = golden("10_tools")
    for feature, label, public in (("avg_feature_in", "avg_label_in", "avg_out_original"),
                                   ("single_last_feature", "single_last_label", "single_last_avg_out")):
        means = class_means(g[feature], g[label])
        near(means / np.linalg.norm(means, axis=1, keepdims=True), g[public], 1e-6)
    means = class_means(g["avg_feature_in"], g["avg_label_in"])
    near(means, g["avg_before_normalize_correct"], 1e-6)
    near(means / np.linalg.norm(means, axis=1, keepdims=True), g["avg_correct_normalized"], 1e-6)
    # The public tool divides the last class by n - 1 = 12 instead of 13.
    means[-1] *= 13 / 12
    near(means, g["avg_before_normalize_original"], 1e-6)


def test_class_balls():
    g = golden("09_advbct")
    centres, radii, kept = class_balls(g["feat"], g["label"], 7)
    assert kept[4] == 0 and not centres[4].any()
    assert sorted(g["meta_key_order"]) == [0, 1, 2, 3, 5, 6]
    for c in g["meta_key_order"]:
        near(centres[c], g[f"meta_center_{c}"], 1e-5)
        assert kept[c] == len(g[f"meta_radius_{c}"])
        if kept[c] > 1:
            near(radii[c], g[f"meta_radius_{c}"][-1], 1e-5)
