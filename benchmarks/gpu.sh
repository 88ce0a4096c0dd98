#!/usr/bin/env bash
# Everything that is to be known of a GPU, in one go and ten minutes: the checks of benchmarks/gpu_checks, each PASS, FAIL or
# SKIP with its numbers, then agreement with torch, peaks, an allocation that fails, tests, overhead.
# From a plain checkout, without a network: needs torch with CUDA, and what modtrace imports (pyarrow, pandas, rich).
#   benchmarks/gpu.sh > benchmarks/results/DEVICE-torch-VERSION.md
#   benchmarks/gpu.sh --only 3 5a    these checks alone
# PYTHON names another python; `--cpu` tries all of it without a GPU, and says `fake` where it could judge made-up figures only.
# The exit status is 1 if a check failed or a bar was missed, 2 without a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
