"""The evaluator against the golden folder: every array of 11_ijbc.npz, on the folder ijbc_tiny."""

import cv2
import numpy as np
import pytest
import torch
from folders import golden_folder
from golden_arrays import golden

from evaluation.align import similarity, warp
from evaluation.embed import AlignedFaces, embeddings
from evaluation.identification import one_to_many, search_each
from evaluation.inputs import RAW
from evaluation.protocol import read_images, read_pairs, read_search
from evaluation.templates import DEFAULT, Mode, image_weights, norms, template_features
from evaluation.verification import FARS, Roc, one_to_one


@pytest.fixture(scope="module")
def g() -> dict:
    return golden("11_ijbc")


@pytest.fixture(scope="module")
def tiny():
    """(images, pairs, search) of ijbc_tiny."""
    data = golden_folder() / "ijbc_tiny"
    images = read_images(data, "IJBC")
    return images, read_pairs(data, "IJBC", images), read_search(data, "IJBC", images)


@pytest.fixture(scope="module")
def sides(g, tiny):
    """{"self" or "cross": (gallery side, query side)} template features."""
    new = template_features(np.stack([g["embs"], g["embs_f"]]), tiny[0])
    old = template_features(np.stack([g["embs_old"], g["embs_f_old"]]), tiny[0])
    return {"self": (new, new), "cross": (old, new)}


def test_meta_files(g, tiny):
    images, pairs, protocol = tiny
    ids = images.template_ids
    assert np.array_equal(ids, g["unique_templates"])
    found = {"templates": ids[images.templates], "medias": images.media, "p1": ids[pairs.enrol],
             "p2": ids[pairs.verify], "label": pairs.same, "landmarks": images.landmarks,
             "face_scores": images.scores, "img_basenames": images.names}
    for name, array in found.items():
        assert np.array_equal(array, g[f"meta_{name}"]), name
    for people, name in ((protocol.galleries["G1"], "g1"), (protocol.galleries["G2"], "g2"),
                         (protocol.probes, "probe")):
        expected = dict(zip(g[f"{name}_templates"].tolist(), g[f"{name}_ids"].tolist(), strict=True))
        assert dict(zip(ids[people.templates].tolist(), people.subjects.tolist(), strict=True)) == expected


@pytest.mark.parametrize("name, mode", [("processed_embs", DEFAULT), ("process_N1D1F1", Mode(normalise=True)),
                                        ("process_N0D0F1", Mode(detector=False)),
                                        ("process_N0D1F0", Mode(flip=False))])
def test_what_an_image_counts_for(g, tiny, name, mode):
    """The weights leave out the mean within a medium: with every image a medium of its own there is none."""
    images = tiny[0]
    alone = type(images)(**{**vars(images), "media": np.arange(len(images))})
    views = np.stack([g["embs"], g["embs_f"]])[:1 + mode.flip]
    weight = image_weights(alone, mode.detector) / (norms(views) if mode.normalise else 1)
    np.testing.assert_allclose(views.sum(0) * weight[:, None], g[name], atol=1e-6)


def test_template_features(g, sides):
    np.testing.assert_allclose(sides["self"][0], g["template_feats_self"], atol=1e-6)


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_one_to_one(g, tiny, sides, kind):
    np.testing.assert_array_equal(FARS, g["tpr_columns"])
    figures, arrays = one_to_one(*sides[kind], tiny[1], public=True)
    np.testing.assert_allclose(arrays["scores"], g[f"{kind}_score_11"], atol=1e-6)
    np.testing.assert_allclose([*figures["TAR"], figures["auc"]], g[f"{kind}_tpr_table"], atol=1e-12)
    # The exact reading: the largest TAR whose FAR <= x, from the golden scores one threshold at a time.
    scores, same = g[f"{kind}_score_11"], g["meta_label"] == 1
    tar = [max((scores[same] > t).mean() for t in scores if (scores[~same] > t).mean() <= far) for far in FARS]
    np.testing.assert_allclose(Roc.of(arrays["scores"], same).at(FARS)[0], tar, atol=1e-12)


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_one_to_many(g, tiny, sides, kind):
    gallery, query = sides[kind]
    protocol = tiny[2]
    first, second = protocol.galleries.values()
    lists = {"g1": first, "g2": second, "mixed": first + second}
    np.testing.assert_allclose(query[protocol.probes.templates], g[f"{kind}_probe_feats"], atol=1e-6)
    assert np.array_equal(protocol.probes.subjects, g[f"{kind}_probe_ids"])
    names = dict(zip(protocol.galleries, ("g1", "g2"), strict=True)) | {"mixed": "mixed"}
    for gallery_name, hits in search_each(gallery, query, protocol.galleries, protocol.probes).items():
        name, people = names[gallery_name], lists[names[gallery_name]]
        assert [hits.within(k) for k in (1, 5, 10)] == g[f"{kind}_{name}_top1_5_10_counts"].tolist()
        np.testing.assert_allclose(gallery[people.templates], g[f"{kind}_{name}_gallery_feats"], atol=1e-6)
        assert np.array_equal(people.subjects, g[f"{kind}_{name}_gallery_ids"])
        if name != "mixed":
            tpir, threshold = hits.tpir(g["fars_1N"])
            np.testing.assert_allclose(tpir, g[f"{kind}_{name}_recalls"], atol=1e-12)
            np.testing.assert_allclose(threshold, g[f"{kind}_{name}_threshes"], atol=1e-6)
    figures, _ = one_to_many(gallery, query, protocol)
    top = list(figures["top_of_all_probes"].values())
    np.testing.assert_allclose(top, g[f"{kind}_mean_top1_5_10"], atol=1e-12)
    np.testing.assert_allclose(figures["TPIR"][-1], g[f"{kind}_mean_tpirs"][-1], atol=1e-12)       # FPIR 1


@pytest.mark.parametrize("name", ["i0", "i5", "i17", "big"])
def test_alignment(g, name):
    matrix, expected = similarity(g[f"align_{name}_landmark"][None])[0], g[f"align_{name}_M"]
    assert np.abs(matrix - expected).max() <= 1e-6 * np.abs(expected).max()
    face = warp(g[f"align_{name}_img_bgr"], matrix, 112)
    difference = np.abs(face.astype(int) - g[f"align_{name}_out_rgb"])
    assert difference.max() <= 5 and difference.mean() <= 0.3


class BlockMeans:
    """The golden folder's stand-in for a model: means of 14 x 14 pixels in 3 channels."""

    fingerprint, image_size, dim, precision, input, output = "0" * 64, 112, 192, "float32", RAW, ""

    def replicas(self) -> list:
        def embed(images: torch.Tensor) -> np.ndarray:
            views = torch.stack([images, images.flip(2)]).float()
            blocks = views.unflatten(3, (8, 14)).unflatten(2, (8, 14)).mean((3, 5))        # [2, B, 8, 8, 3]
            return blocks.flatten(2).numpy()
        return [embed]


def test_embeddings_of_the_images_in_their_order(g, tiny, tmp_path):
    found = embeddings(BlockMeans(), tiny[0], tmp_path, batch_size=7, workers=0)
    np.testing.assert_allclose(found[0, :10], g["getemb_first10"], atol=0.3)
    np.testing.assert_allclose(found[1, :10], g["getemb_flip_first10"], atol=0.3)


def test_jpegs_are_decoded_as_bgr_and_come_out_as_rgb(g, tiny):
    face, readable = AlignedFaces(tiny[0], 112)[0]
    assert readable and np.abs(face.astype(int) - g["align_i0_out_rgb"]).max() <= 5
    file = tiny[0].folder / str(tiny[0].names[0])
    assert np.abs(cv2.imread(str(file)).astype(int) - g["align_i0_img_bgr"]).max() <= 2
