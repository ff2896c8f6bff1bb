"""Open-class: ResNet-18 (softmax) -> ResNet-50 (ArcFace) by L2, 256 dimensions."""

from BCT_Methods.scenarios import scenario

config = scenario("OPclass", old="r18_softmax", new="r50", embedding_size=256)
