"""Folders of photographs: who and what is used, decided by content, and everything else named once with its reason."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from photo_toys import encoded, face, turned, write_people

from records.folders import LOOSE, Rejected, Tree, alike, read_tree
from records.pictures import is_turned, pixels, upright_jpeg


def read(folder: Path, albums: bool = False) -> Tree:
    return read_tree(folder, lambda data, image: image.shape, albums)


def names(tree: Tree) -> dict[str, list[str]]:
    return {name: [str(p.path.relative_to(tree.folder / name)) for p in pictures] for name, pictures in tree.people.items()}


def left(tree: Tree, bad: bool | None = None) -> dict[str, str]:
    """{path below the folder: kind} of what is left out."""
    return {str(item.path.relative_to(tree.folder)): item.kind for item in tree.left_out if bad is None or item.bad == bad}


PLAIN = {f"p{person}": [f"{number}.jpg" for number in range(4)] for person in range(3)}


@pytest.fixture
def people(tmp_path) -> Path:
    return write_people(tmp_path / "in")


def test_a_clean_folder(people):
    tree = read(people)
    assert names(tree) == PLAIN and not tree.left_out and len(tree) == 12 and tree.people["p0"][0].found == (16, 16, 3)


# hidden and system things

@pytest.mark.parametrize("place", [".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN",
                                   "System Volume Information", "lost+found", "__pycache__", "@EADIR"])
def test_hidden_and_system_folders(people, place):
    """At the level of the people and inside a person: neither a person nor pictures."""
    for folder in (people / place, people / "p1" / place):
        folder.mkdir()
        (folder / "0.jpg").write_bytes(encoded(face(7, 7)))
    tree = read(people)
    assert names(tree) == PLAIN and set(left(tree, bad=False)) == {place, f"p1/{place}"}
    assert set(left(tree).values()) == {"hidden or of the system"}


@pytest.mark.parametrize("file", ["Thumbs.db", "desktop.ini", ".DS_Store", "._0.jpg", "ehthumbs.db", "Icon\r"])
def test_hidden_and_system_files(people, file):
    for folder in (people, people / "p1"):
        (folder / file).write_bytes(encoded(face(7, 7)))
    tree = read(people)
    assert names(tree) == PLAIN and set(left(tree).values()) == {"hidden or of the system"} and len(tree.left_out) == 2


# contents and endings

@pytest.mark.parametrize("name, ending", [
    ("a.jfif", ".jpg"), ("b.jpe", ".jpg"), ("noending", ".jpg"), ("c.jpg.bak", ".jpg"), ("D.JPG", ".jpg"), ("e.PNG", ".png"),
    ("f.jpg", ".png"), ("g.tif", ".tif"), ("h.pgm", ".pgm"), ("i.ppm", ".ppm"), ("j.gif", ".gif"), ("k.jp2", ".jp2"),
    ("l.bmp", ".bmp"), ("m", ".webp"), ("n.avif", ".avif"), ("o.txt", ".png")])
def test_pictures_of_any_kind_and_name(people, name, ending):
    if not cv2.haveImageWriter(f"a{ending}"):
        pytest.skip(f"this OpenCV does not write {ending}")
    image = face(8, 8, 32)
    (people / "p0" / name).write_bytes(encoded(image[:, :, 0] if ending == ".pgm" else image, ending))
    tree = read(people)
    assert name in names(tree)["p0"] and len(tree) == 13 and not tree.left_out


def kinds_of_pixels() -> dict[str, tuple[bytes, np.ndarray]]:
    """{name: (file, what its pixels are)}."""
    image = face(8, 8)
    wide = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    as_eight = (wide // 256).astype(np.uint8)[:, :, None].repeat(3, 2)
    alpha = np.dstack([image, np.zeros((16, 16), np.uint8)])
    grey = image[:, :, 1]
    return {"16 bits.png": (encoded(wide, ".png"), as_eight), "grey.png": (encoded(grey, ".png"), grey[:, :, None].repeat(3, 2)),
            "16 bits.tif": (encoded(wide, ".tif"), as_eight), "alpha.png": (encoded(alpha, ".png"), image),
            "16 bits.pgm": (b"P5\n16 16\n65535\n" + wide.astype(">u2").tobytes(), as_eight)}


@pytest.mark.parametrize("name", kinds_of_pixels())
def test_grey_alpha_and_16_bits(name):
    data, expected = kinds_of_pixels()[name]
    assert np.array_equal(pixels(data), expected)


def test_a_cmyk_jpeg_has_its_colours():
    pytest.importorskip("PIL")
    import io

    from PIL import Image
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK").save(file, "JPEG")
    assert np.abs(pixels(file.getvalue())[:, :, ::-1].astype(int) - (200, 30, 60)).max() <= 3


@pytest.mark.parametrize("name, data", [
    ("page.jpg", b"<!DOCTYPE html><html>not found</html>"), ("empty.jpg", b""), ("text.png", b"hello"), ("x.jpeg", b"\0" * 500),
    ("short.jpg", encoded(face(1, 9))[:300]), ("no_end", encoded(face(1, 9))[:-2]),
    ("short.png", encoded(face(1, 9), ".png")[:60]), ("a.heic", b"\0\0\0\x18ftypheic" + bytes(50)),
    ("IMG", b"\0\0\0\x18ftypheic" + bytes(50)), ("short.gif", b"GIF89a\x10\0")])
def test_bad_pictures(people, name, data):
    """A name or a beginning of a picture promises one: the user must decide."""
    (people / "p1" / name).write_bytes(data)
    tree = read(people)
    assert names(tree) == PLAIN and left(tree, bad=True) == {f"p1/{name}": "is not an image that OpenCV can decode"}


@pytest.mark.parametrize("name, data", [("notes.txt", b"p1 is my uncle"), ("labels.csv", b"a,b\n"),
                                        ("film.mp4", b"\0\0\0\x18ftypisom"), ("cars.txt", b"BMW\n"),
                                        ("empty", b""), ("P5 list", b"P5 of 7\n"), ("a.zip", b"PK\3\4")])
def test_what_is_not_a_picture(people, name, data):
    for folder in (people, people / "p1"):
        (folder / name).write_bytes(data)
    tree = read(people)
    assert names(tree) == PLAIN and not left(tree, bad=True) and {name, f"p1/{name}"} == set(left(tree))


def test_all_bad_files_are_named_at_once(people):
    for place in ("p0/8.jpg", "p1/9.png", "p2/7.webp"):
        (people / place).write_bytes(b"RIFF")
    assert set(left(read(people), bad=True)) == {"p0/8.jpg", "p1/9.png", "p2/7.webp"}


def test_a_check_that_refuses(people):
    def check(_, image):
        raise Rejected("too blue", "very", True)
    tree = read_tree(people, check)
    assert not tree.people and sum(kind == "too blue" for kind in left(tree, bad=True).values()) == 12


# folders of folders

def test_people_one_level_deeper(tmp_path):
    write_people(tmp_path / "train", people=2)
    (tmp_path / "val/p7").mkdir(parents=True)
    (tmp_path / "val/p7/0.jpg").write_bytes(encoded(face(7, 7)))
    tree = read(tmp_path)
    assert not tree.people and set(left(tree, bad=True)) == {"train", "val"}
    assert "2 folders with 8 pictures" in tree.left_out[0].detail
    assert {name: len(pictures) for name, pictures in read(tmp_path, albums=True).people.items()} == {"train": 8, "val": 1}


def test_mixed_depth(people):
    """Pictures of its own and an album: the album is named; with ``albums`` it is the person's, too."""
    for number, place in enumerate(["p1/album", "p1/album/deeper", "p2/other"]):
        (people / place).mkdir()
        (people / place / "x.jpg").write_bytes(encoded(face(9, number)))
    tree = read(people)
    assert names(tree) == PLAIN and set(left(tree, bad=True)) == {"p1/album", "p2/other"}
    tree = read(people, albums=True)
    assert names(tree)["p1"] == [*PLAIN["p1"], "album/deeper/x.jpg", "album/x.jpg"] and not tree.left_out


def test_folders_named_like_pictures(people):
    for place in (people / "q.jpg", people / "p1/0.png", people / "p2/7.JPEG"):
        place.mkdir()
        (place / "x.jpg").write_bytes(encoded(face(9, 9)))
    tree = read(people)
    assert names(tree) == PLAIN and left(tree) == dict.fromkeys(["q.jpg", "p1/0.png", "p2/7.JPEG"], "folder named like a picture")


def test_loose_pictures(people):
    for name in ("beside.jpg", "noending", "bad.png"):
        (people / name).write_bytes(encoded(face(9, 9)) if name != "bad.png" else b"")
    assert left(read(people), bad=False) == dict.fromkeys(["beside.jpg", "noending", "bad.png"], LOOSE)


def test_people_without_a_good_picture(people):
    (people / "empty").mkdir()
    (people / "bad").mkdir()
    (people / "bad/x.jpg").write_bytes(b"")
    tree = read(people)
    assert list(tree.people) == ["p0", "p1", "p2"] and {"empty", "bad"} <= set(left(tree, bad=False))


# links, permissions and special files

def test_broken_links(people):
    for name in ("p1/7.jpg", "p9", "p2/album"):
        os.symlink("../gone/7.jpg", people / name)
    assert left(read(people), bad=True) == dict.fromkeys(["p1/7.jpg", "p9", "p2/album"], "link to nothing")


def test_links_that_lead_round(people):
    os.symlink(people, people / "p1/all")
    os.symlink("..", people / "p2/up")
    os.symlink("loop", people / "p0/loop")
    os.symlink(".", people / "self")
    tree = read(people, albums=True)
    assert names(tree) == PLAIN
    assert set(left(tree)) == {"p1/all", "p2/up", "p0/loop", "self"} and left(tree)["p0/loop"] == "link to nothing"


def test_a_person_that_is_a_link(people, tmp_path):
    write_people(tmp_path / "elsewhere", people=1)
    (tmp_path / "elsewhere/p0/0.jpg").write_bytes(encoded(face(9, 9)))
    for number in range(1, 4):
        (tmp_path / f"elsewhere/p0/{number}.jpg").unlink()
    os.symlink(tmp_path / "elsewhere/p0", people / "far")
    assert names(read(people))["far"] == ["0.jpg"]


def test_one_folder_under_two_names(people):
    os.symlink("p1", people / "twin")
    tree = read(people)
    assert list(tree.people) == ["p0", "p1", "p2"] and set(left(tree, bad=True)) == {"twin"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(people):
    os.chmod(people / "p1/2.jpg", 0)
    os.chmod(people / "p2", 0)
    tree = read(people)
    os.chmod(people / "p2", 0o755)
    assert {"p1/2.jpg", "p2"} <= set(left(tree, bad=True))


def test_an_error_of_the_disk_is_named(people, monkeypatch):
    read_bytes = Path.read_bytes

    def failing(path):
        if path.name == "2.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    tree = read(people)
    assert left(tree, bad=True) == {f"p{k}/2.jpg": "cannot be read" for k in range(3)}


def test_a_pipe_is_not_opened(people):
    os.mkfifo(people / "p1/7.jpg")
    os.mkfifo(people / "pipe")
    assert left(read(people), bad=True) == dict.fromkeys(["p1/7.jpg", "pipe"], "neither a file nor a folder")


# names

@pytest.mark.parametrize("name", [b"\xd5\xc5\xc8\xfd", b"a\nb", b"a\tb", "x\x85y".encode(), b"\x1b[31m"])
def test_names_that_the_lists_cannot_hold(people, name):
    os.rename(people / "p2", os.fsencode(people) + b"/" + name)
    (people / "p1/0.jpg").rename(os.fsdecode(os.fsencode(people / "p1") + b"/" + name + b".jpg"))
    tree = read(people)
    assert names(tree) == {"p0": PLAIN["p0"], "p1": PLAIN["p1"][1:]} and len(left(tree, bad=True)) == 2
    assert all("name" in kind for kind in left(tree, bad=True).values())


@pytest.mark.parametrize("name", ["Jos\u00e9", "\u5f20\u4e09", "\u0645\u06cc\u200c\u0631\u0636\u0627", "a b", "n" * 255, "-x",
                                  "x'\"$(y)"])
def test_names_that_are_fine(people, name):
    (people / "p2").rename(people / name)
    tree = read(people)
    assert name in tree.people and not tree.left_out


# pictures that occur twice

def test_a_copy_counts_once(people):
    (people / "p1/0 (copy).jpg").write_bytes((people / "p1/0.jpg").read_bytes())
    os.symlink("3.jpg", people / "p1/4.jpg")
    tree = read(people)
    assert len(tree) == 12 and left(tree, bad=False) == dict.fromkeys(["p1/0.jpg", "p1/4.jpg"], "copy of another picture of the "
                                                                      "person")


def test_a_picture_of_two_people_is_of_nobody(people):
    (people / "p1/9.jpg").write_bytes((people / "p0/0.jpg").read_bytes())
    tree = read(people)
    assert set(left(tree, bad=True)) == {"p0/0.jpg", "p1/9.jpg"} and names(tree)["p0"] == PLAIN["p0"][1:]


def test_equal_pixels_are_the_same_picture(people):
    """Whatever the tags, the format and the name of the file."""
    jpeg = (people / "p0/0.jpg").read_bytes()
    (people / "p1/9.jpg").write_bytes(turned(jpeg, 1))
    (people / "p2/9.png").write_bytes(encoded(pixels((people / "p2/0.jpg").read_bytes()), ".png"))
    tree = read(people)
    assert set(left(tree, bad=True)) == {"p0/0.jpg", "p1/9.jpg"} and set(left(tree, bad=False)) == {"p2/9.png"}


def test_names_that_are_spelt_alike():
    names = ["Zo\u00eb", "ann lee", "Ann  Lee ", "Zoe", "Zoe\u0308", "anne lee", "ANN LEE"]
    assert alike(names) == [["Zo\u00eb", "Zoe\u0308"], ["ann lee", "Ann  Lee ", "ANN LEE"]] and alike(["a", "b"]) == []


# orientation

@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_written_is_upright(orientation):
    """The pixels are those that a viewer shows, and no tag turns them again."""
    image = cv2.resize(face(3, 3), (32, 32), interpolation=cv2.INTER_NEAREST)
    jpeg = encoded(image)
    plain = pixels(jpeg)
    shown = {1: plain, 2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1], 5: plain.swapaxes(0, 1), 6: np.rot90(plain, -1),
             7: plain[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(plain)}[orientation]       # EXIF 2.3, tag 274
    data = turned(jpeg, orientation)
    assert np.array_equal(pixels(data), shown) and is_turned(data, pixels(data)) == (orientation > 1)
    written = upright_jpeg(data, pixels(data), 32)
    assert (written == data) == (orientation == 1)
    assert np.abs(pixels(written).astype(int) - shown).mean() < 6 and not is_turned(written, pixels(written))
