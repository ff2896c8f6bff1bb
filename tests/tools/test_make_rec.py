"""make_rec's command: what is written, what is refused before anything is written, and the list of what is left out."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from photo_toys import encoded, face, run_make_rec, turned, write_people, write_stub_detector
from processes import run_script

from records.faces import FaceRecords
from utils.errors import UserError
from utils.paths import ROOT

RESULTS = ["identities.txt", "images.txt", "lock", "property", "train.idx", "train.json", "train.rec"]


@pytest.fixture
def people(tmp_path) -> Path:
    return write_people(tmp_path / "in")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.is_dir() else {}


def test_images_txt_names_each_row(people, tmp_path, monkeypatch):
    run_make_rec(monkeypatch, people, tmp_path / "out", "--shuffle", 3)
    made = FaceRecords(tmp_path / "out")
    head, *rows = (tmp_path / "out/images.txt").read_text().splitlines()
    assert head.split("\t") == ["row", "label", "person", "path"] and len(rows) == len(made) == 12
    names = dict(line.split("\t") for line in (tmp_path / "out/identities.txt").read_text().splitlines())
    assert list(names.values()) == ["p2", "p1", "p0"]
    for i, line in enumerate(rows):
        row, label, person, path = line.split("\t")
        assert int(row) == i and int(label) == made.labels()[i] and names[label] == person == Path(path).parts[0]
        assert made.jpeg(i) == (people / path).read_bytes()
    assert sorted(files(tmp_path / "out")) == RESULTS


def test_a_person_in_two_spellings_is_noticed(people, tmp_path, monkeypatch, capsys):
    run_make_rec(monkeypatch, people, tmp_path / "out")
    assert "warning" not in capsys.readouterr().err
    (people / "p2").rename(people / "P1")
    run_make_rec(monkeypatch, people, tmp_path / "out", "--force")
    assert "differ only in upper and lower case, spaces or accents: P1 and p1; they" in capsys.readouterr().err


def test_shuffle_is_an_order_of_people(people, tmp_path, monkeypatch):
    orders = set()
    for seed in range(12):
        run_make_rec(monkeypatch, people, tmp_path / "out", "--shuffle", seed, "--force")
        orders.add((tmp_path / "out/identities.txt").read_text())
    assert len(orders) > 3
    first = files(tmp_path / "out")
    run_make_rec(monkeypatch, people, tmp_path / "out", "--shuffle", 11, "--force")
    assert files(tmp_path / "out") == first


def test_a_record_file_is_not_replaced_without_force(people, tmp_path, monkeypatch):
    run_make_rec(monkeypatch, people, tmp_path / "out")
    before = files(tmp_path / "out")
    (people / "p0/0.jpg").unlink()
    with pytest.raises(UserError, match="train.rec exists; give another --out, or --force"):
        run_make_rec(monkeypatch, people, tmp_path / "out")
    assert files(tmp_path / "out") == before
    run_make_rec(monkeypatch, people, tmp_path / "out", "--force")
    assert len(FaceRecords(tmp_path / "out")) == 11


def test_dirt_changes_nothing_but_the_list(people, tmp_path, monkeypatch, capsys):
    """What is left out without a question, all at once: the same files as without it."""
    run_make_rec(monkeypatch, people, tmp_path / "clean")
    for place in (".cache", "__MACOSX", "p1/@eaDir", "p1/x.jpg"):
        (people / place).mkdir()
        (people / place / "0.jpg").write_bytes(encoded(face(5, 5)))
    for place in ("Thumbs.db", "notes.txt", "beside.jpg", "p0/desktop.ini", "p0/._0.jpg"):
        (people / place).write_bytes(encoded(face(6, 6)) if place != "notes.txt" else b"hello")
    (people / "p2/0 (1).jpg").write_bytes((people / "p2/0.jpg").read_bytes())
    (people / "nobody").mkdir()
    run_make_rec(monkeypatch, people, tmp_path / "out")
    made = files(tmp_path / "out")
    lines = [line.split("\t") for line in made.pop("left_out.txt").decode().splitlines()]
    clean = files(tmp_path / "clean")
    paths = made.pop("images.txt").replace(b"0 (1).jpg", b"0.jpg")      # of the two equal files the first by name is used
    assert paths == clean.pop("images.txt") and made.pop("train.json") != clean.pop("train.json") and made == clean
    assert {Path(path).relative_to(people).as_posix() for path, _ in lines} == {
        ".cache", "__MACOSX", "p1/@eaDir", "p1/x.jpg", "Thumbs.db", "notes.txt", "beside.jpg", "p0/desktop.ini", "p0/._0.jpg",
        "p2/0.jpg", "nobody"}
    said = capsys.readouterr().err
    assert said.count("| left out") == 1 and "11 files and folders" in said


def test_all_that_is_bad_is_named_and_nothing_is_written(people, tmp_path, monkeypatch):
    bad = {"p0/a.jpg": b"", "p1/b.png": b"hello", "p2/c.jpg": encoded(face(1, 1, 24))}
    for place, data in bad.items():
        (people / place).write_bytes(data)
    os.symlink("nowhere", people / "p0/d.jpg")
    with pytest.raises(UserError) as refusal:
        run_make_rec(monkeypatch, people, tmp_path / "out")
    assert all(str(people / place) in str(refusal.value) for place in [*bad, "p0/d.jpg"]) and not files(tmp_path / "out")
    assert str(refusal.value).startswith("4 files and folders") and "--skip-bad" in str(refusal.value)
    assert "24x24 pixels" in str(refusal.value) and "--resize" in str(refusal.value)
    run_make_rec(monkeypatch, people, tmp_path / "out", "--skip-bad")
    assert len(FaceRecords(tmp_path / "out")) == 12
    listed = (tmp_path / "out/left_out.txt").read_text()
    assert all(str(people / place) in listed for place in [*bad, "p0/d.jpg"])


def test_many_bad_files_are_in_a_list(people, tmp_path, monkeypatch):
    for number in range(100):
        (people / f"p1/bad{number}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="and 60 more") as refusal:
        run_make_rec(monkeypatch, people, tmp_path / "out")
    listed = (tmp_path / "out/left_out.txt").read_text().splitlines()
    assert len(listed) == 100 and str(tmp_path / "out/left_out.txt") in str(refusal.value)


def test_a_list_of_an_earlier_run_is_removed(people, tmp_path, monkeypatch):
    (people / "notes.txt").write_text("hello")
    run_make_rec(monkeypatch, people, tmp_path / "out")
    (people / "notes.txt").unlink()
    run_make_rec(monkeypatch, people, tmp_path / "out", "--force")
    assert sorted(files(tmp_path / "out")) == RESULTS


@pytest.mark.parametrize("out", ["in", "in/out", "in/p1", "link/out"])
def test_results_do_not_go_into_the_photographs(people, tmp_path, monkeypatch, out):
    os.symlink(people, tmp_path / "link")
    with pytest.raises(UserError, match="inside of the folder of photographs"):
        run_make_rec(monkeypatch, people, tmp_path / out)
    assert sorted(p.name for p in people.iterdir()) == ["p0", "p1", "p2"]


def test_one_persons_folder_given_as_the_folder(people, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="there are pictures in it, but no folders of people"):
        run_make_rec(monkeypatch, people / "p1", tmp_path / "out")


def test_nested_people_are_refused_with_the_ways_out(tmp_path, monkeypatch):
    write_people(tmp_path / "in/train")
    with pytest.raises(UserError, match="--albums.*in/train\\)"):
        run_make_rec(monkeypatch, tmp_path / "in", tmp_path / "out")
    run_make_rec(monkeypatch, tmp_path / "in/train", tmp_path / "out")


def test_turned_pictures_are_written_upright(tmp_path, monkeypatch):
    """With --resize and without: training sees what a viewer shows."""
    for size, options in ((16, []), (64, ["--resize"])):
        upright = face(1, 1, size)
        folder = tmp_path / f"in{size}/p0"
        folder.mkdir(parents=True)
        (folder / "0.jpg").write_bytes(turned(encoded(upright), 3))
        run_make_rec(monkeypatch, folder.parent, tmp_path / f"out{size}", *options)
        made = FaceRecords(tmp_path / f"out{size}")
        expected = face(1, 1, 16)[::-1, ::-1, ::-1]                     # half a turn; RGB
        assert np.abs(made[0][0].astype(int) - expected).mean() < 30 and b"Exif" not in made.jpeg(0)


def test_photographs_are_aligned(tmp_path, monkeypatch):
    """A red square is the face of the stub detector: its cell of 32 pixels gets the middle of the face."""
    photo = np.zeros((640, 640, 3), np.uint8)
    photo[192:224, 320:352, 2] = 255
    (tmp_path / "in/p0").mkdir(parents=True)
    (tmp_path / "in/p0/face.jpg").write_bytes(encoded(photo))
    (tmp_path / "in/p0/wall.jpg").write_bytes(encoded(np.zeros((500, 300, 3), np.uint8)))
    stub = write_stub_detector(tmp_path / "stub.onnx")
    run_make_rec(monkeypatch, tmp_path / "in", tmp_path / "out", "--align", "--detector", stub, size=112)
    made = FaceRecords(tmp_path / "out")
    assert len(made) == 1 and "no face found" in (tmp_path / "out/left_out.txt").read_text()
    red = made[0][0][:, :, 0] > 128
    y, x = np.nonzero(red)
    # Five landmarks with the mean (336, 208) go to the template's mean (56.03, 71.9), at the template's scale: 0.59 +- 0.05.
    assert abs(x.mean() - 56.03) < 2 and abs(y.mean() - 71.9) < 2 and 17 <= np.sqrt(red.sum()) <= 21


@pytest.mark.parametrize("options, words", [(["--align"], "belong together"), (["--detector", "x.onnx"], "belong together"),
                                            (["--align", "--detector", "none.onnx"], "no file none.onnx"),
                                            (["--align", "--detector", "x", "--resize"], "leave out --resize")])
def test_options_that_do_not_fit(people, tmp_path, monkeypatch, options, words):
    with pytest.raises(UserError, match=words):
        run_make_rec(monkeypatch, people, tmp_path / "out", *options)
    assert not files(tmp_path / "out")


def test_a_picture_that_changes_meanwhile(people, tmp_path, monkeypatch):
    """Between the look at the folder and the writing: refused, and no record file is left."""
    from tools.make_rec import make_rec
    read = make_rec.read_people

    def then_changed(args):
        tree = read(args)
        (people / "p1/2.jpg").write_bytes(encoded(face(9, 9)))
        return tree

    monkeypatch.setattr(make_rec, "read_people", then_changed)
    with pytest.raises(UserError, match="p1/2.jpg has changed"):
        run_make_rec(monkeypatch, people, tmp_path / "out")
    assert set(files(tmp_path / "out")) <= {"lock"}


@pytest.mark.parametrize("limit", [200, 3000])
def test_a_full_disk_leaves_the_earlier_files(people, tmp_path, monkeypatch, limit):
    run_make_rec(monkeypatch, people, tmp_path / "out")
    before = files(tmp_path / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(UserError, match="cannot write"):
            run_make_rec(monkeypatch, people, tmp_path / "out", "--force", "--shuffle", 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert files(tmp_path / "out") == before


@pytest.mark.long
def test_the_command_from_a_shell(people, tmp_path):
    os.rename(people / "p2", os.fsencode(people) + b"/\xff")
    args = [ROOT / "tools/make_rec/make_rec.py", people, "--out", tmp_path / "out", "--size", 16]
    done = run_script(*args)
    assert done.returncode == 1 and r"\xff: name that is not UTF-8" in done.stderr and "Traceback" not in done.stderr
    assert not files(tmp_path / "out")
    done = run_script(*args, "--skip-bad", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "8 images of 2 identities" in done.stdout, done.stderr


