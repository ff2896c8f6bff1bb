"""README, CONTRIBUTING, CHANGELOG, docs: links lead somewhere, tables of numbers name their command, the README is short."""

import re

import pytest
from pages import PAGES, anchors, fences, prose

from utils.paths import ROOT

# Sections whose commands no test runs, and why.
NOT_RUN = {
    ("README.md", "Try it"): "minutes; the continuous integration runs test.sh, and tests/tools run reproduce.sh's steps",
    ("docs/dependencies.md", "What has to be installed, and why?"): "installs packages from a network",
    ("docs/dependencies.md", "With MXNet"): "installs packages from a network",
    ("docs/results.md", "Synthetic faces"): "18 minutes",
    ("docs/results.md", "Real faces: LFW"): "needs LFW, which is not shipped",
    ("docs/results.md", "Other dimensions, and maps"): "minutes",
    ("docs/results.md", "LFW with other dimensions"): "needs LFW, which is not shipped",
    ("docs/results.md", "Maps between two finished face recognisers"): "needs features that are not shipped",
    ("docs/results.md", "Trained maps: methods on features"): "needs features that are not shipped",
    ("docs/results.md", "Score maps"): "half an hour of training, and features that are not shipped",
    ("docs/performance.md", "On a GPU"): "needs a GPU; tests/benchmarks run the same code on a CPU",
}
WORDS_OF_README = 1300      # as wc -w counts them: commands, links and tables included


def broken_links(page: str, text: str) -> list[str]:
    """Links of a page to files of the repository, or to headings, that are not there."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        if not file.exists() or not file.is_relative_to(ROOT):
            broken.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(str(file.relative_to(ROOT))):
            broken.append(f"{target}: no such heading")
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    assert not broken_links(page, prose(page))


def test_a_link_to_nothing_is_seen():
    links = "[a](docs/none.md) [b](docs/training.md#none) [c](#none) [d](../README.md) [e](docs/training.md#settings) [f](#more)"
    assert broken_links("README.md", links) == ["docs/none.md: no such file", "docs/training.md#none: no such heading",
                                                "#none: no such heading", "../README.md: no such file"]


def test_every_page_is_linked_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert [page for page in PAGES if page.startswith("docs/") and f"]({page})" not in readme] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= WORDS_OF_README


def test_every_command_is_run_from_its_text():
    """A fence without a word after ``` holds commands: one of two tests reads its section, or NOT_RUN has the reason."""
    source = "".join((ROOT / "tests" / file).read_text() for file in ("test_commands.py", "gallery/test_walk.py"))
    constants = dict(re.findall(r'^([A-Z_]+) = "(.*)"$', source, re.MULTILINE))
    calls = re.findall(r'commands\("([^"]+)", (?:"([^"]+)"|(\w+))\)', source)
    run = {(page, name or constants.get(constant)) for page, name, constant in calls}
    headings = source.split('parametrize("heading", [')[1].split("]")[0]
    run |= {("docs/training.md", name) for name in re.findall(r'"([^"]+)"', headings)}
    written = {(page, fence.heading) for page in PAGES for fence in fences(page) if fence.kind == ""}
    assert written - run - set(NOT_RUN) == set(), "commands that no test runs"
    assert set(NOT_RUN) <= written - run, "sections of NOT_RUN that are tested, or are not there"


def test_fences_say_what_they_hold():
    assert {fence.kind for page in PAGES for fence in fences(page)} <= {"", "text", "python", "mermaid"}


def sections(page: str) -> dict[str, str]:
    """{heading: text} of the sections of the second level, fences included."""
    parts = re.split(r"^## +(.+)$", (ROOT / page).read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("page", ["README.md", "docs/results.md", "docs/performance.md"])
def test_tables_of_numbers_name_their_command(page):
    """A cell that begins with a number with a decimal point makes a table one of measurements."""
    measured = {name: text for name, text in sections(page).items() if re.search(r"^\|.*\| *[+-]?\d+\.\d+", text, re.M)}
    commanded = {fence.heading for fence in fences(page) if fence.kind == ""}
    assert len(measured) >= 1
    missing = [name for name, text in measured.items()
               if name not in commanded and not re.search(r"Command: `|`(python|bash) [^`]+`", text)]
    assert missing in ([], ["Summary"] if "of the sections below" in measured.get("Summary", "") else [])
