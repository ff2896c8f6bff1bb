"""Every method: its terms against loops written from the equations, gradients, 1 rank = 2 ranks, refusals."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ranks import on_ranks

from BCT_Methods.AdvBCT.train import AdvBCT, Reverse
from BCT_Methods.BCT.train import BCT
from BCT_Methods.L2.train import L2, beyond
from BCT_Methods.MixBCT.train import MixBCT
from BCT_Methods.NCCL.credible import CredibleOld, entropy
from BCT_Methods.NCCL.old_queue import Queue
from BCT_Methods.NCCL.train import NCCL, contrast
from BCT_Methods.UniBCT.refinement import refine, refined
from BCT_Methods.UniBCT.train import UniBCT
from engine.distributed import Ranks, replicate
from engine.method import Clock
from engine.trainer import Trainer
from losses import ArcFace, PartialFC
from old_model.statistics import class_balls
from records.faces import Faces, Filled
from records.facts import Facts
from utils.config import load_config
from utils.errors import UserError
from utils.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
METHODS = {"MixBCT": MixBCT, "UniBCT": UniBCT, "NCCL": NCCL, "BCT": BCT, "AdvBCT": AdvBCT, "L2": L2, "weakenedL2": L2}
IMAGES, CLASSES, DIM, BATCH = 60, 11, 16, 8
DATA = Facts(IMAGES, CLASSES)
# The absolute values of a gradient's float32 terms add up to 2 here (AdvBCT's discriminator: the terms of its first bias,
# of both signs, add up to 0): 2 times its 16 rows times eps.
ROUNDING = 2 * 16 * torch.finfo(torch.float32).eps      # 4e-6
OLD_ROWS = 3 * torch.randn(5, DIM, generator=torch.Generator().manual_seed(7))


# a toy old model: features that cluster by class, and everything that the tools make of them

@pytest.fixture(scope="module")
def old_side(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("feature_save")
    features, labels = toy_features()
    part = folder / "OPclass"
    part.mkdir()
    start = part / "f128_r18_softmax_class70"
    means = np.stack([features[labels == c].mean(0) for c in range(CLASSES)])
    np.save(f"{start}_feature.npy", features)
    np.save(f"{start}_label.npy", labels)
    np.save(f"{start}_avg_feature.npy", (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32))
    np.save(f"{start}_credible_ratio_90_feature.npy", np.arange(IMAGES) % 10 > 0)
    write_classifier(folder / "old", OLD_ROWS)
    return folder


def toy_features() -> tuple[np.ndarray, np.ndarray]:
    """(raw features float32 [IMAGES, DIM], labels int64 in no order); class 10 has one image, class 0 an outlier."""
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.r_[np.arange(CLASSES), draw.integers(0, CLASSES - 1, IMAGES - CLASSES)])
    centres = draw.standard_normal((CLASSES, DIM))
    features = (centres[labels] + 0.7 * draw.standard_normal((IMAGES, DIM))) * draw.uniform(5, 20, (IMAGES, 1))
    features[np.argmax(labels == 0)] *= -1
    return features.astype(np.float32), labels


def settings(name: str, folder: Path, **more) -> Settings:
    path = ROOT / f"BCT_Methods/{METHODS[name].__name__}/configs/OPclass_ms1mv3_r18_to_r50_{name}_softmax_to_arc_f128.py"
    cfg = load_config(path).replace(feature_save=str(folder), old_model=None, embedding_size=DIM, fp16=False)
    return cfg.replace(**more)


def batches() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Two global batches: new embeddings [BATCH, DIM], labels, index."""
    labels = toy_features()[1]
    draw = torch.Generator().manual_seed(1)
    index = torch.randperm(IMAGES, generator=draw)[:2 * BATCH].view(2, BATCH)
    return [(4 * torch.randn(BATCH, DIM, generator=draw), torch.from_numpy(labels[rows]), rows) for rows in index]


def make_head(scale: float = 0.5) -> PartialFC:
    """Class vectors that are large enough for cosines to matter."""
    head = PartialFC(ArcFace(8.0), DIM, CLASSES, seed=5)
    with torch.no_grad():
        head.weight.mul_(scale / 0.01)
    return head


def unit_old(index: torch.Tensor) -> torch.Tensor:
    return F.normalize(torch.from_numpy(toy_features()[0]).double())[index]


CLOCK = {"UniBCT": 15}          # the epoch from which every term is there


def make_method(name: str, folder: Path, more: dict):
    method = METHODS[name](settings(name, folder, **more), DATA)
    if name == "MixBCT":        # which rows are replaced depends on the rank: here on the image
        method.replaced = lambda index, clock: (index % 3 == 0).nonzero()[:, 0]
    if name == "UniBCT":        # before any refinement: the class means
        method.influence.prototypes.copy_(prototypes()[method.influence.classes])
    return method


def trained_of_this_rank(name: str, folder: Path, more: dict) -> dict:
    """Backbone, method and class vectors after two updates of two batches each, through the trainer and DDP."""
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, DIM))        # no BatchNorm: ranks would differ
    method, head = make_method(name, folder, more), make_head()
    cfg = settings(name, folder, gradient_acc=2, lr=0.1, **more)
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    trainer = Trainer(cfg, ranks, backbone, method, head)
    draw = torch.Generator().manual_seed(8)
    own = slice(*(BATCH * (ranks.rank + k) // ranks.world_size for k in (0, 1)))
    for step in range(4):
        _, labels, index = batches()[step % 2]
        images = torch.randint(256, (BATCH, 4, 4, 3), dtype=torch.uint8, generator=draw)
        trainer.step(images[own], labels[own], index[own], torch.zeros(BATCH, dtype=torch.bool)[own],
                     Clock(CLOCK.get(name, 0), step, 0.1 * step), 0.1, step % 2 == 1)
    return {"weight": head.weight.detach(), "parameters": [p.detach() for p in (*backbone.parameters(), *method.parameters())],
            "buffers": dict(method.named_buffers())}


def steps_of_this_rank(name: str, folder: Path, more: dict) -> dict:
    """Two steps: the terms, and after the second the gradients of own rows, class vectors and the method's parameters."""
    torch.manual_seed(0)
    method = make_method(name, folder, more)
    head = make_head()
    out = {}
    for step, (new, labels, index) in enumerate(batches()):
        own = slice(*(BATCH * (dist.get_rank() + k) // dist.get_world_size() for k in (0, 1)))
        new = new[own].clone().requires_grad_()
        head.zero_grad(), method.zero_grad()
        clock = Clock(CLOCK.get(name, 0), step, 0.1 * step)
        terms = method(head, new, labels[own], index[own], clock)
        sum(terms.values()).backward()
        out[step] = {"terms": {k: v.detach() for k, v in terms.items()}, "new": new.grad, "weight": head.weight.grad,
                     "parameters": {k: p.grad for k, p in method.named_parameters()}}
    return out


# the equations, slowly, in float64

def arc_loss(embeddings, labels, weight) -> torch.Tensor:
    total = 0
    for z, y in zip(embeddings, labels, strict=True):
        cos = F.normalize(z, dim=0) @ F.normalize(weight).T
        theta = torch.arccos(cos[y])
        target = torch.cos(theta + 0.5) if theta + 0.5 <= math.pi else cos[y] - 0.5 * math.sin(math.pi - 0.5)
        logits = [8 * (target if c == y else cos[c]) for c in range(CLASSES)]
        total = total - logits[y] + torch.stack(logits).logsumexp(0)
    return total / len(labels)


def prototypes() -> torch.Tensor:
    features, labels = toy_features()
    return F.normalize(torch.stack([torch.from_numpy(features[labels == c]).double().mean(0) for c in range(CLASSES)]))


def cross_entropy_loop(new, labels, rows, scale) -> torch.Tensor:
    total = 0
    for z, y in zip(new, labels, strict=True):
        scores = [scale * (F.normalize(z, dim=0) @ row) for row in rows]
        total = total - scores[y] + torch.stack(scores).logsumexp(0)
    return total / len(labels)


def nccl_loop(step: int, new, labels, weight) -> tuple[torch.Tensor, torch.Tensor]:
    """(l1, l2) with the entries of all steps so far in the queue; logits of old embeddings as they were."""
    entries = [(o, y, F.normalize(weight.detach()) @ o)          # the toy head does not change between the steps
               for _, ys, index in batches()[:step + 1] for o, y in zip(unit_old(index), ys.tolist(), strict=True)]
    sums = [0.0, 0.0]
    for z, y, old in zip(new, labels, unit_old(batches()[step][2]), strict=True):
        unit = F.normalize(z, dim=0)
        own_logits = F.normalize(weight) @ unit
        for which, near in enumerate(([unit @ o for o, _, _ in entries], [own_logits @ g for _, _, g in entries])):
            bottom = torch.stack(near).logsumexp(0)
            chosen = [(1 + old @ o) / 2 * (near[k] - bottom) for k, (o, label, _) in enumerate(entries) if label == y]
            sums[which] = sums[which] - sum(chosen) / len(chosen)
    return sums[0] / len(labels), sums[1] / len(labels)


def ball(label: int) -> tuple[np.ndarray, list[float]]:
    """(centre, kept distances in ascending order) of a class of the toy features."""
    features, labels = toy_features()
    rows = [f / np.linalg.norm(f) for f in features[labels == label].astype(np.float64)]
    centre = sum(rows) / len(rows)
    distances = sorted(float(np.linalg.norm(row - centre)) for row in rows)
    n = len(distances)
    if n >= 4:
        q1, q3 = distances[n // 4], distances[3 * n // 4]
        distances = [d for d in distances if q1 - 1.5 * (q3 - q1) <= d <= q3 + 1.5 * (q3 - q1)]
    return centre, distances


def p2s_loop(new, labels, v, threshold=0.4) -> torch.Tensor:
    violations = []
    for z, y in zip(new, labels, strict=True):
        centre, distances = ball(int(y))
        if len(distances) < 2:
            continue
        move = torch.sigmoid(v[y]) * abs(distances[-1] - threshold)
        radius = distances[-1] + move if distances[-1] < threshold else distances[-1] - move
        excess = (F.normalize(z, dim=0) - torch.from_numpy(centre)).norm() - radius
        if excess > 0:
            violations.append(excess)
    return sum(violations) / len(violations)


def discriminator_loop(features, p: dict) -> torch.Tensor:
    """Log-probabilities [N, 2] in training mode."""
    hidden = features @ p["0.weight"].T + p["0.bias"]
    mean, variance = hidden.mean(0), ((hidden - hidden.mean(0)) ** 2).mean(0)
    hidden = (hidden - mean) / torch.sqrt(variance + 1e-5) * p["1.weight"] + p["1.bias"]
    scores = torch.relu(hidden) @ p["3.weight"].T + p["3.bias"]
    return scores - scores.logsumexp(1, keepdim=True)


def slow_terms(name: str, step: int, new, labels, index, weight, parameters: dict) -> dict:
    old = unit_old(index)
    if name == "MixBCT":
        mixed = torch.stack([old[i] if index[i] % 3 == 0 else new[i] for i in range(BATCH)])
        return {"cls": arc_loss(mixed, labels, weight)}
    terms = {"cls": arc_loss(new, labels, weight)}
    if name in ("L2", "weakenedL2"):
        distances = [(F.normalize(z, dim=0) - o).norm() for z, o in zip(new, old, strict=True)]
        terms["l2"] = 10 * sum((d - {"L2": 0, "weakenedL2": 0.2}[name]).clamp(min=0) for d in distances) / BATCH
    if name in ("BCT", "UniBCT"):
        terms["bct"] = cross_entropy_loop(new, labels, prototypes(), 64)
    if name == "NCCL":
        l1, l2 = nccl_loop(step, new, labels, weight)
        terms |= {"feature": l1, "logit": 0.01 * l2}
    if name == "AdvBCT":
        alpha, epochs = 2 / (1 + math.exp(-10 * 0.1 * step)) - 1, 35
        d = {k.removeprefix("discriminator."): v for k, v in parameters.items()}
        unit = F.normalize(new)
        backwards = unit.detach() - alpha * (unit - unit.detach())          # the value, and -alpha times the gradient
        guess = -discriminator_loop(backwards, d)[:, 0].mean() - discriminator_loop(old, d)[:, 1].mean()
        terms |= {"p2s": 4 * p2s_loop(new, labels, parameters["elastic"]), "adv": 4 * (epochs + 1) / epochs * guess}
    return terms


MORE = {"UniBCT": {"refine_epoch": [0, 20]}, "NCCL": {"queue_size": 20}}


@pytest.mark.parametrize("name", METHODS)
def test_terms_and_gradients_are_the_equations(name, old_side, one_rank):
    """Both steps of one rank against the loops, in every gradient; NCCL's queue is longer than what was pushed."""
    found = steps_of_this_rank(name, old_side, MORE.get(name, {}))
    torch.manual_seed(0)
    method = METHODS[name](settings(name, old_side, **MORE.get(name, {})), DATA)
    for step, (new, labels, index) in enumerate(batches()):
        new = new.double().requires_grad_()
        weight = make_head().weight.detach().double().requires_grad_()
        parameters = {k: p.detach().double().requires_grad_() for k, p in method.named_parameters()}
        terms = slow_terms(name, step, new, labels, index, weight, parameters)
        sum(terms.values()).backward()
        assert terms.keys() == found[step]["terms"].keys()
        for key, value in terms.items():
            torch.testing.assert_close(found[step]["terms"][key].double(), value.detach(), rtol=1e-5, atol=1e-6)
        for mine, slow in ((found[step]["new"], new.grad), (found[step]["weight"], weight.grad),
                           *((found[step]["parameters"][k], p.grad) for k, p in parameters.items())):
            torch.testing.assert_close(mine.double(), slow, rtol=1e-3, atol=ROUNDING)
        assert found[step]["new"].abs().sum() > 0


def all_of_this_rank(folder: Path) -> dict:
    """What the tests below compare between one rank and two; one start of two processes serves them all."""
    return {name: steps_of_this_rank(name, folder, MORE.get(name, {})) for name in METHODS} | {
        "trained": {name: trained_of_this_rank(name, folder, MORE.get(name, {})) for name in METHODS},
        "refined": refine_of_this_rank(folder), "entropy": entropy_of_this_rank(),
        "rows": rows_of_this_rank(folder, folder / "old"), "shard": shard_under_ddp(folder)}


@pytest.fixture(scope="module")
def two_ranks(old_side) -> list[dict]:
    return on_ranks(2, all_of_this_rank, old_side)


@pytest.mark.parametrize("name", METHODS)
def test_one_rank_is_two_ranks(name, old_side, one_rank, two_ranks):
    """11 classes on 2 ranks are 6 and 5.  DDP averages: own rows carry twice the gradient, parameters the whole one."""
    one = steps_of_this_rank(name, old_side, MORE.get(name, {}))
    for step in range(2):
        ranks = [rank[name][step] for rank in two_ranks]
        for key, value in one[step]["terms"].items():
            torch.testing.assert_close(sum(rank["terms"][key] for rank in ranks) / 2, value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.cat([rank["new"] for rank in ranks]) / 2, one[step]["new"], rtol=1e-4, atol=1e-6)
        assert [len(rank["weight"]) for rank in ranks] == [6, 5]
        torch.testing.assert_close(torch.cat([rank["weight"] for rank in ranks]), one[step]["weight"], rtol=1e-4, atol=1e-6)
        for key, value in one[step]["parameters"].items():
            torch.testing.assert_close(sum(rank["parameters"][key] for rank in ranks) / 2, value, rtol=1e-4, atol=ROUNDING)


@pytest.mark.parametrize("name", METHODS)
def test_training_on_two_ranks_is_training_on_one(name, old_side, one_rank, two_ranks):
    """Two updates with gradient accumulation under DDP; a method's buffers stay each rank's own (NCCL: 6 and 5 classes)."""
    one = trained_of_this_rank(name, old_side, MORE.get(name, {}))
    ranks = [rank["trained"][name] for rank in two_ranks]
    for rank in ranks:
        for found, expected in zip(rank["parameters"], one["parameters"], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([rank["weight"] for rank in ranks]), one["weight"], rtol=1e-4, atol=1e-5)
    if name == "NCCL":
        logits = torch.cat([rank["buffers"]["queue.logits"] for rank in ranks], 1)
        torch.testing.assert_close(logits, one["buffers"]["queue.logits"], rtol=1e-4, atol=1e-5)


class Both(METHODS["BCT"]):
    """A user's method that has a parameter and a shard by class: DDP must leave the shard alone."""

    def __init__(self, cfg, data):
        super().__init__(cfg, data)
        self.factor = torch.nn.Parameter(torch.ones(()))


def shard_under_ddp(folder: Path) -> torch.Tensor:
    method = Both(settings("BCT", folder), DATA)
    replicate(method)
    return method.influence.prototypes


def test_ddp_leaves_shards_alone(two_ranks):
    torch.testing.assert_close(torch.cat([rank["shard"] for rank in two_ranks]), prototypes().float())


def test_the_queue_forgets_the_oldest(one_rank):
    """Twelve entries into a ring of ten, in batches of any size (a run that resumes on fewer ranks has smaller ones): the
    last ten remain, and a batch that does not fit is refused."""
    queue = Queue(10, DIM, CLASSES)
    rows = torch.arange(12.0)[:, None].expand(-1, DIM)
    for own in (slice(0, 4), slice(4, 7), slice(7, 12)):
        queue.push(rows[own], rows[own, :CLASSES], torch.arange(12)[own])
    assert queue.labels.tolist() == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert torch.equal(queue.features[:, 0], queue.labels.float()) and torch.equal(queue.logits[:, 3], queue.labels.float())
    with pytest.raises(UserError, match="config.queue_size = 10 does not hold a step of 12 images"):
        queue.push(rows, rows[:, :CLASSES], torch.arange(12))


def test_gradcheck():
    """Finite differences in float64 of the terms that are functions of tensors."""
    draw = torch.Generator().manual_seed(2)
    new, old = (torch.randn(5, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: beyond(F.normalize(x), F.normalize(old), 0.2), new.requires_grad_())
    similarity = torch.randn(4, 7, generator=draw, dtype=torch.float64, requires_grad=True)
    weight, positive = torch.rand(4, 7, generator=draw, dtype=torch.float64), torch.rand(4, 7, generator=draw) < 0.5
    rows, entries = torch.tensor([True, True, False, True]), torch.rand(7, generator=draw) < 0.8
    assert torch.autograd.gradcheck(lambda s: contrast(s, weight, positive & entries, rows, entries), similarity)
    balls = SimpleNamespace(cfg=SimpleNamespace(threshold=0.4), centres=F.normalize(old) * 0.8,
                            radii=torch.tensor([0.2, 0.7, 0.3, 0.5, 0.4], dtype=torch.float64),
                            is_ball=torch.tensor([True, True, False, True, True]))

    def p2s(x, v):
        balls.elastic = v
        return AdvBCT.point_to_set(balls, F.normalize(x), torch.arange(5))
    assert torch.autograd.gradcheck(p2s, (new, torch.randn(5, generator=draw, dtype=torch.float64, requires_grad=True)))
    features = torch.randn(3, 4, requires_grad=True)
    Reverse.apply(features, 0.3).sum().backward()
    assert torch.equal(features.grad, torch.full((3, 4), -0.3))


def test_p2s_without_a_violation_is_zero_with_a_gradient_of_zero():
    balls = SimpleNamespace(cfg=SimpleNamespace(threshold=3.0), centres=torch.zeros(2, 4), radii=torch.tensor([2.5, 2.5]),
                            is_ball=torch.tensor([True, True]), elastic=torch.zeros(2, requires_grad=True))
    new = torch.randn(4, 4, requires_grad=True)
    loss = AdvBCT.point_to_set(balls, F.normalize(new), torch.tensor([0, 1, 0, 1]))
    loss.backward()
    assert loss == 0 and new.grad.abs().sum() == 0 and balls.elastic.grad.tolist() == [0, 0]


@pytest.mark.parametrize("name", METHODS)
def test_no_gradient_reaches_the_old_side(name, old_side, one_rank):
    method = make_method(name, old_side, MORE.get(name, {}))
    before = {key: value.clone() for key, value in method.named_buffers()}
    assert (len(before) > 0) == (name not in ("MixBCT", "L2", "weakenedL2"))
    new, labels, index = batches()[0]
    sum(method(make_head(), new.requires_grad_(), labels, index, Clock(15, 0, 0.3)).values()).backward()
    changing = ("queue.", "discriminator.")                     # NCCL's memory, BatchNorm's statistics
    for key, value in method.named_buffers():
        assert value.grad is None and not value.requires_grad, key
        assert torch.equal(value, before[key]) or key.startswith(changing), key
    assert not hasattr(method, "old") or isinstance(method.old.rows, np.memmap)     # no copy per process


# UniBCT's refinement

def refined_loop(new, old, counts, lamb, tau) -> np.ndarray:
    """The equation class by class, with the inverse written out."""
    out, start = [], 0
    for n in counts:
        v_new = new[start:start + n] / np.linalg.norm(new[start:start + n], axis=1, keepdims=True)
        weights = np.exp(v_new @ v_new.T / tau) * (1 - np.eye(n))
        a = weights / np.maximum(weights.sum(1, keepdims=True), 1e-300)
        spread = (1 - lamb) * np.linalg.inv(np.eye(n) - lamb * a) @ old[start:start + n] if n > 1 else old[start:start + n]
        out.append(spread.mean(0) / np.linalg.norm(spread.mean(0)))
        start += n
    return np.stack(out)


def test_refined_prototypes():
    draw = np.random.default_rng(3)
    counts = np.array([3, 1, 7, 3, 2, 12])
    new, old = draw.standard_normal((2, counts.sum(), DIM))
    found = refined(torch.from_numpy(new).float(), torch.from_numpy(old).float(), counts, lamb=0.9, tau=0.05,
                    as_published=False)
    np.testing.assert_allclose(found, refined_loop(new, old, counts, 0.9, 0.05), atol=1e-5)


class Pictures(Faces):
    """Image i is noise of its own; the labels are the toy features'."""

    image_size = 4

    def __len__(self) -> int:
        return IMAGES

    def labels(self) -> np.ndarray:
        return toy_features()[1]

    def fill(self, images, rows):
        for image, row in zip(images, rows, strict=True):
            image[:] = np.random.default_rng(row).integers(0, 256, image.shape)
        return self.labels()[rows]


def refine_of_this_rank(folder: Path) -> tuple:
    torch.manual_seed(4)
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, DIM), torch.nn.BatchNorm1d(DIM))
    method = UniBCT(settings("UniBCT", folder, batch_size=7, workers=0), DATA)
    before = method.influence.prototypes.copy_(prototypes()[method.influence.classes]).clone()
    for epoch in (0, 9):
        method.start_epoch(epoch, backbone, Pictures())
        assert torch.equal(method.influence.prototypes, before)
    method.start_epoch(10, backbone, Pictures())
    images = Pictures().__getitems__(np.arange(IMAGES))[0]
    with torch.no_grad():
        new = backbone((images.permute(0, 3, 1, 2).float() - 127.5) / 127.5)
    return before, method.influence.prototypes, new


def test_refinement_over_the_data(old_side, one_rank, two_ranks):
    """start_epoch replaces the prototypes in epoch 10, and two ranks (6 and 5 classes) find what one finds."""
    _, one, new = refine_of_this_rank(old_side)
    features, labels = toy_features()
    order = np.argsort(labels, kind="stable")
    slow = refined_loop(new.numpy()[order].astype(np.float64), features[order].astype(np.float64), np.bincount(labels), 0.9, 0.05)
    np.testing.assert_allclose(one, slow, atol=1e-5)
    torch.testing.assert_close(torch.cat([rank["refined"][1] for rank in two_ranks]), one, rtol=0, atol=1e-5)
    assert (one - torch.cat([rank["refined"][0] for rank in two_ranks])).abs().max() > 0.01      # it is not the plain mean


def test_the_published_refinement_moves_nothing(one_rank):
    """Columns that sum to one leave the mean where it is, whatever the new features say."""
    features, labels = toy_features()
    order = np.argsort(labels, kind="stable")
    new = torch.randn(IMAGES, DIM, generator=torch.Generator().manual_seed(0))
    found = refined(new, torch.from_numpy(features[order]), np.bincount(labels), lamb=0.9, tau=0.5, as_published=True)
    means = np.stack([features[labels == c].mean(0) for c in range(CLASSES)])
    np.testing.assert_allclose(found, means, atol=1e-3)


def test_no_second_term_before_the_first_refinement(old_side, one_rank):
    new, labels, index = batches()[0]
    method = UniBCT(settings("UniBCT", old_side), DATA)
    assert method(make_head(), new, labels, index, Clock(9, 0, 0.2)).keys() == {"cls"}
    assert method(make_head(), new, labels, index, Clock(10, 0, 0.2)).keys() == {"cls", "bct"}


def test_refinement_with_lambda_0_is_the_class_means(one_rank):
    """In batches that do not divide the classes' images."""
    found = torch.zeros(CLASSES, DIM)
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, DIM))
    refine(found, slice(0, CLASSES), backbone, Pictures(), toy_features()[0], batch_size=13, workers=0, lamb=0.0,
           tau=0.05, as_published=False)
    torch.testing.assert_close(found.double(), prototypes(), rtol=0, atol=1e-5)         # lambda 0: class means


class TornPictures(Pictures):
    """Images 5 and 40 cannot be read: the next ones, here of other classes, take their places."""

    def take(self, images, rows):
        index = np.array([row + (row in (5, 40)) for row in rows], np.int64)
        return Filled(self.fill(images, index), index, {})


def test_refinement_leaves_out_images_that_were_replaced(one_rank):
    features, labels = toy_features()
    assert labels[5] != labels[6] and labels[40] != labels[41]
    found = torch.zeros(CLASSES, DIM)
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, DIM))
    refine(found, slice(0, CLASSES), backbone, TornPictures(), features, batch_size=13, workers=0, lamb=0.0, tau=0.05,
           as_published=False)
    good = np.delete(np.arange(IMAGES), [5, 40])
    means = np.stack([features[good][labels[good] == c].mean(0) for c in range(CLASSES)]).astype(np.float64)
    np.testing.assert_allclose(found, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)


# AdvBCT's balls, NCCL's filter, BCT's old classifier

def test_class_balls():
    features, labels = toy_features()
    centres, radii, kept = class_balls(features, labels, CLASSES + 1)
    for c in range(CLASSES):
        centre, distances = ball(c)
        np.testing.assert_allclose(centres[c], centre, atol=1e-6)
        assert kept[c] == len(distances) and radii[c] == pytest.approx(distances[-1], abs=1e-6)
    assert kept[10] == 1 and (kept[CLASSES], radii[CLASSES]) == (0, 0) and not centres[CLASSES].any()
    assert sum(np.bincount(labels)) > kept.sum(), "no outlier in the toy set: the rule is not tested"


def toy_scores() -> torch.Tensor:
    scores = 30 * torch.randn(4, 11, generator=torch.Generator().manual_seed(6))
    scores[3] = 0
    return scores


def entropy_of_this_rank() -> torch.Tensor:
    return entropy(toy_scores().tensor_split(dist.get_world_size(), dim=1)[dist.get_rank()])


def test_entropy_over_shards(one_rank, two_ranks):
    p = toy_scores().double().softmax(1)
    slow = torch.tensor([-sum(x * math.log(x) for x in row.tolist() if x > 0) for row in p])
    assert slow[3] == pytest.approx(math.log(11))
    for found in [entropy_of_this_rank(), *(rank["entropy"] for rank in two_ranks)]:
        torch.testing.assert_close(found, slow, rtol=1e-5, atol=1e-5)


def test_nccl_leaves_out_what_is_not_credible(old_side, one_rank, monkeypatch):
    """Neither as a row of the batch nor as an entry of the queue: as if those images were not there."""
    method = NCCL(settings("NCCL", old_side, queue_size=20, credible_only=True), DATA)
    new, labels, index = batches()[0]
    good = torch.tensor([True, False, True, True, True, False, True, True])
    monkeypatch.setattr(CredibleOld, "forward", lambda self, old: good)
    terms = method(make_head(), new, labels, index, Clock(0, 0, 0.0))
    method = NCCL(settings("NCCL", old_side, queue_size=20), DATA)
    only = method(make_head(), new[good], labels[good], index[good], Clock(0, 0, 0.0))
    for key in ("feature", "logit"):
        torch.testing.assert_close(terms[key], only[key])


def test_credible_old_embeddings_are_those_near_one_centre(old_side, one_rank):
    method = NCCL(settings("NCCL", old_side, credible_only=True, scale=12.0), DATA)
    centres = prototypes().float()
    between = F.normalize(centres.sum(0, keepdim=True))
    assert method.credible(torch.cat([centres[:3], between])).tolist() == [True, True, True, False]


def write_classifier(folder: Path, rows: torch.Tensor) -> None:
    folder.mkdir(exist_ok=True)
    for rank, part in enumerate(rows.tensor_split(2)):
        torch.save({"weight": part, "bias": torch.zeros(len(part)), "num_classes": len(rows)},
                   folder / f"softmax_fc_gpu_{rank}.pt")


def rows_of_this_rank(folder: Path, classifier: Path) -> torch.Tensor:
    return BCT(settings("BCT", folder, old_classifier=str(classifier), scenario="EXclass"), DATA).influence.prototypes


def test_bct_takes_the_old_classifiers_rows(old_side, one_rank, two_ranks):
    """Five old classes: their own vectors, as unit rows; the class means for the other six; on 1 and 2 ranks."""
    expected = torch.cat([F.normalize(OLD_ROWS), prototypes().float()[5:]])
    torch.testing.assert_close(rows_of_this_rank(old_side, old_side / "old"), expected)
    torch.testing.assert_close(torch.cat([rank["rows"] for rank in two_ranks]), expected)


@pytest.mark.parametrize("name, more, words", [
    ("NCCL", {"sample_rate": 0.5}, "set config.sample_rate = 1"),
    ("BCT", {"old_classifier": "old", "scenario": "OPclass"}, "found OPclass; set it to None"),
    ("BCT", {"old_classifier": "nowhere", "scenario": "EXclass"}, "no softmax_fc_gpu_.* in .*nowhere"),
    ("BCT", {"prototypes": "OPclass/none.npy"}, "make it with: python tools/get_feature/get_avg_feature.py --SD none"),
    ("BCT", {"classes": 12}, r"float32 \[11, 16\], expected \[12, 16\]"),
    ("UniBCT", {"refine_epoch": [10, 20], "num_epoch": 10}, "must list epochs from 0 of which the first is below"),
    ("UniBCT", {"images": 61}, "has 60 rows, the training set has 61 images"),
    ("AdvBCT", {"classes": 10}, "values from 0 to 10, expected .60. classes from 0 to 10 - 1"),
    ("AdvBCT", {"embedding_size": 8}, "embedding_size must be the old one's"),
    ("L2", {"old_feature": None}, "config.old_feature is not set"),
])
def test_refusals(name, more, words, old_side, one_rank):
    data = replace(DATA, **{key: value for key, value in more.items() if hasattr(DATA, key)})
    with pytest.raises(UserError, match=words):
        METHODS[name](settings(name, old_side, **more), data)


def test_a_torn_classifier_is_refused(old_side, one_rank, tmp_path):
    write_classifier(tmp_path, torch.randn(6, DIM))
    (tmp_path / "softmax_fc_gpu_1.pt").unlink()
    with pytest.raises(UserError, match=r"1 shards in .* hold 3 classes, expected 6"):
        rows_of_this_rank(old_side, tmp_path)
    torch.save({"weight": torch.ones(1).expand(10**6, DIM), "num_classes": 10**6}, tmp_path / "softmax_fc_gpu_1.pt")
    with pytest.raises(UserError, match="gpu_1.pt is not a classifier shard .*it promises more numbers than it holds"):
        rows_of_this_rank(old_side, tmp_path)
    (tmp_path / "softmax_fc_gpu_1.pt").write_bytes(b"no zip")
    with pytest.raises(UserError, match="is not a classifier shard"):
        rows_of_this_rank(old_side, tmp_path)
