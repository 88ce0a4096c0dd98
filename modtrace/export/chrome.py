"""Chrome's JSON of trace events, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

Format: "Trace Event Format", Google, 2016. Each call is a complete event (`X`), so calls are nested by their times.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from modtrace._version import __version__
from modtrace.analysis.call_titles import titles
from modtrace.analysis.call_values import VALUE_COLUMNS
from modtrace.analysis.device_times import device_times
from modtrace.analysis.memory import curve, memory
from modtrace.analysis.recording_end import headline_of
from modtrace.analysis.spans import Spans, spans
from modtrace.analysis.timeline import timeline
from modtrace.export.lines import TextColumns, chosen, content, digits, joined, labelled, parts, ranges
from modtrace.export.target import Tick, silent
from modtrace.export.tracks import Track, offsets, process_name, tracks
from modtrace.text import plain
from modtrace.trace.reader import Stored
from modtrace.trace.schema import KINDS

Ints = npt.NDArray[np.int64]

_ARGUMENTS: Final = (
    ("path", "name"), ("type", "type"), ("root", "root"), ("inputs", "inputs"), ("outputs", "outputs"),
    ("status", "status"), ("error", "error"), ("phase", "phase"), ("step", "step"), ("module_id", "module_id"),
    ("self_ns", "self_ns"), ("device_ns", "device_ns"), ("flops", "flops"), ("flops_at_least", "flops_at_least"),
    ("memory_delta_bytes", "memory_delta_bytes"), ("memory_peak_bytes", "memory_peak_bytes"),
    *((name, name) for name in VALUE_COLUMNS),
)  # fmt: skip
"""Arguments of an event, and the column of `calls` that each is."""
_FIRST_TID: Final = 1001
"""Above all numbers of processes, so that none of their threads is taken for a main thread."""
_FRACTIONS: Final = pa.array([f".{ns:03}" for ns in range(1000)] + [f".{ns:03}1" for ns in range(1000)])
_KINDS: Final = pa.array([f'","cat":"{name}","args":{{"call":' for name in KINDS])


@dataclass(frozen=True)
class _Row:
    """A track of the viewer: a thread, the steps of a rank, or a device."""

    process: int
    name: str
    order: int


def chrome(stored: Stored, tick: Tick = silent) -> Iterator[bytes]:
    """A trace as JSON of trace events, all in ASCII.

    A process a rank, in it a track a thread with every call, one with the steps, one or more a device, and a counter of
    held memory where it was watched. Times are microseconds with three decimals since the start of the first rank.
    Unknown arguments are left out; `duration_ns` is there where an event had to be drawn longer or shorter than its
    call, null if that is not known.
    """
    about = {
        "modtrace": __version__,
        "script": plain(stored.run.script or "?"),
        "notes": "; ".join(stored.notes),
        "recorded": headline_of(stored),
    }
    head = {"displayTimeUnit": "ns", "otherData": about}
    yield json.dumps(head)[:-1].encode() + b', "traceEvents": [\n'
    thread_tracks, shift = tracks(stored), offsets(stored)
    rows = [_Row(track.process, f"thread {track.thread}", 10 + track.thread) for track in thread_tracks]
    yield ",\n".join(_named_processes(stored)).encode()
    yield from _calls(stored, tick, thread_tracks, shift)
    yield from _steps(stored, rows, shift)
    yield from _devices(stored, rows, shift)
    for tid, row in enumerate(rows, _FIRST_TID):
        for name, value in (
            ("thread_name", {"name": row.name}),
            ("thread_sort_index", {"sort_index": row.order}),
        ):
            yield b",\n" + _metadata(row.process, tid, name, value).encode()
    for allocations in memory(stored):
        line = curve(allocations)
        name = json.dumps(f"memory {plain(allocations.device)}")
        for low, high in ranges(len(line.at_ns), silent):
            at_us = microseconds(line.at_ns[low:high] + shift[allocations.process])
            start = f',\n{{"ph":"C","pid":{allocations.process + 1},"name":{name},"ts":'
            yield content(joined(start, at_us, ',"args":{"bytes":', digits(line.held_bytes[low:high]), "}}"))
    yield b"\n]}\n"


def microseconds(ns: Ints) -> pa.Array:
    """Nanoseconds as decimal microseconds.

    Perfetto multiplies by 1000 in binary and cuts off what is behind the point, which loses a nanosecond of some
    numbers; these get a tenth of a nanosecond more, so that cut off or rounded they are what they were.
    """
    micros, nanos = np.divmod(np.abs(ns), 1000)
    lost = (np.abs(ns) / 1000.0 * 1000.0).astype(np.int64) < np.abs(ns)
    sign = pc.if_else(pa.array(ns < 0), "-", "")
    return joined(sign, digits(micros), _FRACTIONS.take(pa.array(nanos + 1000 * lost)))


def _named_processes(stored: Stored) -> Iterator[str]:
    for number, process in enumerate(stored.processes):
        yield _metadata(number, 0, "process_name", {"name": process_name(process)})
        yield _metadata(number, 0, "process_sort_index", {"sort_index": process.rank})


def _metadata(process: int, tid: int, name: str, value: dict[str, Any]) -> str:
    return json.dumps({"ph": "M", "pid": process + 1, "tid": tid, "name": name, "args": value})


def _calls(stored: Stored, tick: Tick, thread_tracks: list[Track], shift: Ints) -> Iterator[bytes]:
    times = spans(stored)
    title, named = titles(stored)
    names = pa.array([f',"name":"{json.dumps(text or "?")[1:-1]}' for text in named], pa.string())
    lows = np.array([track.low for track in thread_tracks], np.int64)
    of_track = np.array([track.process for track in thread_tracks], np.int64)
    heads = pa.array(
        [
            f',\n{{"ph":"X","pid":{track.process + 1},"tid":{tid},"ts":'
            for tid, track in enumerate(thread_tracks, _FIRST_TID)
        ],
        pa.string(),
    )  # fmt: skip
    texts = TextColumns(lambda text: json.dumps(plain(text)))
    for part in parts(stored, tick):
        rows = part.index.to_numpy()
        track = np.searchsorted(lows, rows, side="right") - 1
        start = times.start_ns[rows]
        yield content(
            joined(
                chosen(heads, track),
                microseconds(start + shift[of_track[track]]),
                ',"dur":',
                microseconds(times.end_ns[rows] - start),
                chosen(names, title[rows]),
                chosen(_KINDS, part["kind"].cat.codes.to_numpy()),
                digits(rows),
                *(labelled(f',"{key}":', texts.of(part, column)) for key, column in _ARGUMENTS),
                _moved(part, times),
                "}}",
            )
        )


def _moved(part: pd.DataFrame, times: Spans) -> pa.Array:
    """Duration of calls in nanoseconds, where it is not the length drawn."""
    duration = pa.array(part["duration_ns"]).cast(pa.string()).fill_null("null")
    moved = pa.array(times.moved[part.index.to_numpy()])
    return pc.if_else(moved, labelled(',"duration_ns":', duration), None)


def _steps(stored: Stored, rows: list[_Row], shift: Ints) -> Iterator[bytes]:
    """A track with the steps of each process that has a loop; adds it to `rows`."""
    for process, steps in enumerate(timeline(stored).steps):
        if steps.by == "root" or not len(steps):
            continue
        start = f',\n{{"ph":"X","pid":{process + 1},"tid":{_FIRST_TID + len(rows)},"ts":'
        rows.append(_Row(process, "steps", 1))
        numbers = np.flatnonzero(steps.recorded)
        begin, end = steps.start[numbers], np.maximum(steps.end, steps.start)[numbers]
        for low, high in ranges(len(numbers), silent):
            number = digits(numbers[low:high])
            at_us, took = (
                microseconds(begin[low:high] + shift[process]),
                microseconds((end - begin)[low:high]),
            )
            named = ('"cat":"steps","name":"step ', number, '","args":{"step":', number, "}}")
            yield content(joined(start, at_us, ',"dur":', took, ",", *named))


def _devices(stored: Stored, rows: list[_Row], shift: Ints) -> Iterator[bytes]:
    """Tracks with the time of calls on each device, by its clock; adds them to `rows`.

    Only calls whose begin on the device is known. Those that overlap, on streams side by side, get a track each.
    """
    times, process_of = device_times(stored), timeline(stored).calls.values("process")
    title, named = titles(stored)
    names = pa.array([f',"cat":"device","name":{json.dumps(text or "?")}' for text in named], pa.string())
    placed = np.flatnonzero(times.placed & (times.device_ns >= 0))
    key = process_of[placed].astype(np.int64) << 32 | times.device[placed]
    for device_key in np.unique(key).tolist():
        process, device = device_key >> 32, plain(times.devices[device_key & 0xFFFFFFFF])
        calls = placed[key == device_key]
        calls = calls[np.argsort(times.start_ns[calls], kind="stable")]
        lane = _lanes(times.start_ns[calls].tolist(), times.device_ns[calls].tolist())
        for number in range(int(lane.max()) + 1):
            start = f',\n{{"ph":"X","pid":{process + 1},"tid":{_FIRST_TID + len(rows)},"ts":'
            rows.append(_Row(process, device if not number else f"{device} ({number + 1})", 2 + number))
            calls_of_lane = calls[lane == number]
            for low, high in ranges(len(calls_of_lane), silent):
                shown = calls_of_lane[low:high]
                at_us, took = (
                    microseconds(times.start_ns[shown] + shift[process]),
                    microseconds(times.device_ns[shown]),
                )
                named_as = (chosen(names, title[shown]), ',"args":{"call":', digits(shown), "}}")
                yield content(joined(start, at_us, ',"dur":', took, *named_as))


def _lanes(start: list[int], took: list[int]) -> Ints:
    """For intervals in order of start the first track that is free by then."""
    free: list[int] = []
    lane_of = np.zeros(len(start), np.int64)
    for index, (begin, length) in enumerate(zip(start, took, strict=True)):
        lane = next((number for number, end in enumerate(free) if end <= begin), len(free))
        if lane == len(free):
            free.append(0)
        free[lane] = begin + length
        lane_of[index] = lane
    return lane_of
