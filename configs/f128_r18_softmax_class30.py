"""ResNet-18, softmax, 128 dimensions, on the first 30 % of the identities."""

from easydict import EasyDict as edict

config = edict(network="r18", embedding_size=128, rec="train_part_30_class")
