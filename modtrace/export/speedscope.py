"""speedscope: one profile a thread, calls as they opened and closed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace._version import __version__
from modtrace.analysis.call_titles import titles
from modtrace.analysis.columns import column
from modtrace.analysis.recording_end import headline_of
from modtrace.analysis.spans import spans
from modtrace.analysis.timeline import timeline
from modtrace.export.lines import chosen, content, digits, joined, ranges
from modtrace.export.target import Tick, silent
from modtrace.export.tracks import Track, offsets, process_name, tracks
from modtrace.text import plain
from modtrace.trace.reader import Stored

Ints = npt.NDArray[np.int64]

_HEADS = pa.array([',\n{"type":"O","frame":', ',\n{"type":"C","frame":'])
_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def speedscope(stored: Stored, tick: Tick = silent) -> Iterator[bytes]:
    """A trace in speedscope's file format: an evented profile a thread, in nanoseconds; all in ASCII."""
    table, times, shift = timeline(stored).calls, spans(stored), offsets(stored)
    title, texts = titles(stored)
    last, rows = column(table, "last_call"), len(table)
    cut = headline_of(stored)
    name = plain((stored.run.script or "modtrace") + (f", {cut}" if cut else ""))
    about = {"$schema": _SCHEMA, "name": name, "exporter": f"modtrace {__version__}", "activeProfileIndex": 0}
    yield json.dumps(about)[:-1].encode() + b', "profiles": ['
    for number, track in enumerate(tracks(stored)):
        process = stored.processes[track.process]
        start, end = (
            moments[track.low : track.high] + shift[track.process]
            for moments in (times.start_ns, times.end_ns)
        )
        profile = {
            "type": "evented",
            "name": f"{process_name(process)}, thread {track.thread}",
            "unit": "nanoseconds",
            "startValue": int(start.min()),
            "endValue": int(end.max()),
        }
        yield (b",\n" if number else b"\n") + json.dumps(profile)[:-1].encode() + b', "events": [\n'
        inside = last[track.low : track.high] - track.low
        yield from _events((start, end, inside, title[track.low : track.high]), track, tick, rows)
        yield b"\n]}"
    yield b'\n], "shared": {"frames": [\n'
    yield ",\n".join(json.dumps({"name": text or "?"}) for text in texts).encode()
    yield b"\n]}}\n"


def _events(
    rows: tuple[Ints, Ints, Ints, npt.NDArray[np.int32]], track: Track, tick: Tick, total: int
) -> Iterator[bytes]:
    start, end, last, title = rows
    order = _order(last)
    count = len(start)
    for low, high in ranges(len(order), lambda done, _: tick(track.low + done // 2, total)):
        event = order[low:high]
        closes = event >= count
        row = event - np.where(closes, count, 0)
        at_ns = np.where(closes, end[row], start[row])
        head = chosen(_HEADS, closes.astype(np.int8))
        text = content(joined(head, digits(title[row]), ',"at":', digits(at_ns), "}"))
        yield text if low else text[2:]


def _order(last: Ints) -> Ints:
    """The events of a thread in order: `i` where call i opens, `count + i` where it closes.

    Before call i opens, those have closed that end before it; a call closes behind all that is inside it.
    """
    count = len(last)
    calls = np.arange(count)
    closed = np.concatenate([[0], np.cumsum(np.bincount(last, minlength=count))])  # by the time call i opens
    order = np.empty(2 * count, np.int64)
    order[calls + closed[:count]] = calls
    # Of those that end together the innermost, which opened last, closes first.
    by_end = np.lexsort((-calls, last))
    order[last[by_end] + 1 + calls] = count + by_end
    return order
