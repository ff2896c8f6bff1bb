"""Vectors from elsewhere as old features: any order of any ids gives the rows of the record file, or a sentence."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from toy import write_records

from old_model import vectors
from old_model.features import OldFeatures, classes_left_out, load_credible, load_labels, load_prototypes
from records.faces import FaceRecords
from records.split import split
from tools.get_feature import denoise_credible, get_avg_feature
from tools.import_features import import_features
from tools.make_rec import make_rec
from utils.errors import UserError
from utils.locks import hold
from utils.origin import save_array

COUNTS = [9, 11, 7, 8, 6, 10, 5, 9, 7, 8]
DIM = 12
SD = "f12_theirs_class100"


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """dataset/train.rec, its parts and images.txt; person 3's first image is p03/0.jpg."""
    monkeypatch.chdir(tmp_path)
    labels = write_records(tmp_path / "dataset/train", COUNTS)
    split(tmp_path / "dataset/train.rec", 0.3, tmp_path / "dataset")
    lines = ["row\tlabel\tperson\tpath"]
    for row, label in enumerate(labels):
        lines.append(f"{row}\t{label}\tp{label:02d}\tp{label:02d}/{row - labels.index(label)}.jpg")
    (tmp_path / "dataset/images.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def paths() -> list[str]:
    return [f"p{label:02d}/{number}.jpg" for label, count in enumerate(COUNTS) for number in range(count)]


def values() -> np.ndarray:
    """A vector for each image; those of one person are near to each other."""
    draw = np.random.default_rng(1)
    people = np.repeat(draw.normal(size=(len(COUNTS), DIM)), COUNTS, 0)
    return (people + draw.normal(size=people.shape) / 4).astype(np.float32)


ORDER = np.random.default_rng(2).permutation(sum(COUNTS))


@pytest.fixture
def imported(data, monkeypatch):
    """The tool on vectors in another order; gives the features and labels that it wrote."""
    def call(file="v.npz", *flags: str, rows=None, ids=None, sd: str = SD) -> tuple[np.ndarray, np.ndarray]:
        if rows is not None:
            np.savez(file, vectors=rows, ids=np.array(ids))
        monkeypatch.setattr(sys, "argv", ["x", str(file), "--SD", sd, "--dataset", "dataset", "--feature-save",
                                          os.path.abspath("kept"), *flags])
        import_features.main()
        folder = Path("kept") / import_features.part_of(sd)[0].replace("train", "")
        return np.load(folder / f"{sd}_feature.npy"), np.load(folder / f"{sd}_label.npy")
    return call


# ids that the exporting system may have used.
NAMES = {
    "the path": lambda path: path,
    "the path without its ending": lambda path: path.removesuffix(".jpg"),
    "the last two parts of the path": lambda path: f"/srv/faces/{path}",
    "the last two parts of the path without its ending": lambda path: f"s3://bucket/{path.replace('jpg', 'png')}",
}


@pytest.mark.parametrize("key", NAMES)
def test_vectors_come_into_the_order_of_the_records(imported, capsys, key):
    wanted = values()
    ids = [NAMES[key](paths()[row]) for row in ORDER] + ["p99/0.jpg", "p99/1.jpg"]
    rows = np.concatenate([wanted[ORDER], np.ones((2, DIM), np.float32)])
    features, labels = imported(rows=rows, ids=ids)
    assert np.array_equal(features, wanted) and labels.tolist() == np.repeat(range(10), COUNTS).tolist()
    said = capsys.readouterr()
    assert f"80 of 80 images have a vector, compared by {key}; 2 vectors belong to no image" in said.out
    assert "warning" not in said.err
    old = dict(images=80, records=FaceRecords("dataset/train").fingerprint())
    assert OldFeatures(Path(f"kept/EXclass/{SD}_feature.npy"), dim=DIM, **old).rows.shape == (80, DIM)
    assert load_labels(Path(f"kept/EXclass/{SD}_feature.npy"), num_classes=10, **old).tolist() == labels.tolist()
    origin = json.loads(Path(f"kept/EXclass/{SD}_feature.json").read_text())
    assert (origin["normalised"], origin["similarity"], origin["dim"], origin["source"]) == (False, "cosine", DIM, "v.npz")


def test_every_kind_of_file_gives_the_same_rows(imported, data):
    wanted, ids = values(), [paths()[row] for row in ORDER]
    shuffled = wanted[ORDER]
    np.save("v.npy", shuffled)
    Path("ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8-sig")         # Notepad's byte order mark
    cells = [[repr(float(number)) for number in row] for row in shuffled]
    Path("v.csv").write_text("id," + ",".join(f"d{k}" for k in range(DIM)) + "\n"
                             + "".join(f"{name},{','.join(row)}\n" for name, row in zip(ids, cells, strict=True)))
    Path("bare.csv").write_text("".join(f"{name},{','.join(row)}\n" for name, row in zip(ids, cells, strict=True)))
    Path("list.csv").write_text("id,embedding\n" + "".join(f'{name},"[{",".join(row)}]"\n'
                                                           for name, row in zip(ids, cells, strict=True)))
    Path("v.tsv").write_text("".join("\t".join([f".\\{name}".replace("/", "\\"), *row]) + "\n"
                                     for name, row in zip(ids, cells, strict=True)))
    for file, *flags in (["v.npy", "--ids", "ids.txt"], ["v.csv"], ["bare.csv"], ["list.csv"], ["v.tsv"]):
        assert np.array_equal(imported(file, "--force", *flags)[0], wanted), file
    half = imported("h.npz", "--force", rows=shuffled.astype(np.float16), ids=ids)[0]
    assert half.dtype == np.float32 and np.array_equal(half, wanted.astype(np.float16))
    unit = shuffled / np.linalg.norm(shuffled, axis=1, keepdims=True)
    imported("u.npz", "--force", rows=unit, ids=ids)
    assert json.loads(Path(f"kept/EXclass/{SD}_feature.json").read_text())["normalised"] is True


def test_a_parquet_file(imported):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    wanted = values()
    table = pa.table({"id": [paths()[row] for row in ORDER], "vector": [row.tolist() for row in wanted[ORDER]],
                      "age": ORDER.tolist()})
    parquet.write_table(table, "v.parquet")
    assert np.array_equal(imported("v.parquet")[0], wanted)


def test_a_parquet_file_without_pyarrow_says_what_to_install(imported, monkeypatch):
    Path("v.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="needs pyarrow, which is not installed; pip install pyarrow, or export"):
        imported("v.parquet")


@pytest.mark.parametrize("part, members", [("class70", slice(27, 80)), ("class30", slice(0, 27))])
def test_a_part_of_the_records_gets_its_rows(imported, part, members):
    wanted, sd = values(), f"f12_theirs_{part}"
    features, labels = imported(rows=wanted[ORDER], ids=[paths()[row] for row in ORDER], sd=sd)
    assert np.array_equal(features, wanted[members]) and labels.min() == 0
    assert OldFeatures(Path(f"kept/OPclass/{sd}_feature.npy"), images=len(features), dim=DIM,
                       records=FaceRecords(f"dataset/train_part_{part[-2:]}_class").fingerprint())


def test_a_part_by_images_gets_the_rows_of_its_images(imported):
    """70 % of each person's images: with 9 images the last six, because round(2.7) = 3 are the old part's."""
    wanted = values()
    features, _ = imported(rows=wanted[ORDER], ids=[paths()[row] for row in ORDER], sd="f12_theirs_data70")
    start = np.cumsum([0, *COUNTS])
    rows = [row for k, count in enumerate(COUNTS) for row in range(start[k] + round(0.3 * count), start[k + 1])]
    assert np.array_equal(features, wanted[rows])


def test_ids_of_other_images_are_named(imported):
    with pytest.raises(UserError, match="no id of v.npz is the path or the file name of an image; the ids begin with a, b, the "
                                        "paths with p00/0.jpg, p00/1.jpg"):
        imported(rows=values()[:3], ids=["a", "b", "c"])


def test_what_does_not_fit_is_refused(imported, data):
    wanted, ids = values(), paths()

    def refused(message: str, rows=wanted, names=tuple(ids), **more) -> None:
        with pytest.raises(UserError, match=message):
            imported(rows=rows, ids=list(names), **more)
        assert not list(data.glob("kept/**/*_feature.npy"))

    refused("1 of 80 images have no vector in v.npz: p09/7.jpg; add .*, or give --missing leave-out", wanted[:-1], ids[:-1])
    refused("8 of 80 images have no vector .*: p09/0.jpg, p09/1.jpg, .* p09/4.jpg and others", wanted[:-8], ids[:-8])
    refused("1 ids belong to several vectors of v.npz, compared by the path .first: p00/0.jpg.",
            np.concatenate([wanted, wanted[:1]]), [*ids, ids[0]])
    refused("10 ids belong to several images, compared by the file name .first: 0.jpg.", wanted[:10],
            [f"{number}.jpg" for number in range(10)])
    for value in (np.nan, np.inf, 0):
        broken = wanted.copy()
        broken[[5, 70]] = value
        refused("2 vectors of v.npz have NaN, infinity or only zeros: p00/5.jpg, p08/5.jpg; embed", broken)
    broken = wanted.copy()
    broken[70] = 1e30               # its square is too large for float32
    refused("1 vectors of v.npz have NaN", broken)
    refused(r"holds bool \[80, 12\]; expected vectors \[n, d\] of floats", wanted > 0)
    for codes in ((wanted * 20).astype(np.int8), np.round(wanted * 20)):
        refused(r"with whole numbers only, .* for codes, .codes.astype.np.float32. - offset. \* scale", codes)
    zeros_and_labels = np.c_[wanted * 0, np.repeat(range(10), COUNTS), wanted]
    refused("column 13 of the 25 numbers of each vector in v.npz holds whole numbers, from 0 to 9, and others", zeros_and_labels)
    refused(r"has 79 vectors and 80 ids", wanted[:-1])
    refused("1 of the 80 ids of v.npz are empty", wanted, ["", *ids[1:]])
    refused("must end in one of", sd="f12_theirs")
    (data / "dataset/images.txt").write_text("\n".join((data / "dataset/images.txt").read_text().splitlines()[:-1]))
    refused("images.txt lists 79 images for .*train.rec, which has 80")
    (data / "dataset/images.txt").write_text("0\t0\tp\ta.jpg\n2\t0\tp\tb.jpg\n")
    refused("numbered from 0; found '2")
    (data / "dataset/images.txt").write_bytes("0\t0\tJosé\ta.jpg\n".encode("latin-1"))
    refused("images.txt is not a text in UTF-8 .*; save it in UTF-8")
    (data / "dataset/images.txt").unlink()
    refused("no file dataset/images.txt: expected the path of each image")


def test_files_that_hold_no_vectors_are_named(imported, data):
    np.save("v.npy", values())
    Path("ids.txt").write_text("\n".join(paths()))
    Path("bad.csv").write_text("a,1,2\nb,1\n")
    Path("hole.csv").write_text("a,1.5,\nb,1.5,2.5\n")                  # its first line is not one of names
    Path("cut.npz").write_bytes(b"PK")
    Path("text.csv").write_text("a,b\nc,d\n")
    np.savez("two.npz", a=values(), b=values())
    Path("v.txt").write_text("")
    for file, flags, message in [("v.npy", (), "a .npy needs --ids FILE.txt"),
                                 ("two.npz", ("--ids", "ids.txt"), "a .npy needs --ids"),
                                 ("two.npz", (), r"expected one array \[n, d\] and one of n ids"),
                                 ("v.txt", (), "expected vectors as"),
                                 ("hole.csv", (), "found ..a., .1.5., ..."), ("cut.npz", (), "does not hold .*BadZipFile"),
                                 ("bad.csv", (), "same number of numbers in each row"), ("text.csv", (), "does not hold vectors"),
                                 ("none.npz", (), "no file none.npz")]:
        with pytest.raises(UserError, match=message):
            imported(file, *flags)


def test_a_list_of_another_run_is_refused(imported, data, monkeypatch):
    """People of equal size exchanged: no label differs, and each person's vectors are still near to each other."""
    monkeypatch.setattr(sys, "argv", ["x", "--from-rec", "dataset/train.rec", "--out", "again"])
    make_rec.main()
    shutil.copy("again/images.txt", "dataset/images.txt")
    ids = [f"dataset/train.rec:{row + 1}" for row in range(80)]
    monkeypatch.setattr(sys, "argv", ["x", "v.npz", "--SD", SD, "--dataset", "again", "--feature-save", os.path.abspath("kept")])
    np.savez("v.npz", vectors=values(), ids=np.array(ids))
    import_features.main()
    good = Path("again/images.txt").read_text()
    exchanged = good.replace("rec:1\n", "rec:?\n").replace("rec:60\n", "rec:1\n").replace("rec:?\n", "rec:60\n")
    for listed, train in ((exchanged, "again/train"), (good, "dataset/train")):
        Path("again/images.txt").write_text(listed)
        for end in (".rec", ".idx"):
            shutil.copy(f"{train}{end}", f"kept{end}")
            shutil.copy(f"kept{end}", f"again/train{end}")
        monkeypatch.setattr(sys, "argv", [*sys.argv[:8], "--force"])
        with pytest.raises(UserError, match="again/images.txt is not the list that was written with again/train.rec; run tools/"):
            import_features.main()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--images", "dataset/images.txt"])
    import_features.main()


def test_ids_of_other_vectors_are_doubted(imported, capsys):
    imported(rows=values()[ORDER], ids=paths())
    assert "do ids and vectors belong together?" in capsys.readouterr().err


def test_features_are_replaced_on_request_only(imported):
    imported(rows=values(), ids=paths())
    with pytest.raises(UserError, match="exists; give another --SD or --feature-save, or --force"):
        imported(rows=values() + 1, ids=paths())
    assert np.array_equal(imported("v.npz", "--force")[0], values() + 1)


def test_two_writers_of_one_name_are_refused(imported, monkeypatch):
    monkeypatch.setattr(import_features, "SECONDS_FOR_LOCK", 0.1)
    imported(rows=values(), ids=paths())
    folder = next(Path("kept").rglob(f"{SD}_feature.npy")).parent
    before = {file.name: file.read_bytes() for file in folder.glob("*.npy")}
    with hold(folder / f"{SD}.lock", "", 0), pytest.raises(UserError, match="another process writes .*_feature.npy; wait"):
        imported("v.npz", "--force", rows=values() + 1, ids=paths())
    assert {file.name: file.read_bytes() for file in folder.glob("*.npy")} == before


def test_the_most_exact_part_of_the_path_is_compared():
    """By the file name all match; by the path as many: the path decides, because x/1.jpg and y/1.jpg are two images."""
    found = vectors.match(["y/1.jpg", "x/2.jpg", "x/1.jpg"], ["x/1.jpg", "x/2.jpg", "y/1.jpg"], Path("v"))
    assert found.key == "the path" and found.rows.tolist() == [2, 1, 0] and found.unused == 0
    found = vectors.match(["b", "a", "z"], ["p/a.jpg", "q/b.jpg", "r/c.jpg"], Path("v"))
    assert found.key == "the file name without its ending" and found.rows.tolist() == [1, 0, -1] and found.unused == 1


def test_images_without_a_vector_are_left_out_if_asked(imported, data, capsys, monkeypatch):
    """All of person 4 and two others: zeros and marks; then credible marks, class means, features of the marks."""
    wanted, ids = values(), paths()
    gone = {i for i, path in enumerate(ids) if path.startswith("p04/")} | {0, 17}
    order = [i for i in ORDER if i not in gone]
    features, labels = imported("v.npz", "--missing", "leave-out", rows=wanted[order], ids=[ids[i] for i in order])
    out = capsys.readouterr().out
    assert f"{len(ids) - len(gone)} of {len(ids)} images have a vector" in out
    assert f"{len(gone)} images take part in training without the old side's term: p00/0.jpg" in out
    present = np.load(f"kept/EXclass/{SD}_present.npy")
    assert np.flatnonzero(~present).tolist() == sorted(gone) and not features[~present].any()
    np.testing.assert_array_equal(features[present], wanted[present])

    for tool, name in ((denoise_credible, "credible_ratio_90_feature"), (get_avg_feature, "avg_feature")):
        monkeypatch.setattr(sys, "argv", ["x", "--SD", SD, "--feature-save", os.path.abspath("kept")])
        tool.main()
        assert f"{len(gone)} of {len(ids)} images" in capsys.readouterr().out
        written = np.load(f"kept/EXclass/{SD}_{name}.npy")
        if tool is denoise_credible:
            for c in range(len(COUNTS)):
                own = np.flatnonzero((labels == c) & present)
                assert written[labels == c].sum() == np.ceil(0.9 * len(own))
            assert not written[~present].any()
        else:
            for c in range(len(COUNTS)):
                own = wanted[(labels == c) & present]
                mean = own.astype(np.float64).mean(0) if len(own) else np.zeros(DIM)
                np.testing.assert_allclose(written[c], mean / max(np.linalg.norm(mean), 1e-9), atol=1e-6)
    assert classes_left_out(Path(f"kept/EXclass/{SD}_avg_feature.npy")) == 1

    file = Path(f"kept/EXclass/{SD}_feature.npy")
    assert OldFeatures(file, images=len(ids), dim=DIM).present.tolist() == present.tolist()
    readers = [lambda: load_credible(file.with_name(f"{SD}_credible_ratio_90_feature.npy"), images=len(ids)),
               lambda: load_prototypes(file.with_name(f"{SD}_avg_feature.npy"), images=len(ids), num_classes=len(COUNTS), dim=DIM,
                                       classes=slice(None))]
    for read in readers:
        read()
    imported("v.npz", "--force", rows=wanted, ids=ids)                      # all are there now: the marks are gone
    for read in readers:
        with pytest.raises(UserError, match=f"was computed from other features than {SD}_feature.npy holds now; make it again"):
            read()
    assert OldFeatures(file, images=len(ids), dim=DIM).present is None
    save_array(Path(f"kept/EXclass/{SD}_present.npy"), present, {"features": "of others"})
    with pytest.raises(UserError, match="_present.npy belongs to other features than"):
        OldFeatures(file, images=len(ids), dim=DIM)
    for wrong in (present[:-1], present.astype(np.int64), np.zeros(len(ids), bool)):
        np.save(f"kept/EXclass/{SD}_present.npy", wrong)
        Path(f"kept/EXclass/{SD}_present.json").unlink(missing_ok=True)
        with pytest.raises(UserError, match=r"expected bool \[80\]"):
            OldFeatures(file, images=len(ids), dim=DIM)
