"""The texts of a trace: they add up, they fit, and nothing in them moves a cursor."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import modtrace
from modtrace import units
from modtrace.analysis.flat_profile import flat_profile
from modtrace.analysis.summary import summarise
from modtrace.text import cell, fit, plain, width
from modtrace.trace.reader import open_trace
from modtrace.views import console
from modtrace.views.styled_lines import Line

GOLDEN = Path(__file__).parents[1] / "golden"
PAYLOADS = [
    "\x1b]0;title\x07",
    "[/]",
    "=HYPERLINK(1)",
    "a\nb",
    "\u202eevil",
    "\ud800",
    "漢字" * 40,
    "</script>",
    "\x9b2J",
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("views") / "t.mtrace"
    blocks = [torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()) for _ in range(3)]
    model = torch.nn.Sequential(*blocks)
    for number, name in enumerate(PAYLOADS):
        model[0].register_module(name.replace(".", "") or "x", torch.nn.Identity())
        model.add_module(f"never{number}", torch.nn.Linear(1, 1))
    model.forward = lambda x: [block(x) for block in blocks][-1]
    with modtrace.trace(path=path):
        for _ in range(5):
            model(torch.randn(2, 4))
        try:
            blocks[0](torch.randn(2, 5))
        except RuntimeError:
            pass
    return open_trace(path)


@pytest.mark.parametrize("columns", [0, 20, 40, 60, 80, 120, 500])
@pytest.mark.parametrize("ascii", [False, True])
def test_fits_and_is_clean(stored, columns, ascii):
    style = {"width": columns, "ascii": ascii}
    texts = [console.summary(stored, shown_path="x\x1b", **style), console.tree(stored, **style)]
    texts.append(console.modules_table(stored, **style))
    assert texts[0].count("\n") <= 30
    for text in texts:
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029]", text)
        assert max(width(line) for line in texts[0].splitlines()) <= max(columns, 20)
        assert not ascii or text.isascii()
    assert "\x1b[1m" in console.summary(stored, color=True)


def test_the_self_column_adds_up_to_the_wall(stored):
    found = summarise(stored)
    profile = flat_profile(stored, whole_run=True)
    parts = (
        profile.tracer_ns + profile.unknown_ns + profile.before_ns + profile.outside_ns - profile.parallel_ns
    )
    assert sum(row.spent_ns for row in profile.rows) + parts == found.wall_ns
    assert profile.unknown_ns == 0
    assert profile.before_ns + profile.outside_ns == found.outside_ns
    assert found.raised_roots == 1


def test_repeats_are_folded(stored):
    text = console.tree(stored)
    assert re.search(r"\* x3 +Sequential", text)
    assert re.search(r"0 x3 +Linear|\* x3 +Linear", text)


def test_json_has_units_and_nulls(stored):
    text = console.info_json(stored)
    assert '"tracing_cost_ns"' in text
    assert "NaN" not in text


def test_csv(stored, tmp_path):
    trace = modtrace.load(stored.path)
    trace.to_csv(tmp_path / "calls.csv")
    assert (tmp_path / "calls.csv").stat().st_mode & 0o77 == 0
    out = io.StringIO()
    trace.to_csv(out)
    text = out.getvalue()
    assert text.encode() == (tmp_path / "calls.csv").read_bytes()
    assert text.count("\n") == len(trace.calls) + 1
    assert cell("=1") == "'=1"
    assert cell("a=1") == "a=1"
    with pytest.raises(modtrace.UsageError):
        trace.to_csv(tmp_path / "no" / "where.csv")


def test_save_refuses_what_exists(stored, tmp_path):
    trace = modtrace.load(stored.path)
    trace.save(tmp_path / "copy.mtrace")
    with pytest.raises(modtrace.UsageError):
        trace.save(tmp_path / "copy.mtrace")
    assert len(modtrace.load(tmp_path / "copy.mtrace").calls) == len(trace.calls)


def test_steps_and_modules(stored):
    trace = modtrace.load(stored.path)
    assert list(trace.steps["calls"]) == [10 + len(PAYLOADS)] * 5 + [2]
    modules = trace.modules
    assert int((modules["calls"] == 0).sum()) == len(PAYLOADS)
    assert modules.loc[modules["calls"] == 0, "total_ns"].isna().all()


@given(st.text())
def test_plain_text_is_visible(text):
    shown = plain(text)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]", shown)
    assert shown.encode().decode() == shown
    assert len(plain(text, 20)) <= 20
    assert width(fit(shown, 10)) <= 10


@pytest.mark.parametrize(
    ("ns", "told"),
    [(0, "0 ns"), (999, "999 ns"), (1000, "1.00 us"), (7_940_000, "7.94 ms"), (38_100_000_000, "38.1 s"),
     (134_000_000_000, "2m14s"), (3_720_000_000_000, "1h02m"), (999_999, "1.00 ms"), (None, "?")],
)  # fmt: skip
def test_durations(ns, told):
    assert units.duration(ns) == told


class Reached(torch.nn.Module):
    """Calls the `forward` of one child, and a part of the other."""

    def __init__(self):
        super().__init__()
        self.direct, self.holder, self.own = Inner(), Inner(), OwnCall()

    def forward(self, x):
        return self.own(self.holder.linear(self.direct.forward(x)))


class Inner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x)


class OwnCall(torch.nn.Module):
    def __call__(self, x):
        return x + 1


def test_calls_that_no_hook_sees_are_told():
    model = Reached()
    with modtrace.trace() as trace:
        model(torch.ones(1, 3))
    told = trace.summary()
    assert "own: OwnCall" in told
    assert "only parts were called, or .forward() itself: direct, holder" in told
    assert max(map(len, told.splitlines())) <= 80

    with modtrace.trace() as trace:
        Inner()(torch.ones(1, 3))
    assert "only parts" not in trace.summary()
    assert "of its own" not in trace.summary()


def nest(names, inner):
    for name in reversed(names.split(".")):
        outer = torch.nn.Sequential()
        outer.add_module(name, inner)
        inner = outer
    return inner


@pytest.mark.parametrize("width", [60, 80, 140])
def test_long_names_keep_their_ends(width):
    leaves = torch.nn.Sequential()
    leaves.add_module("query_of_attention", torch.nn.Linear(4, 4))
    leaves.add_module("value_of_attention", torch.nn.Linear(4, 4))
    model = nest("backbone.bert_of_two.encoder", leaves)
    with modtrace.trace() as trace:
        model(torch.ones(1, 4))
    told = trace.summary(width=width).split("WHERE THE TIME WENT")[1].splitlines()[1:]
    assert sum("query_of_attention" in line for line in told) == 1
    assert sum("value_of_attention" in line for line in told) == 1
    if width == 140:
        assert "backbone.bert_of_two.encoder.query_of_attention  Linear" in "\n".join(told)


@pytest.mark.parametrize("width", [72, 80, 100])
@pytest.mark.parametrize("version", ["format-1.0", "format-1.1"])
def test_numbers_are_never_cut(version, width):
    """Where the output is a terminal a name may be cut, a number and the unit behind it never."""
    golden = open_trace(GOLDEN / version / "trace")
    for view in (console.memory_text, console.kernels_text, console.roofline_text):
        lines = view(golden, width=width).splitlines()
        assert lines
        assert [line for line in lines if re.search(r"\s[0-9.]+ ?[A-Za-z]*\.\.$", line)] == []
    times = re.compile(r"[0-9.]+ (?:ns|us|ms|s)$")
    rows = [line for line in console.kernels_text(golden, width=80).splitlines()[2:] if "::" in line]
    assert rows
    assert all(times.search(row) for row in rows)


def test_the_direction_of_the_roofline_has_a_column():
    golden = open_trace(GOLDEN / "format-1.1" / "trace")
    head, *rows = [line for line in console.roofline_text(golden, width=80).splitlines() if "Linear" in line]
    place = {row.index(f" {word} ") for row in (head, *rows) for word in ("fwd", "bwd") if f" {word} " in row}
    assert len(place) == 1
    assert all(("fwd" in row) != ("bwd" in row) for row in (head, *rows))


@pytest.mark.parametrize("room", [27, 28, 29, 30, 31])
def test_a_warning_is_broken_as_late_as_it_can_be(room):
    """Words of three letters: each line but the last is full, with two columns to spare."""
    lines = [line.text for line in console._fitted(Line("  ! " + " ".join(["abc"] * 40)), room)]
    assert " ".join(" ".join(lines).split()) == "! " + " ".join(["abc"] * 40)
    assert all(room - 2 - 4 < len(line) <= room - 2 for line in lines[:-1])
