#!/usr/bin/env bash
# ruff, mypy and all tests, two at a time, in an environment of their own: bash test.sh [pytest's options, for example -m slow].
# bash test.sh --fast [...] leaves out the tests marked "long", which start scripts, train for seconds or fuzz.
cd "$(dirname "$0")"
options=(-n 2 --dist loadfile --no-loadscope-reorder)
if [ "${1-}" = --fast ]; then
    shift
    options+=(-m "not slow and not long")
fi
source environment.sh requirements-dev.txt
ruff check .
mypy .
python -m pytest -q "${options[@]}" "$@"
