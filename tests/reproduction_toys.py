"""A small reproduction, from its command line."""

import sys

from tools.reproduce.reproduce import Recipe, parse_arguments

SMALL = ["network=mbf", "image_size=16", "batch_size=4", "num_epoch=1", "workers=0", "val_targets=[]"]


def recipe(monkeypatch, *words) -> Recipe:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *map(str, words)])
    return Recipe(parse_arguments())
