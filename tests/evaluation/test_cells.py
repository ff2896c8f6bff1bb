"""The figures of a cell against scikit-learn and plain loops."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve
from toy_evaluation import cell, plain

from evaluation.cells import Measure
from evaluation.protocol import Pairs


def test_figures_of_a_cell_against_scikit_learn_and_a_loop():
    draw = np.random.default_rng(7)
    gallery_owner, probe_owner = np.arange(20), draw.integers(0, 30, 200)
    centres = draw.standard_normal((30, 6))
    gallery, query = (centres[o] + 0.9 * draw.standard_normal((len(o), 6)) for o in (gallery_owner, probe_owner))
    enrol, verify = (side.ravel() for side in np.meshgrid(np.arange(20), np.arange(200)))
    pairs = Pairs(enrol, verify, gallery_owner[enrol] == probe_owner[verify])
    evaluation = plain(pairs, gallery_owner.tolist(), probe_owner.tolist())
    found = Measure(evaluation, 50, 0, "cpu")(gallery.astype(np.float32), query.astype(np.float32), resample=True)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (gallery, query)]
    cosine = unit[1] @ unit[0].T
    far, tar, _ = roc_curve(pairs.same, cosine.ravel(), drop_intermediate=False)
    for name, x in (("TAR@1e-3", 1e-3), ("TAR@1e-2", 1e-2), ("TAR@1e-1", 0.1)):
        assert found.values[name] == pytest.approx(tar[far <= x].max())
    mated = np.flatnonzero(probe_owner < 20)
    ranks = [1 + sum(cosine[i] >= cosine[i, probe_owner[i]]) - 1 for i in mated]
    assert found.values["top-5"] == pytest.approx(np.mean(np.array(ranks) <= 5))
    nonmated = np.sort(cosine[probe_owner >= 20].max(1))[::-1]
    threshold = nonmated[max(int(0.1 * len(nonmated)) - 1, 0)]
    expected = np.mean([rank == 1 and cosine[i, probe_owner[i]] > threshold for i, rank in zip(mated, ranks, strict=True)])
    assert found.values["TPIR@1e-1"] == pytest.approx(expected)
    assert set(found.values) == set(found.draws) == set(evaluation.metrics())
    for name, value in found.values.items():
        low, high = found.interval(name)
        assert low <= value <= high and high - low < 0.5, name
    assert (found.curve["low"] <= found.curve["high"]).all()


def test_the_length_of_features_does_not_matter():
    """Features that are 1000 times longer or shorter give the same figures."""
    draw = np.random.default_rng(0)
    evaluation = plain(None, list(range(6)), [0, 1, 2, 3, 4, 5, 8, 9] * 4)
    x, q = draw.standard_normal((6, 4)).astype(np.float32), draw.standard_normal((32, 4)).astype(np.float32)
    measure = Measure(evaluation, 0, 0, "cpu")
    assert measure(x, q).values == measure(1000 * x, q / 1000).values != cell({}).values
