"""One update of backbone, method and head: forward, terms, backward, clip, step."""

from contextlib import ExitStack

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from engine.distributed import Ranks, replicate
from engine.finite import BadSteps
from engine.method import Clock, Method
from losses import PartialFC
from records.images import to_input
from utils.settings import Settings


def make_optimizer(cfg: Settings, backbone: nn.Module, method: nn.Module, *heads: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW over all trained parameters, one parameter group each for backbone, method and head."""
    parts = [[p for p in part.parameters() if p.requires_grad] for part in (backbone, method, *heads)]
    groups = [{"params": part} for part in parts if part]
    if cfg.optimizer == "sgd":
        sgd = torch.optim.SGD(groups, cfg.lr, cfg.momentum, weight_decay=cfg.weight_decay, fused=True)
        if cfg.momentum:        # set before the first step: if a GradScaler skips it, torch leaves the buffers uninitialised
            sgd.state.update({p: {"momentum_buffer": torch.zeros_like(p)} for group in groups for p in group["params"]})
        return sgd
    return torch.optim.AdamW(groups, cfg.lr, weight_decay=cfg.weight_decay, fused=True)


def gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


class SharedScaler(GradScaler):
    """A GradScaler with which either all ranks skip an update or none does.

    A shard of the head can overflow on one rank alone; the replicas would then diverge.  The ranks' marks are not added up, as
    in torch's ShardedGradScaler: a fused optimiser skips only if the mark is exactly 1.
    """

    skips: bool | Tensor = False        # on the device: the current update is skipped

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        super().unscale_(optimizer)
        if self.is_enabled():
            found, = self._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values()
            dist.all_reduce(found, dist.ReduceOp.MAX)
            self.skips = found > 0


class Trainer:
    """Backbone, method, head and their optimiser.  The first two are replicated over the ranks, the head is sharded by class."""

    def __init__(self, cfg: Settings, ranks: Ranks, backbone: nn.Module, method: Method, head: PartialFC):
        self.cfg, self.ranks = cfg, ranks
        self.plain_backbone, self.plain_method, self.head = backbone, method, head
        self.backbone, self.method = replicate(backbone), replicate(method)
        self.heads = [head, *head.views.values()]
        self.optimizer = make_optimizer(cfg, backbone, method, *self.heads)
        for one in self.heads:
            one.bind(self.optimizer)
        self.scaler = SharedScaler(ranks.device.type, enabled=cfg.fp16 and ranks.device.type == "cuda")
        self.bad_steps = BadSteps(ranks.device, self.scaler.is_enabled(), cfg.gradient_acc)

    def step(self, images: Tensor, labels: Tensor, index: Tensor, flip: Tensor, clock: Clock, lr: float,
             update: bool = True) -> dict[str, Tensor]:
        """One step of this rank's batch; the detached terms by name.  A collective.

        images uint8 [B, H, W, 3]; labels, index int64 [B]; flip bool [B], True = mirrored; all on the CPU.  update = False
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
        """Update the weights; bool scalar on the device: the gradient was not finite (a scaler then skips the update)."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr
        self.scaler.unscale_(self.optimizer)
        bad = ~self.clip_gradients().isfinite()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return bad | self.scaler.skips          # the head's gradient can overflow, too

    def clip_gradients(self) -> Tensor:
        """Scale the gradients down to a norm of config.clip; their norm before.  A collective if the head is clipped, too.

        One norm over the backbone, the method's own parameters and, of a head with ``clipped``, all ranks' shards.
        """
        clipped = [*self.plain_backbone.parameters(), *self.plain_method.parameters()]
        norm = get_total_norm(gradients(clipped))
        if self.head.clipped:
            shards = [parameter for one in self.heads for parameter in one.parameters()]
            squares = get_total_norm(gradients(shards)).square()
            dist.all_reduce(squares)
            clipped, norm = clipped + shards, (norm.square() + squares).sqrt()
        clip_grads_with_norm_(clipped, self.cfg.clip, norm)
        return norm
