"""upgrade.json: what a search system needs of this comparison while the gallery is upgraded (serving/upgrade.py reads it).

Everything in it is about the first training of each version.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from evaluation.bootstrap import CONFIDENCE
from evaluation.formats import tidy
from evaluation.map_files import save_map
from evaluation.maps import BACKWARD, FORWARD, Fitted
from evaluation.score_maps import fit_score_map, impostors_between
from evaluation.version_features import identity
from evaluation.versions import Versions
from evaluation.view_files import folder_of, view_file
from serving.upgrade import FORMAT, Upgrade
from tools.compare.report import Comparison
from utils.files import disk_errors, file_hash, write_text, written_beside

NAME = "upgrade.json"
SAME = {"kind": "same"}
CONTRACT = ("fingerprint", "image_size", "input", "colours", "output", "precision", "norm", "normalised")


def write_upgrade(comparison: Comparison, report: dict, out: Path) -> str | None:
    """Write <out>/upgrade.json and the maps that it names; a sentence if it cannot be made, and then there is none."""
    with disk_errors(out / NAME):
        (out / NAME).unlink(missing_ok=True)
    pairs = [(comparison.versions.old,) * 2]
    pairs += [(name, entry) for name in report["upgrades"] for entry in (comparison.versions.old, name)]
    described = [pair_of(comparison, *names) for names in pairs]
    if None in described:
        return (f"there is no {NAME}, because the gallery has too few entries of different people for a score map: their scores "
                f"with each other tell how often two people are that similar")
    views: dict[str, dict] = {}
    for query, entry in pairs:
        views.setdefault(query, {})[entry] = view_of(comparison, query, entry, out)
    names = [comparison.versions.old, *report["upgrades"]]
    content = {"format": FORMAT, "written_by": report["command"], "data": report["evaluation"]["name"], "old": names[0],
               "new": names[1:], "versions": {name: contract(name, comparison) for name in names}, "views": views,
               "pairs": described, "order": order_of(report)}
    content |= {"curve": {name: curve_of(report, name, content["order"]["name"]) for name in names[1:]},
                "verdict": {name: verdict_of(report, name) for name in names[1:]}}
    content = tidy(content)
    Upgrade(content, out)               # what its reader would refuse is never written
    write_text(out / NAME, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return None


def pair_of(comparison: Comparison, query: str, entry: str) -> dict | None:
    """Thresholds and score map of queries of one version on entries of another; None without a map."""
    versions, evaluation = comparison.versions, comparison.evaluation
    rows, subjects = evaluation.gallery_rows()["1:N"], evaluation.subjects[0]
    impostors = impostors_between(versions.features[query], versions.features[entry], rows, subjects)
    score_map = fit_score_map(impostors)
    if score_map is None:
        return None
    return {"query": query, "entry": entry, **comparison.points[query, entry],
            "score_map": score_map.to_json() | {"impostors": len(impostors)}, "impostors": evaluation.negatives()["1:1"]}


def view_of(comparison: Comparison, query: str, entry: str, out: Path) -> dict:
    """How queries of one version and entries of another are compared; a map is written next to upgrade.json."""
    versions = comparison.versions
    source = map_between(versions, query) if entry == versions.old else None
    if source is None:
        return {"dimension": versions.features[query].dim, "query": SAME, "entry": SAME}
    origin, direction = source
    file = out / f"{query}.npz"
    if not isinstance(origin, Path):
        abouts = {"new": versions.features[query].about, "old": versions.features[versions.old].about}
        save_map(file, origin, direction, {side: identity(about) for side, about in abouts.items()})
    elif not (file.exists() and file.samefile(origin)):
        with written_beside(file) as part:
            shutil.copyfile(origin, part)
    form = {"kind": "map", "file": file.name, "sha256": file_hash([file])}
    sides = (SAME, form) if direction == FORWARD else (form, SAME)
    compared = versions.features[query].against(versions.features[entry])
    assert compared is not None, "a version with a map or a view has two views"
    return {"dimension": compared[0].shape[1], "query": sides[0], "entry": sides[1]}


def map_between(versions: Versions, query: str) -> tuple[Fitted | Path, str] | None:
    """(map between a version and the old one or its file, the side that it is for); None: they are compared as they are."""
    asking, old = versions.features[query], versions.features[versions.old]
    if query in versions.map_sources or asking.against(old) is None:
        return versions.map_sources.get(query)
    if old.dim in asking.compatible:
        return view_file(folder_of(versions.files[query][0].file), old.dim), BACKWARD
    return view_file(folder_of(versions.files[versions.old][0].file), asking.dim), FORWARD      # the old version's own view


def contract(name: str, comparison: Comparison) -> dict:
    """What a vector of this version is; None where the comparison read vectors of an unknown model."""
    versions = comparison.versions
    features = versions.features[name]
    model = name if name in versions.files else next(known for known in versions.files
                                                     if versions.features[known].gallery is features.gallery)
    version = versions.files[model][0]
    facts = {"model": model, "file": version.file, "network": version.network, "dimension": features.dim}
    return facts | {"similarity": "cosine"} | {key: features.about.get(key) for key in CONTRACT}


def order_of(report: dict) -> dict:
    """The order of re-embedding with the largest mean of the first headline figure on the way, over all candidates."""
    metric = report["headline"][0]
    areas: dict[str, list[float]] = {}
    for upgrade in report["upgrades"].values():
        for order, curve in upgrade.get("backfill", {}).items():
            if metric in curve["values"]:
                areas.setdefault(order, []).append(curve.get("mapped", curve)[metric]["auc"])
    name = max(areas, key=lambda order: np.mean(areas[order])) if areas else "random"
    quality = name.removeprefix("lowest ").removesuffix(" first") if name.startswith("lowest ") else None
    return {"name": name, "quality": quality, "first": "lowest" if quality else None}


def curve_of(report: dict, name: str, order: str) -> dict:
    """{headline figure: order, share re-embedded, and its mean along the order, raw and with mapped scores}."""
    curve = report["upgrades"][name].get("backfill", {}).get(order)
    if curve is None:
        return {}
    figures = [metric for metric in report["headline"] if metric in curve["values"]]
    return {metric: {"order": order, "share": curve["share"], "raw": np.mean(curve["values"][metric], axis=0),
                     "mapped": np.mean(curve["mapped"]["values"][metric], axis=0)} for metric in figures}


def verdict_of(report: dict, name: str) -> dict:
    """The answer for a candidate and the figure that decided it, with its interval."""
    upgrade = report["upgrades"][name]
    entry = upgrade["criterion"].get(upgrade["decided by"], {})
    return {"answer": upgrade["overall"], "figure": upgrade["decided by"], "difference": entry.get("difference"),
            "interval": entry.get("interval"), "margin": report["margin"], "confidence": CONFIDENCE if report["draws"] else None}
