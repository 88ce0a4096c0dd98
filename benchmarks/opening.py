"""What opening a trace of a million calls costs: `python benchmarks/opening.py [TRACE] [--check]`.

Without a trace one is made of fixed numbers (synthetic.py). `t.calls` is measured beside polars, which reads the same
Arrow file into pandas columns in the same process; the ratio is of CPU times, each the least of several. Commands are
measured from start to exit: CPU seconds of all threads and the most memory that was resident. As in an installation the
modules are compiled already: each command runs once before, with a cache of its own where Python is told to write none.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

STEPS = 3_970
ROUNDS = 3
BARS = {
    "t.calls, times what polars takes": 3.0,
    "summary(), s": 1.0,
    "summary() again, s": 0.1,
    "_repr_html_(), s": 1.0,
    "_repr_html_() again, s": 0.1,
    "modtrace info, CPU s": 1.2,
    "modtrace info, MB": 400.0,
    "modtrace report, CPU s": 4.0,
}


def _cpu_s(act: Callable[[], object]) -> float:
    begun = time.process_time()
    act()
    return time.process_time() - begun


def _command(cache: Path, *words: str) -> tuple[float, float]:
    """CPU seconds and peak resident MB of a command; to be asked before this process is large itself."""
    words = (sys.executable, "-m", "modtrace", *words)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(cache)
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(words)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _commands(path: Path, folder: Path) -> dict[str, float]:
    info = ("info", str(path))
    report = ("report", str(path), "-f", "-o", str(folder / "report.html"))
    for words in (info, report):
        _command(folder / "cache", *words)
    cpu_s, peak_mb = _command(folder / "cache", *info)
    report_s, _ = _command(folder / "cache", *report)
    return {
        "modtrace info, CPU s": cpu_s,
        "modtrace info, MB": peak_mb,
        "modtrace report, CPU s": report_s,
    }


def _in_process(path: Path) -> dict[str, float]:
    import polars as pl

    import modtrace

    files = sorted(path.glob("rank-*/calls.arrows"))

    def read() -> None:
        for file in files:
            pl.read_ipc_stream(file).to_pandas()

    def warm() -> modtrace.Trace:
        trace = modtrace.load(path)
        (
            trace.calls,
            trace.summary(),
            trace._repr_html_(),
        )  # what is imported at the first use is no cost of opening
        return trace

    read()
    warm()
    polars_s = min(_cpu_s(read) for _ in range(ROUNDS))
    calls_s = min(_cpu_s(lambda: modtrace.load(path).calls) for _ in range(ROUNDS))
    found = {"t.calls, times what polars takes": calls_s / polars_s, "t.calls, s": calls_s}
    for name in ("summary", "_repr_html_"):
        trace = modtrace.load(path)
        found[f"{name}(), s"] = _cpu_s(getattr(trace, name))
        found[f"{name}() again, s"] = _cpu_s(getattr(trace, name))
    return found


def main() -> None:
    """Print a table; with `--check` exit 1 where a bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", nargs="?", type=Path, help="a trace to open instead of a made one")
    parser.add_argument("--check", action="store_true", help="exit 1 where a bar is not met")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.trace
        if path is None:
            path = Path(folder) / "big.mtrace"
            make = (
                "from pathlib import Path; from benchmarks.synthetic import write_gpt; "
                f"write_gpt(Path({str(path)!r}), steps={STEPS})"
            )
            subprocess.run(
                [sys.executable, "-c", make], check=True, cwd=Path(__file__).resolve().parent.parent
            )
        found = _commands(path, Path(folder)) | _in_process(path)
    missed = 0
    for name, value in found.items():
        bar = BARS.get(name)
        over = bar is not None and value > bar
        missed += over
        print(
            f"{name:34} {value:9.2f}  {'' if bar is None else f'at most {bar:g}'}{'  MISSED' if over else ''}"
        )
    sys.exit(1 if options.check and missed else 0)


if __name__ == "__main__":
    main()
