#!/usr/bin/env bash
# The tests, in the project's own environment: bash tools/run_tests.sh [pytest arguments]
# One process a core, at most four, each with one thread; -n 0 runs them in this process, as a debugger needs it.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
ensure_environment detectron2,dask,fast,video,dev
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
exec python -m pytest -n logical --maxprocesses 4 --dist worksteal "$@"
