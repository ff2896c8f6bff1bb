"""The command line of gallery.py."""

import argparse
from pathlib import Path

import torch

from evaluation.detect import CHOICES
from utils.command_line import Help, Parser, at_least

WRITES = 2000.0         # entries/s of a store, the default of --writes


def common(parser: argparse.ArgumentParser, upgrade: bool) -> None:
    add = parser.add_argument
    add("--store", required=True, metavar="URI", help="the vector store")
    add("--collection", metavar="NAME", help="the table of the old entries (default: the only one)")
    add("--id-column", metavar="NAME", help="column of the ids (default: LanceDB id; otherwise the primary key)")
    add("--vector-column", metavar="NAME", help="column of the vectors (default: the only one)")
    add("--json", action="store_true", help="print JSON instead of a table")
    if upgrade:
        add("--upgrade", type=Path, required=True, metavar="FILE", help="upgrade.json of tools/compare")
        add("--new", metavar="NAME", help="the new version (default: the only one in upgrade.json)")


def model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", metavar="FILE[:NETWORK][,WORDS]", help="the model, as for tools/compare: NEW.onnx, NEW.pt:r50, "
        "NEW.onnx,input=raw,bgr")
    add("--resize", action="store_true", help="shrink larger square images (they must be aligned)")
    add("--detector", type=Path, metavar="FILE.onnx", help="the images are photographs: find the face with this model (YuNet) "
        "and align it")
    add("--face", choices=CHOICES, default=CHOICES[0], help="of several faces: the largest, or the nearest to the centre")
    add("--min-score", type=float, default=0.7, help="smallest score of the detector that counts as a face, 0 to 1")
    add("--fp16", action="store_true", help="half precision for .pt files")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda or cuda:K")


def source_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--images", type=Path, metavar="FOLDER|FILE.csv", help="images by id: a folder, or a table of id,path")
    add("--vectors", type=Path, metavar="FILE", help="new vectors, instead of images and a model: .npy, .npz, .csv or .parquet "
        "(a version with a forward map needs none of the three: the stored vectors are mapped)")
    add("--ids", type=Path, metavar="FILE.txt", help="ids of a .npy, one a line")
    add("--order", metavar="ORDER", help="random, norm, or a column of numbers, lowest first (default: that of upgrade.json; "
        "random if stored vectors are mapped)")
    add("--rate", type=at_least(0.001, float), metavar="N", help="images per second: the limit, and what a plan counts with")


def parse_arguments(text: str) -> argparse.Namespace:
    """text: the description of the tool."""
    parser = Parser(text)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=argparse.ArgumentParser)
    one = {name: commands.add_parser(name, help=text, description=text, formatter_class=Help) for name, text in (
        ("plan", "check everything and print cost and expected figures; nothing is written"),
        ("reembed", "give entries their new vectors, in the order of the plan"),
        ("search", "find images, or query vectors in a .npy, in both tables"),
        ("status", "where a re-embedding is"),
        ("rollback", "bring the old vectors back"),
        ("finish", "remove the old vectors for good"))}
    for name, sub in one.items():
        common(sub, name in ("plan", "reembed", "search"))
    for name in ("plan", "reembed"):
        source_options(one[name])
    for name in ("plan", "reembed", "search"):
        model_options(one[name])
    add = one["plan"].add_argument
    add("--old-model", metavar="FILE[:NETWORK]", help="the old model: embed a sample again and compare it with the store")
    add("--workers", type=at_least(1, int), default=1, help="workers that the plan counts with")
    add("--writes", type=at_least(1, float), default=WRITES, help="entries per second that the store takes")
    add("--entries", type=at_least(1, float), metavar="N", help="count with N entries instead of those of the store")
    add = one["reembed"].add_argument
    add("--share", type=float, default=1.0, help="share of the order at which to stop, 0 to 1")
    add("--limit", type=at_least(1, int), metavar="N", help="stop after N entries")
    add("--lease", type=at_least(1, float), default=300.0, metavar="SECONDS", help="time after which another worker takes over "
        "the range of a worker that was killed; more than 256 images need")
    add = one["search"].add_argument
    add("queries", nargs="+", type=Path, metavar="IMAGE", help="images; or one .npy of query vectors [n, d]")
    add("--query-version", metavar="NAME", help="version of the queries (default: the new one)")
    add("--top", type=at_least(1, int), default=10, help="hits for each query")
    add("--far", type=float, metavar="RATE", help="decide at this false accept rate, one that upgrade.json has")
    one["finish"].add_argument("--yes", action="store_true", help="remove them; without it, print what would be removed")
    return parser.parse_args()
