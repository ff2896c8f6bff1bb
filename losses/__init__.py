"""Margins on cosines (no parameters) and the classifier heads, sharded by class over the ranks."""

from losses.margins import ArcFace, CombinedMarginLoss, CosFace
from losses.partial_fc import PartialFC
from losses.softmax_head import SoftmaxHead

__all__ = ["ArcFace", "CombinedMarginLoss", "CosFace", "PartialFC", "SoftmaxHead"]
