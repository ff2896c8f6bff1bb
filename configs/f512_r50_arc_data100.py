"""ResNet-50, ArcFace, 512 dimensions, on all images (what an upgrade could reach without the old model)."""

from easydict import EasyDict as edict

config = edict(network="r50", embedding_size=512, rec="train")
