"""The wall clock at the start of a recording, as exactly as it can be read beside the clock of the recording."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_TRIES: Final = 9


def unix_origin_ns(clock: Callable[[], int], origin_ns: int) -> int:
    """The wall clock at `origin_ns` of `clock`, nanoseconds since 1970.

    It is read between two readings of `clock`, a few times: the pair that is closest together counts, as a thread can
    be held up between them.
    """
    pairs = []
    for _ in range(_TRIES):
        before, unix_ns, after = clock(), time.time_ns(), clock()
        pairs.append((after - before, unix_ns - ((before + after) // 2 - origin_ns)))
    return min(pairs)[1]
