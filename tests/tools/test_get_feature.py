"""Extraction: any number of ranks gives the same bits, a stopped run is resumed, files that do not fit are refused."""

import json
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx_toys import expected, node
from onnx_toys import write as write_onnx
from processes import start_script
from toy import write_records
from trainings import free_port, join

from backbones import get_model
from backbones.weights import fingerprint
from old_model.extraction import PartialFile, mirror_distances
from old_model.features import OldFeatures, load_credible
from records.faces import FaceRecords
from records.images import to_input
from records.recordio import RecordReader
from utils.errors import UserError
from utils.files import file_hash
from utils.origin import load_array, load_origin, save_array
from utils.paths import ROOT

pytestmark = pytest.mark.long
CONFIG, SD = "configs/f128_r18_softmax_class30.py", "f128_r18_softmax_class70"


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Path:
    """A data set of 27 images and an old model whose BatchNorms have seen a batch."""
    folder = tmp_path_factory.mktemp("extraction")
    write_records(folder / "data/train_part_70_class", [9, 11, 7], size=32)
    torch.manual_seed(0)
    model = get_model("r18", num_features=128, image_size=32).train()
    with torch.no_grad():
        model(torch.randn(16, 3, 32, 32))
    (folder / "old").mkdir()
    torch.save(model.state_dict(), folder / "old/model.pt")
    return folder


def extract(setting: Path, target: str, ranks: int = 1, *more: str) -> SimpleNamespace:
    """The script on one rank without a launcher, or on several with what a launcher sets; the first exit code that is not 0."""
    group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    folders = [setting / f"said/{rank}" for rank in range(ranks)]
    started = [start_script("tools/get_feature/get_feature.py", CONFIG, "--SD", SD, "--batch", "4", f"dataset={setting / 'data'}",
                            f"output={setting / 'old'}", "workers=1", f"feature_save={setting / target}", *more, cwd=ROOT,
                            env=os.environ | (group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}),
                            folder=folder) for rank, folder in enumerate(folders)]
    code = next((code for code in join(started) if code), 0)
    return SimpleNamespace(returncode=code, stderr="".join((folder / "stderr").read_text() for folder in folders))


@pytest.fixture(scope="module")
def one(setting) -> Path:
    done = extract(setting, "one")
    assert done.returncode == 0, done.stderr
    return setting / "one/OPclass"


def test_a_bad_record_ends_the_extraction_in_spite_of_config_bad_records(setting, tmp_path):
    """Row i must be image i."""
    (tmp_path / "data").mkdir()
    for end in (".idx", ".rec"):
        data = bytearray((setting / f"data/train_part_70_class{end}").read_bytes())
        if end == ".rec":
            reader = RecordReader(setting / "data/train_part_70_class")
            at = int(reader.offsets[reader.row(6)])
            data[at + 40:at + 60] = bytes(20)
        (tmp_path / f"data/train_part_70_class{end}").write_bytes(data)
    done = extract(setting, "bad", 1, "bad_records=skip", f"dataset={tmp_path / 'data'}")
    assert done.returncode == 1 and "record 6 at byte" in done.stderr.strip().splitlines()[-1]
    assert not (setting / f"bad/OPclass/{SD}_feature.npy").exists()


def test_a_part_file_of_another_shape_is_made_again(setting, tmp_path, one_rank):
    plan = {"images": 9, "dim": 4, "batch_size": 4}
    names = [tmp_path / "f.npy", tmp_path / "l.npy"]
    file = PartialFile(*names, plan, one_rank)
    file.done[:] = True
    np.save(tmp_path / "l", np.zeros(3, np.int64))
    (tmp_path / "l.npy").replace(tmp_path / "l.npy.part")
    file = PartialFile(*names, plan, one_rank)
    assert file.labels.shape == (9,) and not file.done.any()


def test_the_distance_to_the_mirror_image_is_of_images_from_the_whole_set():
    """2,500 images: row i is at 2 |sin(i / 2)| from its mirror image; every fifth part of the set has its share."""
    class Rows:
        def __len__(self):
            return 2500

        def __getitems__(self, rows):
            return torch.tensor(rows), None, None

    def embed(rows):
        angle = rows.double().numpy()
        assert len(angle) <= 128
        return np.stack([np.stack([3 + 0 * angle, 0 * angle], 1), np.stack([np.cos(angle), np.sin(angle)], 1)])
    found = mirror_distances(embed, Rows(), 128)
    distance = np.abs(2 * np.sin(np.arange(2500) / 2))
    taken = [int(np.abs(distance - one).argmin()) for one in found]
    assert len(set(taken)) == 1000 and np.bincount(np.array(taken) // 500).tolist() == [200] * 5
    np.testing.assert_allclose(found, distance[taken], atol=1e-12)


def test_features_are_those_of_the_unflipped_images(setting, one):
    features = np.load(one / f"{SD}_feature.npy")
    data = FaceRecords(setting / "data/train_part_70_class")
    model = get_model("r18", num_features=128, image_size=32)
    model.load_state_dict(torch.load(setting / "old/model.pt", weights_only=True))
    model.eval()
    for i in (0, 13, 26):
        with torch.no_grad():
            alone = model(to_input(torch.from_numpy(data[i][0])[None], "cpu"))[0].numpy()
        np.testing.assert_allclose(features[i], alone, atol=1e-4 * np.abs(alone).max())
    assert np.load(one / f"{SD}_label.npy").tolist() == [0] * 9 + [1] * 11 + [2] * 7
    distances = []
    for i in range(27):
        face = torch.from_numpy(data[i][0])[None]
        with torch.no_grad():
            views = [torch.nn.functional.normalize(model(to_input(view, "cpu")).double()) for view in (face, face.flip(2))]
        distances.append((views[0] - views[1]).norm().item())
    middle, low = np.median(distances), np.quantile(distances, 0.05)
    said = (setting / "said/0/stdout").read_text()
    assert f"mirror image's: median {middle:.2f}, 5 % quantile {low:.2f} (27 images, unit features)" in said
    origin = json.loads((one / f"{SD}_feature.json").read_text())
    assert (origin["images"], origin["dim"], origin["records"]) == (27, 128, data.fingerprint())
    assert origin["model"] == fingerprint(model.state_dict())
    assert sorted(p.name for p in one.iterdir()) == [f"{SD}{end}" for end in (
        ".lock", "_feature.json", "_feature.npy", "_label.json", "_label.npy")]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_model_from_elsewhere_leaves_its_features(setting, ranks):
    """An ONNX file that takes BGR in rows, from 0 to 255: features of the images as a loop in float64 makes them."""
    front = [node("Transpose", "input", "y", perm=[0, 3, 1, 2]), node("Gather", "y order", "z", axis=1), node("Sub", "z m", "a"),
             node("Div", "a m", "x")]
    write_records(setting / "data16/train_part_70_class", [9, 11, 7], size=16)
    file = write_onnx(setting / "old.onnx", front, {"m": 127.5, "order": np.array([2, 1, 0], np.int64)},
                      inputs={"input": (np.float32, ["N", 16, 16, 3])})
    sd = "f8_theirs_class70"
    done = extract(setting, f"theirs{ranks}", ranks, "--model", f"{file},bgr", "--SD", sd, f"dataset={setting / 'data16'}")
    assert done.returncode == 0, done.stderr
    data = FaceRecords(setting / "data16/train_part_70_class")
    faces = np.stack([data[i][0] for i in range(27)])
    folder = setting / f"theirs{ranks}/OPclass"
    np.testing.assert_allclose(np.load(folder / f"{sd}_feature.npy"), expected(faces=faces)[0], atol=1e-5)
    origin = json.loads((folder / f"{sd}_feature.json").read_text())
    assert (origin["input"], origin["colours"], origin["dim"], origin["output"]) == ("raw", "bgr", 8, "embedding")
    assert origin["model"] == file_hash([file]) and origin["records"] == data.fingerprint()


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_gives_the_same_bits(setting, one, ranks):
    done = extract(setting, f"ranks{ranks}", ranks)
    assert done.returncode == 0, done.stderr
    for name in ("feature.npy", "label.npy", "feature.json"):
        assert (setting / f"ranks{ranks}/OPclass/{SD}_{name}").read_bytes() == (one / f"{SD}_{name}").read_bytes()


def test_a_stopped_run_is_resumed(setting, one):
    """A record that is not an image stops the run; with the record restored, the batches before it are not computed again."""
    data, good = setting / "data", (setting / "data/train_part_70_class.rec").read_bytes()
    at = good.rindex(b"\xff\xd8\xff")            # the last image
    try:
        (data / "train_part_70_class.rec").write_bytes(good[:at] + bytes(40) + good[at + 40:])
        done = extract(setting, "stopped")
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 1 and "record 27" in last and last.startswith("error: ")
        part = setting / f"stopped/OPclass/{SD}_feature.npy.part"
        assert part.is_file() and not part.with_suffix("").is_file()
        marks = np.load(setting / f"stopped/OPclass/{SD}_feature.npy.done.part")
        assert marks[:5].all() and not marks[-1]
    finally:
        (data / "train_part_70_class.rec").write_bytes(good)
    # The corrupt file had another fingerprint: give the plan that of the good one, as after a kill.
    plan = setting / f"stopped/OPclass/{SD}_feature.npy.plan.part"
    origin = json.loads((one / f"{SD}_feature.json").read_text())
    kept = {key: value for key, value in origin.items() if key not in ("bytes", "quick", "sha256", "model_file", "record_file")}
    plan.write_text(json.dumps(kept | {"batch_size": 4}))
    rows = np.load(part, mmap_mode="r+")
    rows[0] = 7.0                                # a batch that is marked is not computed again
    rows.flush()
    assert extract(setting, "stopped").returncode == 0
    found, expected = np.load(setting / f"stopped/OPclass/{SD}_feature.npy"), np.load(one / f"{SD}_feature.npy")
    assert (found[0] == 7.0).all() and np.array_equal(found[1:], expected[1:])


@pytest.mark.parametrize("renames", range(4))
def test_a_stop_between_two_renames_loses_nothing(renames, tmp_path, one_rank, monkeypatch):
    """Of two .json and two arrays, the first ``renames`` have their names: no feature is computed again, and an array that can
    be read fits its .json."""
    plan, origin, target = {"images": 40, "dim": 8, "batch_size": 4}, {"model": "m", "images": 40}, tmp_path / "feature.npy"
    begin = partial(PartialFile, target, tmp_path / "label.npy", plan, one_rank)
    save_array(target, np.zeros((40, 8), np.float32), {"model": "another"})         # of an earlier extraction
    file = begin()
    for batch in range(10):
        file.write(batch, slice(4 * batch, 4 * batch + 4), np.full((4, 8), batch, np.float32), np.full(4, batch))
    file.mark()
    whole, left = os.replace, [renames]

    def replace(*names):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        whole(*names)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", replace)
        file.finish(origin)
    try:
        assert load_array(target, "this").any() == (load_origin(target)["model"] == "m")
    except UserError as error:
        assert "is corrupt, or not the file that feature.json" in str(error)
    again = begin()
    assert again.done.all()
    again.finish(origin)
    assert load_array(target, "this", whole=True)[:, 0].tolist() == load_array(tmp_path / "label.npy", "this").tolist()
    assert load_origin(target)["model"] == "m" and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("more, words", [
    (["--SD", "f128_r18_arc_class70"], "does not belong to"),
    (["--SD", "f128_r18_softmax_class71"], "must end in one of"),
    (["output=nowhere"], f"no model {ROOT}/nowhere/model.pt; train it first"),
    (["dataset=nowhere"], "train_part_70_class"),
    (["network=r50"], "r50"),
])
def test_mistakes_end_with_one_sentence(setting, more, words):
    done = extract(setting, "bad", 1, *more)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: ") and words in last and "Traceback" not in done.stderr


def test_features_of_something_else_are_refused(one, tmp_path):
    file = one / f"{SD}_feature.npy"
    origin = json.loads((one / f"{SD}_feature.json").read_text())
    right = dict(images=27, dim=128, records=origin["records"], model=origin["model"])
    old = OldFeatures(file, **right)
    assert torch.allclose(old[torch.tensor([3, 0])].norm(dim=1), torch.ones(2))
    for wrong, words in ((dict(images=28), "27 rows, the training set has 28"), (dict(dim=64), "embedding_size"),
                         (dict(records="x"), "different records"), (dict(model="x"), "different model")):
        with pytest.raises(UserError, match=words):
            OldFeatures(file, **(right | wrong))
    with pytest.raises(UserError, match="make it with: python tools/get_feature/denoise_credible.py"):
        load_credible(one / f"{SD}_credible_ratio_90_feature.npy", images=27)
    cut = tmp_path / f"{SD}_feature.npy"
    cut.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a whole .npy"):
        OldFeatures(cut, **right)
