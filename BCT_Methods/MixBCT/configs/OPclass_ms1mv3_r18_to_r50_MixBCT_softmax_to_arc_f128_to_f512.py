"""Open-class: ResNet-18 (softmax), 128 dimensions -> ResNet-50 (ArcFace), 512 dimensions, by MixBCT."""

from BCT_Methods.scenarios import scenario

config = scenario("OPclass", old="r18_softmax", old_dim=128, new="r50", embedding_size=512)
