#!/usr/bin/env bash
# All tests and ruff, in an environment of their own: bash test.sh [pytest's options, for example -m slow].
cd "$(dirname "$0")"
source environment.sh requirements-dev.txt
ruff check .
python -m pytest -q "$@"
