"""Steps of the methods on this rank's rows of the toy batches, for the comparison of one rank with two."""

from pathlib import Path

import torch
import torch.distributed as dist
from method_toys import BATCH, batches, make_backbone, make_heads, make_method, pictures

from engine.distributed import Ranks
from engine.method import Clock
from engine.trainer import Trainer

MORE = {"NCCL": {"queue_size": 33}}         # more places than the 20 images of two steps, fewer than the 40 of four


def clock_of(step: int) -> Clock:
    """Epoch 3: UniBCT's prototypes are refined, and its second term is there."""
    return Clock(3, step, 0.1 * step)


def slice_of_this_rank() -> slice:
    """This rank's rows of a batch of BATCH."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    return slice(BATCH * rank // world_size, BATCH * (rank + 1) // world_size)


def make_method_for_ranks(name: str, folder: Path, **more):
    """(method, settings); MixBCT replaces the rows of every third image, because its own draw depends on the rank."""
    method, cfg = make_method(name, folder, **MORE.get(name, {}) | more)
    if name == "MixBCT":
        method.replaced = lambda index, clock: (index % 3 == 0).nonzero()[:, 0]
    return method, cfg


def steps_of_this_rank(name: str, folder: Path, **more) -> list[dict]:
    """Terms of two steps, and gradients of this rank's rows, its class vectors and the method's parameters."""
    method, cfg = make_method_for_ranks(name, folder, **more)
    head = make_heads(cfg, method)
    steps, rows = [], slice_of_this_rank()
    for step, (new, labels, index) in enumerate(batches(dim=cfg.embedding_size)):
        new = new[rows].clone().requires_grad_()
        for part in (head, method, *head.views.values()):
            part.zero_grad()
        terms = method(head, new, labels[rows], index[rows], clock_of(step))
        sum(terms.values()).backward()
        steps.append({"terms": {key: value.detach() for key, value in terms.items()}, "new": new.grad,
                      "weight": head.weight.grad, "views": {dim: view.weight.grad for dim, view in head.views.items()},
                      "parameters": {key: p.grad for key, p in method.named_parameters()}})
    return steps


def train(trainer: Trainer, steps: range, lr: float) -> None:
    """Train on the two toy batches in turn; an update after every cfg.gradient_acc steps."""
    rows = slice_of_this_rank()
    for step in steps:
        _, labels, index = (part[rows] for part in batches()[step % 2])
        trainer.step(pictures(index), labels, index, torch.zeros(len(index), dtype=torch.bool), clock_of(step), lr,
                     (step + 1) % trainer.cfg.gradient_acc == 0)


def trained_of_this_rank(name: str, folder: Path, **more) -> dict:
    """Class vectors, parameters and buffers after two updates of two batches each, through the trainer and DDP."""
    method, cfg = make_method_for_ranks(name, folder, gradient_acc=2, lr=0.1, **more)
    backbone = make_backbone(dim=cfg.embedding_size)        # without BatchNorm, whose statistics are each rank's own
    head = make_heads(cfg, method)
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    train(Trainer(cfg, ranks, backbone, method, head), range(4), 0.1)
    return {"weight": head.weight.detach(), "views": {dim: view.weight.detach() for dim, view in head.views.items()},
            "parameters": [p.detach() for p in (*backbone.parameters(), *method.parameters())],
            "buffers": dict(method.named_buffers())}
