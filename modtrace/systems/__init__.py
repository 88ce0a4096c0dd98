"""Whatever differs between Linux, macOS and Windows, in one place. Standard library only."""

from __future__ import annotations

import sys
from typing import Final

WINDOWS: Final = sys.platform == "win32"
LINUX: Final = sys.platform.startswith("linux")
