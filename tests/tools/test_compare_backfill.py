"""Re-embedding step by step, and the free baselines, against plain computations."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge
from test_compare_judgement import cell, plain
from tqdm import tqdm

from evaluation import maps
from evaluation.backfill import Curve, Mixed, backfill, crossing, orders_of, summary
from evaluation.cells import Measure
from evaluation.maps import STRENGTHS, fit_maps
from evaluation.protocol import Pairs
from evaluation.versions import Features, MappedRows
from utils.errors import UserError

DRAW = np.random.default_rng(0)


def curve(values: list, images: list) -> Curve:
    return Curve(np.linspace(0, 1, len(values)), np.array(images), {"m": np.array(values, float)})


# --- backfilling -----------------------------------------------------------------------------------------

def test_where_the_gain_is_reached_by_hand():
    """From 0.5 (old / old) to 0.9: 80 % is 0.82, between the points 0.7 and 0.9."""
    slow = curve([0.4, 0.5, 0.7, 0.9, 0.9], [0, 10, 30, 70, 100])
    share, images = crossing(slow, "m", 0.5, 0.8)
    assert share == pytest.approx(0.5 + 0.25 * 0.6) and images == pytest.approx(30 + 0.6 * 40)
    assert crossing(curve([0.9, 0.7, 0.9], [0, 1, 2]), "m", 0.5, 0.8) == (0, 0)     # there from the start
    assert crossing(curve([0.4, 0.45, 0.5], [0, 1, 2]), "m", 0.5, 0.8) is None      # re-embedding gains nothing
    found = summary([slow, slow], "m", 0.5, 0.8)
    assert found == {"auc": pytest.approx((0.2 + 0.5 + 0.7 + 0.9 + 0.45) / 4), "share": pytest.approx(0.65), "images": 54}
    assert summary([slow], "m", 0.95, 0.8)["images"] is None


def test_a_mixed_gallery_is_new_where_it_is_done():
    old, new, done = DRAW.standard_normal((9, 4)), 100 * DRAW.standard_normal((9, 4)), DRAW.random(9) < 0.5
    rows = np.array([8, 0, 3])
    expected = [(new if done[i] else old)[i] / np.linalg.norm((new if done[i] else old)[i]) for i in rows]
    np.testing.assert_allclose(Mixed(old, new, done)[rows], expected, atol=1e-6)


def test_orders_begin_with_the_lowest_and_cover_the_gallery():
    evaluation = plain(None, [0, 1, 2, 3], [0, 9])
    evaluation.qualities["sharpness"] = np.array([0.3, 0.1, 0.9, 0.2])
    orders = orders_of(evaluation, Features(np.eye(4), np.eye(4), np.array([4.0, 3.0, 2.0, 1.0])), seeds=3)
    assert orders["lowest sharpness first"][0].tolist() == [1, 3, 0, 2]
    assert orders["lowest norm of the old feature first"][0].tolist() == [3, 2, 1, 0]
    assert [sorted(order) for order in orders["random"]] == [[0, 1, 2, 3]] * 3
    assert len({tuple(order) for order in orders["random"]}) > 1


def test_every_step_is_the_search_in_that_gallery():
    gallery_owner, probe_owner = np.arange(10), DRAW.integers(0, 14, 60)
    enrol, verify = (side.ravel() for side in np.meshgrid(np.arange(10), np.arange(60)))
    evaluation = plain(Pairs(enrol, verify, gallery_owner[enrol] == probe_owner[verify]), gallery_owner.tolist(),
                       probe_owner.tolist())
    evaluation.images[:] = np.arange(1, 11)
    old, new = (Features(DRAW.standard_normal((10, 5)).astype(np.float32), DRAW.standard_normal((60, 5)).astype(np.float32))
                for _ in range(2))
    measure = Measure(evaluation, 0, 0, "cpu")
    ends, order = (measure(old.gallery, new.query), measure(new.gallery, new.query)), np.random.default_rng(1).permutation(10)
    found, = backfill(measure, old, new, ends, {"any": [order]}, 5, tqdm(disable=True))["any"]
    assert found.share == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    for k, count in enumerate((0, 2, 4, 6, 8, 10)):
        assert found.images[k] == sum(order[:count] + 1)
        unit = np.array([(new if i in order[:count] else old).gallery[i] for i in range(10)])
        for name, value in measure(unit, new.query).values.items():
            assert found.values[name][k] == pytest.approx(value), (name, count)


# --- free baselines --------------------------------------------------------------------------------------

@pytest.fixture
def features(tmp_path):
    """Writes feature files; the first half of the map's truth is in the data, the rest is noise."""
    def write(new: np.ndarray, old: np.ndarray):
        for name, array in (("new", new), ("old", old)):
            np.save(tmp_path / f"{name}.npy", array.astype(np.float32))
        return tmp_path / "new.npy", tmp_path / "old.npy"
    return write


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("rows", [7, 10 ** 6])
def test_maps_equal_scipy_and_scikit_learn(features, monkeypatch, rows):
    monkeypatch.setattr(maps, "ROWS", rows)
    x = DRAW.standard_normal((300, 8)) * 5
    y = x @ DRAW.standard_normal((8, 8)) + DRAW.standard_normal((300, 8))
    found = fit_maps(*features(x, y))
    x, y = unit(x), unit(y)
    np.testing.assert_allclose(found["Procrustes"][0], orthogonal_procrustes(x, y)[0], atol=1e-5)
    held = np.arange(300) % 10 == 0

    def fit(strength: float, chosen) -> np.ndarray:     # scikit-learn's alpha is not relative to rows and dimensions
        return Ridge(alpha=strength * chosen.sum() / 8, fit_intercept=False).fit(x[chosen], y[chosen]).coef_.T

    errors = {strength: np.square(x[held] @ fit(strength, ~held) - y[held]).sum(1).mean() for strength in STRENGTHS}
    best = min(errors, key=errors.get)
    np.testing.assert_allclose(found["ridge"][0], fit(best, np.ones(300, bool)), atol=1e-5)
    assert found["ridge"][1] == pytest.approx(errors[best], abs=1e-5)


def test_a_rotation_is_found_and_other_dimensions_are_mapped(features):
    rotation = np.linalg.qr(DRAW.standard_normal((6, 6)))[0]
    x = DRAW.standard_normal((100, 6))
    w, error = fit_maps(*features(x, x @ rotation))["Procrustes"]
    np.testing.assert_allclose(w, rotation, atol=1e-5)
    assert error == pytest.approx(0, abs=1e-6)
    for kind, (w, _) in fit_maps(*features(x, (x @ rotation)[:, :4])).items():
        assert w.shape == (6, 4), kind
    np.testing.assert_allclose(unit(MappedRows(x, w)[[2, 5]]), unit(x[[2, 5]] @ w))


def test_feature_files_that_do_not_belong_together_are_refused(features):
    with pytest.raises(UserError, match=r"\[50, 3\].*\[60, 3\].*features of the same images"):
        fit_maps(*features(np.ones((50, 3)), np.ones((60, 3))))
    broken = np.ones((50, 3))
    broken[7] = np.nan
    with pytest.raises(UserError, match="NaN or infinity between the rows 0"):
        fit_maps(*features(np.ones((50, 3)), broken))


def test_cells_of_other_files_are_free_of_their_scale():
    """Saved features may have any length: 1000 times as long they give the same figures."""
    evaluation = plain(None, list(range(6)), [0, 1, 2, 3, 4, 5, 8, 9] * 4)
    x, q = DRAW.standard_normal((6, 4)).astype(np.float32), DRAW.standard_normal((32, 4)).astype(np.float32)
    measure = Measure(evaluation, 0, 0, "cpu")
    assert measure(x, q).values == measure(1000 * x, q / 1000).values != cell({}).values
