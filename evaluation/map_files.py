"""Maps as .npz files (map_onnx.py: as ONNX).

weight [d_in, d_out], bias [d_out], for a residual MLP also hidden_weight [d_in, h], hidden_bias [h], hidden_out [h, d_out];
direction ("new to old" or "old to new"), kind, strength, error (squared, per held-out row of norm 1), images (number it was
fitted on), old_model and new_model (fingerprints of the models whose features these were; empty: unknown).
"""

from pathlib import Path

import numpy as np

from evaluation.map_forms import Map
from evaluation.maps import BACKWARD, FORWARD, Fitted
from utils.arrays import read_npz
from utils.errors import UserError
from utils.files import written_beside
from utils.origin import short

HIDDEN = ("hidden_weight", "hidden_bias", "hidden_out")


def save_map(path: Path, fitted: Fitted, direction: str, old_model: str | None = None, new_model: str | None = None) -> None:
    """Write the .npz; UserError if it cannot be written.  old_model, new_model: fingerprints, None: unknown."""
    arrays = {"weight": fitted.map.weight, "bias": fitted.map.bias} | dict(zip(HIDDEN, fitted.map.hidden or (), strict=False))
    facts = {"direction": direction, "kind": fitted.kind, "strength": fitted.strength, "error": fitted.error,
             "images": fitted.images, "old_model": old_model or "", "new_model": new_model or ""}
    members = arrays | {name: np.array(value) for name, value in facts.items()}
    with written_beside(path) as part, open(part, "wb") as file:
        np.savez(file, allow_pickle=False, **members)


def load_map(path: Path) -> tuple[Map, str, float]:
    """(the map, its direction, its held-out error) of an .npz; UserError if it is not one of :func:`save_map`."""
    try:
        arrays = read_npz(path, ("weight", "bias", *HIDDEN, "direction", "error"))
        direction, error = str(arrays["direction"]), float(arrays["error"])
        hidden = tuple(arrays[name] for name in HIDDEN if name in arrays)
        mapping = Map(arrays["weight"], arrays["bias"], hidden or None)         # type: ignore[arg-type]
        check_shapes(mapping)
        if direction not in (BACKWARD, FORWARD):
            raise ValueError(f"its direction is {direction[:50]!r}")
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{path} is not a map ({problem}); expected an .npz that tools/adapt/adapt.py wrote") from problem
    return mapping, direction, error


def check_models(path: Path, old: tuple[str, dict], new: tuple[str, dict]) -> None:
    """UserError if a map was fitted on features of other models.  old, new: name of a version, and facts as in Features.about."""
    arrays = read_npz(path, ("old_model", "new_model"))
    for side, (name, about) in (("old_model", old), ("new_model", new)):
        fitted, expected = str(arrays.get(side, "")), about.get("fingerprint")
        if fitted and expected and fitted != expected:
            raise UserError(f"{path} was fitted on features of another model (fingerprint {short(fitted)}) than {name} "
                            f"({short(expected)}); fit it again on features of these two models")


def check_shapes(mapping: Map) -> None:
    """ValueError if the arrays are not finite float32 or do not fit together."""
    arrays = [mapping.weight, mapping.bias, *(mapping.hidden or ())]
    shapes: list[tuple] = [array.shape for array in arrays]
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays):
        raise ValueError("it holds numbers that are not float32 or not finite")
    if len(shapes[0]) != 2:
        raise ValueError(f"its weight is {list(shapes[0])}")
    d_in, d_out = shapes[0]
    width = shapes[2][-1] if len(shapes) > 2 else 0
    if shapes not in ([(d_in, d_out), (d_out,)], [(d_in, d_out), (d_out,), (d_in, width), (width,), (width, d_out)]):
        raise ValueError(f"its arrays are {[list(shape) for shape in shapes]}")


def map_name(file: Path) -> str:
    """What a map is called in a comparison: its file's name, or for the map.npz of a training its folder's name."""
    return file.absolute().parent.name if file.name == "map.npz" else file.stem


def fitted_files(texts: list[str], versions: set[str], old: str) -> dict[str, tuple[str, Path]]:
    """{name of the mapped version: (its version, file of the map)} from NAME=FILE.npz; UserError if one is wrong.

    versions: all names, with that of the ``old`` one, which has no maps.
    """
    maps: dict[str, tuple[str, Path]] = {}
    for text in texts:
        name, _, file = text.partition("=")
        mapped = f"{name}+{map_name(Path(file))}"
        if name not in versions - {old} or mapped in versions | set(maps):
            raise UserError(f"--fitted {text}: expected one of {', '.join(sorted(versions - {old}))} before the = and file names "
                            f"that differ after it")
        load_map(Path(file))            # a wrong file is reported before hours of embedding
        maps[mapped] = name, Path(file)
    return maps
