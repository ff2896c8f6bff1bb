"""Which values each kind of setting accepts, and which sentence refuses the others."""

import math
from pathlib import Path

import pytest

from utils.settings import choice, flag, number, several, text, whole

INF, NAN = math.inf, math.nan

# (setting, the words for its values, values at the edge that it accepts, values that it refuses)
KINDS = {
    "number": (number(1, "m"), "a number", [0, -1, 0.5, 1e300], [True, "1", None, [1], INF, -INF, NAN]),
    "above": (number(1, "m", above=0), "a number above 0", [1e-300, 5], [0, 0.0, -1]),
    "least": (number(1, "m", least=0), "a number from 0", [0, 0.0, 1], [-1e-300, -1]),
    "most": (number(1, "m", most=2), "a number up to 2", [2, 2.0, -9], [2.0000001, 3]),
    "below": (number(1, "m", below=0.5), "a number below 0.5", [0.4999999, -9], [0.5, 1]),
    "both": (number(1, "m", least=-1, below=1), "a number from -1, below 1", [-1, 0, 0.99], [-1.01, 1]),
    "hint": (number(1, "m", above=0, most=1, hint=" (rarely 1)"), "a number above 0, up to 1 (rarely 1)", [0.1, 1], [0, 1.1]),
    "whole": (whole(1, "m"), "a whole number from 0 up", [0, 1, 10**12], [-1, 1.0, True, "1", None]),
    "from 2": (whole(3, "m", least=2, hint=" (a pair)"), "a whole number from 2 up (a pair)", [2, 3], [1, 0, -2, 2.5]),
    "multiple": (whole(16, "m", least=16, multiple_of=16), "a whole number from 16 up, a multiple of 16", [16, 112], [0, 8, 100]),
    "flag": (flag(True, "m"), "True or False", [True, False], [1, 0, "True", None]),
    "text": (text("a", "m"), "a name or path that is not empty", ["a", "2024", " "], ["", 2024, None, Path("a")]),
    "choice": (choice("a", "m", "a", "b", "c"), '"a", "b" or "c"', ["a", "c"], ["d", "", None, ["a"]]),
    "list": (several([], "m", whole(1, "e", least=1)), "a list, each a whole number from 1 up", [[], (), [1, 2], (3,)],
             [5, "12", None, [0], [1, 0], [1.5], {1: 1}]),
    "count": (several((1, 2), "m", number(1, "e", most=3), count=2), "a list of 2 values, each a number up to 3",
              [(3, -1), [0.5, 2]], [0.5, [], [1], [1, 2, 3], [1, 4]]),
    "names": (several([], "m", text("", "e")), "a list, each a name or path that is not empty", [["a"], []], ["a", [""], [1]]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_setting(kind):
    """Its words, and the values on both sides of its limits; ``or_none`` adds None and nothing else."""
    setting, words, good, bad = KINDS[kind]
    assert setting.expected == words
    assert [value for value in good if not setting.accepts(value)] == [value for value in bad if setting.accepts(value)] == []
    optional = setting.or_none("nothing")
    assert (optional.default, optional.meaning, optional.expected) == (None, "m; None = nothing", f"{words}, or None")
    assert optional.accepts(None) and all(map(optional.accepts, good)) and optional.is_text == setting.is_text
    assert not any(optional.accepts(value) for value in bad if value is not None)
    assert setting.is_text == (kind in ("text", "choice"))          # 2024 on the command line is then a name
