"""Re-embedding step by step against plain computations."""

import numpy as np
import pytest
from toy_evaluation import plain
from tqdm import tqdm

from evaluation.backfill import Curve, PartlyReembedded, Way, backfill, crossing, orders_of, summary
from evaluation.cells import Measure
from evaluation.protocol import Pairs, People
from evaluation.version_features import Features
from serving.upgrade import ScoreMap

DRAW = np.random.default_rng(0)


def curve(values: list, images: list) -> Curve:
    return Curve(np.linspace(0, 1, len(values)), {"1:N": np.array(images)}, {"m": np.array(values, float)})


def test_where_the_gain_is_reached_by_hand():
    """From 0.5 (old / old) to 0.9: 80 % is 0.82, between the points 0.7 and 0.9."""
    slow = curve([0.4, 0.5, 0.7, 0.9, 0.9], [0, 10, 30, 70, 100])
    share, images = crossing(slow, "m", 0.5, 0.8)
    assert share == pytest.approx(0.5 + 0.25 * 0.6) and images == pytest.approx(30 + 0.6 * 40)
    assert crossing(curve([0.9, 0.7, 0.9], [0, 1, 2]), "m", 0.5, 0.8) == (0, 0)     # there from the start
    assert crossing(curve([0.4, 0.45, 0.5], [0, 1, 2]), "m", 0.5, 0.8) is None      # re-embedding gains nothing
    found = summary([slow, slow], "m", [0.5, 0.5], 0.8)
    assert found == {"auc": pytest.approx((0.2 + 0.5 + 0.7 + 0.9 + 0.45) / 4), "share": pytest.approx(0.65), "images": 54}
    assert summary([slow], "m", [0.95], 0.8)["images"] is None


def test_a_partly_reembedded_gallery_has_new_rows_where_done():
    old, new, done = DRAW.standard_normal((9, 4)), 100 * DRAW.standard_normal((9, 4)), DRAW.random(9) < 0.5
    rows = np.array([8, 0, 3])
    expected = [(new if done[i] else old)[i] / np.linalg.norm((new if done[i] else old)[i]) for i in rows]
    np.testing.assert_allclose(PartlyReembedded(old, new, done)[rows], expected, atol=1e-6)


def test_orders_begin_with_the_lowest_and_cover_the_gallery():
    evaluation = plain(None, [0, 1, 2, 3], [0, 9])
    evaluation.qualities["sharpness"] = np.array([0.3, 0.1, 0.9, 0.2])
    orders = orders_of(evaluation, Features(np.eye(4), np.eye(4), np.array([4.0, 3.0, 2.0, 1.0])), seeds=3)
    assert orders["lowest sharpness first"][0]["1:N"].tolist() == [1, 3, 0, 2]
    assert orders["lowest norm of the old feature first"][0]["1:N"].tolist() == [3, 2, 1, 0]
    assert [sorted(order["1:N"]) for order in orders["random"]] == [[0, 1, 2, 3]] * 3
    assert len({tuple(order["1:N"]) for order in orders["random"]}) > 1


def test_each_protocol_counts_and_orders_its_own_rows():
    """1:N enrols rows 0 and 1, 1:1 rows 2 to 4 (and 0): a quality that is constant in a protocol makes no order there."""
    pairs = Pairs(np.array([0, 2, 3, 4]), np.zeros(4, int), np.array([True, False, False, False]))
    evaluation = plain(pairs, [0, 1, 2, 3, 4], [0])
    evaluation.search.galleries["gallery"] = People(np.array([0, 1]), np.array([0, 1]))
    evaluation.images[:] = [5, 8, 1, 2, 4]
    evaluation.qualities["media"] = np.array([2.0, 2 + 1e-7, 1, 3, 0])
    rows = evaluation.gallery_rows()
    assert {name: own.tolist() for name, own in rows.items()} == {"1:1": [0, 2, 3, 4], "1:N": [0, 1]}
    order, = orders_of(evaluation, Features(np.eye(5), np.eye(5)), seeds=1)["lowest media first"]
    assert {name: own.tolist() for name, own in order.items()} == {"1:1": [4, 2, 0, 3]}
    evaluation.qualities["media"] = np.ones(5)
    assert list(orders_of(evaluation, Features(np.eye(5), np.eye(5)), seeds=1)) == ["random"]
    draw = np.random.default_rng(2)
    old, new = (Features(draw.standard_normal((5, 3)).astype(np.float32), draw.standard_normal((1, 3)).astype(np.float32))
                for _ in range(2))
    measure = Measure(evaluation, 0, 0, "cpu")
    ends = measure(old.gallery, new.query), measure(new.gallery, new.query)
    measure.metrics = ["top-1", "TAR@1e-1"]
    for cell in ends:
        cell.values["TAR@1e-1"] = 0.5
    measured = []

    def record(gallery, query, scores=None, scale=None):
        measured.append((gallery.done.tolist(), scores.round(5).tolist()))
        return ends[0]
    record.evaluation, record.metrics = evaluation, measure.metrics
    found, = backfill(record, old, new, ends, {"any": [{"1:1": np.array([3, 0, 2, 4]), "1:N": np.array([1, 0])}]}, 2,
                      tqdm(disable=True))["any"]
    mixed = [ends[1].scores[0], ends[0].scores[1], ends[1].scores[2], ends[0].scores[3]]        # pairs of the rows 0, 2, 3, 4
    assert measured == [([False, True, False, False, False], np.round(mixed, 5).tolist())]
    assert found.images["1:1"].tolist() == [0, 7, 12] and found.images["1:N"].tolist() == [0, 8, 13]
    only, = backfill(record, old, new, ends, {"any": [{"1:1": np.array([3, 0, 2, 4])}]}, 2, tqdm(disable=True))["any"]
    assert list(only.values) == ["TAR@1e-1"] and list(only.images) == ["1:1"] and not any(measured[1][0])


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
    found, = backfill(measure, old, new, ends, {"any": [{"1:1": order, "1:N": order}]}, 5, tqdm(disable=True))["any"]
    assert found.share == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    for k, count in enumerate((0, 2, 4, 6, 8, 10)):
        assert found.images["1:1"][k] == found.images["1:N"][k] == sum(order[:count] + 1)
        unit = np.array([(new if i in order[:count] else old).gallery[i] for i in range(10)])
        for name, value in measure(unit, new.query).values.items():
            assert found.values[name][k] == pytest.approx(value), (name, count)


def test_a_mapped_version_asks_each_entry_with_the_view_that_belongs_to_it():
    """Old entries of 3 dimensions, new ones of 5: cosines of the new view for the rows done, of the other view for the rest."""
    draw = np.random.default_rng(2)
    gallery_owner, probe_owner = np.arange(10), draw.integers(0, 14, 60)
    enrol, verify = (side.ravel() for side in np.meshgrid(np.arange(10), np.arange(60)))
    evaluation = plain(Pairs(enrol, verify, gallery_owner[enrol] == probe_owner[verify]), gallery_owner.tolist(),
                       probe_owner.tolist())
    (old_gallery, on_old), (gallery, query) = ([7 * draw.standard_normal((n, d)).astype(np.float32) for n in (10, 60)]
                                               for d in (3, 5))
    old, new = Features(old_gallery, old_gallery), Features(gallery, query, on_old=(old_gallery, on_old))
    measure, order = Measure(evaluation, 0, 0, "cpu"), np.random.default_rng(1).permutation(10)
    ends = measure(old_gallery, on_old), measure(gallery, query)
    found, = backfill(measure, old, new, ends, {"any": [{"1:1": order, "1:N": order}]}, 5, tqdm(disable=True))["any"]
    views = [query / np.linalg.norm(query, axis=1, keepdims=True) for query in (on_old, query)]
    stored = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (old_gallery, gallery)]
    for k, count in enumerate((0, 2, 4, 6, 8, 10)):
        cosines = np.array([views[i in order[:count]] @ stored[i in order[:count]][i] for i in range(10)])     # [10, 60]
        ranks = [1 + (cosines[:, j] > cosines[owner, j]).sum() for j, owner in enumerate(probe_owner) if owner < 10]
        assert found.values["top-1"][k] == pytest.approx(np.mean(np.array(ranks) == 1)), count
        same = gallery_owner[enrol] == probe_owner[verify]
        scores = cosines[enrol, verify]
        threshold = np.sort(scores[~same])[::-1][int(0.1 * (~same).sum())]
        assert found.values["TAR@1e-1"][k] == pytest.approx((scores[same] > threshold).mean()), count
    assert len(set(found.values["top-1"].tolist())) > 2


@pytest.mark.parametrize("views", [1, 2])
def test_a_mapped_curve_compares_each_entry_on_the_scale_of_its_kind(views):
    """Two maps, one for each kind of entry.  Every point against loops over the mapped scores."""
    draw = np.random.default_rng(3)
    gallery_owner, probe_owner = np.arange(10), draw.integers(0, 14, 60)
    enrol, verify = (side.ravel() for side in np.meshgrid(np.arange(10), np.arange(60)))
    evaluation = plain(Pairs(enrol, verify, gallery_owner[enrol] == probe_owner[verify]), gallery_owner.tolist(),
                       probe_owner.tolist())
    gallery, query = (draw.standard_normal((n, 5)).astype(np.float32) for n in (10, 60))
    old_gallery, on_old = ((draw.standard_normal((n, 3)).astype(np.float32) for n in (10, 60)) if views == 2
                           else (draw.standard_normal((10, 5)).astype(np.float32), query))
    new = Features(gallery, query, on_old=(old_gallery, on_old) if views == 2 else None)
    maps = ScoreMap([-0.2, 0.1, 0.4], [0, 1, 5], 30), ScoreMap([0.1, 0.5, 0.8], [0, 1, 2], 3)
    measure, order = Measure(evaluation, 0, 0, "cpu"), np.random.default_rng(1).permutation(10)
    ends = measure(old_gallery, on_old), measure(gallery, query)
    found, = backfill(measure, Features(old_gallery, old_gallery), new, ends, {"any": [{"1:1": order, "1:N": order}]}, 5,
                      tqdm(disable=True), maps)["any"]
    unit = [[x / np.linalg.norm(x, axis=1, keepdims=True) for x in pair] for pair in ((old_gallery, on_old), (gallery, query))]
    for k, count in ((1, 2), (2, 4), (3, 6), (4, 8)):
        side = np.isin(np.arange(10), order[:count]).astype(int)
        scores = np.array([maps[side[i]](unit[side[i]][1] @ unit[side[i]][0][i]) for i in range(10)])      # [10, 60]
        ranks = [1 + (scores[:, j] > scores[owner, j]).sum() for j, owner in enumerate(probe_owner) if owner < 10]
        assert found.values["top-1"][k] == pytest.approx(np.mean(np.array(ranks) == 1)), count
        way = Way(measure, Features(old_gallery, old_gallery), new, ends, maps)
        hits, mated = way.cell({"1:1": order, "1:N": order}, k / 5).hits["gallery"], probe_owner < 10
        mates = [scores[owner, j] for j, owner in enumerate(probe_owner) if owner < 10]
        np.testing.assert_allclose(hits.mate[mated], mates, atol=1e-4)
        same, pairs = gallery_owner[enrol] == probe_owner[verify], scores[enrol, verify]
        threshold = np.sort(pairs[~same])[::-1][int(0.1 * (~same).sum())]
        assert found.values["TAR@1e-1"][k] == pytest.approx((pairs[same] > threshold).mean()), count
    assert [found.values["top-1"][k] for k in (0, 5)] == [end.values["top-1"] for end in ends]


def test_scores_of_two_scales_are_merged_by_hand():
    """Two people, two probes each.  Old entries: mates 0.3, strangers 0.1; new ones: mates 0.9, strangers 0.6.

    With entry 1 re-embedded, the probes of person 0 meet it with 0.6 and their own entry with 0.3: raw, half of all probes are
    wrong. Maps that send 0.1 and 0.6 to 1, 0.3 and 0.9 to 3 find all.
    """
    def rows(cosines: list) -> np.ndarray:
        """Unit rows with these cosines to the axes 0 and 1."""
        table = np.array(cosines, float)
        return np.c_[table, np.sqrt(1 - (table ** 2).sum(1))].astype(np.float32)
    evaluation = plain(None, [0, 1], [0, 0, 1, 1])
    on_old, on_new = rows([(0.3, 0.1)] * 2 + [(0.1, 0.3)] * 2), rows([(0.75, 0.6)] * 2 + [(0.3, 0.9)] * 2)
    axes = np.eye(3, dtype=np.float32)[:2]
    new, measure = Features(axes, on_new, on_old=(axes, on_old)), Measure(evaluation, 0, 0, "cpu")
    ends, order = (measure(axes, on_old), measure(axes, on_new)), {"any": [{"1:N": np.array([1, 0])}]}
    maps = ScoreMap([0.1, 0.3], [1, 3], 10), ScoreMap([0.6, 0.9], [1, 3], 10)
    raw, by_maps = (backfill(measure, Features(axes, axes), new, ends, order, 2, tqdm(disable=True), given)["any"][0]
                    for given in (None, maps))
    assert raw.values["top-1"].tolist() == [1, 0.5, 1] and by_maps.values["top-1"].tolist() == [1, 1, 1]
