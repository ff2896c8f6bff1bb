"""make_ijb: the evaluation set that the evaluator reads back, and what it refuses."""

import sys
from pathlib import Path

import numpy as np
import pytest
from ijb_toys import POINTS
from photo_toys import encoded, face, turned, write_people, write_stub_detector

from evaluation.evaluation_set import read_evaluation
from records.images import decode
from tools.make_ijb import make_ijb
from tools.make_rec import make_rec
from tools.reproduce.plan import same_people
from utils.errors import UserError
from utils.locks import hold_folder


def run(monkeypatch, folder: Path, out: Path, *options, size: int | None = 16, module=make_ijb) -> None:
    sizes = [] if size is None else ["--size", size]
    monkeypatch.setattr(sys, "argv", ["make.py", *map(str, [folder, "--out", out, *sizes, *options])])
    module.main()


def people(folder: Path, counts=(4, 2, 3, 5, 1, 2, 3, 2, 4, 2), size: int = 16) -> Path:
    for person, count in enumerate(counts):
        (folder / f"q{person}").mkdir(parents=True)
        for number in range(count):
            (folder / f"q{person}/{number}.jpg").write_bytes(encoded(face(100 + person, number, size)))
    return folder


def test_the_evaluator_reads_what_was_written(tmp_path, monkeypatch, capsys):
    """Every relation by a loop over images.txt: file, template, medium, subject, enrolled side, mates and pairs."""
    people(tmp_path / "in", (4, 2, 3, 5, 1, 2, 3, 2, 4, 2, 5, 6))
    run(monkeypatch, tmp_path / "in", tmp_path / "out", "--enrol", 2)
    data = read_evaluation(tmp_path / "out", "IJBC")
    head, *lines = (tmp_path / "out/images.txt").read_text().splitlines()
    assert head.split("\t") == ["number", "template", "subject", "person", "path"] and len(lines) == 39 == len(data.source)
    rows = [line.split("\t") for line in lines]
    owner, number_of = {}, {}
    for i, (number, template, subject, person, path) in enumerate(rows):
        assert int(number) == i + 1 and data.source.names[i] == f"{number}.jpg"
        assert data.source.template_ids[data.source.templates[i]] == int(template) and data.source.media[i] == int(number)
        assert (tmp_path / f"out/IJBC/loose_crop/{number}.jpg").read_bytes() == (tmp_path / "in" / path).read_bytes()
        assert person == Path(path).parts[0] and owner.setdefault(int(template), (int(subject), person)) == (int(subject), person)
        number_of.setdefault(person, []).append(int(template))
    for person, templates in number_of.items():             # two enrolled pictures in the first template, then one each
        assert templates == [templates[0] + max(0, k - 1) for k in range(len(templates))], person
    first = {owner[templates[0]][0]: templates[0] for templates in number_of.values()}
    ids = data.source.template_ids
    entries = {}
    for gallery in data.search.galleries.values():
        assert len(gallery.templates) >= 2
        for template, subject in zip(ids[gallery.templates], gallery.subjects, strict=True):
            assert first[subject] == template and entries.setdefault(subject, template) == template
    probes = dict(zip(ids[data.search.probes.templates].tolist(), data.search.probes.subjects.tolist(), strict=True))
    assert sorted(probes) == sorted(set(owner) - set(entries.values())) and all(owner[t][0] == s for t, s in probes.items())
    for a, b, same in zip(ids[data.pairs.enrol], ids[data.pairs.verify], data.pairs.same, strict=True):
        assert a == first[owner[a][0]] and a != b and same == (owner[a][0] == owner[b][0])
    said = capsys.readouterr().out
    assert "figures that it supports: TAR@1e-2 TAR@1e-1 top-1" in said and str((tmp_path / "out/IJBC").absolute()) in said


def test_aligned_faces_have_the_templates_landmarks(tmp_path, monkeypatch):
    """Aligning moves nothing: 112 pixels as published, other sizes by the edges of the picture."""
    for size in (112, 48):
        people(tmp_path / f"in{size}", size=size)
        run(monkeypatch, tmp_path / f"in{size}", tmp_path / f"out{size}", size=size)
        images = read_evaluation(tmp_path / f"out{size}", "IJBC").source
        expected = (np.array(POINTS) + 0.5) * size / 112 - 0.5
        assert np.abs(images.landmarks - expected).max() < 1e-3 and (images.scores == 1).all()


def test_the_same_seed_gives_the_same_bytes(tmp_path, monkeypatch):
    people(tmp_path / "in")
    made = []
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(monkeypatch, tmp_path / "in", tmp_path / out, "--seed", seed)
        made.append({path.name: path.read_bytes() for path in sorted((tmp_path / out / "IJBC").rglob("*.*"))})
    assert made[0] == made[1] != made[2]


def test_photographs(tmp_path, monkeypatch):
    """The red square of each photograph is the stub detector's face; the crop's landmarks are around it, wherever it was."""
    stub = write_stub_detector(tmp_path / "stub.onnx")
    counts, rng = [3] * 10, np.random.default_rng(0)
    for person, count in enumerate(counts):
        (tmp_path / f"in/q{person}").mkdir(parents=True)
        for number in range(count):
            photo = np.zeros((640, 640, 3), np.uint8)
            x, y = 32 * rng.integers(3, 15, 2)
            photo[y:y + 32, x:x + 32, 2], photo[0, 0] = 255, (10 * number, 10 * person, 0)
            (tmp_path / f"in/q{person}/{number}.png").write_bytes(encoded(photo, ".png"))
    (tmp_path / "in/q0/wall.png").write_bytes(encoded(np.zeros((99, 99, 3), np.uint8), ".png"))
    run(monkeypatch, tmp_path / "in", tmp_path / "out", "--align", "--detector", stub, size=None)
    images = read_evaluation(tmp_path / "out", "IJBC").source
    assert len(images) == 30 and "no face found" in (tmp_path / "out/left_out.txt").read_text()
    for name, landmarks in zip(images.names, images.landmarks, strict=True):
        image = decode((images.folder / name).read_bytes())
        y, x = np.nonzero(image[:, :, 0] > 128)
        assert np.abs(landmarks[2] - (x.mean() + 0.5, y.mean() + 0.5)).max() < 1.5 and image.shape[0] < 400     # the nose
        assert np.ptp(landmarks[:, 0]) == pytest.approx(64, abs=0.01)


def test_turned_pictures_are_written_upright(tmp_path, monkeypatch):
    people(tmp_path / "in")
    plain = (tmp_path / "in/q0/0.jpg").read_bytes()
    (tmp_path / "in/q0/0.jpg").write_bytes(turned(plain, 6))
    run(monkeypatch, tmp_path / "in", tmp_path / "out")
    written = (tmp_path / "out/IJBC/loose_crop/1.jpg").read_bytes()
    assert b"Exif" not in written and np.abs(decode(written).astype(int) - np.rot90(decode(plain), -1)).mean() < 20


def test_few_people_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    write_people(tmp_path / "in")
    with pytest.raises(UserError, match="3 people with 12 pictures are too few: 2 people are enrolled"):
        run(monkeypatch, tmp_path / "in", tmp_path / "out")
    people(tmp_path / "more")
    with pytest.raises(UserError, match="FAR 1e-5 needs 100,000 impostor pairs, there are"):
        run(monkeypatch, tmp_path / "more", tmp_path / "out", "--far", 1e-5)
    with pytest.raises(UserError, match="FPIR 1e-3 needs 1,000 non-mated probes"):
        run(monkeypatch, tmp_path / "more", tmp_path / "out", "--fpir", 1e-3)
    assert not (tmp_path / "out").exists()


def test_an_evaluation_set_is_not_replaced_without_force(tmp_path, monkeypatch):
    people(tmp_path / "in")
    run(monkeypatch, tmp_path / "in", tmp_path / "out")
    with pytest.raises(UserError, match="IJBC exists; give another --out, or --force"):
        run(monkeypatch, tmp_path / "in", tmp_path / "out")
    run(monkeypatch, tmp_path / "in", tmp_path / "out", "--force", "--seed", 3)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["IJBC", "images.txt", "lock"]


def test_two_runs_at_once_are_refused_and_a_stopped_one_leaves_no_list_of_other_images(tmp_path, monkeypatch):
    people(tmp_path / "in")
    run(monkeypatch, tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "out/images.txt").read_text()
    monkeypatch.setattr(make_ijb, "SECONDS_FOR_LOCK", 0)
    with hold_folder(tmp_path / "out", "", 0), pytest.raises(UserError, match="another process writes to .*/out; wait until"):
        run(monkeypatch, tmp_path / "in", tmp_path / "out", "--force")
    monkeypatch.setattr(make_ijb, "write_text", lambda *_: sys.exit(3))
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "in", tmp_path / "out", "--force")
    assert before and not (tmp_path / "out/images.txt").exists() and (tmp_path / "out/IJBC").is_dir()


def test_people_of_the_training_set_are_noticed(tmp_path, monkeypatch):
    """Their names, in the lists that make_rec and make_ijb leave."""
    people(tmp_path / "in")
    run(monkeypatch, tmp_path / "in", tmp_path / "ijb")
    write_people(tmp_path / "train")
    run(monkeypatch, tmp_path / "train", tmp_path / "records", module=make_rec)
    assert same_people(tmp_path / "records", tmp_path / "ijb") == []
    (tmp_path / "train/p1").rename(tmp_path / "train/Q3 ")
    run(monkeypatch, tmp_path / "train", tmp_path / "records", "--force", module=make_rec)
    assert same_people(tmp_path / "records", tmp_path / "ijb") == ["q3"]
    assert same_people(tmp_path / "none", tmp_path / "ijb") == []           # data that other programs wrote has no such lists
