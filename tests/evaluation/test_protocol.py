"""Reading the IJB layout, and the error for each way in which it can be broken."""

import os
import re

import numpy as np
import pytest
from memory import less_than
from toy import write_ijb

from evaluation.protocol import read_images, read_pairs, read_search
from utils.errors import UserError


@pytest.fixture
def data(tmp_path):
    """Six subjects with three templates of two images each: ids 1 to 18, each subject's first in a gallery."""
    write_ijb(tmp_path)
    return tmp_path


def change(data, name: str, edit) -> None:
    file = data / "IJBC/meta" / name
    file.write_text(edit(file.read_text()), errors="surrogateescape")


def test_everything_is_read(data):
    images = read_images(data, "IJBC")
    assert len(images) == 36 and images.names[:2].tolist() == ["1.jpg", "2.jpg"]
    assert images.template_ids.tolist() == list(range(1, 19))
    assert images.templates.tolist() == [i // 2 for i in range(36)]
    assert images.landmarks[0].tolist() == np.float32([[38.3, 51.7], [73.5, 51.5], [56, 71.7], [41.5, 92.4],
                                                       [70.7, 92.2]]).tolist()
    pairs = read_pairs(data, "IJBC", images)
    expected = [(a, b, a // 3 == b // 3) for a in range(18) for b in range(a + 1, 18)]
    columns = (pairs.enrol.tolist(), pairs.verify.tolist(), pairs.same.tolist())
    assert list(zip(*columns, strict=True)) == expected
    search = read_search(data, "IJBC", images)
    assert search.galleries["G2"].templates.tolist() == [9, 12, 15]
    assert search.probes.subjects[:3].tolist() == [0, 0, 1]


def test_ids_may_have_gaps_and_lists_a_row_per_image(data):
    def squared(found: re.Match) -> str:
        return f"jpg {int(found[1]) ** 2 + 7} "

    change(data, "ijbc_face_tid_mid.txt", lambda t: re.sub(r"jpg (\d+) ", squared, t))
    change(data, "ijbc_template_pair_label.txt", lambda t: "331 11 0\n11 8 1\n")
    for name in ("gallery_G1", "gallery_G2", "probe_mixed"):
        change(data, f"ijbc_1N_{name}.csv", lambda t: "T,S,FILE\n" + "331,5,a#1.jpg\n" * 3 + "8,2,b.jpg\n")
    images = read_images(data, "IJBC")
    assert read_pairs(data, "IJBC", images).enrol.tolist() == [17, 1]
    probes = read_search(data, "IJBC", images).probes
    assert probes.templates.tolist() == [0, 17] and probes.subjects.tolist() == [2, 5]


def test_ijbb_and_the_folder_itself(data):
    (data / "IJBC").rename(data / "IJBB")
    for file in (data / "IJBB/meta").iterdir():
        file.rename(file.with_name(file.name.replace("ijbc", "ijbb").replace("_G", "_S")))
    images = read_images(data / "IJBB", "IJBB")
    assert len(images) == 36 and list(read_search(data, "IJBB", images).galleries) == ["S1", "S2"]


TEMPLATES, POINTS, PAIRS = "face_tid_mid.txt", "name_5pts_score.txt", "template_pair_label.txt"
BROKEN = {
    "landmark rows": (POINTS, lambda t: t.split("\n", 1)[1], "35 rows.* 36; expected the same"),
    "landmark fields": (POINTS, lambda t: t.replace(" 0.9", "", 1), "5pts_score.*cannot be read"),
    "no number": (POINTS, lambda t: t.replace("38.3", "nan", 1), "row 1: expected finite"),
    "text for an id": (TEMPLATES, lambda t: t.replace(" 1 ", " x ", 1), "tid_mid.txt cannot be read"),
    "negative id": (TEMPLATES, lambda t: t.replace(" 1 ", " -1 ", 1), r"\[0, 100000000\), found -1"),
    "empty": (TEMPLATES, lambda t: "", "tid_mid.txt is empty"),
    "pair without images": (PAIRS, lambda t: t + "3 99 0\n", "1 templates have no image .*first: template 99."),
    "negative pair": (PAIRS, lambda t: t + "-3 2 0\n", "1 templates have no image .*first: template -3."),
    "label": (PAIRS, lambda t: t + "1 2 7\n", r"labels \[0, 1, 7\]"),
    "one kind of pairs": (PAIRS, lambda t: "1 2 1\n", r"found the labels \[1\]"),
    "both labels": (PAIRS, lambda t: t + "1 2 0\n1 2 1\n", "1 pairs are labelled both 1"),
    "pairs again": (PAIRS, lambda t: t + t, "rows are pairs that were there before"),
    "probe without images": ("1N_probe_mixed.csv", lambda t: t + "77,1\n", "1 templates have no image .*first: template 77."),
    "two subjects": ("1N_gallery_G1.csv", lambda t: t + "1,5\n", "template 1 belongs to the subjects 0 and 5"),
    "one and a half": (TEMPLATES, lambda t: t.replace(" 1 ", " 1.5 ", 1), "tid_mid.txt cannot be read"),
    "half a label": (PAIRS, lambda t: t + "1 2 0.5\n", "pair_label.txt cannot be read"),
    "other order": (TEMPLATES, lambda t: t.replace("1.jpg", "x.jpg", 1), "row 1 is 1.jpg in .*x.jpg in"),
    "no text": (POINTS, lambda t: t.replace("1.jpg", "\udcff.jpg", 1), "5pts_score.txt cannot be read"),
    "no header": ("1N_gallery_G1.csv", lambda t: t.split("\n", 1)[1], "begins with '1,0'; expected a header"),
    "only a header": ("1N_gallery_G2.csv", lambda t: t.split("\n")[0] + "\n", "G2.csv is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named(data, case):
    name, edit, message = BROKEN[case]
    change(data, f"ijbc_{name}", edit)
    with pytest.raises(UserError, match=message):
        images = read_images(data, "IJBC")
        read_pairs(data, "IJBC", images)
        read_search(data, "IJBC", images)


@pytest.mark.parametrize("name", ["../../etc/x.jpg", "/etc/x.jpg", "a/../../../x", "..", "a\0.jpg", "n" * 300])
def test_names_that_lead_out_of_the_folder(data, name):
    for file in (TEMPLATES, POINTS):
        change(data, f"ijbc_{file}", lambda t: t.replace("7.jpg", name, 1))
    with pytest.raises(UserError, match="row 7 names .*; expected a file inside the folder loose_crop"):
        read_images(data, "IJBC")


def test_names_may_have_folders_and_dots(data):
    for file in (TEMPLATES, POINTS):
        change(data, f"ijbc_{file}", lambda t: t.replace("7.jpg", "a/b..c.jpg", 1))
    assert read_images(data, "IJBC").names[6] == "a/b..c.jpg"


def test_one_huge_id_needs_no_memory(data):
    change(data, f"ijbc_{TEMPLATES}", lambda t: t.replace(" 18 ", " 99999999 "))
    change(data, f"ijbc_{PAIRS}", lambda t: "1 99999999 0\n1 2 1\n")
    change(data, "ijbc_1N_probe_mixed.csv", lambda t: "T,S\n99999999,5\n")
    images = read_images(data, "IJBC")
    with less_than(50):
        assert read_pairs(data, "IJBC", images).verify.tolist() == [17, 1]
        assert read_search(data, "IJBC", images).probes.templates.tolist() == [17]
        for wrong in (3_000, 100_000_000):
            change(data, f"ijbc_{PAIRS}", lambda t, wrong=wrong: f"1 {wrong} 0\n1 2 1\n")
            with pytest.raises(UserError, match=f"first: template {wrong}"):
                read_pairs(data, "IJBC", images)


def test_a_mark_before_the_first_name_and_blanks_at_the_end(data):
    change(data, f"ijbc_{TEMPLATES}", lambda t: "\ufeff" + t.replace("7.jpg", "somewhere/7.jpg", 1) + "  \n ")
    assert read_images(data, "IJBC").names[[0, 6]].tolist() == ["1.jpg", "7.jpg"]       # the landmark file has the folders


def test_missing_files_and_folders_are_named(data):
    with pytest.raises(UserError, match="no IJBB data in .*IJBB: expected the folders meta and loose_crop"):
        read_images(data, "IJBB")
    images = read_images(data, "IJBC")
    (data / "IJBC/loose_crop/7.jpg").unlink()
    with pytest.raises(UserError, match="7.jpg cannot be read .*row 7 of the landmark file"):
        images.fingerprint()
    (data / "IJBC/meta/ijbc_template_pair_label.txt").unlink()
    with pytest.raises(UserError, match="no file .*ijbc_template_pair_label.txt"):
        read_pairs(data, "IJBC", images)


def test_the_fingerprint_sees_other_landmarks_and_other_images(data):
    before = read_images(data, "IJBC").fingerprint()
    assert read_images(data, "IJBC").fingerprint() == before
    (data / "IJBC/loose_crop/7.jpg").write_bytes(b"another image")
    changed = read_images(data, "IJBC").fingerprint()
    change(data, "ijbc_name_5pts_score.txt", lambda t: t.replace("38.3", "38.4", 1))
    assert len({before, changed, read_images(data, "IJBC").fingerprint()}) == 3


def test_the_fingerprint_sees_another_image_of_the_same_size(data):
    """As if all crops were BMP: they have one size, whatever they show."""
    image = data / "IJBC/loose_crop/7.jpg"
    os.utime(image, ns=(10**18, 10**18))
    before = read_images(data, "IJBC").fingerprint()
    image.write_bytes(image.read_bytes()[::-1])
    assert read_images(data, "IJBC").fingerprint() != before
