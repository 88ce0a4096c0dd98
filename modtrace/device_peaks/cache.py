"""Cache of device peaks between runs. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modtrace.text import plain
from modtrace.trace.folder import read_json

_NAME: Final = "devices.json"
_LIMIT: Final = 1 << 62


@dataclass(frozen=True)
class DevicePeaks:
    """The most that was measured: FLOP/s of matrix products by type, and bytes a second of a copy, read and written."""

    device: str
    flops_per_s: dict[str, int]
    bytes_per_s: int


def cache_folder() -> Path:
    """Where it is kept: `$XDG_CACHE_HOME/modtrace`, else `~/.cache/modtrace`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "modtrace"


def cache_name() -> str:
    """The name of the file."""
    return _NAME


def cached(key: str) -> DevicePeaks | None:
    """The measured peaks of a device; None where nothing has."""
    entries = read_json(cache_folder() / _NAME)
    return entry_of(entries.get(key), key) if entries is not None else None


def cached_of(keys: Mapping[str, str]) -> dict[str, DevicePeaks]:
    """The measured peaks of devices, by the name torch gives them: cpu, cuda:0.

    Args:
        keys: what each of them is known by.
    """
    peaks = {name: cached(key) for name, key in keys.items()}
    return {name: measured for name, measured in peaks.items() if measured is not None}


def entry_of(data: Any, device: str) -> DevicePeaks | None:
    """The peaks in an entry of the file; None for one that cannot be true."""
    if not isinstance(data, dict) or not isinstance(data.get("flops_per_s"), dict):
        return None
    rates = data["flops_per_s"].items()
    products = {plain(str(name), 40): rate for name, rate in rates if type(rate) is int and 0 < rate < _LIMIT}
    rate = data.get("bytes_per_s")
    if not products or type(rate) is not int or not 0 < rate < _LIMIT:
        return None
    return DevicePeaks(plain(device, 200), products, rate)
