"""Write the old features of the new training images: of one view per image (not flipped), raw float32, in record order.

    python tools/get_feature/get_feature.py configs/f128_r18_softmax_class30.py --SD f128_r18_softmax_class70
    torchrun --nproc_per_node=8 tools/get_feature/get_feature.py configs/... --SD ...     (ranks share the work)

reads <config.output>/model.pt and the record file that the last part of --SD names (class100 data100 class70 data70
class30 data30), and writes feature_save/<scenario>/<SD>_feature.npy [images, d] and <SD>_label.npy int64 [images].
A run that was stopped or killed is resumed by the same command.  Any number of ranks writes the same bytes.  Features of
another model or record file are not replaced without --force.
"""

import argparse
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from backbones.weights import fingerprint, load_model, load_state
from engine.distributed import held_by_first_rank, start_ranks
from old_model.extraction import PartialFile, extract, refuse_to_replace
from old_model.names import artefact, part_of
from records.faces import FaceRecords
from utils.command_line import print_written
from utils.config import load_config
from utils.errors import UserError, run
from utils.paths import locate


def check_names(config_path: str, sd: str) -> None:
    """UserError unless the source-and-data name begins like the config's name, up to its last part."""
    start = Path(config_path).stem.rsplit("_", 1)[0]
    if sd.rsplit("_", 1)[0] != start:
        raise UserError(f"--SD {sd} does not belong to {config_path}: expected --SD {start}_<class70, data70, class100 ...>")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("config", help="config file of the old model")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the file")
    parser.add_argument("--SD", required=True, help="source and data: <config's start>_<class70, data100, ...>")
    parser.add_argument("--batch", type=int, default=128, help="images per step and rank")
    parser.add_argument("--fp16", action="store_true", help="half precision: faster, features differ by about 1e-3")
    parser.add_argument("--force", action="store_true", help="replace features of another model or record file")
    parser.add_argument("--local_rank", "--local-rank", type=int, help="given by torch.distributed.launch; not used")
    return parser.parse_intermixed_args()


def main() -> None:
    args = parse_arguments()
    cfg = load_config(args.config, args.overrides)
    check_names(args.config, args.SD)
    ranks = start_ranks()
    weights = Path(cfg.output) / "model.pt"
    if not weights.is_file():
        raise UserError(f"no model {weights}; train it first with train_old_*.py {args.config}")
    model = load_model(cfg.network, weights, fp16=args.fp16).to(ranks.device)
    model.to(memory_format=torch.channels_last)         # type: ignore[call-overload]  # torch's stub lacks it
    records = locate(part_of(args.SD)[1], cfg.dataset)
    dataset = FaceRecords(records, model.image_size)
    origin = {"model": fingerprint(load_state(weights)), "records": dataset.fingerprint(), "images": len(dataset),
              "dim": cfg.embedding_size, "image_size": model.image_size, "fp16": args.fp16}
    targets = [artefact(cfg.feature_save, args.SD, kind) for kind in ("feature", "label")]
    refusal = (f"another extraction, or a process of a killed one, still writes {targets[0]}; wait until it ends, or end it, and "
               f"start again; or give another feature_save=FOLDER")
    with held_by_first_rank(targets[0].with_name(f"{args.SD}.lock"), refusal, ranks):
        for target in targets if not args.force else ():
            refuse_to_replace(target, origin)
        file = PartialFile(targets[0], targets[1], origin | {"batch_size": args.batch}, ranks)
        extract(model, dataset, file, ranks, args.batch, cfg.workers)
        dist.barrier()
        if ranks.rank == 0:
            file.finish(origin | {"model_file": str(weights.resolve()), "record_file": str(dataset.path.resolve())})
            print(f"{len(dataset)} features of {cfg.embedding_size} dimensions")
            print_written(targets[0])
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    run(main)
