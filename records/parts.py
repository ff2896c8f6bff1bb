"""Where train_part_*.rec come from: the .json next to each says from which train.rec it was split, and with which ratio."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from records.faces import MAX_LABEL, FaceRecords
from records.recordio import RecordReader
from utils.errors import UserError
from utils.origin import load_origin, short

PART = re.compile(r"train_part_(\d+)_(class|data)")


def is_part(path: Path) -> bool:
    return PART.fullmatch(path.stem) is not None


def origin_of_parts(faces: FaceRecords, ratio: float, out: Path) -> dict:
    """What a part in the folder ``out`` says of its source.  The path is relative: both can be moved together."""
    folder = os.path.relpath(os.path.realpath(faces.path.parent), os.path.realpath(out))
    return {"split_from": str(Path(folder) / faces.path.name), "source": faces.fingerprint(), "source_images": len(faces),
            "ratio": ratio}


def source_of(part: Path) -> dict:
    """The .json of a part; empty if it has none (split elsewhere, or by an older version).  UserError if it is corrupt."""
    about = load_origin(part.with_suffix(".rec"))
    kinds = {"split_from": str, "source": str, "source_images": int, "ratio": float, "records": str}
    if not about or "split_from" not in about:
        return {}
    if any(not isinstance(about.get(key), kind) for key, kind in kinds.items()):
        raise UserError(f"{part.with_suffix('.json')} does not describe {part.name}: expected {', '.join(kinds)}; "
                        f"{split_again(part, {})}")
    return about


def split_again(part: Path, about: dict) -> str:
    """How to replace a part.  about: of :func:`source_of`."""
    folder, ratio, options = part.parent, about.get("ratio", 0.3), ""
    if ratio != 0.3:
        options += f" --ratio {ratio:g}"
    if "/" in (source := about.get("split_from", "")):
        folder = Path(os.path.realpath(part.parent / source.rpartition("/")[0]))
        options += f" --out {part.parent}"
    return f"split again with: python tools/split_dataset/split_dataset_ms1mv3.py --data {folder}{options} --force"


def refuse_other_parts(files: Iterable[Path]) -> None:
    """UserError unless each part among ``files`` (.rec) is the file that its .json describes, and of today's train.rec.

    Also without a train.rec the two halves of a split must be of one split.  A part without .json is not compared.
    """
    known = {part: about for part in files if is_part(part) and (about := source_of(part))}
    today: dict[Path, tuple[str, int]] = {}
    stale: dict[tuple, list[Path]] = defaultdict(list)
    for part, about in known.items():
        if RecordReader(part).fingerprint() != about["records"]:
            raise UserError(f"{part} is not the file that {part.with_suffix('.json').name} describes; copy both again, or "
                            f"{split_again(part, about)}")
        train = part.parent / about["split_from"]
        if train.is_file() and train not in today:
            faces = FaceRecords(train, image_size=1, num_classes=MAX_LABEL)
            today[train] = faces.fingerprint(), len(faces)
        if train in today and today[train][0] != about["source"]:
            stale[train.name, about["source_images"], today[train][1], split_again(part, about)].append(part)
    for (name, before, now, remedy), old in stale.items():
        names = ", ".join(part.name for part in old)
        raise UserError(f"{names} in {old[0].parent} {'were' if len(old) > 1 else 'was'} split from another {name} ({before} "
                        f"images then, {now} now); {remedy}")
    for part, about in known.items():
        refuse_other_half(part, about)


def refuse_other_half(part: Path, about: dict) -> None:
    """UserError if the other half next to ``part`` is of another train.rec or ratio: an image could then be in both."""
    percent, kind = PART.fullmatch(part.stem).groups()      # type: ignore[union-attr]  # only parts come here
    other = part.with_name(f"train_part_{100 - int(percent)}_{kind}.rec")
    there = source_of(other) if other.is_file() else {}
    if there and any(about[key] != there[key] for key in ("source", "ratio")):
        splits = "; ".join(f"{side['source_images']} images, fingerprint {short(side['source'])}, ratio {side['ratio']:g}"
                           for side in (about, there))
        raise UserError(f"{part.name} and {other.name} in {part.parent} are of two splits ({splits}): an image can be in both; "
                        f"{split_again(part, about)}")
