"""Margins and PartialFC against the golden arrays 02 and 03."""

import numpy as np
import pytest
import torch
from golden_arrays import golden, near, rows_of_this_rank
from golden_parts import head_of
from ranks import on_ranks

from losses import ArcFace, CombinedMarginLoss, CosFace


@pytest.mark.parametrize("name, margin", [
    ("arcface", ArcFace()), ("cosface", CosFace()),
    ("combined_arc", CombinedMarginLoss(64, 1.0, 0.5, 0.0)),
    ("combined_cos", CombinedMarginLoss(64, 1.0, 0.0, 0.4)),
    ("combined_arc_filter04", CombinedMarginLoss(64, 1.0, 0.5, 0.0, 0.4)),
    ("combined_cos_filter04", CombinedMarginLoss(64, 1.0, 0.0, 0.4, 0.4)),
])
def test_margins_and_their_gradients_are_the_public_ones(name, margin):
    g = golden("02_margin")
    cos = torch.from_numpy(g["cos"]).requires_grad_()
    out = margin(cos, torch.from_numpy(g["labels"])[:, 0])
    out.backward(torch.from_numpy(g["upstream"]))
    near(out.detach(), g[f"out_{name}"], 1e-6)
    near(cos.grad, g[f"grad_{name}"], 1e-6)


def test_margin_at_the_poles_has_a_finite_gradient():
    g = golden("02_margin")
    cos = torch.from_numpy(g["ext_cos"]).requires_grad_()
    out = ArcFace()(cos, torch.from_numpy(g["ext_labels"])[:, 0])
    # The clamped sine (1e-3 instead of 0) moves the logit by 64 * sin(0.5) * 1e-3; the public gradient is not finite.
    near(out.detach(), g["ext_out_arcface"], 64 * np.sin(0.5) * 1.01e-3 / 64)
    out.sum().backward()
    assert not np.isfinite(g["ext_grad_arcface"]).all() and cos.grad.isfinite().all()


def partial_fc_of_this_rank(g: dict) -> dict:
    out = {}
    for classes in (10, 11):
        for name, margin in (("arc", ArcFace()), ("cos", CosFace())):
            head = head_of(g, margin, classes, "pfc_weight")
            new = rows_of_this_rank(g["pfc_emb"]).requires_grad_()
            loss = head(new, rows_of_this_rank(g[f"pfc_labels_c{classes}"]))
            loss.backward()
            out |= {f"pfc_c{classes}_{name}_{k}": np.asarray(v) for k, v in
                    (("loss", loss.detach()), ("grad_emb", new.grad), ("grad_weight", head.weight.grad),
                     ("class_start", head.class_start), ("num_local", head.num_local))}
    for name, rate in (("sam05", 0.5), ("sam02", 0.2)):
        out |= sampled_of_this_rank(g, name, rate)
    return out


def sampled_of_this_rank(g: dict, name: str, rate: float) -> dict:
    head = head_of(g, ArcFace(), 20, "sam_weight", sample_rate=rate)
    optimizer = torch.optim.SGD(head.parameters(), 0.1, 0.9, weight_decay=5e-4)
    head.bind(optimizer)
    out = {f"{name}_num_sample": head.sampler.count}
    for step in range(3):
        head.sampler.scores = lambda rows, step=step: rows_of_this_rank(g["sam_perm"][step])
        new = rows_of_this_rank(g["sam_emb"][step]).requires_grad_()
        loss = head(new, rows_of_this_rank(g["sam_labels"][step]))
        loss.backward()
        grad = head.sampler.active.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
        values = {"loss": loss.detach(), "grad_emb": new.grad, "weight_index": head.sampler.rows,
                  "grad_weight_activated": grad, "weight_activated_after": head.sampler.active.detach().clone(),
                  "mom_after": optimizer.state[head.sampler.active]["momentum_buffer"].clone()}
        out |= {f"{name}_step{step}_{k}": np.asarray(v) for k, v in values.items()}
    return out | {f"{name}_final_weight": head.weight.numpy(),
                  f"{name}_final_weight_mom": head.sampler.state["momentum_buffer"].numpy()}


@pytest.mark.parametrize("world_size", [1, 2])
def test_partial_fc_is_the_public_one(world_size):
    g = golden("03_partial_fc")
    checked = set()
    for rank, found in enumerate(on_ranks(world_size, partial_fc_of_this_rank, g)):
        for name, value in found.items():
            key = f"ws{world_size}_r{rank}_{name}"
            near(value, g[key], 2e-5)
            checked.add(key)
    assert {k for k in g if k.startswith(f"ws{world_size}_")} == checked
