"""The other methods' golden numbers: where the default differs from the public code on purpose, through the switch."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ranks import on_ranks
from test_golden import bank, golden, head_of, near, own

from BCT_Methods.AdvBCT.train import AdvBCT, Reverse
from BCT_Methods.BCT.train import BCT
from BCT_Methods.L2.train import L2, beyond
from BCT_Methods.NCCL.credible import entropy
from BCT_Methods.NCCL.old_queue import Queue
from BCT_Methods.NCCL.train import NCCL, contrast
from BCT_Methods.UniBCT.refinement import refined
from engine.method import Clock
from losses import ArcFace, PrototypeLoss
from losses.shards import all_rows
from old_model.statistics import class_balls, class_means

NO_HEAD = lambda new, labels: new.sum() * 0     # noqa: E731  a classification loss of 0


def on_arrays(kind: type, **parts):
    """A method of this kind without files: only what its forward reads."""
    method = kind.__new__(kind)
    torch.nn.Module.__init__(method)
    for name, part in parts.items():
        setattr(method, name, part)
    return method


# 05 L2 and weakened L2

@pytest.mark.parametrize("name, threshold", [("th00", 0.0), ("th02", 0.2)])
def test_l2(name, threshold):
    g = golden("05_l2")
    new = torch.from_numpy(g["new_raw"]).requires_grad_()
    method = on_arrays(L2, cfg=SimpleNamespace(l2_weight=10.0, threshold=threshold), old=bank(g["old_raw"]))
    terms = method(NO_HEAD, new, None, torch.arange(6), None)
    terms["l2"].backward()
    near(terms["l2"].detach(), g[f"{name}_loss2"], 2e-5)
    near(new.grad, g[f"{name}_grad_new_raw"], 2e-5)
    assert not new.grad[3].any()                                    # the identical row
    unit = bank(g["new_raw"]).requires_grad_()
    near(beyond(unit, method.old, 0.0).detach(), g[f"{name}_distance"], 2e-5)
    loss = beyond(unit, method.old, threshold).mean()
    loss.backward()
    near(loss.detach(), g[f"{name}_loss_unweighted"], 2e-5)
    near(unit.grad, g[f"{name}_grad_new_normalized"], 2e-5)


# 06 BCT as published: scale 1

@pytest.mark.parametrize("name", ["proto", "proto_unnormalized"])
def test_bct(name, one_rank):
    g = golden("06_bct")
    loss = PrototypeLoss(16, 7, scale=1.0)
    loss.prototypes.copy_(torch.from_numpy(g[name]))
    new, labels = torch.from_numpy(g["feat"]).requires_grad_(), torch.from_numpy(g["labels"])
    term = on_arrays(BCT, influence=loss)(NO_HEAD, new, labels, None, None)["bct"]
    term.backward()
    near(F.normalize(new.detach()) @ loss.prototypes.T, g[f"{name}_logits"], 1e-5)
    near(term.detach(), g[f"{name}_loss"], 1e-5)
    near(new.grad, g[f"{name}_grad_feat"], 1e-5)


# 07 UniBCT

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
    near(found, g["plain_class_mean_of_old"], 2e-5)                 # which is why it moves nothing
    near(class_means(g["old_features"], g["labels"]), g["plain_class_mean_of_old"], 2e-5)


def test_unibct_rows():
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


# 08 NCCL

def nccl_steps_of_this_rank(g: dict) -> dict:
    """The public run's two steps on stand-in logits, which lie whole on every rank: one shard of all 12 classes."""
    queue = Queue(32, 16, 12 * dist.get_world_size())
    out, rows = {}, torch.zeros(8, dtype=torch.bool)
    rows[own(np.arange(8))] = True
    for step in range(2):
        old, new, old_logits, new_logits = (torch.from_numpy(g[f"nccl_{name}"][step]) for name in
                                            ("old_emb", "new_emb", "old_logits", "new_logits"))
        labels = torch.from_numpy(g["nccl_labels"][step])
        new.requires_grad_(), new_logits.requires_grad_()
        queue.push(old, old_logits, labels)
        pairs = dict(weight=(1 + old @ queue.features.T) / 2, positive=labels[:, None] == queue.labels, rows=rows,
                     entries=torch.ones(32, dtype=torch.bool))
        l1 = contrast(F.normalize(new) @ queue.features.T, **pairs)
        l2 = contrast(queue.product(new_logits), **pairs)
        values = {"l1": l1, "l2": l2, "grad_l1_new_emb": torch.autograd.grad(l1, new, retain_graph=True)[0],
                  "grad_l2_new_logits": torch.autograd.grad(l2, new_logits, retain_graph=True)[0],
                  "feat_queue": queue.features,
                  "logit_queue": queue.logits, "queue_labels": queue.labels, "header": (queue.labels >= 0).sum() % 32,
                  "no_cross_grad": (torch.autograd.grad(l1, new_logits, retain_graph=True, allow_unused=True)
                                    + torch.autograd.grad(l2, new, retain_graph=True, allow_unused=True)) == (None, None)}
        out |= {f"step{step}_{key}": np.array(torch.as_tensor(value).detach()) for key, value in values.items()}
    return out


@pytest.mark.parametrize("world_size", [1, 2])
def test_nccl(world_size):
    g = golden("08_nccl")
    checked = set()
    for rank, found in enumerate(on_ranks(world_size, nccl_steps_of_this_rank, g)):
        for name, value in found.items():
            key = f"ws{world_size}_r{rank}_nccl_{name}"
            near(value, g[key], 1e-5)
            checked.add(key)
    assert {k for k in g if k.startswith(f"ws{world_size}_") and "_nccl_step" in k} == checked


def whole_nccl_of_this_rank(g: dict) -> dict:
    """A whole step as published, through PartialFC; under fp16 the logits are clamped (float32 arithmetic on a CPU)."""
    out = {}
    for classes in (10, 11):
        for name, clamp in (("pfc", False), ("pfcfp16", True)):
            cfg = SimpleNamespace(alpha=1.0, beta=0.01, tau=1.0, as_published=True, fp16=clamp)
            queue = Queue(32, 16, classes)
            method = on_arrays(NCCL, cfg=cfg, queue=queue, credible=None, old=torch.from_numpy(g["nccl_old_emb"][0]))
            head = head_of(g, ArcFace(), classes, "pfc_weight")
            new, labels = own(g["pfc_emb"]).requires_grad_(), own(g[f"pfc_labels_c{classes}"])
            terms = method(head, new, labels, own(np.arange(8)), Clock(0, 0, 0.0))
            # The public gather multiplies the gradient of l1, though every rank has only its own rows in it, by
            # world_size: what it trains with is alpha * world_size.
            (sum(terms.values()) + (dist.get_world_size() - 1) * terms["feature"]).backward()
            logits = method.logits(head, *head.scores(new.detach(), labels))
            mean = {"onehot_loss": terms["cls"], "l1": terms["feature"], "l2": terms["logit"] / cfg.beta,
                    "loss": sum(terms.values())}
            out |= {f"{name}_c{classes}_{key}": np.array(value.detach()) for key, value in mean.items()}
            out |= {f"{name}_c{classes}_{key}": np.array(value) for key, value in {
                "old_logits": queue.logits[:8], "new_logits": logits, "new_logits_requires_grad": logits.requires_grad,
                "l2_requires_grad": terms["logit"].requires_grad, "grad_emb": new.grad, "grad_weight": head.weight.grad,
                "old_embeddings_norm": queue.features[:8], "new_embeddings_norm": F.normalize(all_rows(new.detach())),
                "all_labels": all_rows(labels)}.items()}
    return out


@pytest.mark.parametrize("world_size", [1, 2])
def test_nccl_through_partial_fc(world_size):
    """Ours: terms are means over all ranks' rows and logits are shards; the public code's: own rows, gathered logits."""
    g = golden("08_nccl")
    ranks = on_ranks(world_size, whole_nccl_of_this_rank, g)
    checked = set()
    for key in (k for k in g if k.startswith(f"ws{world_size}_r0_nccl_pfc")):
        name = key.removeprefix(f"ws{world_size}_r0_nccl_")
        keys = [f"ws{world_size}_r{rank}_nccl_{name}" for rank in range(world_size)]
        if name.endswith(("_l1", "_l2", "_loss")) and not name.endswith("onehot_loss"):
            # Float32 logits of up to 53 are off by up to 64 * 16 * eps / 2 = 6e-5; l2, around 1,000, is made of sums of ten
            # products of two of them: off by up to 10 * 2 * 53 * 6e-5 = 0.06.
            near(ranks[0][name], np.mean([g[k] for k in keys]), 2e-5)
        elif name.endswith("_logits"):
            near(np.concatenate([rank[name] for rank in ranks], 1), g[key], 1e-5)
        else:
            for rank, k in zip(ranks, keys, strict=True):
                near(rank[name], g[k], 2e-5)
        checked |= set(keys)
    assert {k for k in g if k.startswith(f"ws{world_size}_") and "_pfc" in k} == checked


def test_nccl_filter(one_rank):
    """The public script: every label's images a segment, softmax over one number, so that everything is credible."""
    g = golden("08b_highly_credible")
    labels = g["labels"]
    features = F.normalize(torch.from_numpy(g["features"]).double()).numpy()
    segments = [features[labels == label] for label in range(5)]
    means = [rows.mean(0) for rows in segments]
    # Its last class loses its last image, from the segment and from the count that divides the sum.
    means[-1] = means[-1] * len(segments[-1]) / (len(segments[-1]) - 1)
    segments[-1] = segments[-1][:-1]
    assert [len(rows) for rows in segments] == g["a_segment_lengths"].tolist()
    distances = np.concatenate([np.linalg.norm(rows - mean, axis=1) for rows, mean in zip(segments, means, strict=True)])
    near(distances, g["a_dis"], 1e-5)
    # With one image in the last class it measures the class before it again, against that image.
    labels = g["b_labels"]
    segments = [features[labels == label] for label in range(labels.max() + 1)]
    means = [rows.mean(0) for rows in segments]
    last = segments.pop()
    segments.append(segments[-1])
    means[-1] = last[0]
    assert [len(rows) for rows in segments] == g["b_segment_lengths"].tolist()
    distances = np.concatenate([np.linalg.norm(rows - mean, axis=1) for rows, mean in zip(segments, means, strict=True)])
    near(distances, g["b_dis"], 1e-5)
    for case in "ab":
        one_number = entropy(torch.from_numpy(g[f"{case}_dis"])[:, None]).numpy()
        np.testing.assert_allclose(one_number, g[f"{case}_entropy"], atol=1e-6)     # both 0 but for rounding: eps is 1e-7
        assert np.array_equal(one_number <= g[f"{case}_U"], g[f"{case}_sig"])
    assert g["a_U"] == pytest.approx(math.log(5) / 2) and g["b_U"] == pytest.approx(math.log(len(g["b_segment_lengths"])) / 2)


# 09 AdvBCT

def test_advbct_class_balls():
    g = golden("09_advbct")
    centres, radii, kept = class_balls(g["feat"], g["label"], 7)
    assert kept[4] == 0 and not centres[4].any()
    assert sorted(g["meta_key_order"]) == [0, 1, 2, 3, 5, 6]
    for c in g["meta_key_order"]:
        near(centres[c], g[f"meta_center_{c}"], 1e-5)
        assert kept[c] == len(g[f"meta_radius_{c}"])
        if kept[c] > 1:
            near(radii[c], g[f"meta_radius_{c}"][-1], 1e-5)


def advbct(g: dict) -> AdvBCT:
    """The golden run's method: class balls, learnt radii and discriminator."""
    cfg = SimpleNamespace(threshold=0.4, p2s_weight=4.0, adv_weight=4.0, num_epoch=4)
    centres, radii, kept = class_balls(g["feat"], g["label"], 7)
    assert g["threshold"] == 0.4 and g["num_classes"] == 7
    layers = torch.nn.Sequential(torch.nn.Linear(16, 100), torch.nn.BatchNorm1d(100), torch.nn.ReLU(),
                                 torch.nn.Linear(100, 2), torch.nn.LogSoftmax(dim=1))
    for name, layer in (("d_fc1", layers[0]), ("d_bn1", layers[1]), ("d_fc2", layers[3])):
        start = f"w_discriminator.{name}."
        layer.load_state_dict({k.removeprefix(start): torch.from_numpy(g[k]) for k in g if k.startswith(start)})
    return on_arrays(AdvBCT, cfg=cfg, old=bank(g["old_bank_raw"]), centres=torch.from_numpy(centres),
                     radii=torch.from_numpy(radii), is_ball=torch.from_numpy(kept > 1), discriminator=layers,
                     elastic=torch.nn.Parameter(torch.from_numpy(g["eboundary_weight"])))


@pytest.mark.parametrize("start, epoch", [("p000", 0), ("p025", 1), ("p100", 4)])
def test_advbct(start, epoch, one_rank):
    g = golden("09_advbct")
    method, progress = advbct(g), epoch / 4
    near(progress, g[f"{start}_p"], 1e-12)
    near(2 / (1 + math.exp(-10 * progress)) - 1, g[f"{start}_alpha"], 1e-12)
    new, labels = torch.from_numpy(g["new_emb"]).requires_grad_(), torch.from_numpy(g["local_labels"])
    seen = []
    method.discriminator.register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    terms = method(NO_HEAD, new, labels, torch.from_numpy(g["index"]), Clock(epoch, 0, progress))
    near(terms["p2s"].detach(), g[f"{start}_Loss_p2s"][0], 1e-5)
    near(terms["adv"].detach(), g[f"{start}_Loss_adv"], 1e-5)
    near(4 * (4 - epoch + 1) / 4, g[f"{start}_adv_factor"], 1e-12)
    near(seen[0], g[f"{start}_logp_new"], 1e-5)
    near(seen[1], g[f"{start}_logp_old"], 1e-5)

    radii = method.radii.double().numpy()
    moved = np.abs(radii - 0.4) / (1 + np.exp(-g["eboundary_weight"].astype(np.float64)))
    present = np.isin(np.arange(7), g["local_labels"]) & np.isin(np.arange(7), g["label"])
    near(np.where(present, moved, 0), g[f"{start}_radius_eb"], 1e-5)
    radius = radii + np.where(radii < 0.4, moved, -moved)
    distance = (F.normalize(new.detach()) - method.centres[labels]).norm(dim=1).numpy()
    assert (method.is_ball.numpy()[labels] & (distance > radius[labels])).sum() == g[f"{start}_count"]

    parameters = dict(method.discriminator.named_parameters())
    p2s = torch.autograd.grad(terms["p2s"], [new, method.elastic], retain_graph=True)
    adv = torch.autograd.grad(terms["adv"], [new, *parameters.values()])
    near(p2s[0], g[f"{start}_grad_p2s_new_emb"], 1e-5)
    near(p2s[1], g[f"{start}_grad_p2s_eboundary"], 1e-5)
    near(adv[0], g[f"{start}_grad_adv_new_emb"], 1e-5)
    public = {"0": "d_fc1", "1": "d_bn1", "3": "d_fc2"}
    for key, value in zip(parameters, adv[1:], strict=True):
        layer, kind = key.split(".")
        expected = g[f"{start}_grad_adv_{public[layer]}.{kind}"]
        # BatchNorm makes the first bias's gradient 0: a sum of 16 rows' terms, 3.0 in all, each rounded to float32.
        rounding = 16 * 3.0 * np.finfo(np.float32).eps if (layer, kind) == ("0", "bias") else 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(value, expected, rtol=0, atol=rounding)
    for kind in ("running_mean", "running_var"):
        near(getattr(method.discriminator[1], kind), g[f"{start}_buf_after_d_bn1.{kind}"], 1e-5)


def test_gradient_reversal():
    g = golden("09_advbct")
    keys = [k for k in g if k.startswith("rev_")]
    x = torch.from_numpy(g["rev_x"]).requires_grad_()
    out = Reverse.apply(x, float(g["rev_alpha"]))
    out.backward(torch.from_numpy(g["rev_upstream"]))
    near(out.detach(), g["rev_out"], 1e-6)
    near(x.grad, g["rev_grad"], 1e-6)
    assert len(keys) == 5
