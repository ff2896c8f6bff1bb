"""Open-data: ResNet-18 (softmax) -> ResNet-50 (ArcFace) by weakened L2, 512 dimensions."""

from BCT_Methods.scenarios import scenario

config = scenario("OPdata", old="r18_softmax", new="r50", embedding_size=512)
config.threshold = 0.2
