"""Extended-data: ResNet-18 (ArcFace) -> ResNet-50 (ArcFace) by NCCL, 512 dimensions."""

from BCT_Methods.scenarios import scenario

config = scenario("EXdata", old="r18_arc", new="r50", embedding_size=512)
