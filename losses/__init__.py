"""Margins on cosines (no parameters), the classifier heads and the prototype loss, sharded by class over the ranks; the view."""

from losses.margins import ArcFace, CombinedMarginLoss, CosFace
from losses.partial_fc import PartialFC
from losses.prototypes import PrototypeLoss
from losses.softmax_head import SoftmaxHead
from losses.view import View

__all__ = ["ArcFace", "CombinedMarginLoss", "CosFace", "PartialFC", "PrototypeLoss", "SoftmaxHead", "View"]
