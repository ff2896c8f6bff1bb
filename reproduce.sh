#!/usr/bin/env bash
# All methods of one scenario, from a prepared data folder to the page that compares them; on all GPUs.  Start it again to continue.
#     bash reproduce.sh SCENARIO [--dry-run] [options] [[NAME:]KEY=VALUE ...]        options: bash reproduce.sh --help
set -euo pipefail
start=$PWD here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
source environment.sh requirements.txt
cd "$start"
exec python "$here/tools/reproduce/reproduce.py" "$@"
