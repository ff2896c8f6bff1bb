"""NCCL: new features and their logits contrasted with a queue of old ones, weighted by the old neighbourhoods.

Wu et al., "Neighborhood Consensus Contrastive Learning for Backward-Compatible Representation", AAAI 2022,
arXiv 2108.03372.

    L  = L_arc(f_n) + alpha * l1 + beta * l2,       alpha = 1, beta = 0.01
    l1 = -mean_i 1/|P(i)| sum_{k in P(i)} w_ik log( exp(^f_n,i . ^o_k / tau) / sum_j exp(^f_n,i . ^o_j / tau) )
    l2 = the same with g_i . g_k instead of ^f_n,i . ^o_k;      w_ik = (1 + ^f_o,i . ^o_k) / 2,  tau = 1
    ^o_k: the last 8,192 old embeddings, the batch's own among them;  P(i): those of the same label
    g_k: their cosines with the new class vectors, as they were then;  g_i: those of the new embedding

If the old features have other dimensions (config.old_dim), v(f_n) takes the place of f_n in l1 and l2, and g are
cosines with class vectors of the old space, which have a head of their own:

    L  = L_arc(f_n) + L_arc,view(v(f_n)) + alpha * l1 + beta * l2

v: the view of losses/view.py.  L_arc,view trains the head of the view, with the margin and scale of L_arc and weight 1.
An image without an old vector is not an entry of the queue, and no i of the sums in l1 and l2.

as_published: g after margin and scale (clamped to [-1, 1] under fp16), l2 without gradient, and the queue's empty
rows (zeros) in the sums.

    cd BCT_Methods/NCCL/ && python -m torch.distributed.launch --nproc_per_node=8 --nnodes=1 \
        --master_port=22222 train.py configs/OPclass_ms1mv3_r18_to_r50_NCCL_softmax_to_arc_f128.py
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from BCT_Methods.NCCL.credible import CredibleOld
from BCT_Methods.NCCL.old_queue import Queue
from engine.loop import main
from engine.method import Clock, Method
from losses import PartialFC, View
from losses.shards import GatherForAll, SumOfShards, all_rows
from old_model.features import OldFeatures, old_side
from old_model.sides import old_dim
from records.facts import Facts
from utils.errors import UserError
from utils.settings import Settings

LEFT_OUT = -1e30           # a similarity whose exponential is 0 (and finite: its product with weight 0 must be 0)


def contrast(similarity: Tensor, weight: Tensor, positive: Tensor, rows: Tensor, entries: Tensor) -> Tensor:
    """-mean_i 1/|P(i)| sum_{k in P(i)} w_ik log softmax_k(similarity_i).

    similarity, weight float32 [N, Q]; positive bool [N, Q]: P(i); rows bool [N], entries bool [Q]: True = this row of the batch,
    this entry of the queue takes part.
    """
    similarity = similarity.masked_fill(~entries, LEFT_OUT)
    weight = weight * positive / positive.sum(1, keepdim=True).clamp(min=1)
    loss = weight.sum(1) * similarity.logsumexp(1) - (weight * similarity).sum(1)
    return (loss * rows).sum() / rows.sum().clamp(min=1)


class NCCL(Method):
    """Needs the old feature of every new training image; with credible_only the class means, too."""

    view_has_head = True

    def __init__(self, cfg: Settings, data: Facts):
        super().__init__(cfg, data)
        if cfg.sample_rate < 1:
            raise UserError(f"NCCL compares logits of all classes: set config.sample_rate = 1 (found {cfg.sample_rate})")
        self.old = OldFeatures(**old_side(cfg, data, "old_feature"), dim=old_dim(cfg))
        self.view = View(cfg.embedding_size, old_dim(cfg), cfg.seed)
        self.queue = Queue(cfg.queue_size, old_dim(cfg), data.classes, cfg.fp16)
        self.credible = CredibleOld(cfg, data) if cfg.credible_only else None

    def logits(self, head: PartialFC, cos: Tensor, local: Tensor) -> Tensor:
        """g [N, C_local] from cosines [N, C_local]; local: labels [N], counted from this rank's first class."""
        if not self.cfg.as_published:
            return cos
        logits = head.margin(cos, local).detach()
        return logits.clamp(-1, 1) if self.cfg.fp16 else logits

    def forward(self, head: PartialFC, new: Tensor, labels: Tensor, index: Tensor, clock: Clock) -> dict[str, Tensor]:
        cfg, view, own = self.cfg, self.view(new), self.view.head(head)
        old = all_rows(self.old[index].to(new.device, non_blocking=True))
        all_labels = all_rows(labels)
        credible = torch.ones_like(all_labels, dtype=torch.bool) if self.credible is None else self.credible(old)
        if (part := self.old.part(index, new.device)) is not None:
            credible = credible & all_rows(part)
        cos, local = own.scores(view, labels)
        with torch.no_grad():
            old_logits = self.logits(own, own.product(old, own.weight), local)
        queue = self.queue
        queue.push(old, old_logits, torch.where(credible, all_labels, -1))
        # Each rank multiplies its own classes: a matrix [N, Q] is summed over the ranks, the logits are never gathered.
        near = GatherForAll.apply(F.normalize(view)) @ queue.features.T / cfg.tau
        alike = SumOfShards.apply(queue.product(self.logits(own, cos, local))) / cfg.tau
        pairs: dict[str, Tensor] = dict(weight=(1 + old @ queue.features.T) / 2, positive=all_labels[:, None] == queue.labels,
                                        rows=credible, entries=queue.labels >= (-1 if cfg.as_published else 0))
        # The loss overwrites the cosines, so it comes last.  (Autograd keeps none of them for products with the frozen queue.)
        terms = {"cls" if self.view.whole else "view": own.loss(cos, local), "feature": cfg.alpha * contrast(near, **pairs),
                 "logit": cfg.beta * contrast(alike, **pairs)}
        return terms if self.view.whole else {"cls": head(new, labels)} | terms


METHOD = NCCL

if __name__ == "__main__":
    main(METHOD)
