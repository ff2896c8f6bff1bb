"""Images without an old vector: no method's old side sees them.  One class has none at all."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from method_loops import (
    bct_rows,
    cross_entropy,
    discriminator,
    embedded,
    margin_loss,
    old_unit,
    pull,
    refined_class,
    unit,
    unit_rows,
)
from method_steps import clock_of, steps_of_this_rank
from method_toys import (
    CLASSES,
    IMAGES,
    METHODS,
    absent_images,
    batches,
    credible_marks,
    leave_out_absent,
    make_backbone,
    make_head,
    make_method,
    old_features,
    pictures,
    write_old_side,
)
from ranks import on_ranks

from engine.method import Clock
from utils.errors import UserError

PRESENT = ~absent_images()
LABELS = old_features()[1]
ROUNDING = 4 * 20 * torch.finfo(torch.float32).eps
SCALES = {"BCT": {"bct_scale": 12.0}, "UniBCT": {"bct_scale": 12.0}}


@pytest.fixture(scope="module")
def with_gaps(tmp_path_factory) -> Path:
    return leave_out_absent(write_old_side(tmp_path_factory.mktemp("gaps")))


def influence(new, labels, rows, without: set) -> torch.Tensor:
    """Over classes with a prototype, of images whose class has one; ``without``: classes that have none."""
    used = [c for c in range(CLASSES) if c not in without]
    losses = [cross_entropy(12.0 * (rows[used] @ unit(z)), used.index(y))
              for z, y in zip(new, labels.tolist(), strict=True) if y not in without]
    return sum(losses) / len(losses)


def refined() -> torch.Tensor:
    images = embedded(pictures(range(IMAGES)), *(p.double() for p in make_backbone()[1].parameters())).detach().numpy()
    rows = [refined_class(images[own], old_features()[0][own], 0.9, 0.05, False) if own.any() else np.zeros(6)
            for own in ((c == LABELS) & PRESENT for c in range(CLASSES))]
    return torch.from_numpy(np.stack(rows))


def point_to_set(new, labels, v) -> torch.Tensor:
    excesses = []
    for z, y in zip(new, labels.tolist(), strict=True):
        own = np.flatnonzero((y == LABELS) & PRESENT)
        if len(own) < 2:
            continue
        rows = old_unit(own)
        centre = sum(rows) / len(rows)
        d = sorted(float((row - centre).norm()) for row in rows)
        if (n := len(d)) >= 4:
            q1, q3 = d[n // 4], d[3 * n // 4]
            d = [x for x in d if q1 - 1.5 * (q3 - q1) <= x <= q3 + 1.5 * (q3 - q1)]
        radius = d[-1] + (0.4 - d[-1]) * torch.sigmoid(v[y])
        excesses += [e for e in [(unit(z) - centre).norm() - radius] if e > 0]
    return sum(excesses) / len(excesses)


def contrast(new, labels, index, weight, memory) -> tuple:
    """NCCL's l1 and l2; entries and rows are images with an old vector."""
    for i, o, y in zip(index.tolist(), old_unit(index), labels.tolist(), strict=True):
        if PRESENT[i]:
            memory.append((o, y, torch.stack([unit(row.detach()) @ o for row in weight])))
    sums, used = [0.0, 0.0], 0
    for z, i, y, old in zip(new, index.tolist(), labels.tolist(), old_unit(index), strict=True):
        if not PRESENT[i]:
            continue
        used += 1
        g = torch.stack([unit(row) @ unit(z) for row in weight])
        for k, near in enumerate(([unit(z) @ o for o, *_ in memory], [g @ h for *_, h in memory])):
            bottom = torch.stack(near).logsumexp(0)
            own = [(1 + old @ o) / 2 * (near[j] - bottom) for j, (o, label, _) in enumerate(memory) if label == y]
            sums[k] = sums[k] - sum(own) / len(own)
    return sums[0] / used, sums[1] / used


def slow_terms(name, clock, new, labels, index, weight, p, memory) -> dict:
    has = torch.from_numpy(PRESENT)[index]
    if name == "MixBCT":
        return {"cls": margin_loss(torch.where((index % 3 == 0)[:, None], old_unit(index), new), labels, weight)}
    terms = {"cls": margin_loss(new, labels, weight)}
    if name == "L2":
        terms["l2"] = 10 * pull(new[has], old_unit(index[has]), 0.0)
    if name == "BCT":
        terms["bct"] = influence(new, labels, bct_rows(False), {2})
    if name == "UniBCT":
        terms["bct"] = influence(new, labels, refined(), set(range(CLASSES)) - set(LABELS[PRESENT].tolist()))
    if name == "NCCL":
        l1, l2 = contrast(new, labels, index, weight, memory)
        terms |= {"feature": l1, "logit": 0.01 * l2}
    if name == "AdvBCT":
        d = {key.removeprefix("discriminator."): value for key, value in p.items()}
        a, fading = 2 / (1 + math.exp(-10 * clock.progress)) - 1, (35 + 1 - clock.epoch) / 35
        rows = unit_rows(new[has])
        turned = rows.detach() - a * (rows - rows.detach())
        adversarial = -discriminator(turned, d)[:, 0].mean() - discriminator(old_unit(index[has]), d)[:, 1].mean()
        terms |= {"p2s": 4 * point_to_set(new, labels, p["elastic"]), "adv": 4 * fading * adversarial}
    return terms


@pytest.mark.parametrize("name", [name for name in METHODS if name != "MixBCT"])
def test_terms_and_gradients_leave_them_out(name, with_gaps, one_rank):
    found, memory = steps_of_this_rank(name, with_gaps, **SCALES.get(name, {})), []
    method = make_method(name, with_gaps)[0]
    for step, (new, labels, index) in enumerate(batches()):
        assert (labels == 2).any() and 2 < PRESENT[index].sum() < len(index)
        new, weight = new.double().requires_grad_(), make_head().weight.detach().double().requires_grad_()
        parameters = {key: p.detach().double().requires_grad_() for key, p in method.named_parameters()}
        terms = slow_terms(name, clock_of(step), new, labels, index, weight, parameters, memory)
        sum(terms.values()).backward()
        assert terms.keys() == found[step]["terms"].keys()
        for key, value in terms.items():
            torch.testing.assert_close(found[step]["terms"][key].double(), value.detach(), rtol=1e-5, atol=1e-6)
        for mine, slow in ((found[step]["new"], new.grad), (found[step]["weight"], weight.grad),
                           *((found[step]["parameters"][key], p.grad) for key, p in parameters.items())):
            torch.testing.assert_close(mine.double(), slow, rtol=1e-3, atol=ROUNDING)


def test_mixbct_does_not_replace_them(with_gaps, one_rank):
    method = make_method("MixBCT", with_gaps, mix_ratio=1.0)[0]
    assert method.credible.tolist() == (credible_marks() & PRESENT).tolist()
    index = torch.arange(IMAGES)
    assert sorted(method.replaced(index, Clock(0, 0, 0)).tolist()) == np.flatnonzero(credible_marks() & PRESENT).tolist()


def of_this_rank(folder: Path) -> dict:
    return {name: steps_of_this_rank(name, folder) for name in METHODS if name != "MixBCT"}


def test_two_ranks_compute_what_one_computes(with_gaps, one_rank):
    ranks = on_ranks(2, of_this_rank, with_gaps)
    for name, steps in of_this_rank(with_gaps).items():
        for step, one in enumerate(steps):
            both = [rank[name][step] for rank in ranks]
            for key, value in one["terms"].items():
                torch.testing.assert_close(sum(rank["terms"][key] for rank in both) / 2, value, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(torch.cat([rank["new"] for rank in both]) / 2, one["new"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_of_them_has_the_classification_loss_only(name, with_gaps, one_rank):
    """Of a class without an old vector: the old side's terms are 0, and so are their gradients."""
    method, head = make_method(name, with_gaps)[0], make_head()
    index = torch.from_numpy(np.flatnonzero(LABELS == 2))
    new = torch.randn(len(index), 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.full((len(index),), 2)
    terms = method(head, new, labels, index, clock_of(0))
    sum(terms.values()).backward()
    gradient = new.grad.clone()
    assert all(value == 0 for key, value in terms.items() if key != "cls")
    new.grad = None
    head(new, labels).backward()
    torch.testing.assert_close(gradient, new.grad)
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters() if name == "AdvBCT")


def test_their_rows_are_never_read(with_gaps, one_rank):
    """A row of zeros of another image is still refused, and marks of other features are."""
    start = next(with_gaps.glob("OPclass/*_feature.npy")).parent
    features = np.load(start / "f128_r18_softmax_class70_feature.npy")
    old = make_method("L2", with_gaps)[0].old
    rows = old[torch.arange(IMAGES)]
    assert not rows[~torch.from_numpy(PRESENT)].any()
    np.testing.assert_allclose(rows[PRESENT], features[PRESENT] / np.linalg.norm(features[PRESENT], axis=1)[:, None], rtol=1e-5)
    assert old.part(torch.tensor([0, 1]), torch.device("cpu")).tolist() == PRESENT[:2].tolist()
    old.rows = np.zeros_like(features)
    with pytest.raises(UserError, match="is zeros, NaN or infinite"):
        old[torch.from_numpy(np.flatnonzero(PRESENT))]
