"""What exporting costs, in CPU time and memory: `python benchmarks/exports.py TRACE` (of a million calls or so).

Each type in a process of its own; memory is what the export takes above that of the opened trace.
"""

from __future__ import annotations

import json
import subprocess
import sys

BARS_S = {"parquet": 3.0, "csv": 15.0, "chrome": 20.0}

EXPORT = """
import json, os, resource, sys, time
import modtrace
from modtrace.analysis.calls import CallRows
def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
started = time.process_time()
trace = modtrace.load(sys.argv[1])
rows = len(CallRows(trace._read()))
opened, before = time.process_time(), most()
with open(os.devnull, "wb") as nowhere:
    getattr(trace, "to_" + sys.argv[2])(nowhere)
json.dump([rows, opened - started, time.process_time() - opened, most() - before], sys.stdout)
"""


def main() -> None:
    """Print a table."""
    print("type            calls   open s   export s   memory MB")
    for kind in ("csv", "parquet", "chrome", "speedscope", "collapsed", "json"):
        command = [sys.executable, "-c", EXPORT, sys.argv[1], kind]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows, opened, took, memory = json.loads(done.stdout)
        bar = BARS_S.get(kind)
        told = "" if bar is None else f"  at most {bar:g} s{'' if took <= bar else ' MISSED'}"
        print(f"{kind:12} {rows:8} {opened:8.2f} {took:10.2f} {memory:11.0f}{told}")


if __name__ == "__main__":
    main()
