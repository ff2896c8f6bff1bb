"""Coverage-guided fuzzing of one reader, by hand: pip install atheris==3.0.0 (not needed by the tests).

    python tests/fuzz/fuzz.py records --runs 50000

It ends with an error, and writes the input to crash-*, timeout-* or oom-*, when a reader raises an undocumented exception,
needs more than 5 seconds or 2 GB, or reads something else than the slow reader does.  Put such an input into
corpus/<target>/.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["records", "backbones.weights", "engine.verification", "evaluation.protocol",
                                         "utils.arrays", "records.images", "pickle", "torch._weights_only_unpickler",
                                         "numpy.lib._format_impl", "zipfile"]):
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from targets import TARGETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=50_000, help="inputs")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    logging.getLogger("bct").setLevel(logging.ERROR)
    target, seeds = TARGETS[args.target]
    accepted = [0, 0]

    def one(data: bytes) -> None:
        accepted[target(data, folder)] += 1
        if sum(accepted) == args.runs:
            print(f"{args.target}: {sum(accepted)} inputs, {accepted[True]} accepted", flush=True)

    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as made:
        folder, corpus = Path(made) / "files", Path(made) / "corpus"
        folder.mkdir(), corpus.mkdir()
        kept = Path(__file__).parent / "corpus" / args.target
        for k, data in enumerate([*seeds(folder), *(file.read_bytes() for file in sorted(kept.glob("*")))]):
            (corpus / str(k)).write_bytes(data)
        atheris.Setup([sys.argv[0], f"-runs={args.runs}", f"-seed={args.seed}", "-timeout=5", "-rss_limit_mb=2048",
                       "-max_len=4096", "-len_control=0", "-print_final_stats=1", str(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
