"""Old features, embeddings and searches on a device against float64 networks and loops on the CPU."""

import numpy as np
import pytest
import torch
from places import ON_EACH_DEVICE
from toy import write_records

from backbones import get_model
from backbones.backbone import Backbone
from evaluation import identification
from evaluation.identification import search_each
from evaluation.inputs import InputOptions
from evaluation.models import find_devices, open_model
from evaluation.protocol import People
from old_model.extraction import PartialFile, extract
from records.faces import FaceRecords

LIMIT = 1e-3        # of the length of an embedding


def network() -> Backbone:
    """A network whose BatchNorm statistics are not their first values."""
    torch.manual_seed(0)
    model = get_model("r18", num_features=16, image_size=32)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 3, 32, 32))
    return model.eval()


def far_off(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest difference of two rows, relative to the length of the exact one."""
    return (np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)).max()


def exact_features(pixels: np.ndarray) -> np.ndarray:
    model = network().double()
    model.embed = lambda x, embed=model.embed: embed(x.double())
    x = (torch.from_numpy(pixels).double().permute(0, 3, 1, 2) - 127.5) / 127.5
    with torch.no_grad():
        return model(x).numpy()


@ON_EACH_DEVICE
def test_old_features(device, tmp_path, one_rank):
    write_records(tmp_path / "train", [7, 6, 8], size=32)
    faces = FaceRecords(tmp_path)
    pixels = np.empty((len(faces), 32, 32, 3), np.uint8)
    labels = faces.fill(pixels, range(len(faces)))
    plan = {"images": len(faces), "dim": 16, "batch_size": 4}
    file = PartialFile(tmp_path / "a_feature.npy", tmp_path / "a_label.npy", plan, one_rank)
    torch.save(network().state_dict(), tmp_path / "model.pt")
    replica, = open_model(str(tmp_path / "model.pt"), "r18", find_devices(device), False, InputOptions()).replicas()
    extract(lambda images: replica(images, mirror=False)[0], faces, file, one_rank, batch_size=4, workers=1)
    assert one_rank.device.type == device and np.array_equal(file.labels, labels)
    assert far_off(np.array(file.features), exact_features(pixels)) < LIMIT


@ON_EACH_DEVICE
def test_embeddings_of_the_evaluator(device, tmp_path):
    torch.save(network().state_dict(), tmp_path / "model.pt")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    model = open_model(str(tmp_path / "model.pt"), "r18", find_devices(device), False, InputOptions())
    for replica in model.replicas():
        found = replica(torch.from_numpy(pixels))
        for view, images in zip(found, (pixels, pixels[:, :, ::-1].copy()), strict=True):
            assert far_off(view, exact_features(images)) < LIMIT


@ON_EACH_DEVICE
@pytest.mark.parametrize("rows, cells", [(16_384, 10 ** 6), (40, 700)])
def test_search(rows, cells, device, monkeypatch):
    """Two galleries and both together, several templates of a subject, equal rows: every mate, rival and rank."""
    monkeypatch.setattr(identification, "GALLERY_ROWS_PER_BLOCK", rows)
    monkeypatch.setattr(identification, "SEARCH_SIMILARITIES_PER_BLOCK", {device: cells})
    draw = np.random.default_rng(5)
    gallery = draw.standard_normal((200, 24)).astype(np.float32)
    gallery[50:60] = gallery[:10]                                   # exact ties
    subjects = draw.permutation(np.arange(200) % 80)
    galleries = {"a": People(np.arange(120, dtype=np.int32), 100 + subjects[:120] // 2),
                 "b": People(np.arange(120, 200, dtype=np.int32), 200 + subjects[120:] // 2)}
    query = gallery + draw.normal(0, 0.8, gallery.shape).astype(np.float32)
    probes = People(draw.permutation(200)[:60].astype(np.int32), np.zeros(60, np.int64))
    known = np.r_[galleries["a"].subjects, galleries["b"].subjects]
    probes = People(probes.templates, np.where(np.arange(60) % 3 == 0, 999, known[probes.templates]))
    hits = search_each(gallery, query, galleries, probes, device)
    exact = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (gallery.astype(float), query.astype(float))]
    cosines = exact[1][probes.templates] @ exact[0].T               # [60, 200]
    galleries["mixed"] = galleries["a"] + galleries["b"]
    for name, people in galleries.items():
        for k, subject in enumerate(probes.subjects):
            best = {s: cosines[k, people.templates[people.subjects == s]].max() for s in np.unique(people.subjects)}
            mate = best.pop(subject, -np.inf)
            gaps = np.array(list(best.values())) - mate
            assert not ((np.abs(gaps) > 1e-9) & (np.abs(gaps) < 2e-5)).any()        # no rank hangs on a rounding
            assert hits[name].rank[k] == (0 if mate == -np.inf else 1 + (gaps > -1e-9).sum())
            assert hits[name].other[k] == pytest.approx(max(best.values()), abs=1e-6)
            assert hits[name].mate[k] == (mate if mate == -np.inf else pytest.approx(mate, abs=1e-6))
