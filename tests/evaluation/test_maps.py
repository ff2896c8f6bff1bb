"""The maps against scipy, scikit-learn and loops over rows in float64."""

import math

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge

from evaluation import map_pairs, map_training, maps
from evaluation.map_forms import RIDGES, Map, lambda_orthogonal, low_rank, ranks, relaxed_loss
from evaluation.map_pairs import Moments, Pairs
from evaluation.maps import FORWARD, KINDS, choose, curve, fit_maps, fit_one, measure, solve
from old_model.present import save_present
from utils.errors import UserError
from utils.origin import save_array

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


def related(rows: int, d_in: int, d_out: int, noise: float = 0.3, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Features [rows, d_in] and [rows, d_out] of the same images, neither centred nor of norm 1."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((rows, d_in)) + 0.5
    return 5 * x, x @ draw.standard_normal((d_in, d_out)) + noise * draw.standard_normal((rows, d_out)) - 0.5


def pairs_of(x: np.ndarray, y: np.ndarray) -> Pairs:
    return Pairs(x.astype(np.float32), y.astype(np.float32), np.arange(len(x)))


def moments_of(x: np.ndarray, y: np.ndarray) -> Moments:
    sums = Moments((x.shape[1], y.shape[1]))
    sums.add(x, y)
    return sums


# --- Procrustes and ridge ----------------------------------------------------------------------------------

@pytest.mark.parametrize("rows", [7, 10 ** 6])
def test_maps_equal_scipy_and_scikit_learn(features, monkeypatch, rows):
    """The strength is chosen on rows 1, 11, ..., the error is that on rows 0, 10, ..., the map is fitted on all rows."""
    monkeypatch.setattr(map_pairs, "ROWS_PER_BLOCK", rows)
    x, y = related(300, 8, 8, noise=1)
    found = fit_maps(*features(x, y))
    x, y = unit(x), unit(y)
    np.testing.assert_allclose(found["Procrustes"].map.weight, orthogonal_procrustes(x, y)[0], atol=1e-5)
    place = np.arange(300) % 10

    def fit(strength: float, chosen) -> np.ndarray:     # scikit-learn's alpha is not relative to rows and dimensions
        return Ridge(alpha=strength * chosen.sum() / 8, fit_intercept=False).fit(x[chosen], y[chosen]).coef_.T

    errors = {strength: np.square(x[place == 1] @ fit(strength, place > 1) - y[place == 1]).sum(1).mean() for strength in RIDGES}
    best = min(errors, key=errors.get)
    assert len({round(error, 9) for error in errors.values()}) > 3
    np.testing.assert_allclose(found["ridge"].map.weight, fit(best, place >= 0), atol=1e-5)
    mapped = x[place == 0] @ fit(best, place > 0)
    assert found["ridge"].error == pytest.approx(np.square(mapped - y[place == 0]).sum(1).mean(), abs=1e-5)
    assert found["ridge"].cosine == pytest.approx((unit(mapped) * y[place == 0]).sum(1).mean(), abs=1e-5)
    assert found["ridge"].images == 300 and found["ridge"].strength == f"l = {best:g}" and not found["ridge"].map.bias.any()


def test_a_rotation_is_found_and_other_dimensions_are_mapped(features):
    rotation = np.linalg.qr(DRAW.standard_normal((6, 6)))[0]
    x = DRAW.standard_normal((100, 6))
    found = fit_maps(*features(x, x @ rotation))["Procrustes"]
    np.testing.assert_allclose(found.map.weight, rotation, atol=1e-5)
    assert found.error == pytest.approx(0, abs=1e-6)
    for kind, fitted in fit_maps(*features(x, (x @ rotation)[:, :4]), KINDS).items():
        assert fitted.map.dims == (6, 4), kind
    forward = fit_maps(*features(x, x @ rotation), direction=FORWARD)["Procrustes"]
    np.testing.assert_allclose(forward.map.weight, rotation.T, atol=1e-5)


# --- low-rank and lambda-orthogonal ------------------------------------------------------------------------

@pytest.mark.parametrize("dims", [(6, 5), (4, 7)])
def test_the_low_rank_map_is_the_best_of_its_rank(dims):
    """Against the SVD of fitted values of rows to which ridge's penalty is appended as further rows (Mukherjee and Zhu 2011)."""
    x, y = (unit(side) for side in related(60, *dims))
    root = math.sqrt(0.1 * 60 / dims[0])
    rows = np.r_[x - x.mean(0), root * np.eye(dims[0])]
    targets = np.r_[y - y.mean(0), np.zeros((dims[0], dims[1]))]
    full = np.linalg.lstsq(rows, targets, rcond=None)[0]
    v = np.linalg.svd(rows @ full)[2][:2].T
    w, = low_rank(moments_of(x, y), 0.1, [2])
    np.testing.assert_allclose(w, full @ v @ v.T, atol=1e-10)
    assert np.linalg.matrix_rank(w) == 2 and ranks(dims)[-1] < min(dims) and ranks((1, 9)) == [1]


def test_the_gradient_of_lambda_orthogonal_is_that_of_finite_differences():
    for shape in ((5, 3), (3, 5)):
        w, d, c = DRAW.standard_normal(shape), DRAW.standard_normal(shape), DRAW.random(shape[0])
        gradient = relaxed_loss(w.ravel(), c, d, 0.5)[1]
        for i in range(w.size):
            step = np.zeros(w.size)
            step[i] = 1e-6
            slope = (relaxed_loss(w.ravel() + step, c, d, 0.5)[0] - relaxed_loss(w.ravel() - step, c, d, 0.5)[0]) / 2e-6
            assert gradient[i] == pytest.approx(slope, abs=1e-6), (shape, i)


@pytest.mark.parametrize("dims", [(6, 4), (4, 6)])
def test_lambda_orthogonal_goes_from_procrustes_to_least_squares(dims):
    """lambda = 0: the best rotation of the centred rows; a lambda that does not bind: least squares; between: the bound holds."""
    x, y = (unit(side) for side in related(200, *dims))
    sums, size = moments_of(x, y), math.sqrt(min(dims))
    centred = x - x.mean(0), y - y.mean(0)
    tight, middle, loose = (lambda_orthogonal(sums, (share,))[0] for share in (1e-9, 0.3, 100.0))
    affine = np.linalg.lstsq(np.c_[x, np.ones(200)], y, rcond=None)[0]
    np.testing.assert_allclose(loose, affine[:-1], atol=2e-3)
    np.testing.assert_allclose(sums.bias(loose), affine[-1], atol=2e-3)

    def apart(w: np.ndarray) -> float:
        return np.linalg.norm((w.T @ w if dims[0] > dims[1] else w @ w.T) - np.eye(min(dims)))

    def error(w: np.ndarray) -> float:
        return np.square(centred[0] @ w - centred[1]).sum(1).mean()

    u, _, v = np.linalg.svd(centred[0].T @ centred[1], full_matrices=False)
    assert apart(tight) < 0.05 and abs(error(tight) - error(u @ v)) < 0.03
    assert 0.3 * size <= apart(middle) < 0.32 * size and error(loose) < error(middle) < error(tight)
    for _ in range(200):            # no W that meets the bound is better
        other = middle + 0.02 * DRAW.standard_normal(dims)
        assert apart(other) > 0.3 * size or error(other) > error(middle) - 1e-3
    assert sums.error(middle, sums.bias(middle)) == pytest.approx(np.square(x @ middle + sums.bias(middle) - y).sum(1).mean())


# --- residual MLP ------------------------------------------------------------------------------------------

def test_a_map_keeps_the_norm_and_equals_a_loop(monkeypatch):
    """|x| g(x / |x|), g(u) = u W + b + gelu(u W1 + b1) W2, by math.erf for each number; blocks of 2 rows."""
    monkeypatch.setattr("evaluation.map_forms.ROWS_PER_BLOCK", 2)
    w, b, w1, b1, w2 = (DRAW.standard_normal(shape).astype(np.float32) for shape in ((3, 2), 2, (3, 5), 5, (5, 2)))
    x = 4 * DRAW.standard_normal((5, 3))
    x[2] = 0
    expected = np.zeros((5, 2))
    for i in range(5):
        norm = math.sqrt(sum(x[i] ** 2))
        u = x[i] / max(norm, 1e-12)
        inner = [sum(u[k] * w1[k, j] for k in range(3)) + b1[j] for j in range(5)]
        outer = [z * (1 + math.erf(z / math.sqrt(2))) / 2 for z in inner]
        for o in range(2):
            expected[i, o] = norm * (sum(u[k] * w[k, o] for k in range(3)) + b[o] + sum(outer[j] * w2[j, o] for j in range(5)))
    np.testing.assert_allclose(Map(w, b, (w1, b1, w2))(x), expected, atol=1e-5)
    np.testing.assert_allclose(Map(w, b)(x[:2]), x[:2] @ w + np.linalg.norm(x[:2], axis=1, keepdims=True) * b, atol=1e-5)


def test_the_first_step_of_the_mlp_is_adamws(monkeypatch):
    """W2 starts at 0; the first step of Adam is the learning rate against the sign of the gradient, 2/n H' (X W - Y)."""
    pairs, w = pairs_of(*related(30, 4, 3)), DRAW.standard_normal((4, 3))
    before = map_training.train(pairs, w, 0, seed=5)[0]
    (w1, b1, w2), epochs = map_training.train(pairs, w, 1, seed=5)
    assert epochs == 1 and not before[2].any()
    x, y = (side.astype(np.float64) for side in pairs.unit(pairs.rows))
    inner = x @ before[0] + before[1]
    hidden = inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2))) / 2
    gradient = 2 / 30 * hidden.T @ (x @ w - y)
    clear = np.abs(gradient) > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_allclose(w2[clear], -1e-3 * np.sign(gradient)[clear], rtol=1e-2)
    np.testing.assert_allclose(w1, before[0] * (1 - 1e-5), atol=1e-7)       # weight decay only: W2 = 0 gives W1 no gradient


def test_the_mlp_learns_what_ridge_cannot(monkeypatch):
    monkeypatch.setattr(map_training, "LEARNING_RATE", 1e-2)
    monkeypatch.setattr(map_training, "MAX_EPOCHS", 50)         # for the test's time
    x = DRAW.standard_normal((3000, 3))
    pairs = pairs_of(x, np.abs(unit(x)))
    ridge, mlp = (fit_one(kind, pairs) for kind in ("ridge", "residual-MLP"))
    assert mlp.error < 0.5 * ridge.error and int(mlp.strength.split(", ")[1].split()[0]) > 5


def test_the_number_of_epochs_is_the_best_one_on_the_held_out_rows(monkeypatch):
    errors = iter([5.0, 4.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(map_training, "error_of", lambda model, pairs: next(errors))
    monkeypatch.setattr(map_training, "MAX_EPOCHS", 4)
    pairs = pairs_of(*related(30, 4, 3))
    assert choose("residual-MLP", pairs, pairs)[1] == 2
    w = DRAW.standard_normal((4, 3))
    trained = {epochs: map_training.train(pairs, w, epochs, 0)[0][2] for epochs in (1, 2)}
    assert np.array_equal(solve("residual-MLP", pairs, (1e-3, 2)).hidden[2], map_training.train(
        pairs, solve("ridge", pairs, 1e-3).weight.astype(np.float64), 2, 0)[0][2]) and not np.array_equal(trained[1], trained[2])


# --- held-out rows and the curve ---------------------------------------------------------------------------

def test_the_three_parts_do_not_overlap_and_the_error_is_on_unseen_rows():
    pairs = pairs_of(*related(200, 5, 4))
    parts = [set(part.rows.tolist()) for part in pairs.folds]
    assert set.union(*parts) == set(range(200)) and sum(map(len, parts)) == 200 and [len(part) for part in parts] == [160, 20, 20]
    fit, held, report = pairs.folds
    joined = fit.joined(held)
    np.testing.assert_allclose(joined.moments.xx, Pairs(pairs.x, pairs.y, joined.rows).moments.xx)
    for kind in KINDS:
        strength = choose(kind, fit, held)
        expected = measure(solve(kind, joined, strength), report)
        assert (fit_one(kind, pairs).error, fit_one(kind, pairs).cosine) == pytest.approx(expected), kind


def test_the_strength_is_the_best_of_the_candidates_on_the_held_out_rows():
    fit, held, _ = pairs_of(*related(120, 8, 6, noise=3)).folds
    low = [(strength, rank) for strength in RIDGES for rank in (1, 2, 4)]
    for kind, candidates in (("low-rank", low), ("lambda-orthogonal", maps.LAMBDAS)):
        errors = {candidate: measure(solve(kind, fit, candidate), held)[0] for candidate in candidates}
        assert errors[choose(kind, fit, held)] <= min(errors.values()) + 1e-3, kind


def test_the_curve_uses_samples_of_the_other_rows(monkeypatch):
    monkeypatch.setattr(maps, "CURVE", (30, 100, 5000))
    pairs, seen = pairs_of(*related(400, 6, 5, noise=1)), []
    real = maps.solve
    monkeypatch.setattr(maps, "solve", lambda kind, sample, *more: (seen.append(sample.rows), real(kind, sample, *more))[1])
    found = curve(("ridge",), pairs, 3)
    assert {count: len(errors["ridge"]) for count, errors in found.items()} == {30: 3, 100: 3, 360: 1}
    assert [len(rows) for rows in seen] == [30] * 3 + [100] * 3 + [360]
    assert all(len(set(rows.tolist())) == len(rows) and (rows % 10).all() for rows in seen)
    assert len({tuple(rows) for rows in seen[:3]}) == 3
    assert np.mean(found[30]["ridge"]) > np.mean(found[100]["ridge"]) > found[360]["ridge"][0]


# --- refusals ----------------------------------------------------------------------------------------------

def test_feature_files_that_do_not_belong_together_are_refused(features):
    with pytest.raises(UserError, match=r"\[50, 3\].*\[60, 3\].*float features of the same images"):
        fit_maps(*features(np.ones((50, 3)), np.ones((60, 3))))
    with pytest.raises(UserError, match="at least 20 of them"):
        fit_maps(*features(*related(19, 3, 3)))
    new, old = features(*related(50, 3, 3))
    np.save(old, np.ones((50, 3), int))
    with pytest.raises(UserError, match=r"int64 \[50, 3\]"):
        fit_maps(new, old)
    with pytest.raises(UserError, match="hold the same features"):
        fit_maps(new, new)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 0, 1e30])
def test_rows_without_a_direction_are_named(features, wrong):
    x, y = related(50, 3, 4)
    y[7] = wrong
    with pytest.raises(UserError, match=r"old\.npy holds NaN, infinity or only zeros in row 7"):
        fit_maps(*features(x, y))


def test_images_without_an_old_vector_are_left_out(features, capsys):
    """The map is that of the rows that are there, wherever the gaps are; their number is said; too few are refused."""
    x, y = related(60, 3, 4)
    gone = np.isin(np.arange(60), (0, 1, 7, 8, 20, 33, 59))
    expected = fit_maps(*features(x[~gone], y[~gone]), ("ridge",))["ridge"]
    y[gone] = 0
    new, old = features(x, y)
    save_present(old, ~gone, {})
    found = fit_maps(new, old, ("ridge",))["ridge"]
    np.testing.assert_array_equal(found.map.weight, expected.map.weight)
    assert found.error == expected.error and found.images == 53
    assert f"7 of 60 images have no vector in {new} or {old}" in capsys.readouterr().out
    save_present(old, np.arange(60) < 19, {})
    with pytest.raises(UserError, match="19 images have a vector in both .* expected at least 20"):
        fit_maps(new, old)


def test_a_row_of_zeros_is_no_better_neighbour():
    """A map that knows nothing is as far from a row of zeros as from no other: such a neighbour does not count."""
    x, y = related(60, 3, 4)
    y[1::2] = 0
    turned = Map(-np.eye(3, 4, dtype=np.float32), np.zeros(4, np.float32))
    found = maps.shifted_difference(turned, Pairs(x, y, np.arange(0, 60, 2)), np.arange(0, 60, 2), 1)
    assert len(found) == 0
    far, near = unit(y[0:60:2]), unit(y[2:60:2])
    found = maps.shifted_difference(turned, Pairs(x, y, np.arange(0, 60, 2)), np.arange(0, 60, 2), 2)
    mapped = np.stack([turned(row[None])[0] for row in unit(x[0:58:2])])
    np.testing.assert_allclose(found, np.square(mapped - far[:29]).sum(1) - np.square(mapped - near).sum(1), atol=1e-5)


def test_features_of_other_records_are_refused(tmp_path):
    x, y = (side.astype(np.float32) for side in related(50, 3, 4))
    for name, array, records in (("new", x, "a"), ("old", y, "b")):
        save_array(tmp_path / f"{name}.npy", array, {"records": records})
    with pytest.raises(UserError, match="two different record files"):
        fit_maps(tmp_path / "new.npy", tmp_path / "old.npy")


@pytest.mark.parametrize("direction", [maps.BACKWARD, FORWARD])
def test_images_that_are_repeated_are_in_one_part(features, capsys, direction):
    """Each image four times in a row: the errors are those of each image once, not those of images that the fit has seen."""
    x, y = related(150, 24, 20)
    once = fit_maps(*features(x, y), direction=direction)
    assert "repeat" not in capsys.readouterr().out, "no row is repeated"
    again = fit_maps(*features(np.repeat(x, 4, 0), np.repeat(y, 4, 0)), direction=direction)
    assert "450 of 600 rows of" in capsys.readouterr().out, "the repeated rows are counted aloud"
    for kind, fitted in once.items():
        assert again[kind].error == pytest.approx(fitted.error, rel=1e-5) and again[kind].strength == fitted.strength
    sample = map_pairs.read_pairs(*features(np.repeat(x, 4, 0), np.repeat(y, 4, 0))).sample(300, 0)
    parts = [set(part.first[part.rows]) for part in (*sample.folds, *sample.folds[0].joined(sample.folds[2]).folds)]
    assert not any(one & two for k in (0, 3) for one, two in ((parts[k], parts[k + 1]), (parts[k], parts[k + 2])))
    with pytest.raises(UserError, match="15 of the 150 rows of .* differ; expected at least 20 images"):
        fit_maps(*features(np.repeat(x[:15], 10, 0), np.repeat(y[:15], 10, 0)))


@pytest.mark.parametrize("direction", [maps.BACKWARD, FORWARD])
def test_rows_in_another_order_are_refused(features, direction):
    x, y = related(400, 6, 5)
    with pytest.raises(UserError, match="do not belong together: ridge leaves a squared error"):
        fit_maps(*features(x, y[DRAW.permutation(400)]), direction=direction)


@pytest.mark.parametrize("direction", [maps.BACKWARD, FORWARD])
def test_a_model_that_tells_nothing_is_no_other_order(tmp_path, direction):
    """Features of one record file by both models have one order, whatever a map makes of them; without that they are refused."""
    sides = {"new": DRAW.standard_normal((400, 6)).astype(np.float32), "old": DRAW.standard_normal((400, 5)).astype(np.float32)}
    for records, refused in ((("a", "a"), False), ((None, None), True), (("a", None), True), ((None, "a"), True)):
        for (name, array), record in zip(sides.items(), records, strict=True):
            save_array(tmp_path / f"{name}.npy", array, {} if record is None else {"records": record})
        if refused:
            with pytest.raises(UserError, match="do not belong together: ridge"):
                fit_maps(tmp_path / "new.npy", tmp_path / "old.npy", direction=direction)
        else:
            assert set(fit_maps(tmp_path / "new.npy", tmp_path / "old.npy", direction=direction)) == {"Procrustes", "ridge"}


@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_rows_that_are_shifted_are_refused(features, shift):
    """Four pictures of each person in a row: a map of shifted rows is still far better than a constant vector."""
    person = np.repeat(DRAW.standard_normal((200, 6)), 4, axis=0)
    x = person + 0.4 * DRAW.standard_normal(person.shape)
    y = np.roll(x @ DRAW.standard_normal((6, 5)), -shift, axis=0)
    with pytest.raises(UserError, match=rf"are shifted: row i of one fits row i[+]?{-shift} of the other"):
        fit_maps(*features(x, y))
    fit_maps(*features(x, np.roll(y, shift, axis=0)))
