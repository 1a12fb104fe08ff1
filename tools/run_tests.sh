#!/usr/bin/env bash
# The tests, in the project's own environment: bash tools/run_tests.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
ensure_environment detectron2,dask,fast,video,dev
exec python -m pytest "$@"
