"""All measurements on one GPU in one command, each part with a time of its own, the results written after each measurement.

    bash benchmarks/gpu.sh                                  8 minutes on the first GPU
    bash benchmarks/gpu.sh --minutes 12 --records LFW/ms1m-retinaface-t1 --ijb LFW/ijb --wheels wheels --out results
    bash benchmarks/gpu.sh --parts steps,kernels            only these parts
    bash benchmarks/gpu.sh --device cpu --dry               the same code with tiny sizes, to test it without a GPU

Writes OUT/results.json and OUT/results.md, OUT/log/<part>.log with all other output, and OUT/trace.json.gz, the profile.
Nothing is installed.  Exit code 1: a part or a measurement ended with an error; the others were done.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.gpu_parts.job import DRY, REAL
from benchmarks.gpu_parts.plan import PARTS, Run
from benchmarks.gpu_parts.results import write_results
from utils.command_line import at_least, make_folder
from utils.errors import UserError, run


def parse_arguments() -> argparse.Namespace:
    summary, examples = __doc__.split("\n\n", 1)
    parts = "\n".join(f"  {part.name:12} {part.seconds:4} s  {part.title}" for part in PARTS)
    parser = argparse.ArgumentParser(prog="gpu.sh", formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description=f"{summary}\n\n{examples}",
                                     epilog=f"parts, with their seconds of a run of 8 minutes:\n{parts}")
    add = parser.add_argument
    add("--minutes", type=at_least(0.1, float), default=8, help="minutes of the whole run, which may end 20 s later (default: 8)")
    add("--device", default="cuda", choices=["cuda", "cpu"], help="cuda: the first GPU (default)")
    add("--dry", action="store_true", help="tiny sizes: the figures mean nothing")
    add("--out", type=Path, help="folder of the results (default: work_dirs/gpu_<date>)")
    add("--wheels", type=Path, metavar="DIR", help="folder of .whl files of missing packages, unpacked for this run only")
    add("--records", type=Path, help="folder of train.rec and train.idx, for the part trainings")
    add("--ijb", type=Path, help="folder that holds IJBC/, for the part trainings")
    add("--parts", default=",".join(part.name for part in PARTS), help="names of parts, separated by commas (default: all)")
    return parser.parse_args()


def chosen_parts(names: str) -> list:
    known = {part.name: part for part in PARTS}
    unknown = [name for name in names.split(",") if name not in known]
    if unknown:
        raise UserError(f"--parts {names}: there is no part '{unknown[0]}'; expected some of {','.join(known)}")
    return [part for part in PARTS if part.name in names.split(",")]


def wheels_in(folder: Path) -> list[Path]:
    """The wheels of a folder; UserError if there is none, or one that is not whole."""
    files = sorted(folder.glob("*.whl"))
    if not files:
        raise UserError(f"expected .whl files in the folder {folder}, found none; give another --wheels")
    for file in files:
        if not zipfile.is_zipfile(file):
            raise UserError(f"{file} is not a whole .whl file; copy it again")
    return files


def carry(wheels: list[Path], folder: Path) -> None:
    """Unpack the wheels into ``folder``; this process and those that it starts import from there first."""
    for file in wheels:
        with zipfile.ZipFile(file) as packed:
            packed.extractall(folder)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def stop(*_) -> None:
    raise SystemExit(143)               # the usual exit code after SIGTERM; what was started is ended on the way out


def main() -> None:
    args = parse_arguments()
    parts, wheels = chosen_parts(args.parts), wheels_in(args.wheels) if args.wheels else []
    if (args.records is None) != (args.ijb is None):
        raise UserError("--records and --ijb belong together: expected both or neither")
    out = (args.out or ROOT / f"work_dirs/gpu_{time.strftime('%Y%m%d-%H%M%S')}").resolve()
    if (out / "results.json").exists():
        raise UserError(f"{out} holds the results of an earlier run; give another --out")
    make_folder(out / "log", "--out")
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory() as scratch:
        carry(wheels, Path(scratch) / "wheels")
        measure = Run(args.device, DRY if args.dry else REAL, 60 * args.minutes, out, Path(scratch), args.records, args.ijb)
        about, results = measure(parts)
    write_results(out, about, results)
    print((out / "results.md").read_text())
    failed = [result.name for result in results if result.errors]
    if failed:
        raise UserError(f"errors in {', '.join(failed)}; their output is in {out / 'log'}")


if __name__ == "__main__":
    run(main)
