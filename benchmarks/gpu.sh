#!/usr/bin/env bash
# All that a GPU is needed for, in one go, from a plain checkout and without a network: the tests that are skipped
# elsewhere, then costs and agreement as a page of Markdown on stdout (`benchmarks/gpu.sh > benchmarks/results/NAME.md`).
# Torch (2.11 or newer) and modtrace's other dependencies must be there; PYTHON chooses the interpreter.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "no GPU is here, or no torch that can use it" >&2
    exit 2
fi
"$python" -m pytest -m cuda -o addopts= -q tests/cuda >&2
tests=$?
"$python" benchmarks/gpu.py "$@"
costs=$?
echo
echo "tests that need a GPU: exit status $tests"
exit $((tests > costs ? tests : costs))
