"""MixBCT, L2, BCT and UniBCT against the golden arrays 04 to 07.

Where a method's default differs from the public code on purpose, the test sets as_published.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from golden_arrays import golden, near, rows_of_this_rank
from golden_parts import MixBCTOnArrays, head_of, no_head, on_arrays, unit_rows
from ranks import on_ranks

from BCT_Methods.BCT.train import BCT
from BCT_Methods.L2.train import L2, beyond
from BCT_Methods.UniBCT.refinement import refined
from engine.method import Clock
from losses import ArcFace, PrototypeLoss
from old_model.statistics import class_means


def mixbct_of_this_rank(g: dict) -> dict:
    prefix = f"ws{dist.get_world_size()}_r{dist.get_rank()}_mix_"
    old, credible = unit_rows(g["old_feature_raw"]), torch.from_numpy(g["credible"])
    new, index, labels = (rows_of_this_rank(g[name]) for name in ("new_emb", "index", "labels"))
    new.requires_grad_()
    head = head_of(g, ArcFace(), 10, "weight")
    seen = {}

    def spy(embeddings, labels):
        seen["mixed"] = embeddings.detach().clone()
        return head(embeddings, labels)

    rows = torch.from_numpy(g[prefix + "replaced_rows"])
    loss = MixBCTOnArrays(old, credible, [rows])(spy, new, labels, index, Clock(0, 0, 0.0))["cls"]
    loss.backward()
    drawn = MixBCTOnArrays(old, credible).replaced(index, Clock(0, 0, 0.0))
    assert len(drawn) == len(rows) and credible[index[drawn]].all() and len(set(drawn.tolist())) == len(drawn)
    return {"old_feature_normalized": old, "credible_rows": credible[index].nonzero()[:, 0], "replaced_rows": rows,
            "mixed_emb": seen["mixed"], "loss": loss.detach(), "grad_new_emb": new.grad,
            "grad_weight": head.weight.grad}


@pytest.mark.parametrize("world_size", [1, 2])
def test_mixbct(world_size):
    g = golden("04_mixbct")
    for rank, found in enumerate(on_ranks(world_size, mixbct_of_this_rank, g)):
        for name, value in found.items():
            near(value, g[f"ws{world_size}_r{rank}_mix_{name}"], 2e-5)


@pytest.mark.parametrize("name, threshold", [("th00", 0.0), ("th02", 0.2)])
def test_l2(name, threshold):
    g = golden("05_l2")
    new = torch.from_numpy(g["new_raw"]).requires_grad_()
    method = on_arrays(L2, cfg=SimpleNamespace(l2_weight=10.0, threshold=threshold), old=unit_rows(g["old_raw"]))
    terms = method(no_head, new, None, torch.arange(6), None)
    terms["l2"].backward()
    near(terms["l2"].detach(), g[f"{name}_loss2"], 2e-5)
    near(new.grad, g[f"{name}_grad_new_raw"], 2e-5)
    assert not new.grad[3].any()                                    # the identical row
    unit = unit_rows(g["new_raw"]).requires_grad_()
    near(beyond(unit, method.old, 0.0).detach(), g[f"{name}_distance"], 2e-5)
    loss = beyond(unit, method.old, threshold).mean()
    loss.backward()
    near(loss.detach(), g[f"{name}_loss_unweighted"], 2e-5)
    near(unit.grad, g[f"{name}_grad_new_normalized"], 2e-5)


@pytest.mark.parametrize("name", ["proto", "proto_unnormalized"])
def test_bct(name, one_rank):
    """As published: scale 1."""
    g = golden("06_bct")
    loss = PrototypeLoss(16, 7, scale=1.0)
    loss.prototypes.copy_(torch.from_numpy(g[name]))
    new, labels = torch.from_numpy(g["feat"]).requires_grad_(), torch.from_numpy(g["labels"])
    term = on_arrays(BCT, influence=loss)(no_head, new, labels, None, None)["bct"]
    term.backward()
    near(F.normalize(new.detach()) @ loss.prototypes.T, g[f"{name}_logits"], 1e-5)
    near(term.detach(), g[f"{name}_loss"], 1e-5)
    near(new.grad, g[f"{name}_grad_feat"], 1e-5)


@pytest.mark.parametrize("name, lamb, tau", [("unit", 0.9, 0.05), ("raw", 0.9, 0.05), ("unit_lamb05_temper02", 0.5, 0.2)])
def test_unibct(name, lamb, tau):
    g = golden("07_unibct")
    order = np.argsort(g["labels"], kind="stable")
    new = torch.from_numpy(g[f"new_features_{name.split('_')[0]}"][order])
    old = torch.from_numpy(g["old_features"][order])
    counts = np.bincount(g["labels"])
    assert np.array_equal(counts, g["counts"])
    found = refined(new, old, counts, lamb=lamb, tau=tau, as_published=True)
    near(found, g[f"prototype_new_{name}"], 2e-5)
    near(found, g["plain_class_mean_of_old"], 2e-5)                 # as published, the refinement moves nothing
    near(class_means(g["old_features"], g["labels"]), g["plain_class_mean_of_old"], 2e-5)


def test_unibct_with_the_row_softmax_on_cosines():
    """The default, row softmax on cosines, against the float64 derivation (which does not normalise the result)."""
    g = golden("07_unibct")
    order = np.argsort(g["labels"], kind="stable")
    old = torch.from_numpy(g["old_features"][order])
    for name in ("unit", "raw"):
        new = torch.from_numpy(g[f"new_features_{name}"][order])
        found = refined(new, old, g["counts"], lamb=0.9, tau=0.05, as_published=False)
        near(found, F.normalize(torch.from_numpy(g["derived_not_original_row_softmax_unit"])), 2e-5)
    # The same on raw dot products: what was cosines / tau becomes dot products / tau.
    slow = []
    for label in range(5):
        rows = g["labels"] == label
        v, o = g["new_features_raw"][rows].astype(np.float64), g["old_features"][rows].astype(np.float64)
        logits = v @ v.T / 0.05 + np.where(np.eye(len(v)) > 0, -np.inf, 0)
        a = np.exp(logits - logits.max(1, keepdims=True))
        a /= a.sum(1, keepdims=True)
        slow.append((0.1 * np.linalg.inv(np.eye(len(v)) - 0.9 * a) @ o).mean(0))
    near(slow, g["derived_not_original_row_softmax_raw"], 2e-5)


def test_unibct_with_a_class_of_one_image():
    g = golden("07_unibct")
    order = np.argsort(g["single_labels"], kind="stable")
    new, old = (torch.from_numpy(g[f"single_{side}"][order]) for side in ("new", "old"))
    found = refined(new, old, np.bincount(g["single_labels"]), lamb=0.9, tau=0.05, as_published=True)
    near(found, g["single_prototype"], 2e-5)
