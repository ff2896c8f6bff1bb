# Sourced by demo.sh, reproduce.sh and test.sh: puts a virtual environment with the pinned packages of "$1" first on the PATH.
# It is made once in .venv and updated when a requirements file changes.
set -euo pipefail
requirements=$1
# A thread of OpenMP that waits spins for about as long as waking it up would take, and then sleeps: the default of 300,000 turns is
# longer than a time slice, so on a busy machine two threads wait for each other while they hold the cores (benchmarks/threads.py).
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT-1000}

if [ ! -x .venv/bin/python ]; then
    for python in python3 python3.13 python3.12 python3.11 python3.10 none; do
        "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && break
    done
    if [ "$python" = none ]; then
        echo "error: expected Python 3.10 to 3.13 as python3, found $(python3 --version 2>&1); install one of them" >&2
        exit 1
    fi
    "$python" -m venv .venv
fi
export PATH="$PWD/.venv/bin:$PATH"

stamp=.venv/$requirements.done
if ! cat requirements*.txt | cmp -s - "$stamp"; then
    echo "installing $requirements into .venv (once)"
    python -m pip install --quiet --disable-pip-version-check -r "$requirements"
    cat requirements*.txt > "$stamp"
fi
