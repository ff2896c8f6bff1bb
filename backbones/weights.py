"""Weights from files: plain state dicts, insightface's checkpoints, those of the public code."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones import NETWORKS, get_model, shape_of
from utils.errors import UserError

# Heads that the public code keeps inside its backbones; they are not part of one.
EXTRA_HEADS = ("cls_fc.", "BCT_FC.", "discriminator.", "eboundary.")


def load_state(path) -> dict[str, Tensor]:
    """The backbone's tensors in ``path``, on the CPU; no code in the file is run.

    Reads a plain state dict, one under "state_dict_backbone" (insightface), "state_dict" or "backbone", with
    or without DDP's "module."; extra heads of the public code are left out.
    """
    if not Path(path).is_file():
        raise UserError(f"no model file {path}; train it first, or give another path")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a whole PyTorch file of plain tensors ({str(error).splitlines()[0]}); "
                        f"expected the state dict of a backbone") from error
    for inner in ("state_dict_backbone", "state_dict", "backbone"):
        if isinstance(state, dict) and isinstance(state.get(inner), dict):
            state = state[inner]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} holds no state dict; expected the tensors of a backbone by name")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    return {key: value for key, value in state.items() if not key.startswith(EXTRA_HEADS)}


def build(network: str, state: dict[str, Tensor], fp16=False) -> nn.Module:
    """Network ``network`` filled with ``state``; embedding and image size follow from the tensors' shapes."""
    num_features, image_size = shape_of(network, state)
    with torch.device("meta"):
        model = get_model(network, num_features=num_features, image_size=image_size, fp16=fp16)
    model.load_state_dict(state, assign=True)
    return model.eval()


def load_model(network: str, path, fp16=False) -> nn.Module:
    """The model in ``path`` in eval mode, on the CPU; ``model.image_size`` says what it wants to see."""
    if network not in NETWORKS:
        get_model(network)
    state = load_state(path)
    try:
        return build(network, state, fp16)
    except (KeyError, StopIteration, RuntimeError, ValueError, ZeroDivisionError, UserError):
        with torch.device("meta"):
            wanted = get_model(network).state_dict()
        missing = [key for key in wanted if key not in state] + [key for key in state if key not in wanted]
        fits = next((name for name in NETWORKS if name != network and set(state) == set_of_keys(name)), None)
        hint = f"it looks like {fits}" if fits else "give the network that it was trained as"
        first = f"first key that does not fit: {missing[0]}" if missing else "its tensors have other shapes"
        raise UserError(f"{path} does not hold a {network} ({first}); {hint}") from None


def set_of_keys(network: str) -> set[str]:
    with torch.device("meta"):
        return set(get_model(network).state_dict())


def fingerprint(state: dict[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes in the order of the names: the same for a file saved again."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
