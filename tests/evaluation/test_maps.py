"""The free baselines against scipy and scikit-learn."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge

from evaluation import maps
from evaluation.maps import STRENGTHS, fit_maps
from evaluation.versions import MappedRows
from utils.errors import UserError

DRAW = np.random.default_rng(0)


@pytest.fixture
def features(tmp_path):
    """A function that writes the features of both models and returns the two files."""
    def write(new: np.ndarray, old: np.ndarray):
        for name, array in (("new", new), ("old", old)):
            np.save(tmp_path / f"{name}.npy", array.astype(np.float32))
        return tmp_path / "new.npy", tmp_path / "old.npy"
    return write


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("rows", [7, 10 ** 6])
def test_maps_equal_scipy_and_scikit_learn(features, monkeypatch, rows):
    monkeypatch.setattr(maps, "ROWS_PER_BLOCK", rows)
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
    with pytest.raises(UserError, match="NaN or infinity between rows 0"):
        fit_maps(*features(np.ones((50, 3)), broken))
