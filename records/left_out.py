"""What is left out of a folder of photographs: one table on the terminal, one list in a file, and the refusal."""

import sys
from pathlib import Path

from prettytable import PrettyTable

from records.folders import LOOSE, LeftOut, Tree, shown
from utils.errors import UserError
from utils.files import write_text

LIST = "left_out.txt"       # in the folder of the results
EXAMPLES = 3                # names of a kind in the table
NAMED = 40                  # names in a refusal; if there are more, the list is written


def table(tree: Tree, items: list[LeftOut]) -> str:
    """A row for each reason: how many, and the first names."""
    kinds: dict[str, list[LeftOut]] = {}
    for item in items:
        kinds.setdefault(item.kind, []).append(item)
    made = PrettyTable(["left out", "number", "for example"], align="l")
    for kind, same in sorted(kinds.items()):
        more = ", ..." if len(same) > EXAMPLES else ""
        made.add_row([kind, len(same), ", ".join(shown(item.path.relative_to(tree.folder)) for item in same[:EXAMPLES]) + more])
    return made.get_string()


def write_list(tree: Tree, out: Path) -> Path | None:
    """Write <out>/left_out.txt, a line "path<TAB>reason" for each file and folder; remove that of an earlier run if none is."""
    file = out / LIST
    if not tree.left_out:
        file.unlink(missing_ok=True)
        return None
    rows = sorted((shown(item.path), item.kind + (f": {shown(item.detail)}" if item.detail else "")) for item in tree.left_out)
    write_text(file, "".join(f"{path}\t{reason}\n" for path, reason in rows))
    return file


def count(items: list) -> str:
    return "1 file or folder" if len(items) == 1 else f"{len(items):,} files and folders"


def refuse_bad(tree: Tree, out: Path, skip_bad: bool, remedies: dict[str, str]) -> None:
    """Print what is left out, once.  UserError that names everything that the user must decide about, unless ``skip_bad``.

    out: folder of the results, for the list if the names are too many for the terminal.  remedies: {kind: what to do}, besides
    --skip-bad.  UserError, too, if nobody is left.
    """
    folder = shown(tree.folder)
    bad = [] if skip_bad else sorted((item for item in tree.left_out if item.bad), key=lambda item: (item.kind, item.path))
    rest = [item for item in tree.left_out if skip_bad or not item.bad]
    if rest:
        print(f"warning: {count(rest)} of {folder} left out:\n{table(tree, rest)}", file=sys.stderr)
    if bad:
        names = [f"{shown(item.path)}: {item.kind}" + (f" ({shown(item.detail)})" if item.detail else "") for item in bad[:NAMED]]
        if len(bad) > NAMED:
            names.append(f"... and {len(bad) - NAMED:,} more: {write_list(tree, out)} has all of them")
        ways = "".join(f", or {way}" for kind, way in remedies.items() if any(item.kind == kind for item in bad))
        raise UserError("\n    ".join([f"{count(bad)} of {folder} cannot be used:", *names]) +
                        f"\ncorrect or remove what is named{ways}, or leave all of it out with --skip-bad; no result was written")
    if not tree.people:
        loose = " (there are pictures in it, but no folders of people)" if any(item.kind == LOOSE for item in rest) else ""
        raise UserError(f"{folder} has no folders with images that can be used{loose}; expected {folder}/person/*.jpg")
