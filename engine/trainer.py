"""One update of backbone, method and head: forward, terms, backward, clip, step."""

from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.distributed import group
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from engine.distributed import Ranks, replicate
from engine.finite import BadSteps
from engine.method import Clock, Method
from utils.errors import UserError
from utils.images import to_input


def make_optimizer(cfg, backbone: nn.Module, method: nn.Module, head: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW over everything that learns, one parameter group each for backbone, method and head."""
    parts = [[p for p in part.parameters() if p.requires_grad] for part in (backbone, method, head)]
    groups = [{"params": part} for part in parts if part]
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(groups, cfg.lr, cfg.momentum, weight_decay=cfg.weight_decay, fused=True)
    if cfg.optimizer == "adamw":
        return torch.optim.AdamW(groups, cfg.lr, weight_decay=cfg.weight_decay, fused=True)
    raise UserError(f'config.optimizer must be "sgd" or "adamw", found "{cfg.optimizer}"')


class Trainer:
    """Holds what learns.  ``backbone`` and ``method`` are replicated over the ranks, ``head`` is sharded by class."""

    def __init__(self, cfg, ranks: Ranks, backbone: nn.Module, method: Method, head: nn.Module):
        self.cfg, self.ranks = cfg, ranks
        self.plain_backbone, self.plain_method, self.head = backbone, method, head
        self.backbone, self.method = replicate(backbone), replicate(method)
        self.optimizer = make_optimizer(cfg, backbone, method, head)
        head.bind(self.optimizer)
        # A shard of the head can overflow on one rank alone; all ranks must skip that step or none, else
        # their backbones drift apart.  This scaler shares what it finds.  Disabled, it is a no-op.
        self.scaler = ShardedGradScaler(ranks.device.type, enabled=cfg.fp16 and ranks.device.type == "cuda",
                                        process_group=group.WORLD)
        self.bad_steps = BadSteps(ranks.device, self.scaler.is_enabled(), cfg.gradient_acc)

    def step(self, images: Tensor, labels: Tensor, index: Tensor, flip: Tensor, clock: Clock, lr: float,
             update: bool = True) -> dict[str, Tensor]:
        """Learn from one batch; the detached terms by name.

        images uint8 [B, H, W, 3]; labels, index int64 [B]; flip bool [B]; all on the CPU.  update = False
        only adds to the gradients (config.gradient_acc).
        """
        device = self.ranks.device
        with ExitStack() as stack:
            if not update:
                for part in (self.backbone, self.method):
                    if isinstance(part, DistributedDataParallel):
                        stack.enter_context(part.no_sync())
            new = self.backbone(to_input(images, device, flip))
            terms = self.method(self.head, new, labels.to(device, non_blocking=True), index, clock)
            loss = sum(terms.values())
            self.scaler.scale(loss / self.cfg.gradient_acc).backward()
        self.bad_steps.step(loss)
        if update:
            self.bad_steps.update(self.update(lr), clock.step)
        return {name: value.detach() for name, value in terms.items()}

    def update(self, lr: float) -> Tensor:
        """Change the weights; bool, on the device: the gradient was not finite (the scaler then has changed nothing)."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr
        self.scaler.unscale_(self.optimizer)
        bad = ~clip_grad_norm_(self.plain_backbone.parameters(), self.cfg.clip).isfinite()
        before = self.scaler._get_scale_async().clone() if self.scaler.is_enabled() else None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        # A head's overflow, too, makes the scaler skip the update: it lowers its scale.
        return bad if before is None else bad | (self.scaler._get_scale_async() < before)
