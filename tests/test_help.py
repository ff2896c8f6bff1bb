"""--help of every tool and training script: what it does and examples first; defaults only where there are some."""

import re
import runpy
import sys

import pytest

from utils.paths import ROOT

TOOLS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tools/*/*.py") if "\nif __name__ ==" in path.read_text())
TRAININGS = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("train_old_*.py"), *ROOT.glob("BCT_Methods/*/train.py")])
EMPTY = re.compile(r"default: ?(None|False|True|SUPPRESS|==SUPPRESS==|\[.*?\]|\(\)|'')?\)")      # of an option without a default


def faults(text: str) -> list[str]:
    """What is wrong with a --help."""
    summary, usage = text.partition("usage: ")[::2]
    lines = text.partition("\noptions:\n")[2].partition("\nsettings,")[0].splitlines()
    bare = [line for line, after in zip(lines, [*lines[1:], ""], strict=True)
            if re.fullmatch(r"  -\S.*", line) and not re.search(r"\S {2,}\S", line.strip()) and not after.startswith(" " * 10)]
    found = [f"no help: {line.strip()}" for line in bare]
    if not re.match(r"[A-Z].*[.:]", summary):
        found.append("no sentence before the usage; use utils.command_line.Parser(__doc__)")
    if not re.search(r"^    (python|torchrun|bash) \S+\.(py|sh)", summary, re.MULTILINE):
        found.append("no example before the usage: a line that begins with four spaces and python or bash")
    return found + [f"an empty default: {m[0]}" for m in EMPTY.finditer(usage)] + \
        [f"two defaults: {m[0]}" for m in re.finditer(r"\(default: [^()]*\)\s+\(default: [^()]*\)", usage)]


@pytest.mark.parametrize("script", TOOLS + TRAININGS)
def test_help(script, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(ROOT / script), "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert end.value.code == 0
    assert faults(capsys.readouterr().out) == []


def test_faults_are_seen():
    good = ("It does it.\n\n    python tools/a/a.py FILE\n\nusage: a.py [-h]\n\noptions:\n  -h, --help  show this\n"
            "  --out FILE\n              a file (default: b)\n")
    assert faults(good) == []
    for wrong, word in ((good.replace("It does it.", ""), "no sentence"), (good.replace("    python", "python"), "no example"),
                        (good.replace(": b)", ": None)"), "empty"), (good.replace(": b)", ": [])"), "empty"),
                        (good + "  --bare FILE\n", "no help"), (good.replace("b)", "b) (default: c)"), "two")):
        assert len(faults(wrong)) == 1 and word in faults(wrong)[0]
