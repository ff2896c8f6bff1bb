"""Labels, ids and codes as people's stores have them."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from evaluation.evaluation_set import read_evaluation
from evaluation.version_features import plain_features, read_features
from evaluation.version_names import MAX_NAME, Version
from utils.errors import UserError

GALLERY, PROBE = np.array([30, 10, 40]), np.array([10, 10, 40, 70, 80])
PAIRS = [(1, 0, 1), (2, 2, 1), (0, 0, 0), (0, 3, 0)]


def write(folder: Path, gallery, probe, **files) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in {"gallery_label": gallery, "probe_label": probe, "pairs": PAIRS, **files}.items():
        np.save(folder / f"{name}.npy", np.array(array) if isinstance(array, list) else array)
    return folder


def groups(subjects) -> list:
    """Which rows have the same subject, whatever it is called."""
    return np.unique(np.concatenate(subjects), return_inverse=True)[1].tolist()


@pytest.mark.parametrize("name", [lambda x: f"user-{7919 * x % 1003:04d}", lambda x: str(x).encode(), lambda x: f"{x:>6}ü"])
def test_labels_in_text_are_the_same_people(tmp_path, name):
    expected = read_evaluation(write(tmp_path / "ints", GALLERY, PROBE), "IJBC")
    found = read_evaluation(write(tmp_path / "text", [name(x) for x in GALLERY], [name(x) for x in PROBE]), "IJBC")
    relabelled = np.concatenate(found.subjects)
    for x in set(np.concatenate(expected.subjects)):
        assert len(set(relabelled[np.concatenate(expected.subjects) == x])) == 1
    assert len(set(relabelled)) == 5 and found.negatives() == expected.negatives() and not found.data_notes
    text = name(int(PROBE[3]))
    assert found.labels[3] == (text.decode() if isinstance(text, bytes) else text)


def test_an_accent_in_two_forms_of_unicode_is_one_name(tmp_path):
    """As folders of macOS and of Linux have it: the two would be two people."""
    gallery, probe = ([f"Ren{accent} {x}" for x in rows] for accent, rows in (("e\u0301", GALLERY), ("\u00e9", PROBE)))
    found = read_evaluation(write(tmp_path, gallery, [x.encode() for x in probe], gallery_id=gallery), "IJBC")
    assert groups(found.subjects) == groups((GALLERY, PROBE)) and found.ids[0].tolist() == [f"Ren\u00e9 {x}" for x in GALLERY]


@pytest.mark.parametrize("unknown", [-1, 90, "-1", "unknown", "None", "", "  Unknown ", "somebody"])
def test_people_of_whom_nothing_is_known_are_different_people(tmp_path, unknown):
    """Twelve non-mated probes with one label: -1, a word for it, or any label that has most of them."""
    text = isinstance(unknown, str)
    gallery = GALLERY.astype(str) if text else GALLERY
    probe = np.r_[PROBE.astype(str) if text else PROBE, [unknown] * 12]
    found = read_evaluation(write(tmp_path / "data", gallery, probe), "IJBC")
    assert len(set(found.search.probes.subjects[5:])) == 12
    known = {*found.search.probes.subjects[:5], *found.search.galleries["gallery"].subjects}
    assert not known & set(found.search.probes.subjects[5:])
    assert len(found.compared_subjects()[0]) == 17 and found.negatives()["1:N"] == 14
    note, = found.data_notes
    assert "counts as a person of its own" in note and ("12 rows have the label -1" in note or "has 12 of 14 non-mated" in note)


def test_one_label_of_few_or_of_less_than_half_the_non_mated_probes_is_a_person(tmp_path):
    for k, extra in enumerate(([90] * 9, [*[90] * 10, *range(200, 211)])):
        found = read_evaluation(write(tmp_path / f"data{k}", GALLERY, np.r_[PROBE, extra]), "IJBC")
        assert not found.data_notes and (found.search.probes.subjects == 90).sum() == extra.count(90)


def test_an_unknown_person_in_the_gallery_is_nobodys_mate(tmp_path):
    found = read_evaluation(write(tmp_path / "data", np.array([30, 10, 40, -1, -1]), np.r_[PROBE, -1]), "IJBC")
    assert len(set(found.search.galleries["gallery"].subjects)) == 5 and found.negatives()["1:N"] == 3
    with pytest.raises(UserError, match="row 4 labels gallery row 3 and probe row 5 with 1"):
        read_evaluation(write(tmp_path / "data", np.array([30, 10, 40, -1]), np.r_[PROBE, -1], pairs=[*PAIRS, (3, 5, 1)]),
                        "IJBC")


def test_text_on_one_side_and_numbers_on_the_other_are_refused(tmp_path):
    with pytest.raises(UserError, match="gallery_label.npy holds int64, probe_label.npy holds <U.*; expected ints in both"):
        read_evaluation(write(tmp_path / "data", GALLERY, PROBE.astype(str)), "IJBC")
    np.save(tmp_path / "data/probe_label.npy", np.array(["a", None], object), allow_pickle=True)
    with pytest.raises(UserError, match="text is written with array.astype"):
        read_evaluation(tmp_path / "data", "IJBC")


# --- features ----------------------------------------------------------------------------------------------

def version(folder: Path, gallery, probe, **files) -> Version:
    folder.mkdir(exist_ok=True)
    for name, array in {"gallery": gallery, "probe": probe, **files}.items():
        np.save(folder / f"{name}.npy", array)
    return Version("old", str(folder), None)


ROWS = np.random.default_rng(0).integers(-90, 90, (8, 6)).astype(np.int8)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.float16, np.float64])
def test_codes_of_signed_integers_are_features(tmp_path, kind):
    evaluation = read_evaluation(write(tmp_path / "labels", GALLERY, PROBE), "IJBC")
    found = plain_features(version(tmp_path / "old", ROWS[:3].astype(kind), ROWS[3:].astype(kind)), evaluation)
    assert found.norm == pytest.approx(np.linalg.norm(ROWS[:3].astype(float), axis=1), rel=1e-3)
    assert np.array_equal(found.query[np.arange(5)], ROWS[3:])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, bool])
def test_codes_with_an_offset_are_refused_with_the_way(tmp_path, kind):
    evaluation = read_evaluation(write(tmp_path / "labels", GALLERY, PROBE), "IJBC")
    with pytest.raises(UserError, match="astype.np.float32. - OFFSET" if kind is not bool else "holds bool"):
        plain_features(version(tmp_path / "old", np.abs(ROWS[:3]).astype(kind), ROWS[3:]), evaluation)


@pytest.mark.parametrize("name", [int, str, lambda x: f"img/{x}.jpg"])
def test_rows_are_matched_by_id_and_not_by_order(tmp_path, name):
    ids = {"gallery_id": np.array([name(x) for x in (7, 5, 9)]), "probe_id": np.array([name(x) for x in (1, 4, 3, 8, 6)])}
    evaluation = read_evaluation(write(tmp_path / "labels", GALLERY, PROBE, **ids), "IJBC")
    assert evaluation.ids[1].tolist() == [name(x) for x in (1, 4, 3, 8, 6)]
    order = [4, 2, 0, 1, 3]
    features = version(tmp_path / "old", ROWS[[2, 0, 1, 7]], ROWS[3:][order], probe_id=ids["probe_id"][order],
                       gallery_id=np.array([name(x) for x in (9, 7, 5, 100)]))
    found = read_features(features, evaluation, Namespace())
    assert np.array_equal(found.gallery[np.arange(3)], ROWS[:3]) and np.array_equal(found.query[np.arange(5)], ROWS[3:])
    assert found.norm == pytest.approx(np.linalg.norm(ROWS[:3].astype(float), axis=1))


@pytest.mark.parametrize("own, message", [
    (None, "no file .*probe_id.npy: the labels have probe_id.npy"), ([1, 4, 3, 8], "holds 4 ids and probe.npy 5 rows"),
    ([1, 4, 3, 8, 8], "the id 8 occurs 2 times"), ([1, 4, 2, 8, 0], "lacks 2 of the 5 ids of the labels .first: 3"),
    (["1", "4", "3", "8", "6"], "expected ints in both or text in both")])
def test_ids_that_do_not_match_are_refused(tmp_path, own, message):
    evaluation = read_evaluation(write(tmp_path / "labels", GALLERY, PROBE, probe_id=[1, 4, 3, 8, 6]), "IJBC")
    more = {} if own is None else {"probe_id": np.array(own)}
    with pytest.raises(UserError, match=message):
        plain_features(version(tmp_path / "old", ROWS[:3], ROWS[3:], **more), evaluation)


def test_ids_of_labels_and_versions_belong_together(tmp_path):
    evaluation = read_evaluation(write(tmp_path / "labels", GALLERY, PROBE), "IJBC")
    with pytest.raises(UserError, match="the labels have no gallery_id.npy"):
        plain_features(version(tmp_path / "old", ROWS[:3], ROWS[3:], gallery_id=np.arange(3)), evaluation)
    for ids, message in (([1, 2], "holds 2 ids; expected 3"), ([1, 2, 2], "the id 2 occurs 2 times")):
        with pytest.raises(UserError, match=message):
            read_evaluation(write(tmp_path / "labels", GALLERY, PROBE, gallery_id=ids), "IJBC")


# --- names -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, message", [("a" * 300, "at most 60 bytes .*found 300"), ("é" * 31, "found 62 bytes"),
                                           ("a/b", "without a slash"), ("a\nb", "control characters"), ("a\\b", "a slash")])
def test_names_that_cannot_be_part_of_files_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        Version.parse(f"{name}=file.onnx")
    assert Version.parse(f"{'a' * MAX_NAME}=file.onnx")[0].name == "a" * MAX_NAME


def test_files_with_commas_are_trainings_and_mxnets_epoch_is_part_of_one(tmp_path):
    def files(text):
        return [(version.file, version.network) for version in Version.parse(f"new={text}")]
    assert files("a.pt:r18,b.pt:r50") == [("a.pt", "r18"), ("b.pt", "r50")]
    assert files("a.pt,b.pt:r50") == [("a.pt", "r50"), ("b.pt", "r50")]
    assert files("models/a,0,models/b,12") == [("models/a,0", None), ("models/b,12", None)]
    (tmp_path / "a,b.npy").write_text("")
    assert files(tmp_path / "a,b.npy") == [(str(tmp_path / "a,b.npy"), None)]
    for text, message in (("a.npy,,b.npy", "nothing between"), ("a.npy,a.npy", "found one twice")):
        with pytest.raises(UserError, match=message):
            files(text)


def test_pairs_that_are_repeated_are_refused_unless_they_are_few(tmp_path):
    """50 pairs, then 5 and 6 of them again: a tenth of 55 is 5.5."""
    gallery, probe = np.arange(5), np.arange(10)
    pairs = np.array([(g, p, int(g == p)) for g in range(5) for p in range(10)])
    assert len(read_evaluation(write(tmp_path / "few", gallery, probe, pairs=np.r_[pairs, pairs[:5]]), "IJBC").pairs.same) == 55
    with pytest.raises(UserError, match="6 of 56 rows are pairs that were there before"):
        read_evaluation(write(tmp_path / "many", gallery, probe, pairs=np.r_[pairs, pairs[:6]].astype(np.uint64)), "IJBC")
