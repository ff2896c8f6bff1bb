"""NCCL's own settings."""

from easydict import EasyDict as edict

config = edict(
    alpha=1.0,              # weight of l1, on features
    beta=0.01,              # weight of l2, on logits
    tau=1.0,                # temperature of both
    queue_size=8192,        # old embeddings that are remembered, at least batch_size x ranks
    credible_only=False,    # leave out old embeddings that lie between classes (the paper's filter; needs the class means)
    as_published=False,     # the public code's reading: l2 without gradient, see train.py
)
