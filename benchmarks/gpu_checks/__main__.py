"""One check, in a process of its own: `python -m gpu_checks NAME DEVICE FILE` writes what it measured as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gpu_checks.check import Place, Skip
from gpu_checks.checklist import CHECKS


def main() -> None:
    """Measure; the parent judges."""
    name, device, file = sys.argv[1:4]
    try:
        measured = CHECKS[name].measure(Place(device))
    except Skip as reason:
        measured = {"skip": str(reason)}
    Path(file).write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
