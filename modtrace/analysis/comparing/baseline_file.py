"""Baselines as files: the numbers of some runs as JSON of a few kB, without names of files, fit to be committed.

A file is data of a stranger: each value is checked before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modtrace._version import __version__
from modtrace.analysis.comparing.module_forest import NamedModule
from modtrace.analysis.comparing.run_numbers import (
    MODULE_NUMBERS,
    MODULE_TIMES,
    RUN_NUMBERS,
    UNKNOWN,
    RunNumbers,
    StepTimes,
)
from modtrace.errors import TraceError
from modtrace.text import plain

Ints = npt.NDArray[np.int64]

FORMAT: Final = "modtrace-baseline"
VERSION: Final = 1
MOST_BYTES: Final = 64_000_000
_DIGITS: Final = 4
"""Significant digits of times: a part in a thousand is far below any noise."""
_LEFT_OUT: Final = frozenset({"arguments"})
"""Facts of the environment that name files."""
_WRAPPERS_OF: Final = ("torch.", "peft.")
"""Packages by which wrappers are known; of other classes none is written, which would name a file of the program."""
_COLUMNS: Final = ("p50_ns", "least_ns", "most_ns", "steps")
_MOST_NUMBER: Final = 1 << 62
_MANY: Final = 1_000_000


def baseline_text(runs: Sequence[RunNumbers]) -> str:
    """The text of a baseline file.

    Args:
        runs: of one program; modules are written once for all that have the same.
    """
    models: list[dict[str, Any]] = []
    alike: dict[tuple[int, tuple[str, ...], tuple[str, ...]], list[RunNumbers]] = {}
    for run in runs:
        model = _model(run)
        if model not in models:
            models.append(model)
        key = models.index(model), tuple(run.step_names), tuple(run.outside_names)
        alike.setdefault(key, []).append(run)
    written = [
        {"model": model, **_run(run, members if run is members[0] else [])}
        for (model, _, _), members in alike.items()
        for run in members
    ]
    data = {"format": FORMAT, "version": VERSION, "modtrace": __version__, "models": models, "runs": written}
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace('},{"model"', '},\n{"model"') + "\n"


def _model(run: RunNumbers) -> dict[str, Any]:
    """The modules of a run and their numbers, a list a column; texts that repeat are numbers into a list."""
    texts: dict[str, int] = {}

    def code(text: str) -> int:
        return texts.setdefault(text, len(texts))

    shapes = [[[name, list(shape)] for name, shape in module.shapes] for module in run.modules]
    columns = {
        "roots": [code(module.root) for module in run.modules],
        "names": [module.name for module in run.modules],
        "types": [code(module.type) for module in run.modules],
        "packages": [
            code(
                module.package
                if module.package.startswith(_WRAPPERS_OF) and run.forest.inner[number] >= 0
                else ""
            )
            for number, module in enumerate(run.modules)
        ],
        "dtypes": [code(dtype) for dtype in run.dtypes],
        "outputs": [code(output) for output in run.outputs],
        "shapes": shapes,
        "numbers": {
            key: values.tolist() for key in MODULE_NUMBERS if ((values := run.module_numbers[key]) >= 0).any()
        },
    }
    return {**columns, "texts": list(texts)}


def _run(run: RunNumbers, alike: Sequence[RunNumbers]) -> dict[str, Any]:
    """A run. The first of those that are alike has the least and the most of the steps of them all."""
    return {
        "environment": {name: value for name, value in run.environment.items() if name not in _LEFT_OUT},
        "steps": run.steps,
        "training": run.training,
        "nonfinite": run.nonfinite,
        "notes": list(run.notes),
        "totals": dict(run.totals),
        "step": {
            "names": list(run.step_names),
            **_times(run.step_times, run.steps, [one.step_times for one in alike]),
        },
        "outside": {
            "names": list(run.outside_names),
            **_times(run.outside_times, run.steps, [one.outside_times for one in alike]),
        },
        "modules": {
            kind: _times(times, run.steps, [one.module_times[kind] for one in alike])
            for kind, times in run.module_times.items()
            if times.steps.any()
        },
    }


def _times(times: StepTimes, steps: int, alike: Sequence[StepTimes]) -> dict[str, Any]:
    """Times with four digits; bounds of steps in hundredths of the median of this run, rounded away from it."""
    p50 = times.p50_ns.tolist()
    ran = {str(number): count for number, count in enumerate(times.steps.tolist()) if count not in (0, steps)}
    written = {"p50_us": [_short(value) for value in p50], "ran": ran}
    if not alike:
        return written
    known = np.stack([one.p50_ns >= 0 for one in alike])
    every = [np.stack([getattr(one, name) for one in alike]) for name in ("least_ns", "most_ns")]
    least_ns = np.where(known, every[0], _MOST_NUMBER).min(axis=0).tolist()
    most_ns = np.where(known, every[1], 0).max(axis=0).tolist()
    least = [_hundredths(bound, value) for bound, value in zip(least_ns, p50, strict=True)]
    most = [-_hundredths(-bound, value) for bound, value in zip(most_ns, p50, strict=True)]
    return {**written, "least": least, "most": most}


def _hundredths(bound_ns: int, value_ns: int) -> int:
    """A bound as hundredths of a value, rounded down."""
    return 100 * bound_ns // max(value_ns, 1) if value_ns >= 0 else 0


def _short(value_ns: int) -> float | int:
    """Microseconds with four significant digits."""
    value = float(f"{value_ns / 1000:.{_DIGITS}g}") if value_ns >= 0 else UNKNOWN
    return int(value) if value == int(value) else value


# reading ------------------------------------------------------------------------------------------------------------


class _Unusable(Exception):
    """A value that is not what the format says."""


def read_baseline(path: Path) -> list[RunNumbers]:
    """The runs of a baseline file.

    Raises:
        TraceError: it is none, is damaged, or is of a later format.
    """
    shown = plain(str(path))
    try:
        if path.stat().st_size > MOST_BYTES:
            raise TraceError(f"{shown} is too large for a baseline")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise TraceError(f"{shown} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise TraceError(
            f"{shown} is no baseline: it holds no JSON; modtrace baseline -o F TRACE makes one"
        ) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise TraceError(f"{shown} is no baseline; modtrace baseline -o F TRACE makes one")
    if data.get("version") != VERSION:
        raise TraceError(
            f"{shown} is a baseline of another format; make it again with modtrace {__version__}"
        )
    try:
        models = [_read_model(model) for model in _list(data.get("models"))]
        runs: list[RunNumbers] = []
        firsts: dict[int, RunNumbers] = {}
        for entry in _list(data.get("runs")):
            run, model, has_bounds = _read_run(entry, models, firsts)
            runs.append(run)
            if has_bounds:
                firsts[model] = run
    except (_Unusable, OverflowError):
        raise TraceError(f"{shown} is damaged; make the baseline again") from None
    if not runs:
        raise TraceError(f"{shown} holds no runs")
    return runs


Model = tuple[list[NamedModule], list[str], list[str], dict[str, Ints]]


def _read_model(data: Any) -> Model:
    model = _dict(data)
    texts = [_text(text) for text in _list(model.get("texts"))]
    names = [_text(name) for name in _list(model.get("names"))]
    count = len(names)

    def texts_of(key: str) -> list[str]:
        codes = _sized(model.get(key), count, _number)
        if any(not 0 <= code < len(texts) for code in codes):
            raise _Unusable
        return [texts[code] for code in codes]

    shapes = [
        tuple(
            (_text(pair[0]), tuple(None if size is None else _number(size) for size in _list(pair[1])))
            for pair in map(_pair, _list(entry))
        )
        for entry in _sized(model.get("shapes"), count, _list)
    ]
    columns = zip(texts_of("roots"), names, texts_of("types"), texts_of("packages"), shapes, strict=True)
    modules = [NamedModule(*column) for column in columns]
    numbers = {
        key: _ints(values, count)
        for key, values in _dict(model.get("numbers")).items()
        if key in MODULE_NUMBERS
    }
    unknown = np.full(count, UNKNOWN, np.int64)
    return (
        modules,
        texts_of("dtypes"),
        texts_of("outputs"),
        {key: numbers.get(key, unknown) for key in MODULE_NUMBERS},
    )


def _read_run(
    data: Any, models: Sequence[Model], firsts: Mapping[int, RunNumbers]
) -> tuple[RunNumbers, int, bool]:
    """A run, the number of its model, and True where it has the bounds of steps itself; else they are those of the
    first run in front of it that has the same model.
    """
    run = _dict(data)
    which = _number(run.get("model"))
    if not 0 <= which < len(models):
        raise _Unusable
    modules, dtypes, outputs, numbers = models[which]
    steps = max(_number(run.get("steps")), 0)
    totals, times, first = _dict(run.get("totals")), _dict(run.get("modules")), firsts.get(which)
    step_names, outside_names = (
        [_text(name) for name in _list(_dict(run.get(key)).get("names"))] for key in ("step", "outside")
    )
    nonfinite = run.get("nonfinite")
    read = RunNumbers(
        environment={
            _text(key): None if value is None else _text(value)
            for key, value in _dict(run.get("environment")).items()
        },
        modules=modules,
        dtypes=dtypes,
        outputs=outputs,
        operations=None,
        module_numbers=numbers,
        module_times={
            kind: _read_times(
                times.get(kind), len(modules), steps, None if first is None else first.module_times[kind]
            )
            for kind in MODULE_TIMES
        },
        step_names=step_names,
        step_times=_read_times(
            run.get("step"), len(step_names), steps, None if first is None else first.step_times
        ),
        outside_names=outside_names,
        outside_times=_read_times(
            run.get("outside"), len(outside_names), steps, None if first is None else first.outside_times
        ),
        totals={key: None if totals.get(key) is None else _number(totals[key]) for key in RUN_NUMBERS},
        steps=steps,
        training=run.get("training") is True,
        nonfinite=nonfinite if isinstance(nonfinite, bool) else None,
        notes=tuple(_text(note) for note in _list(run.get("notes"))),
    )
    return read, which, "least" in _dict(run.get("step"))


def _read_times(data: Any, count: int, steps: int, first: StepTimes | None) -> StepTimes:
    """Times as they were written; without bounds of steps with those of another run of the same things."""
    if data is None:
        return StepTimes.unknown(count)
    times = _dict(data)
    p50 = np.array([_time_ns(value) for value in _sized(times.get("p50_us"), count, _real)], np.int64)
    ran = np.where(p50 >= 0, steps, 0)
    for key, value in _dict(times.get("ran")).items():
        if not key.isdecimal() or int(key) >= count:
            raise _Unusable
        ran[int(key)] = max(_number(value), 0)
    none = np.full(count, UNKNOWN, np.int64)
    if "least" not in times:
        if first is None or len(first) != count:
            raise _Unusable
        return StepTimes(p50, first.least_ns, first.most_ns, ran, none, none)
    least, most = (
        np.where(
            p50 >= 0, np.maximum(p50, 1) * np.clip(_ints(times.get(key), count), 0, _MANY) // 100, UNKNOWN
        )
        for key in ("least", "most")
    )
    return StepTimes(p50, least, most, ran, none, none)


def _time_ns(value: float) -> int:
    return round(value * 1000) if 0 <= value < 1e12 else UNKNOWN


def _dict(data: Any) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise _Unusable
    return data


def _list(data: Any) -> list[Any]:
    if not isinstance(data, list) or len(data) > _MANY:
        raise _Unusable
    return data


def _pair(data: Any) -> list[Any]:
    if not isinstance(data, list) or len(data) != 2:
        raise _Unusable
    return data


def _sized(data: Any, count: int, read: Callable[[Any], Any]) -> list[Any]:
    values = _list(data)
    if len(values) != count:
        raise _Unusable
    return [read(value) for value in values]


def _ints(data: Any, count: int) -> Ints:
    return np.array(_sized(data, count, _number), np.int64)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Unusable
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not -1 <= value < _MOST_NUMBER:
        raise _Unusable
    return value


def _real(value: Any) -> float:
    if type(value) not in (int, float):
        raise _Unusable
    return float(value)
