#!/usr/bin/env bash
# All measurements on one GPU in one command: bash benchmarks/gpu.sh [--minutes 8] [...]; options: bash benchmarks/gpu.sh --help
# Installs nothing: it uses the python on the PATH.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# A process group of one rank needs no other network than this machine's own.
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-lo}
exec "$(command -v python || command -v python3)" "$root/benchmarks/gpu.py" "$@"
