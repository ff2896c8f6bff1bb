"""Weights from files of this project, of insightface and of the public code; nothing in them is executed."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from backbones import NETWORKS, builder, get_model
from backbones.backbone import Backbone
from backbones.feature_maps import advice, holds_feature_map
from utils.arrays import load_pt, one_line
from utils.errors import UserError

WRAPPERS = ("state_dict_backbone", "backbone", "state_dict")        # keys of a checkpoint that can hold the backbone
HEADS = ("cls_fc.", "BCT_FC.", "discriminator.", "eboundary.")      # parts that the public code saves with the backbone
MAX_SHARING = 8             # bytes of all tensors per byte of the file; a view can repeat one number a million times


def load_state(path: str | Path) -> dict[str, Tensor]:
    """{name: tensor} of the backbone in the file ``path``, on the CPU, memory-mapped if the format allows it.

    The file holds a state dict, or a dict with one under one of ``WRAPPERS``.  A leading "module." (DDP) and the public
    code's extra heads are removed.  UserError for any other file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no model file {path}; train the model first or give another file")
    try:
        data = load_pt(path)
    except Exception as error:      # a zip cut short, foreign bytes, code in a pickle: torch.load has an exception for each
        raise UserError(f"{path} is not a whole file of tensors as torch.save writes it "
                        f"({one_line(error)}); copy it again or save it as a state_dict") from error
    state = next((data[key] for key in WRAPPERS if isinstance(data, dict) and isinstance(data.get(key), dict)), data)
    if not (isinstance(state, dict) and state
            and all(isinstance(name, str) and isinstance(value, Tensor) and not value.is_complex()
                    for name, value in state.items())):
        raise UserError(f"{path} holds no state dict of a backbone; expected a dict of tensors, or one under a key of "
                        f"{' '.join(WRAPPERS)}: save the model again")
    if any(value.device.type != "cpu" or value.layout != torch.strided for value in state.values()) \
            or sum(value.nbytes for value in state.values()) > MAX_SHARING * path.stat().st_size:
        raise UserError(f"{path} promises more numbers than it holds; save the model again as a state_dict of plain tensors")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    return {key: value for key, value in state.items() if not key.startswith(HEADS)}


def load_model(network: str, path: str | Path, fp16: bool | torch.dtype = False) -> Backbone:
    """The network with the weights in ``path`` and their embedding and image size, in eval mode on the CPU.

    UserError if the file does not hold this network; it names the networks that it may be.
    """
    builder(network)                # an unknown name is an error before the file is read
    state = load_state(path)
    model = checked_model(network, path, state, fp16)
    model.to_empty(device="cpu")
    model.load_state_dict(state)
    return model.eval()


def checked_model(network: str, path: str | Path, state: dict[str, Tensor], fp16: bool | torch.dtype = False) -> Backbone:
    """The network whose weights ``state`` (of the file ``path``) are, without memory for its own.

    UserError if they are not of this network, in any embedding and image size.
    """
    model = empty_model(network, shape_of(network, state) or (512, 112), fp16)
    wrong = differences(model, state)
    if wrong and holds_feature_map(state):
        raise UserError(advice(str(path)))
    if wrong:
        fitting = [name for name in NETWORKS if fits(name, state)]
        looks = f"this looks like {' or '.join(fitting)}" if fitting else "no other network here fits either"
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{path} does not hold a {network}: {', '.join(wrong[:3])}{more}; {looks}")
    return model


def shape_of(network: str, state: dict[str, Tensor]) -> tuple[int, int] | None:
    """(num_features, image_size) by the shapes in a state dict; None if it is of another architecture."""
    try:
        num_features, image_size = builder(network)[0].shape_of(state)
    except (KeyError, IndexError, TypeError, ValueError):       # the tensors that show it are missing or have other dimensions
        return None
    return (num_features, image_size) if image_size else None


def empty_model(network: str, shape: tuple[int, int], fp16: bool | torch.dtype = False) -> Backbone:
    """The network for shape = (num_features, image_size), without memory for its weights."""
    with torch.device("meta"):
        return get_model(network, fp16=fp16, num_features=shape[0], image_size=shape[1])


def fits(network: str, state: dict[str, Tensor]) -> bool:
    """Whether ``state`` is a state dict of the network, of any embedding and image size."""
    shape = shape_of(network, state)
    return shape is not None and not differences(empty_model(network, shape), state)


def differences(model: Backbone, state: dict[str, Tensor]) -> list[str]:
    """How ``state`` differs from a state dict of the model, tensor by tensor in the model's order; empty: it fits."""
    expected = {key: list(value.shape) for key, value in model.state_dict().items()}
    shapes = {key: list(value.shape) for key, value in state.items()}
    return ([f"{key} is missing" if key not in shapes else f"{key} is {shapes[key]} instead of {shape}"
             for key, shape in expected.items() if shapes.get(key) != shape]
            + [f"{key} has no place in it" for key in shapes if key not in expected])


def fingerprint(state: dict[str, Tensor]) -> str:
    """sha256 (hex) over names, dtypes, shapes and bytes in the order of the names; the way of saving does not matter."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
