"""Model files of PyTorch, ONNX and MXNet behind one interface: images in, embeddings of them and of their mirror images out."""

import copy
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from backbones.weights import fingerprint, load_model, load_state
from records.images import to_input
from utils.errors import UserError
from utils.files import file_hash
from utils.memory import keep_freed_memory
from utils.precision import full_float32, half_precision

Replica = Callable[[Tensor], np.ndarray]    # uint8 [B, S, S, 3] RGB -> float32 [2, B, dim]: images, then mirror images


class EmbeddingModel(Protocol):
    """What the three kinds of models have in common."""

    fingerprint: str            # sha256 of the weights
    image_size: int             # S, pixels
    dim: int
    precision: str              # of the computation: float32, float16, bfloat16, onnx, mxnet
    pixel_scale: float | None   # input is (pixel - 127.5) / pixel_scale; None: the model takes raw pixels, 0 to 255

    def replicas(self) -> list[Replica]:
        """A function per device, each with a copy of the model."""


def open_model(file: str, network: str, devices: list[torch.device], fp16: bool, pixel_scale: float) -> EmbeddingModel:
    """The model in ``file``: NAME.onnx, MXNet's PREFIX,EPOCH, or a PyTorch checkpoint of ``network``.

    network: used for PyTorch only.  pixel_scale: see EmbeddingModel.  UserError if the file is missing or not such a model.
    """
    if file.lower().endswith(".onnx"):
        return OnnxModel(file, devices, fp16, pixel_scale)
    if "," in Path(file).name:
        return MxnetModel(file, devices, fp16, pixel_scale)
    return TorchModel(file, network, devices, fp16, pixel_scale)


def find_devices(name: str) -> list[torch.device]:
    """The devices that --device names: "cpu"; "cuda": all visible GPUs; "cuda:1": that one.  UserError for anything else.

    With "cpu", freed memory is kept for the next batch from now on. It must be called before any thread has its own heap.
    """
    device: torch.device | None
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: expected cpu, cuda (all GPUs) or cuda:K")
    if device.type == "cpu":
        keep_freed_memory()
        return [device]
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise UserError(f"--device {name}: torch sees {count} GPUs; expected one of them, or --device cpu")
    full_float32()
    return [device] if device.index is not None else [torch.device("cuda", i) for i in range(count)]


def both_views(images: Tensor, device: torch.device, pixel_scale: float | None) -> Tensor:
    """Network input float32 [2B, 3, S, S]: images and then mirror images.

    images: uint8 [B, S, S, 3] RGB; pixel_scale: see EmbeddingModel.
    """
    if pixel_scale is None:
        x = images.to(device).permute(0, 3, 1, 2).float()
    else:
        x = to_input(images, device, pixel_scale=pixel_scale)
    return torch.cat([x, x.flip(3)])


class TorchModel:
    """A state dict of one of the networks in backbones/."""

    def __init__(self, file: str, network: str, devices: list[torch.device], fp16: bool, pixel_scale: float):
        self.model = load_model(network, file, fp16=fp16)
        self.devices = devices
        self.pixel_scale: float | None = pixel_scale
        self.fingerprint = fingerprint(load_state(file))
        self.dim, self.image_size = self.model.num_features, self.model.image_size
        half = half_precision(devices[0].type) if fp16 else None
        self.precision = str(half or torch.float32).removeprefix("torch.")

    def replicas(self) -> list:
        # torch's stub of Module.to lacks memory_format.
        models = [copy.deepcopy(self.model).to(device, memory_format=torch.channels_last)     # type: ignore[call-overload]
                  for device in self.devices]
        return [partial(self.embed, *place) for place in zip(models, self.devices, strict=True)]

    @torch.inference_mode()
    def embed(self, model: nn.Module, device: torch.device, images: Tensor) -> np.ndarray:
        out = model(both_views(images, device, self.pixel_scale))
        return out.float().view(2, len(images), -1).cpu().numpy()


class OnnxModel:
    """An ONNX file with input [N, 3, S, S] and the embedding as its first output; N is free or fixed.

    Files converted from MXNet subtract the mean and scale in their first nodes; they are given raw pixels.
    """

    def __init__(self, file: str, devices: list[torch.device], fp16: bool, pixel_scale: float):
        import onnx
        import onnxruntime

        if fp16:
            raise UserError(f"--fp16 works for PyTorch checkpoints only, and {file} is an ONNX file; run without --fp16")
        if not Path(file).is_file():
            raise UserError(f"no model file {file}; expected an ONNX file")
        self.runtime, self.file = onnxruntime, file
        self.cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if devices[0].type == "cuda" and not self.cuda:
            print("the installed onnxruntime does not support CUDA: the model runs on the CPU (pip install onnxruntime-gpu)")
        self.devices = devices if self.cuda else [torch.device("cpu")]
        try:
            model = onnx.load(file, load_external_data=False)
            first_nodes = {node.op_type for node in model.graph.node[:8]}
            weight_files = external_weight_files(file, model)
            session = self.session(torch.device("cpu"))
        except UserError:
            raise
        except Exception as error:      # protobuf and onnxruntime raise many types
            raise UserError(f"{file} is not an ONNX model that onnxruntime can load ({str(error)[:200]}); "
                            f"export it again") from error
        self.pixel_scale = None if {"Sub", "Mul"} <= first_nodes else pixel_scale
        shape = session.get_inputs()[0].shape
        if len(shape) != 4 or shape[1] != 3:
            raise UserError(f"{file} has input of shape {shape}; expected [N, 3, S, S]")
        self.image_size = shape[2] if isinstance(shape[2], int) else 112
        self.batch = shape[0] if isinstance(shape[0], int) else None
        self.fingerprint, self.precision = file_hash([file, *weight_files]), "onnx"
        out = self.embed(session, torch.zeros(1, self.image_size, self.image_size, 3, dtype=torch.uint8))
        self.dim = out.shape[2]

    def session(self, device: torch.device):
        gpu = [("CUDAExecutionProvider", {"device_id": device.index or 0})] if device.type == "cuda" else []
        return self.runtime.InferenceSession(self.file, providers=gpu + ["CPUExecutionProvider"])

    def replicas(self) -> list:
        return [partial(self.embed, self.session(device)) for device in self.devices]

    def embed(self, session, images: Tensor) -> np.ndarray:
        x = both_views(images, torch.device("cpu"), self.pixel_scale).contiguous().numpy()
        step = self.batch or len(x)
        x = np.concatenate([x, np.repeat(x[-1:], -len(x) % step, axis=0)])      # complete batches for a fixed N
        outputs, name = [session.get_outputs()[0].name], session.get_inputs()[0].name
        out = np.concatenate([session.run(outputs, {name: x[i:i + step]})[0] for i in range(0, len(x), step)])
        return out[:2 * len(images)].astype(np.float32).reshape(2, len(images), -1)


def external_weight_files(file: str, model) -> list[str]:
    """The files that hold weights of a large ONNX ``model``.

    UserError if one is missing or outside the model's folder: onnxruntime would read any file of this machine.
    """
    names = set()
    for tensor in tensors(model):
        names |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    for name in sorted(names):
        path = Path(file).parent / name
        if os.path.isabs(name) or os.path.normpath(name).split("/")[0] in ("..", "."):
            raise UserError(f"{file} reads weights from {name[:255]!r}; expected a file in the model's folder: export it again")
        if not path.is_file():
            raise UserError(f"{file} reads weights from {name[:255]!r}, but there is no file {path}; copy both files")
    return [str(Path(file).parent / name) for name in sorted(names)]


def tensors(message):
    """All tensors in an ONNX model (a protobuf message): weights and constants, also those of subgraphs and functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "DESCRIPTOR") else value:     # single or repeated field
                yield from tensors(part)


class MxnetModel:
    """MXNet's PREFIX-symbol.json and PREFIX-EPOCH.params; the embedding is the output of insightface's layer fc1."""

    def __init__(self, file: str, devices: list[torch.device], fp16: bool, pixel_scale: float):
        prefix, _, epoch = file.rpartition(",")
        if fp16 or not epoch.isdigit():
            raise UserError(f"{file}: expected MXNet's PREFIX,EPOCH, for example models/r100/model,0, and no --fp16")
        files = [f"{prefix}-symbol.json", f"{prefix}-{int(epoch):04d}.params"]
        missing = [name for name in files if not Path(name).is_file()]
        if missing:
            raise UserError(f"no file {missing[0]}: expected {' and '.join(files)} for the MXNet model {file}")
        self.mx = import_mxnet(file)
        symbol, self.arg, self.aux = self.mx.model.load_checkpoint(prefix, int(epoch))
        layers = symbol.get_internals()
        outputs = layers.list_outputs()
        if "fc1_output" not in outputs:
            raise UserError(f"{files[0]} has no layer fc1; expected a model of insightface, whose embedding is that layer")
        self.symbol = layers["fc1_output"]
        # insightface's networks compute (x - 127.5) / 128 in their first layers.
        self.pixel_scale = None if any("minusscalar" in name for name in outputs) else pixel_scale
        self.image_size, self.devices = 112, devices
        self.dim = self.symbol.infer_shape_partial(data=(1, 3, 112, 112))[1][0][1]
        self.fingerprint, self.precision = file_hash(files), "mxnet"

    def replicas(self) -> list:
        gpus = self.devices if self.devices[0].type == "cuda" and self.mx.context.num_gpus() else []
        contexts = [self.mx.gpu(device.index or 0) for device in gpus] or [self.mx.cpu()]
        return [partial(self.embed, self.bound(context), context) for context in contexts]

    def bound(self, context):
        module = self.mx.mod.Module(self.symbol, context=context, label_names=None)
        module.bind([("data", (1, 3, self.image_size, self.image_size))], for_training=False)
        module.set_params(self.arg, self.aux, allow_missing=False, allow_extra=True)
        return module

    def embed(self, module, context, images: Tensor) -> np.ndarray:
        x = both_views(images, torch.device("cpu"), self.pixel_scale).contiguous().numpy()
        module.forward(self.mx.io.DataBatch([self.mx.nd.array(x, context)]), is_train=False)
        return module.get_outputs()[0].asnumpy().reshape(2, len(images), -1)


def import_mxnet(file: str):
    try:
        import mxnet
    except (ImportError, AttributeError, OSError) as error:     # AttributeError: numpy has no np.bool any more
        raise UserError(f"{file} is an MXNet model, but mxnet cannot be imported ({error}); make a separate environment with "
                        f"Python <= 3.11, mxnet 1.9.1 and numpy 1.23.5 (without onnx), or convert the model to ONNX") from error
    return mxnet
