"""The methods' equations in float64, one image after the other; ``slow_terms`` combines them."""

import math

import numpy as np
import torch
from method_toys import (
    CLASSES,
    DIM,
    IMAGES,
    M2,
    M3,
    SCALE,
    embedded,
    make_backbone,
    old_classifier,
    old_features,
    old_prototypes,
    pictures,
)
from torch import Tensor


def unit(row: Tensor) -> Tensor:
    return row / row.norm()


def unit_rows(rows: Tensor) -> Tensor:
    return torch.stack([unit(row) for row in rows])


def old_unit(index) -> Tensor:
    """The old unit features [B, DIM] of the images ``index``."""
    features = torch.from_numpy(old_features()[0]).double()
    return torch.stack([unit(features[int(i)]) for i in index])


def with_margin(cos: Tensor, s: float, m2: float, m3: float) -> Tensor:
    """Logit of the target class from its cosine."""
    theta = torch.arccos(cos)
    moved = torch.cos(theta + m2) if theta + m2 <= math.pi else cos - m2 * math.sin(math.pi - m2)
    return s * (moved - m3)


def cross_entropy(logits: Tensor, y) -> Tensor:
    """A sample's loss; its value is cut at -ln(1e-30), its gradient is not."""
    loss = logits.logsumexp(0) - logits[int(y)]
    return loss - (loss.detach() - 30 * math.log(10)).clamp(min=0)


def margin_loss(embeddings, labels, weight, s: float = SCALE, m2: float = M2, m3: float = M3, above: float = 0.0) -> Tensor:
    """Mean cross-entropy; above: another class's cosine over it counts as 0 (0 = off)."""
    total = 0
    for z, y in zip(embeddings, labels, strict=True):
        cosines = [unit(z) @ unit(row) for row in weight]
        logits = [with_margin(c, s, m2, m3) if k == y else s * (0 * c if above and c > above else c)
                  for k, c in enumerate(cosines)]
        total = total + cross_entropy(torch.stack(logits), y)
    return total / len(labels)


def influence_loss(new, labels, rows, scale: float) -> Tensor:
    """BCT's second term; the prototypes ``rows`` are not normalised here."""
    return sum(cross_entropy(scale * (rows @ unit(z)), y) for z, y in zip(new, labels, strict=True)) / len(labels)


def bct_rows(classifier: bool) -> Tensor:
    """BCT's prototypes [CLASSES, DIM]."""
    rows = unit_rows(torch.from_numpy(old_prototypes()).double())
    return torch.cat([unit_rows(old_classifier().double()), rows[5:]]) if classifier else rows


def refined_class(new: np.ndarray, old: np.ndarray, lamb: float, tau: float, as_published: bool) -> np.ndarray:
    """UniBCT's prototype [d] of one class from the new and old features [n, d] of its images, with the inverse written out."""
    v_new, v_old = np.asarray(new, np.float64), np.asarray(old, np.float64)
    n = len(v_new)
    if not as_published:
        v_new = np.stack([row / np.linalg.norm(row) for row in v_new])
    weights = np.array([[0 if i == j else math.exp(v_new[i] @ v_new[j] / tau) for j in range(n)] for i in range(n)])
    a = weights / weights.sum(0 if as_published else 1, keepdims=True) if n > 1 else weights
    spread = (1 - lamb) * np.linalg.inv(np.eye(n) - lamb * a) @ v_old if n > 1 else v_old
    mean = spread.mean(0)
    return mean if as_published else mean / np.linalg.norm(mean)


def refined_rows(new: np.ndarray, lamb: float, tau: float, as_published: bool) -> Tensor:
    """UniBCT's prototypes [CLASSES, DIM] from the new features [IMAGES, DIM] of all images."""
    old, labels = old_features()
    return torch.from_numpy(np.stack([refined_class(new[labels == c], old[labels == c], lamb, tau, as_published)
                                      for c in range(CLASSES)]))


def class_mean_rows() -> Tensor:
    """The mean old feature of each class as unit rows [CLASSES, DIM]."""
    features, labels = old_features()
    return unit_rows(torch.stack([torch.from_numpy(features[labels == c]).double().mean(0) for c in range(CLASSES)]))


def pull(new, old, threshold: float) -> Tensor:
    """Mean distance of unit features beyond ``threshold``."""
    distances = [(unit(z) - o).norm() for z, o in zip(new, old, strict=True)]
    return sum(d - threshold for d in distances if d > threshold) / len(distances)


def class_centres() -> Tensor:
    """NCCL's centres: the prototypes of the file, as unit rows."""
    return bct_rows(False)


def is_credible(old_row: Tensor, scale: float, classes: int = CLASSES) -> bool:
    p = torch.softmax(scale * (class_centres() @ old_row), 0).tolist()
    return -sum(x * math.log(x) for x in p if x > 0) <= math.log(classes) / 2


def queue_entries(index, labels, weight, *, margin: bool, scale: float | None) -> list[tuple]:
    """Entries of a batch in NCCL's queue: (old unit feature, label, logits, is credible); scale: of the filter, or None."""
    out = []
    for o, y in zip(old_unit(index), labels.tolist(), strict=True):
        g = torch.stack([unit(row.detach()) @ o for row in weight])
        if margin:
            g = torch.stack([with_margin(c, SCALE, M2, M3) if k == y else SCALE * c for k, c in enumerate(g)])
        out.append((o, y, g, scale is None or is_credible(o, scale)))
    return out


def contrasts(new, labels, index, weight, entries, *, tau: float, empty: int, margin: bool, scale: float | None):
    """NCCL's (l1, l2).  empty: places of the queue that hold zeros and count in the sums; margin: logits as published."""
    sums, used = [0.0, 0.0], 0
    entries = [entry for entry in entries if entry[3]]
    for z, y, old in zip(new, labels.tolist(), old_unit(index), strict=True):
        if scale is not None and not is_credible(old, scale):
            continue
        used += 1
        g = torch.stack([unit(row) @ unit(z) for row in weight])
        if margin:
            g = torch.stack([with_margin(c, SCALE, M2, M3) if k == y else SCALE * c for k, c in enumerate(g)]).detach()
        for which, near in enumerate(([unit(z) @ o / tau for o, *_ in entries], [g @ h / tau for _, _, h, _ in entries])):
            bottom = torch.cat([torch.stack(near), torch.zeros(empty, dtype=torch.float64)]).logsumexp(0)
            own = [(1 + old @ o) / 2 * (near[k] - bottom) for k, (o, label, *_) in enumerate(entries) if label == y]
            sums[which] = sums[which] - sum(own) / len(own)
    return sums[0] / used, sums[1] / used


def ball(label: int) -> tuple[Tensor, list[float]]:
    """AdvBCT's ball of a class: (centre, distances without outliers, ascending)."""
    rows = old_unit(np.flatnonzero(old_features()[1] == label))
    centre = sum(rows) / len(rows)
    distances = sorted(float((row - centre).norm()) for row in rows)
    n = len(distances)
    if n >= 4:
        q1, q3 = distances[n // 4], distances[3 * n // 4]
        distances = [d for d in distances if q1 - 1.5 * (q3 - q1) <= d <= q3 + 1.5 * (q3 - q1)]
    return centre, distances


def point_to_set(new, labels, v, threshold: float) -> Tensor:
    violations = []
    for z, y in zip(new, labels.tolist(), strict=True):
        centre, distances = ball(y)
        if len(distances) < 2:
            continue
        move = torch.sigmoid(v[y]) * abs(distances[-1] - threshold)
        radius = distances[-1] + move if distances[-1] < threshold else distances[-1] - move
        if (excess := (unit(z) - centre).norm() - radius) > 0:
            violations.append(excess)
    return sum(violations) / len(violations)


def discriminator(rows: Tensor, p: dict[str, Tensor]) -> Tensor:
    """Log-probabilities [N, 2] (new, old), BatchNorm with the statistics of the batch."""
    hidden = torch.stack([p["0.weight"] @ row + p["0.bias"] for row in rows])
    mean = sum(hidden) / len(hidden)
    variance = sum((row - mean) ** 2 for row in hidden) / len(hidden)
    hidden = [torch.relu((row - mean) / torch.sqrt(variance + 1e-5) * p["1.weight"] + p["1.bias"]) for row in hidden]
    scores = [p["3.weight"] @ row + p["3.bias"] for row in hidden]
    return torch.stack([row - row.logsumexp(0) for row in scores])


def adversarial(new, old, progress: float, p: dict[str, Tensor]) -> Tensor:
    """L_adv; its gradient for ``new`` is multiplied by -a, that for the discriminator is not."""
    a = 2 / (1 + math.exp(-10 * progress)) - 1
    rows = unit_rows(new)
    turned = rows.detach() - a * (rows - rows.detach())         # the value of rows, -a times their gradient
    return -discriminator(turned, p)[:, 0].mean() - discriminator(old, p)[:, 1].mean()


def viewed(rows: Tensor, p: dict[str, Tensor]) -> Tensor:
    """The view [B, DIM] of embeddings [B, d]: W f if there is a W among the method's parameters, else the first DIM numbers."""
    return torch.stack([torch.stack([(w * row).sum() for w in p["view.weight"]]) if "view.weight" in p else row[:DIM]
                        for row in rows])


def slow_terms(name: str, cfg, clock, batch, weight, p: dict, memory: list, replaced: Tensor,
               view_weight: Tensor | None = None) -> dict[str, Tensor]:
    """The method's weighted terms of a batch (new, labels, index), all float64.

    weight [CLASSES, DIM]: of the head.  p: the method's parameters by name.  memory: NCCL's queue, oldest first; it is extended.
    replaced bool [B]: MixBCT's rows.  view_weight [CLASSES, DIM]: of the view's head, if the dimensions differ.
    """
    (whole, labels, index), dim = batch, batch[0].shape[1]
    new = whole if dim == DIM else viewed(whole, p)
    if name == "MixBCT":
        mixed = torch.where(replaced[:, None], old_unit(index), new)
        if dim == DIM:
            return {"cls": margin_loss(mixed, labels, weight)}
        return {"cls": margin_loss(whole, labels, weight), "view": margin_loss(mixed, labels, view_weight)}
    terms = {"cls": margin_loss(whole, labels, weight)}
    if name == "NCCL" and dim != DIM:
        terms["view"], weight = margin_loss(new, labels, view_weight), view_weight
    if name in ("L2", "weakenedL2"):
        terms["l2"] = cfg.l2_weight * pull(new, old_unit(index), cfg.threshold)
    if name == "BCT":
        terms["bct"] = influence_loss(new, labels, bct_rows(cfg.old_classifier is not None), cfg.bct_scale)
    if name == "UniBCT" and clock.epoch >= min(cfg.refine_epoch):
        backbone = make_backbone(dim=dim)[1]
        images = embedded(pictures(range(IMAGES)), backbone.weight.double(), backbone.bias.double())
        rows = refined_rows(images.detach().numpy(), cfg.lamb, cfg.tau, cfg.as_published)
        terms["bct"] = influence_loss(new, labels, rows, 1.0 if cfg.as_published else cfg.bct_scale)
    if name == "NCCL":
        how = dict(margin=cfg.as_published, scale=cfg.scale if cfg.credible_only else None)
        memory[:] = (memory + queue_entries(index, labels, weight, **how))[-cfg.queue_size:]
        empty = cfg.queue_size - len(memory) if cfg.as_published else 0
        l1, l2 = contrasts(new, labels, index, weight, memory, tau=cfg.tau, empty=empty, **how)
        terms |= {"feature": cfg.alpha * l1, "logit": cfg.beta * l2}
    if name == "AdvBCT":
        fading = (cfg.num_epoch + 1 - clock.epoch) / cfg.num_epoch
        d = {key.removeprefix("discriminator."): value for key, value in p.items()}
        terms |= {"p2s": cfg.p2s_weight * point_to_set(new, labels, p["elastic"], cfg.threshold),
                  "adv": cfg.adv_weight * fading * adversarial(new, old_unit(index), clock.progress, d)}
    return terms
