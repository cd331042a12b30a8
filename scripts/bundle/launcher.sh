#!/bin/sh
# Lathe on a GPU host: everything it needs lies beside this file. The service (API, database, storage) is elsewhere:
# DATABASE_URL, S3_* and LATHE_WORKER_TOKEN say where; see README.md.
set -eu
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
node="$here/node"
case "${1-}" in
  trainer | inference)
    exec "$node" "$here/src/cli.ts" "$@" ;;
  gpu-check)
    shift
    exec "$node" "$here/bench/gpu-check/main.ts" "$@" ;;
  cuda-build)
    shift
    exec "$node" "$here/scripts/build-cuda.mjs" "$@" ;;
  *)
    cat >&2 <<'HELP'
Usage: ./lathe COMMAND

  trainer [--once]          train queued jobs; --once ends when the queue is empty
  inference                 serve a base model and its adapters
  gpu-check [--device cpu]  check this device and measure it; a report goes to bench/results/
  cuda-build                build the CUDA part again on this machine (needs nvcc, g++, cmake, make)
HELP
    [ $# -gt 0 ] && [ "$1" != --help ] && [ "$1" != help ] && exit 2
    exit 0 ;;
esac
