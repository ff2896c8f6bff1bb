"""The pages of the documentation as tests read them: fences, sections, links and anchors."""

import re
from typing import NamedTuple

from utils.paths import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md"))),
         "tests/golden/README.md"]


class Fence(NamedTuple):
    """A block between two lines of ```; kind: the word after the first one, "" for commands; heading: the section that has it."""

    kind: str
    lines: list[str]
    heading: str


def fences(page: str) -> list[Fence]:
    found: list[Fence] = []
    heading, inside = "", None
    for line in (ROOT / page).read_text().splitlines():
        if line.startswith("```"):
            if inside is None:
                inside = Fence(line[3:].strip(), [], heading)
            else:
                found.append(inside)
                inside = None
        elif inside is not None:
            inside.lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    assert inside is None, f"{page}: a fence that does not end, after {heading}"
    return found


def commands(page: str, heading: str) -> list[str]:
    """The command lines of a section, in order; a line that ends in \\ is joined to the next one."""
    text = "\n".join("\n".join(fence.lines) for fence in fences(page) if fence.kind == "" and fence.heading == heading)
    assert text, f"{page} has no command under the heading {heading}"
    return re.sub(r"\\\n\s*", "", text).splitlines()


def prose(page: str) -> str:
    """The page without fences."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.S | re.M)


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page: lower case, spaces to hyphens, other signs dropped."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page), re.M):
        plain = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)
        anchor = start = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while anchor in found:
            number += 1
            anchor = f"{start}-{number}"
        found.add(anchor)
    return found
