#!/usr/bin/env bash
# All measurements on one GPU in one command: bash benchmarks/gpu.sh [--minutes 8] [...]; options: bash benchmarks/gpu.sh --help
# Installs nothing: it uses the python on the PATH, and with --wheels DIR it imports the .whl files of DIR as they are.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
wheels=
for word in "$@"; do
    case $word in
        --wheels=*) wheels=${word#*=} ;;
        *) [ "${previous-}" = --wheels ] && wheels=$word ;;
    esac
    previous=$word
done
if [ -n "$wheels" ]; then
    found=("$wheels"/*.whl)
    if [ ! -f "${found[0]}" ]; then
        echo "error: expected .whl files in the folder $wheels, found none; give another --wheels" >&2
        exit 1
    fi
    for file in "${found[@]}"; do
        PYTHONPATH=$(realpath "$file")${PYTHONPATH:+:$PYTHONPATH}
    done
    export PYTHONPATH
fi
# One process group of one rank: torch needs no other network than this machine's own.
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-lo}
exec "$(command -v python || command -v python3)" "$root/benchmarks/gpu.py" "$@"
