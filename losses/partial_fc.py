"""PartialFC: a margin softmax whose classes are sharded over the ranks, and of which a step may use a sample.

An et al., "Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by
Partial FC", CVPR 2022, arXiv 2203.15565.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from losses.shards import GatherForShards, ShardedCrossEntropy, all_rows, local_labels, shard_of
from utils.precision import half_type
from utils.seed import generator

CLASSES_PER_DRAW = 4096                # initial weights are drawn in blocks of this many classes
# Classes per block of a matrix product. CPU: intermediates fit in the cache. CUDA: few, large kernels.
CLASSES_PER_BLOCK = {"cpu": 4096, "cuda": 65_536}


class Cosines(torch.autograd.Function):
    """^x . ^w^T, float32 [N, C], of unit rows ^x [N, d] and class vectors w [C, d] of any length.

    Computed block by block: unit class vectors, their gradient and cosines in half precision would each take as much memory as
    the weights or the cosines.
    """

    @staticmethod
    def forward(ctx, unit: Tensor, weight: Tensor, fp16: bool | torch.dtype) -> Tensor:
        ctx.save_for_backward(unit, weight)
        ctx.kind = half_type(unit.device, fp16) or unit.dtype
        ctx.size = CLASSES_PER_BLOCK[unit.device.type]
        cosines, x = unit.new_empty(len(unit), len(weight)), unit.to(ctx.kind)
        for out, rows in zip(cosines.split(ctx.size, 1), weight.split(ctx.size), strict=True):
            out.copy_(x @ F.normalize(rows).to(ctx.kind).T)
        return cosines

    @staticmethod
    def backward(ctx, grad: Tensor):
        unit, weight = ctx.saved_tensors
        to_unit, to_weight, x = torch.zeros_like(unit), torch.empty_like(weight), unit.to(ctx.kind)
        for g, rows, out in zip(grad.split(ctx.size, 1), weight.split(ctx.size), to_weight.split(ctx.size), strict=True):
            length = rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
            rows, g = rows / length, g.to(ctx.kind)
            to_unit += g @ rows.to(ctx.kind)
            to_rows = (g.T @ x).to(weight.dtype)
            along = (to_rows * rows).sum(1, keepdim=True)           # the length of a vector does not change its cosine
            torch.div(to_rows.addcmul_(rows, along, value=-1), length, out=out)
        return to_unit, to_weight, None


class PartialFC(nn.Module):
    """Class vectors [C_local, d] of this rank, the margin, and the loss of the global batch.

    margin: a loss of :mod:`losses.margins`.  sample_rate: share of this rank's classes that a step uses; the classes of the
    batch are always used.  fp16: half precision in the product, float32 after it.  seed: the initial weights are a function of
    (seed, class), the same for any number of ranks.

    ``head(new, labels)`` with new float32 [B, d] and labels int64 [B] of this rank gives the mean loss over
    all ranks' rows, the same value on every rank; a collective.  B must be the same on all ranks.  The gradient that
    reaches ``new`` is world_size times that of the value, because DDP averages it; the gradient of the weights is that of
    the value.
    """

    sharded = {"weight": 0, "bias": 0}      # dimension of the classes, for checkpoints of other numbers of ranks
    clipped = False                         # True: its gradient is part of the norm that config.clip limits

    def __init__(self, margin, embedding_size: int, num_classes: int, *, sample_rate: float = 1.0,
                 fp16: bool | torch.dtype = False, seed: int = 0):
        super().__init__()
        if not 0 < sample_rate <= 1:
            raise ValueError(f"sample_rate must be in (0, 1], found {sample_rate}")
        self.margin, self.fp16, self.seed = margin, fp16, seed
        self.num_classes, self.sample_rate = num_classes, sample_rate
        self.class_start, self.num_local = shard_of(num_classes)
        weight = self.initial_rows(embedding_size)
        self.views: dict[int, PartialFC] = {}       # heads of the compatible views by d_o; not submodules: each is a part
        self.sampler = None
        if sample_rate < 1:
            self.sampler = RowSampler(int(sample_rate * self.num_local), weight, seed)
            self.register_buffer("weight", weight)
        else:
            self.weight = nn.Parameter(weight)

    def initial_rows(self, embedding_size: int) -> Tensor:
        """Normal(0, 0.01) rows [C_local, d] of this rank's classes."""
        rows = torch.empty(self.num_local, embedding_size)
        for first in range(self.class_start // CLASSES_PER_DRAW * CLASSES_PER_DRAW, self.class_start + self.num_local,
                           CLASSES_PER_DRAW):
            drawn = torch.randn(CLASSES_PER_DRAW, embedding_size,
                                generator=generator(self.seed, "class rows", first // CLASSES_PER_DRAW))
            before = max(self.class_start - first, 0)               # the first rows of this draw belong to the rank before
            own = rows[first + before - self.class_start:][:CLASSES_PER_DRAW - before]
            own.copy_(drawn[before:before + len(own)])
        return rows.mul_(0.01)

    def bind(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the head its optimiser: a sampled head passes it the rows of each step."""
        if self.sampler is not None:
            self.sampler.bind(optimizer, self.weight)

    def product(self, embeddings: Tensor, weight: Tensor) -> Tensor:
        """Cosines float32 [N, classes] of embeddings [N, d] and class rows [classes, d]."""
        return Cosines.apply(F.normalize(embeddings), weight, self.fp16)

    def scores(self, new: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(cosines [N, classes that this rank uses in the step] of all ranks' rows, local labels [N]).  A collective."""
        embeddings = GatherForShards.apply(new.float())
        labels = local_labels(all_rows(labels), self.class_start, self.num_local)
        weight: Tensor = self.weight
        if self.sampler is not None:
            weight, labels = self.sampler.lend(self.weight, labels)
        return self.product(embeddings, weight), labels

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Loss of the results of :meth:`scores`; a collective.  The gradient overwrites the cosines: copy them to keep them."""
        return ShardedCrossEntropy.apply(scores, labels, self.margin)

    def forward(self, new: Tensor, labels: Tensor) -> Tensor:
        return self.loss(*self.scores(new, labels))


class RowSampler(nn.Module):
    """A sample of a weight's rows is the parameter of a step; afterwards rows and optimiser state are written back.

    Rows that are not sampled keep their weight, momentum and (AdamW) moments.  The state of the sampler is the step, which
    determines the sample, and the optimiser state of all rows; the rows of a step are copies.
    """

    def __init__(self, count: int, weight: Tensor, seed: int):
        super().__init__()
        self.count, self.seed, self.step = count, seed, 0
        self.active = nn.Parameter(weight[:0].clone())      # the optimiser's parameter; another one in each step
        self.state: dict[str, Tensor] = {}                   # optimiser state of all rows, by the optimiser's names

    def bind(self, optimizer: torch.optim.Optimizer, weight: Tensor) -> None:
        self.optimizer = optimizer
        self.group = next(g for g in optimizer.param_groups if any(p is self.active for p in g["params"]))
        self.state = {name: torch.zeros_like(weight) for name in optimizer.state.get(self.active, {})}
        optimizer.register_step_post_hook(lambda *_: self.take_back(weight))

    @property
    def sharded(self) -> dict[str, int]:
        return {name: 0 for name, value in self.state.items() if value.dim()}

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        destination[f"{prefix}drawn"] = torch.tensor(self.step)
        destination.update({prefix + name: value for name, value in self.state.items()})

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs):
        state = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
        if "drawn" not in state:
            missing_keys.append(f"{prefix}drawn")
            return
        self.step = int(state.pop("drawn"))
        self.state = {name: value.to(self.active.device, copy=True) for name, value in state.items()}

    def scores(self, rows: int) -> Tensor:
        """Uniform random numbers [rows]; the rows with the highest are sampled."""
        return torch.rand(rows, generator=generator(self.seed, "class sample", dist.get_rank(), self.step))

    def lend(self, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(the rows of this step as a parameter [n, d], labels renumbered to these rows; -1 stays)."""
        positive = labels[labels >= 0].unique()
        if len(positive) < self.count:
            scores = self.scores(len(weight)).to(weight.device)
            scores[positive] = 2.0
            self.rows = scores.topk(self.count).indices.sort().values
        else:
            self.rows = positive
        self.step += 1
        self.optimizer.state.pop(self.active, None)
        self.active = nn.Parameter(weight[self.rows])
        self.group["params"] = [self.active]
        if self.state:
            self.optimizer.state[self.active] = {
                name: value[self.rows] if value.shape == weight.shape else value
                for name, value in self.state.items()}
        return self.active, torch.where(labels >= 0, torch.searchsorted(self.rows, labels), labels)

    @torch.no_grad()
    def take_back(self, weight: Tensor) -> None:
        weight[self.rows] = self.active
        for name, value in self.optimizer.state[self.active].items():
            if value is not None and value.shape == self.active.shape:
                self.state.setdefault(name, torch.zeros_like(weight))[self.rows] = value
            elif value is not None:
                self.state[name] = value
