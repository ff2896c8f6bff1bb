"""Every file that a later step reads, cut at every twentieth of its length: its reader refuses it by name.

The readers are the functions that the commands call.  A cut between two rows of a text table cannot be detected: the reader
returns the rows before it.
"""

import pickle
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy import jpeg, write_ijb, write_records

from backbones import get_model
from backbones.weights import load_model
from engine.model_files import load_classifier
from evaluation.embed import embeddings
from evaluation.evaluation_set import read_evaluation
from evaluation.inputs import InputOptions, ModelInput
from evaluation.maps import fit_maps
from evaluation.models import open_model
from evaluation.protocol import read_images, read_pairs, read_search
from evaluation.version_features import kept_views, plain_features
from evaluation.version_names import Version
from old_model.extraction import PartialFile
from old_model.features import OldFeatures, load_credible, load_features, load_labels, load_prototypes
from old_model.names import artefact
from records.bins import load_bin
from records.faces import FaceRecords
from records.recordio import RecordWriter, pack
from tools.ijbc_eval.ijbc_eval import kept_embeddings
from tools.ijbc_eval.report import load_result, save_result
from utils.errors import UserError
from utils.origin import save_array

SD = "f8_r18_arc_class70"
COUNTS = [9, 8, 7, 6]
N = sum(COUNTS)
PLAN = {"images": 40, "dim": 8, "batch_size": 4}


class Colours:
    """A model for the evaluator whose embedding is 8 numbers of the image."""

    fingerprint, image_size, dim, precision, input, output = "a" * 64, 16, 8, "float32", ModelInput(), ""

    def replicas(self) -> list:
        return [lambda faces: np.stack([faces[:, 0, :8, 0].numpy()] * 2).astype(np.float32)]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    labels = np.array(write_records(folder / "train", COUNTS))
    with RecordWriter(folder / "bare") as writer:                   # no header that counts the records
        for key, label in enumerate(labels.tolist()):
            writer.write(key, pack(label, jpeg(label, key, 16), key, 0))
    (folder / "lfw.bin").write_bytes(pickle.dumps(([jpeg(i // 2, i, 16) for i in range(24)], [i % 2 == 0 for i in range(12)])))
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((N, 8)).astype(np.float32)
    for kind, array in (("feature", rows), ("label", labels), ("credible_ratio_90_feature", draw.random(N) < 0.9),
                        ("avg_feature", rows[:4])):
        save_array(artefact(folder, SD, kind), array, {"model": "m", "records": "r", "images": N})
        np.save(folder / f"alone_{kind}.npy", array)                # the same without a .json
    np.save(folder / "turned.npy", rows[:, ::-1])
    torch.save(get_model("mbf", num_features=8, image_size=16).state_dict(), folder / "model.pt")
    (folder / "old").mkdir()
    torch.save({"weight": torch.randn(40, 8), "num_classes": 40, "class_start": 0}, folder / "old/softmax_fc_gpu_0.pt")
    write_ijb(folder)
    images = read_images(folder, "IJBC")
    embeddings(Colours(), images, folder / "kept", 10, 0)
    views = draw.standard_normal((2, len(images), 8)).astype(np.float32)
    curve = {key: np.zeros((1, 50)) for key in ("far", "tar", "frr")}
    save_result(folder / "result.npz", {"settings": {"protocol": "1:1"}},
                {"names": np.array(["a"]), "embs": views[0], "embs_f": views[1]} | curve)
    (folder / "plain").mkdir()
    people = np.arange(24) // 2
    for name, array in (("gallery_label", people[::2]), ("probe_label", people), ("gallery", rows[:12]), ("probe", rows[:24]),
                        ("pairs", np.array([(g, p, int(g == p // 2)) for g in range(12) for p in range(24)]))):
        np.save(folder / f"plain/{name}.npy", array)
    return folder


@pytest.fixture(scope="module")
def onnx_file(made) -> Path:
    from tools.export_onnx.export_onnx import export

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 8)).eval()
    model.image_size = 16
    export(model, made / "model.onnx")
    return made / "model.onnx"


def read_all(path: Path) -> None:
    """Read the labels and all images, as an epoch of training does."""
    faces = FaceRecords(path)
    faces.labels()
    faces.__getitems__(range(len(faces)))


def old(read, name: str, **more):
    return lambda f: read(artefact(f, SD, name), images=N, **more)


def old_alone(read, name: str, **more):
    return lambda f: read(f / f"alone_{name}.npy", images=N, **more)


def search(folder: Path):
    return read_search(folder, "IJBC", read_images(folder, "IJBC"))


PROTOTYPES = partial(load_prototypes, num_classes=4, dim=8, classes=slice(None))
LABELS = partial(load_labels, num_classes=4)
SAVE = f"OPclass/{SD}_"
META = "IJBC/meta/ijbc_"

# {file below the folder: its reader}.  Spaces at the end distinguish the readers of one file.
READERS = {
    "train.rec": lambda f: read_all(f / "train"),
    "train.idx": lambda f: read_all(f / "train"),
    "bare.rec": lambda f: read_all(f / "bare"),
    "bare.idx": lambda f: read_all(f / "bare"),
    "lfw.bin": lambda f: load_bin(f / "lfw.bin", 16),
    f"{SAVE}feature.npy": old(OldFeatures, "feature", dim=8),
    f"{SAVE}feature.json": old(OldFeatures, "feature", dim=8, records="r"),
    f"{SAVE}label.npy": old(LABELS, "feature"),
    f"{SAVE}label.json": lambda f: load_features(str(f), SD),
    f"{SAVE}credible_ratio_90_feature.npy": old(load_credible, "credible_ratio_90_feature"),
    f"{SAVE}credible_ratio_90_feature.json": old(load_credible, "credible_ratio_90_feature"),
    f"{SAVE}avg_feature.npy": old(PROTOTYPES, "avg_feature"),
    f"{SAVE}avg_feature.json": old(PROTOTYPES, "avg_feature"),
    "alone_feature.npy": old_alone(OldFeatures, "feature", dim=8),
    "alone_label.npy": old_alone(LABELS, "feature"),
    "alone_credible_ratio_90_feature.npy": old_alone(load_credible, "credible_ratio_90_feature"),
    "alone_avg_feature.npy": old_alone(PROTOTYPES, "avg_feature"),
    "model.pt": lambda f: load_model("mbf", f / "model.pt"),
    "old/softmax_fc_gpu_0.pt": lambda f: load_classifier(f / "old", 8),
    f"{META}face_tid_mid.txt": lambda f: read_images(f, "IJBC"),
    f"{META}name_5pts_score.txt": lambda f: read_images(f, "IJBC"),
    f"{META}template_pair_label.txt": lambda f: read_pairs(f, "IJBC", read_images(f, "IJBC")),
    f"{META}1N_gallery_G1.csv": search,
    f"{META}1N_gallery_G2.csv": search,
    f"{META}1N_probe_mixed.csv": search,
    "kept/*.npy": lambda f: embeddings(Colours(), read_images(f, "IJBC"), f / "kept", 10, 0),
    "kept/*.json": lambda f: embeddings(Colours(), read_images(f, "IJBC"), f / "kept", 10, 0),
    "result.npz": lambda f: load_result(f / "result.npz"),
    "result.npz ": lambda f: kept_embeddings(SimpleNamespace(old_model_file=None, save_result=str(f / "result.npz")),
                                             read_images(f, "IJBC")),
    "result.npz  ": lambda f: kept_views(f / "result.npz"),
    "plain/gallery_label.npy": lambda f: read_evaluation(f / "plain", "IJBC"),
    "plain/probe_label.npy": lambda f: read_evaluation(f / "plain", "IJBC"),
    "plain/pairs.npy": lambda f: read_evaluation(f / "plain", "IJBC"),
    "plain/gallery.npy": lambda f: plain_features(Version("old", str(f / "plain"), None), read_evaluation(f / "plain", "IJBC")),
    "plain/probe.npy": lambda f: plain_features(Version("old", str(f / "plain"), None), read_evaluation(f / "plain", "IJBC")),
    f"{SAVE}feature.npy ": lambda f: fit_maps(f / f"{SAVE}feature.npy", f / "turned.npy"),
}


def cut(file: Path, read, name: str | None = None) -> None:
    """Cut ``file`` at every twentieth of its length and read it; the file is complete again afterwards."""
    whole = file.read_bytes()
    table = file.suffix in (".txt", ".csv")
    try:
        for part in range(20):
            kept = whole[:len(whole) * part // 20]
            if table and kept.endswith(b"\n"):          # between two rows
                kept = kept[:-2]
            if file.suffix == ".json" and kept == whole.rstrip():
                continue
            file.write_bytes(kept)
            with pytest.raises(UserError) as refused:
                read()
                pytest.fail(f"{file.name} cut to {len(kept)} of {len(whole)} bytes was read")
            assert (name or file.name) in str(refused.value), refused.value
    finally:
        file.write_bytes(whole)
    read()


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_cut_short_is_refused_by_name(made, name):
    file, = made.glob(name.strip())
    pair = {".idx": file.stem, ".rec": file.stem}           # either file of a pair may be the one that is named
    cut(file, partial(READERS[name], made), pair.get(file.suffix))


def test_an_onnx_file_that_is_cut_short_is_refused_by_name(onnx_file, made):
    cut(onnx_file, lambda: open_model(str(onnx_file), "", [torch.device("cpu")], False, InputOptions()))


def test_an_extraction_whose_part_files_are_cut_starts_over(tmp_path, one_rank):
    """Their contents can be computed again."""
    target = tmp_path / "feature.npy"
    start = partial(PartialFile, target, tmp_path / "label.npy", PLAN, one_rank)
    for name in ("feature.npy.part", "label.npy.part", "feature.npy.done.part", "feature.npy.plan.part"):
        for part in range(20):
            file = start()
            file.write(0, slice(0, 4), np.ones((4, 8), np.float32), np.ones(4, np.int64))
            file.mark()
            assert start().done[0]
            whole = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(whole[:len(whole) * part // 20])
            again = start()
            assert not again.done.any() and not again.features.any() and again.features.shape == (40, 8), (name, part)


def test_a_table_cut_between_two_rows_gives_the_rows_before(made):
    """The cut cannot be detected without the number of rows; no row is invented."""
    file, images = made / f"{META}template_pair_label.txt", read_images(made, "IJBC")
    whole, pairs = file.read_bytes(), read_pairs(made, "IJBC", images)
    try:
        file.write_bytes(b"".join(whole.splitlines(True)[:50]))
        fewer = read_pairs(made, "IJBC", images)
    finally:
        file.write_bytes(whole)
    assert len(fewer.same) == 50 and np.array_equal(fewer.enrol, pairs.enrol[:50]) and np.array_equal(fewer.same, pairs.same[:50])
