"""Extended-data: ResNet-18 (softmax) -> ResNet-50 (ArcFace) by NCCL, 512 dimensions."""

from BCT_Methods.scenarios import scenario

config = scenario("EXdata", old="r18_softmax", new="r50", embedding_size=512)
