"""Check before a training that everything it needs is there and right; one table with all faults.

    python tools/check/check.py BCT_Methods/MixBCT/configs/OPclass_ms1mv3_r18_to_r50_MixBCT_softmax_to_arc_f128.py
    python tools/check/check.py configs/f128_r18_softmax_class30.py dataset=dataset/mine --ranks 1 --all

Looks at settings, record file, labels, images (a sample; --all: every one), old features, credible marks and prototypes (every
byte), verification sets, room on the disk and GPU memory.  Exit code 0: ready; 1: something is missing or wrong.
"""

import argparse
import logging
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from engine.cost import pretended_ranks
from engine.method import Method
from engine.parts import new_backbone, new_head
from losses import PartialFC
from records.faces import FaceRecords
from tools.check.old_model_rows import look_at_old_model, look_at_order
from tools.check.record_rows import ROWS_WITHOUT_ALL, look_at_records, look_at_verification
from tools.check.report import MISSING, OK, WARNING, Report, WarningRows
from tools.check.resource_rows import look_at_disk, look_at_gpu, look_at_shared_memory
from tools.check.setting_rows import classes_of, look_at_output, read_settings, script_of
from utils.command_line import Parser, at_least
from utils.errors import UserError, run


def check(args: argparse.Namespace) -> Report:
    """All rows on the training of the command line ``args``."""
    report = Report()
    log = logging.getLogger("bct")
    log.handlers, log.propagate = [WarningRows(report)], False
    cfg = read_settings(Path(args.config), args.overrides, report)
    if cfg is None:
        return report
    script = Path(args.script) if args.script else script_of(Path(args.config))
    classes = report.attempt("method", lambda: classes_of(script))
    method_class, head_class = classes or (Method, PartialFC)
    if classes is not None:
        report.add("config", f"{args.config}: {method_class.__name__}, trained by {os.path.relpath(script)}")
    report.attempt("settings", lambda: new_backbone(cfg, device="meta"))
    problems_of_settings = report.problems()
    report.row("shared memory", lambda: look_at_shared_memory(args.ranks))
    opened = look_at_records(cfg, args.ranks, args.all, report)
    report.row("output", lambda: look_at_output(cfg, opened[1] if opened else None, classes))
    look_at_verification(cfg, report)
    if opened is None:
        if method_class is not Method:
            report.add("old features", "not compared: the record file that they belong to is missing or wrong", MISSING)
        return report
    faces, data = opened
    with pretended_ranks(args.ranks):
        head = report.attempt("settings", lambda: new_head(cfg, head_class, data.classes, cfg.sample_rate, device="meta"))
        method = look_at_old_model(cfg, data, method_class, args.all, report)
        if isinstance(faces, FaceRecords) and any(what == "old_feature" and verdict in (OK, WARNING)
                                                  for what, _, verdict in report.rows):
            report.row("order of rows", partial(look_at_order, cfg, data, faces))
        if head is not None and not problems_of_settings:
            report.row("disk", lambda: look_at_disk(cfg, data, args.ranks, method))
            report.row("GPU memory", lambda: look_at_gpu(cfg, data, args.ranks, head_class, method))
    return report


def parse_arguments() -> argparse.Namespace:
    assert __doc__ is not None
    parser = Parser(__doc__)
    add = parser.add_argument
    add("config", help="config file of a training: an old model's or a method's")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="settings that override the file, as for the training")
    add("--ranks", type=at_least(1, int), default=8, help="processes (GPUs) of the training, on all nodes together")
    add("--all", action="store_true", help=f"decode every image (in several processes) and search every row of the old features "
        f"for NaN, instead of {ROWS_WITHOUT_ALL:,} of each")
    add("--script", metavar="FILE", help="training script (default: train.py next to the config's folder, else train_old_*.py)")
    return parser.parse_intermixed_args()


def main() -> None:
    report = check(parse_arguments())
    print(report)
    if report.problems():
        raise UserError(f"{report.problems()} of {len(report.rows)} rows are missing or wrong: see the table")
    print("ready")


if __name__ == "__main__":
    run(main)
