"""Which subjects, images and figures an evaluation set has."""

import numpy as np
import pytest
from toy_evaluation import plain

from evaluation.evaluation_set import contradictions, ijb_evaluation, subjects_of_templates
from evaluation.protocol import Images, Pairs, People, Search


def test_what_a_verdict_may_rest_on():
    """With 40 non-mated probes, FPIR 0.1 rests on 4 errors, fewer than 30; 9 mated subjects are too few for any verdict."""
    many = plain(None, list(range(20)), [*range(20), *range(50, 400)])
    assert many.reliable() == ["top-1", "top-5", "top-10", "TPIR@1e-1"] and many.headline() == ["top-1", "TPIR@1e-1"]
    assert plain(None, list(range(20)), [*range(20), *range(50, 90)]).reliable() == ["top-1", "top-5", "top-10"]
    few = plain(None, list(range(9)), [*range(9), *range(50, 400)])
    assert few.reliable() == [] and "subjects with a mated probe is 9: too few" in " ".join(few.notes())


def test_subjects_of_the_gallery_alone_take_no_part_in_the_bootstrap():
    names, (gallery, query) = plain(None, [5, 3, 9, 7], [7, 3, 7]).compared_subjects()
    assert len(names) == 2 and gallery.tolist() == [-1, 0, -1, 1] and query.tolist() == [1, 0, 1]


def test_subjects_come_from_lists_and_from_pairs():
    """Template 4 is in no list, but a genuine pair joins it with template 3; 5 has a subject of its own."""
    pairs = Pairs(np.array([0, 4, 5]), np.array([1, 3, 0]), np.array([False, True, False]))
    search = Search({"G": People(np.array([0, 1]), np.array([70, 80]))}, People(np.array([2, 3]), np.array([70, 90])))
    subject = subjects_of_templates(6, pairs, search)
    assert subject[0] == subject[2] and subject[3] == subject[4] and len(set(subject)) == 4


def test_pairs_and_lists_that_contradict_each_other_are_a_warning():
    """Templates 0 to 3 are of the persons 5, 6, 5 and 7."""
    search = Search({"G": People(np.array([0, 1]), np.array([5, 6]))}, People(np.array([2, 3]), np.array([5, 7])))
    for pairs, merged, wrong in (([(0, 2, 1), (1, 2, 0)], None, None), ([(0, 2, 0), (1, 3, 0), (0, 0, 1)], 0, 1),
                                 ([(1, 2, 1), (0, 1, 0), (0, 3, 1)], 2, 1)):
        table = np.array(pairs)
        pairs = Pairs(table[:, 0], table[:, 1], table[:, 2] == 1)
        found = contradictions(subjects_of_templates(4, pairs, search), pairs, search)
        expected = (f"Pairs and 1:N lists contradict each other: by the genuine pairs {merged} subjects of the lists are the "
                    f"same as another one, and {wrong} impostor pairs are of one person")
        assert [note.partition(";")[0] for note in found] == ([] if merged is None else [expected]), (pairs, found)


def test_images_score_and_media_of_a_template_in_an_ijb_folder():
    images = Images(None, np.array(["a", "b", "c", "d"]), None, np.array([0.5, 0.7, 0.9, 0.1], np.float32),
                    np.array([0, 0, 1, 0]), np.array([3, 3, 3, 8]), np.array([10, 20]), "")
    pairs = Pairs(np.array([0, 0]), np.array([0, 1]), np.array([True, False]))
    search = Search({"G": People(np.array([0]), np.array([1]))}, People(np.array([1]), np.array([2])))
    pairs_of_one_person = np.array([0, 0]), np.array([1, 0]), np.array([True, False])
    found = ijb_evaluation(images, pairs, search, "IJBC")
    assert found.data_notes == () and ijb_evaluation(images, Pairs(*pairs_of_one_person), search, "IJBC").data_notes
    assert found.images.tolist() == [3, 1] and found.qualities["number of media"].tolist() == [2, 1]
    assert found.qualities["detector score"] == pytest.approx([1.3 / 3, 0.9])
    assert found.gallery_rows()["1:N"].tolist() == [0] and found.compared_subjects()[0].tolist() == [0, 1]
    assert found.negatives() == {"1:1": 1, "1:N": 1}
    notes = " ".join(found.notes())
    assert "Gallery G has a single subject" in notes and "smallest FAR that they support is 1" in notes
    assert "1 of 1 probes have no mate" in notes and found.metrics() == []
