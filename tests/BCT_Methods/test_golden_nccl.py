"""NCCL against the golden arrays 08 and 08b, with as_published if the default differs from the public code on purpose."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from golden_arrays import golden, near, rows_of_this_rank
from golden_parts import head_of, on_arrays
from ranks import on_ranks

from BCT_Methods.NCCL.credible import entropy
from BCT_Methods.NCCL.old_queue import Queue
from BCT_Methods.NCCL.train import NCCL, contrast
from engine.method import Clock
from losses import ArcFace
from losses.shards import all_rows


def nccl_steps_of_this_rank(g: dict) -> dict:
    """The public run's two steps on stand-in logits, of which every rank has all: one shard of 12 classes."""
    queue = Queue(32, 16, 12 * dist.get_world_size())
    out, rows = {}, torch.zeros(8, dtype=torch.bool)
    rows[rows_of_this_rank(np.arange(8))] = True
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
            new, labels = rows_of_this_rank(g["pfc_emb"]).requires_grad_(), rows_of_this_rank(g[f"pfc_labels_c{classes}"])
            terms = method(head, new, labels, rows_of_this_rank(np.arange(8)), Clock(0, 0, 0.0))
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
    """Our terms are means over the rows of all ranks and our logits are shards; the public code has own rows and all logits."""
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
    """The public script takes the softmax over one number, so that every image is credible; it also loses an image."""
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
