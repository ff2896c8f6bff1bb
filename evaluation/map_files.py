"""Maps as .npz files (map_onnx.py: as ONNX).

weight [d_in, d_out], bias [d_out], for a residual MLP also hidden_weight [d_in, h], hidden_bias [h], hidden_out [h, d_out];
direction ("new to old" or "old to new"), kind, strength, error (squared, per held-out row of norm 1), images (number it was
fitted on); models: what is known about the "new" and the "old" model whose features it was fitted on, as JSON.
"""

import json
from pathlib import Path

import numpy as np

from evaluation.map_forms import Map
from evaluation.maps import BACKWARD, FORWARD, Fitted
from utils.arrays import read_npz
from utils.errors import UserError
from utils.files import written_beside

HIDDEN = ("hidden_weight", "hidden_bias", "hidden_out")


def save_map(path: Path, fitted: Fitted, direction: str, models: dict[str, dict] | None = None) -> None:
    """Write the .npz; UserError if it cannot be written.  models: {"new", "old": fingerprint and input of a model}, if known."""
    arrays = {"weight": fitted.map.weight, "bias": fitted.map.bias} | dict(zip(HIDDEN, fitted.map.hidden or (), strict=False))
    facts = {"direction": direction, "kind": fitted.kind, "strength": fitted.strength, "error": fitted.error,
             "images": fitted.images, "models": json.dumps(models or {})}
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


def models_of(path: Path) -> dict[str, dict]:
    """{"new", "old": what is known about the model} of a map; empty if nothing is.  UserError if it cannot be read."""
    try:
        models = json.loads(str(read_npz(path, ("models",)).get("models", "{}")))
        return {side: dict(about) for side, about in models.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not say which models it belongs to ({error}); fit it again with tools/adapt") from error


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
