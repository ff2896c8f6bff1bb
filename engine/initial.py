"""config.init: the backbone's weights at the start of a training, from a file; whatever does not fit is new, and named."""

from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.feature_maps import FeatureMap, holds_feature_map
from backbones.weights import checked_model, load_state
from utils.errors import UserError

SHOWN = 6       # names of new tensors in the log


def start_from(backbone: nn.Module, network: str, path: Path) -> str:
    """Load the weights in ``path`` into ``backbone``, a new ``network``; a sentence on what was loaded and what is new.

    path: of an image network model.pt, insightface's backbone.pth or a checkpoint of the public code, whose embedding and image
    size may differ: the tensors that depend on them keep their random start.  Of linear and mlp a map .npz of tools/adapt or of
    a training, or its model.pt; mlp also starts from a linear map, and is then that map.
    UserError if the file is missing, is of another network, or holds numbers that are not finite.
    """
    state = map_state(path) if path.suffix == ".npz" else load_state(path)
    if isinstance(backbone, FeatureMap):
        refuse_other_map(backbone, network, path, state)
        size = ""
    else:
        source = checked_model(network, path, state)
        assert isinstance(backbone, Backbone)
        size = sizes(source, backbone)
    refuse_bad_numbers(path, state, backbone)
    own = backbone.state_dict()
    fitting = {name: state[name] for name, value in own.items() if name in state and state[name].shape == value.shape}
    backbone.load_state_dict(fitting, strict=False)
    new = [name for name in own if name not in fitting]
    text = f"init {path}: {len(fitting)} of {len(own)} tensors of the backbone loaded"
    if not new:
        return f"{text}; the classes' vectors are new"
    more = f" and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
    return f"{text}; new with a random start: {', '.join(new[:SHOWN])}{more}{size}, and the classes' vectors"


def sizes(source: Backbone, backbone: Backbone) -> str:
    """In which size the network of the file differs, for a sentence; "" if in none."""
    pairs = [(source.num_features, backbone.num_features, "dimensions"), (source.image_size, backbone.image_size, "pixels")]
    different = [f"{there} {unit} there, {here} here" for there, here, unit in pairs if there != here]
    return f" ({'; '.join(different)})" if different else ""


def refuse_bad_numbers(path: Path, state: dict[str, Tensor], backbone: nn.Module) -> None:
    """UserError if a tensor is not finite, or holds whole numbers where the network has others."""
    for name, value in backbone.state_dict().items():
        if name in state and value.is_floating_point() and not (state[name].is_floating_point()
                                                                and state[name].isfinite().all()):
            raise UserError(f"{path}: {name} holds {state[name].dtype} numbers that are not all finite, or whole numbers only; "
                            f"expected the weights of a network as it was trained: copy the file again or choose another one")


def map_state(path: Path) -> dict[str, Tensor]:
    """The weights of a FeatureMap from a map .npz whose direction is new to old."""
    from evaluation.map_files import load_map  # not above: it imports scipy, and few trainings need it
    from evaluation.maps import BACKWARD

    if not path.is_file():
        raise UserError(f"no file {path} (config.init); expected a map .npz of tools/adapt/adapt.py or of a training")
    mapping, direction, _ = load_map(path)
    if direction != BACKWARD:
        raise UserError(f"{path} maps {direction}; a training starts from a map {BACKWARD}: fit one without --reverse")
    state = {"linear.weight": mapping.weight.T, "linear.bias": mapping.bias}
    if mapping.hidden is not None:
        w1, b1, w2 = mapping.hidden
        state |= {"inner.weight": w1.T, "inner.bias": b1, "outer.weight": w2.T}
    return {name: torch.from_numpy(array.copy()) for name, array in state.items()}


def refuse_other_map(backbone: FeatureMap, network: str, path: Path, state: dict[str, Tensor]) -> None:
    """UserError if ``state`` is not a map of this input and output, or has hidden units that the network does not have."""
    expected = {name: list(value.shape) for name, value in backbone.state_dict().items()}
    if not holds_feature_map(state):
        raise UserError(f"{path} does not hold a map of features; config.network = {network} starts from a map .npz or from the "
                        f"model.pt of a training with network=linear or mlp")
    wrong = [f"{name} {list(value.shape)} instead of {expected.get(name, 'none')}" for name, value in state.items()
             if list(value.shape) != expected.get(name)]
    if wrong:
        raise UserError(f"{path} holds another map than config.network = {network} from {backbone.d_in} to "
                        f"{backbone.num_features} dimensions: {', '.join(wrong)}; a residual MLP needs network=mlp, other "
                        f"dimensions need another file")
