"""Write a trained backbone as an ONNX file, float32, for any number of images, and compare it with PyTorch.

    python tools/export_onnx/export_onnx.py -m work_dirs/NEW/model.pt -net r50 -o new.onnx
    python tools/export_onnx/export_onnx.py -m work_dirs/NEW/model.pt -net r50 --opset 19      for onnxruntime 1.16

Input "input" float32 [N, 3, S, S], RGB, (pixel - 127.5) / 127.5; output "embedding" float32 [N, d], not
normalised.  A runtime reads files up to its own opset: onnxruntime 1.14 18, 1.16 19, 1.17 20, 1.18 21.
"""

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from backbones.backbone import Backbone
from backbones.weights import load_model
from utils.command_line import Parser, print_written
from utils.errors import UserError, run
from utils.files import disk_errors, put_in_place
from utils.parts import new_part

PROTOBUF_LIMIT = 2 ** 31 - 2 ** 20      # bytes of weights; a larger model has them in NAME.onnx.data, in the same folder
OPSET = 18                              # the exporter's own; other ones are converted from it
OLDEST = 16                             # oldest opset that was tried
TOLERANCE = 1e-3                        # difference to PyTorch, relative to the largest value; measured: about 1e-6


def export(model: Backbone, file: Path, opset: int = OPSET) -> None:
    """Write ``model`` (in eval mode, for images of model.image_size) to ``file``, for any number of images.

    opset: version of ONNX's operators; the version of the file format is the oldest that has them.  UserError if the exporter
    cannot write this opset.

    strict=True, because the quicker exporter takes len(tensor) for a constant, which fixes the number of images.
    """
    size = model.image_size
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    for name in ("torch.onnx", "onnxscript"):                       # they warn that torchvision is missing, and on conversions
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)              # torch warns about its own use of pytrees
        any_number = ({0: torch.export.Dim("N")},)
        images = torch.zeros(2, 3, size, size)
        program = torch.export.export(model, (images,), dynamic_shapes=any_number, strict=True)
        torch.onnx.export(program, (), str(file), input_names=["input"], output_names=["embedding"], opset_version=opset,
                          dynamic_shapes=any_number, external_data=weights > PROTOBUF_LIMIT, verbose=False, dynamo=True)
    written = onnx.load(str(file), load_external_data=False)
    opsets = [entry.version for entry in written.opset_import if entry.domain == ""]
    if opsets != [opset]:               # where its conversion fails, the exporter only warns
        raise UserError(f"--opset {opset}: the exporter wrote opset {opsets[0]} instead; choose {OPSET}")
    written.ir_version = onnx.helper.find_min_ir_version_for(list(written.opset_import))
    file.write_bytes(written.SerializeToString())


@torch.inference_mode()
def difference(model: Backbone, file: Path, batches: tuple[int, ...] = (1, 3)) -> tuple[float, float]:
    """(largest difference between onnxruntime and PyTorch, largest embedding value) over batches of random images."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    generator, results = torch.Generator().manual_seed(0), []
    for n in batches:
        x = torch.rand(n, 3, model.image_size, model.image_size, generator=generator) * 2 - 1
        expected = model(x).numpy()
        results.append((np.abs(session.run(["embedding"], {"input": x.numpy()})[0] - expected).max(),
                        np.abs(expected).max()))
    largest, scale = np.max(results, axis=0)
    return float(largest), float(scale)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("-m", "--model_file", required=True, metavar="FILE", help="model.pt of a backbone")
    parser.add_argument("-net", "--network", default="r50", help="network of the model, as in the configs")
    newest = onnx.defs.onnx_opset_version()
    parser.add_argument("--opset", type=int, default=OPSET, metavar="N", choices=range(OLDEST, newest + 1),
                        help=f"version of ONNX's operators, {OLDEST} to {newest}")
    parser.add_argument("-o", "--output", metavar="FILE.onnx", help="file to write (default: name of the model, .onnx)")
    args = parser.parse_args()
    output = Path(args.output) if args.output else Path(args.model_file).with_suffix(".onnx")
    if output.suffix != ".onnx":
        raise UserError(f"-o {output}: expected a name that ends in .onnx")

    model = load_model(args.network, args.model_file)
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(output), new_part(output, folder=True) as folder:
        export(model, folder / output.name, args.opset)
        try:
            largest, scale = difference(model, folder / output.name)
        except Exception as error:      # onnxruntime raises many types
            raise UserError(f"the installed onnxruntime {onnxruntime.__version__} cannot run opset {args.opset}, so the file was "
                            f"not compared with PyTorch; nothing was written: choose --opset {OPSET}") from error
        if not largest <= TOLERANCE * scale:
            raise UserError(f"the ONNX form of {args.model_file} differs from PyTorch by {largest:.2e}, expected at "
                            f"most {TOLERANCE * scale:.2e}; nothing was written: install the versions in requirements.txt")
        for written in sorted(folder.iterdir(), reverse=True):    # NAME.onnx.data before NAME.onnx
            put_in_place(written, output.parent / written.name)
    size = model.image_size
    print(f"input [N, 3, {size}, {size}], embedding [N, {model.num_features}], opset {args.opset}")
    print(f"largest difference to PyTorch {largest:.2e}; the largest value of an embedding is {scale:.2e}")
    print_written(output)


if __name__ == "__main__":
    run(main)
