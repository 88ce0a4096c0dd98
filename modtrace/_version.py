"""The version, in one place: read by the package, by traces and by the build."""

from typing import Final

__version__: Final = "0.2.0"
