"""NCCL's own settings."""

from easydict import EasyDict as edict

from utils.settings import flag, number, whole

config = edict(
    alpha=number(1.0, "weight of l1, on features", least=0),
    beta=number(0.01, "weight of l2, on logits", least=0),
    tau=number(1.0, "temperature of both", above=0),
    queue_size=whole(8192, "old embeddings in the queue, at least batch_size x ranks", least=1),
    credible_only=flag(False, "leave out old embeddings between the classes (the paper's filter; needs the class means)"),
    as_published=flag(False, "the public code's reading: l2 without gradient, see train.py"),
)
