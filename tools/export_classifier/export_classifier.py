"""Write the classifier of a training as one array [C, d], from the shards of all ranks, in the order of the classes.

    python tools/export_classifier/export_classifier.py -f work_dirs/f512_r18_arc_class30 -o classifier.npy

-f: the folder of the training (softmax_fc_gpu_*.pt) or of one of its checkpoints (checkpoints/<images>).
-o: a .npy holds the class vectors float32 [C, d]; a .pt holds {"weight": [C, d]} and, with a softmax head, "bias" [C].
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from engine.model_files import classifier_in_checkpoint, whole_classifier
from utils.command_line import Parser, print_written
from utils.errors import UserError, run
from utils.files import written_beside


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("-f", "--folder", type=Path, required=True, help="folder of a training, or of one of its checkpoints")
    parser.add_argument("-o", "--output", type=Path, default=Path("classifier.npy"), help="file to write, .npy or .pt")
    args = parser.parse_args()
    if args.output.suffix not in (".npy", ".pt"):
        raise UserError(f"-o {args.output} must end in .npy or .pt")
    is_checkpoint = (args.folder / "complete.json").is_file()
    whole = classifier_in_checkpoint(args.folder) if is_checkpoint else whole_classifier(args.folder)
    with written_beside(args.output) as part, open(part, "wb") as file:
        if args.output.suffix == ".pt":
            torch.save(whole, file)
        else:
            np.save(file, whole["weight"].float().numpy())
    print(f"{len(whole['weight'])} classes of {whole['weight'].shape[1]} dimensions")
    print_written(args.output)


if __name__ == "__main__":
    run(main)
