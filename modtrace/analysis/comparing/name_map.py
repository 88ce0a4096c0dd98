"""Names that changed, as a person says: `old.*=new.*`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from modtrace.errors import UsageError
from modtrace.text import plain


class NameMap:
    """Patterns of old names and what they became; `*` stands for any text, the same on both sides in order.

    Args:
        texts: `encoder.*=enc.*`, one a pattern; of several that fit a name the first is taken.

    Raises:
        UsageError: a text is no such pair, or its sides have unequal numbers of `*`.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._rules = [_rule(text.strip()) for text in texts if text.strip()]

    def __len__(self) -> int:
        return len(self._rules)

    def renamed(self, name: str) -> str | None:
        """The new name of a module; None where no pattern fits."""
        for pattern, new in self._rules:
            fits = pattern.fullmatch(name)
            if fits is not None:
                parts = new.split("*")
                return parts[0] + "".join(
                    text + part for text, part in zip(fits.groups(), parts[1:], strict=True)
                )
        return None


def _rule(text: str) -> tuple[re.Pattern[str], str]:
    old, equals, new = text.partition("=")
    old, new = old.strip(), new.strip()
    if not (old and equals and new):
        raise UsageError(f"--map takes OLD=NEW, such as 'encoder.*=enc.*', not {plain(text, 60)!r}")
    if old.count("*") != new.count("*"):
        raise UsageError(f"--map {plain(text, 60)!r}: both sides must have as many *")
    return re.compile("(.*)".join(map(re.escape, old.split("*")))), new
