#!/usr/bin/env bash
# Everything that is to be known of a GPU, in one go: tests, overhead, agreement, peaks, an allocation that fails.
# From a plain checkout, without a network: needs torch with CUDA, and what modtrace imports (pyarrow, pandas, rich).
#   benchmarks/gpu.sh > benchmarks/results/DEVICE-torch-VERSION.md
# PYTHON names another python; `--cpu` runs all of it that needs no GPU, with small models.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
