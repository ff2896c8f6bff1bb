"""Backbone and head of a training by its settings: to be trained, or (device "meta": shapes without memory) to be counted."""

import torch
from torch import nn

from backbones import get_model
from backbones.feature_maps import new_feature_map
from engine.method import Method
from losses import CombinedMarginLoss, PartialFC
from old_model.feature_rows import feature_dim, is_of_features
from old_model.sides import old_dim, old_sides
from utils.settings import Settings


def new_backbone(cfg: Settings, fp16: bool | torch.dtype = False, device: str = "cpu") -> nn.Module:
    """The network of the settings.  fp16: half precision, with which kind of number; a network on features ignores it.

    UserError if a training on features has none: their dimension is part of the network.
    """
    if is_of_features(cfg):
        with torch.device(device):
            return new_feature_map(cfg.network, feature_dim(cfg), cfg.embedding_size)
    with torch.device(device):
        return get_model(cfg.network, dropout=cfg.dropout, fp16=fp16, num_features=cfg.embedding_size, image_size=cfg.image_size)


def new_head(cfg: Settings, head_class: type[PartialFC], classes: int, sample_rate: float = 1.0,
             fp16: bool | torch.dtype = False, device: str = "cpu") -> PartialFC:
    """The head of the settings with this rank's share of ``classes``; needs a process group."""
    m1, m2, m3 = cfg.margin_list
    margin = CombinedMarginLoss(cfg.scale, m1, m2, m3, cfg.interclass_filtering_threshold)
    with torch.device(device):
        return head_class(margin, cfg.embedding_size, classes, sample_rate=sample_rate, fp16=fp16, seed=cfg.seed)


def view_dims(cfg: Settings, method_class: type[Method]) -> list[int]:
    """Dimensions of the compatible views that have a head of their own, ascending."""
    dims = {old_dim(side) for side in old_sides(cfg)} - {cfg.embedding_size}
    return sorted(dims) if method_class.view_has_head else []


def new_heads(cfg: Settings, method_class: type[Method], head_class: type[PartialFC], classes: int,
              device: torch.device) -> PartialFC:
    """The head of the embedding on ``device``, with those of the views in its ``views``; needs a process group."""
    def made(dim: int) -> PartialFC:
        return new_head(cfg.replace(embedding_size=dim), head_class, classes, cfg.sample_rate, cfg.fp16).to(device)
    head = made(cfg.embedding_size)
    head.views = {dim: made(dim) for dim in view_dims(cfg, method_class)}
    return head
