"""Keys of one's own: `$XDG_CONFIG_HOME/modtrace/keys.toml`, lines such as `tree.sort = "o,ctrl+s"`."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from modtrace.text import and_more, plain

_LINE: Final = re.compile(r"""\s*(?:"([a-z_.]+)"|([a-z_.]+))\s*=\s*(?:"([^"]*)"|'([^']*)')\s*(?:#.*)?""")
_KEYS: Final = re.compile(r"[^\s,]+(,[^\s,]+)*")
_MAX_BYTES: Final = 1 << 16


def config_file(environment: Mapping[str, str]) -> Path:
    """Where the keys are kept."""
    base = environment.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(base) / "modtrace" / "keys.toml"


def read_keys(path: Path, known: Collection[str]) -> tuple[dict[str, str], str | None]:
    """The keys of a file, and one line on what is wrong with it; without a file none of either.

    Only lines of that one form are read, which are TOML too: python 3.10 has no reader for the rest of it.

    Args:
        path: the file.
        known: the names that there are.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return {}, None
    except OSError as error:
        return {}, f"{plain(str(path))} cannot be read: {error.strerror or error}; the usual keys are used"
    keys_by_name: dict[str, str] = {}
    wrong: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith(("#", "[")):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            wrong.append(f'line {number} is not NAME = "KEYS"')
            continue
        name, keys = match[1] or match[2], (match[3] or match[4] or "").strip()
        if name not in known:
            wrong.append(f"line {number}: nothing is called {plain(name, 40)}")
        elif not _KEYS.fullmatch(keys):
            wrong.append(f"line {number}: {plain(keys, 40)!r} is no list of keys")
        else:
            keys_by_name[name] = keys
    if not wrong:
        return keys_by_name, None
    return keys_by_name, f"{plain(str(path))}: {and_more(wrong, 1)}; the rest is used"
