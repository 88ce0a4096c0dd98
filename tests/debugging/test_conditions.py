"""Expressions over single calls: how they are read, and when they hold."""

from __future__ import annotations

import pytest

from modtrace.capture.mechanisms.break_conditions import (
    CallFacts,
    ModuleNames,
    expressions_of,
    for_rank,
    joined_texts,
    shape_fits,
)
from modtrace.errors import UsageError
from modtrace.filter_language import Term, holds

ATTENTION = ModuleNames(("encoder.layers.3.self_attn", "shared.attn"), "model", "MultiheadAttention")
TOP = ModuleNames(("",), "model", "Transformer")


def facts(stage, module=ATTENTION, **values):
    """A call of step 10, 31st of its module, given f16[2,7,16], which returns f32[2,7]."""
    known = CallFacts(
        module, rank=1, began=stage != "module", ended=stage == "after", step=10, nth=31, thread=0
    )
    known.phase = lambda: "forward"
    known.inputs = lambda: [((2, 7, 16), "float16")]
    known.outputs = lambda: [((2, 7), "float32")]
    known.inputs_changed = known.outputs_changed = lambda: False
    known.finite_inputs = lambda: True
    known.finite_outputs = lambda: False
    known.duration_ns = 60_000_000 if stage == "after" else None
    for name, value in values.items():
        setattr(known, name, value)
    return known


def answer(text, stage, **values):
    return holds(expressions_of(text)[0].condition, facts(stage, **values).ask)


@pytest.mark.parametrize(
    ("text", "module", "before", "after"),
    [
        ("encoder.layers.3.self_attn", True, True, True),
        ("self_attn", True, True, True),
        ("layers.3.self_attn", True, True, True),
        ("attn", True, True, True),  # the alias shared.attn
        ("elf_attn", False, False, False),
        ("encoder.layers.3", False, False, False),
        ("encoder.layers.*", True, True, True),
        ("model.encoder.*", True, True, True),
        ("multiheadattention", True, True, True),
        ("Multihead", False, False, False),
        ("class=Multihead*", True, True, True),
        ("type:MultiheadAttention name!=encoder.layers.3.self_attn", False, False, False),
        ("/layers\\.[0-3]\\./", True, True, True),
        ("not /layers\\.3/", False, False, False),
        ("-self_attn", False, False, False),
        ("self_attn and step=10", None, True, True),
        ("self_attn step:10 nth>=31", None, True, True),
        ("self_attn and step>10", None, False, False),
        ("elf_attn and step=10", False, False, False),
        ("elf_attn or step=10", None, True, True),
        ("rank=1", True, True, True),
        ("rank!=1 and nan", False, False, False),
        ("thread=0", None, True, True),
        ("phase=fwd", None, True, True),
        ("phase:eval", None, False, False),
        ("shape~[2,7,16]", None, True, True),
        ("shape ~ [2, *, 16]", None, True, True),
        ("shape~[...,16]", None, True, True),
        ("shape~[2,7]", None, None, True),
        ("shape~[3,...]", None, None, False),
        ("not shape~[2,7,16]", None, False, False),
        ("not shape~[9]", None, None, True),
        ("shape changed", None, None, False),
        ("dtype=f16", None, True, True),
        ("dtype:torch.float32", None, None, True),
        ("nan", None, None, True),
        ("duration>50ms", None, None, True),
        ("time>1s", None, None, False),
        ("memory>1MB", None, None, False),
        ("raised", None, None, False),
        ("step=10 and (duration>1s or (nan and not raised))", None, None, True),
        ("duration>1s or step=10", None, True, True),
    ],
)
def test_when_a_condition_holds(text, module, before, after):
    assert [answer(text, stage) for stage in ("module", "before", "after")] == [module, before, after]


def test_a_call_that_raised():
    values = {"error": ("KeyError", "LookupError", "Exception"), "duration_ns": None}
    for text in ("raised", "raised=KeyError", "raised:Lookup*", "self_attn and raised and not nan"):
        assert answer(text, "after", **values) is True, text
    for text in ("raised=ValueError", "duration>0ns", "shape~[2,7]"):
        assert answer(text, "after", **values) is False, text


def test_the_outermost_module_is_called_by_its_variable_or_class():
    assert [answer(text, "module", module=TOP) for text in ("model", "Transformer", "encoder")] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("shape", "pattern", "fits"),
    [
        ((2, 0), "*,0", True), ((0, 2), "*,0", False), ((), "", True), ((1,), "", False), ((), "...", True),
        ((1, 2, 3), "1,...,3", True), ((1, 3), "1,...,3", True), ((3,), "3,...,3", False), ((None, 3), "*,3", True),
        ((None, 3), "2,3", False), (None, "...", False), ((1, 2), "...,...", False),
    ],
)  # fmt: skip
def test_shapes(shape, pattern, fits):
    assert shape_fits(shape, pattern) is fits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("durtion>5ms", "durtion is not known: did you mean duration>5ms?"),
        ("stpe=3", "stpe is not known: did you mean step=3?"),
        ("clas:Linear", "clas: is not known: did you mean class:Linear?"),
        (
            "foo=3",
            "foo is not known: there are name, class, dtype, raised, phase, step, nth, thread, rank, duration",
        ),
        ("duration>5", "duration>5 has no unit: did you mean duration>5ms?"),
        ("duration:5ms", "duration is a number: did you mean duration>5ms?"),
        ("step=x", "step: takes a number, not 'x'"),
        ("phase=backward", "phase: takes forward, eval, recompute, data, optimizer, not 'backward'"),
        ("name>3", "name>3: name is compared with = and !="),
        ("step=>3", "step=>3: step is compared with = and !="),
        ("shape~[2,x]", "[2,x] is no shape; write it like [2,8], [*,0] or [...,64]"),
        ("a and", "a condition is missing"),
        ("(a or b", "a ) is missing"),
        ("a)", "a ) in 'a)' has no ( in front of it"),
        ("or a", "a condition is missing in front of or"),
        ("/(/", "/(/ is no expression"),
        ("", "an expression is empty"),
        ("(" * 60 + "a" + ")" * 60, "at most 50"),
        ("a" * 501, "at most 500 characters"),
    ],
)
def test_what_cannot_be_read_is_said(text, message):
    with pytest.raises(UsageError) as raised:
        expressions_of(text)
    assert message in str(raised.value)


def test_texts_of_code():
    assert joined_texts("break_on", None) is None
    assert joined_texts("break_on", "nan\nand  step=3") == "nan and step=3"
    assert joined_texts("break_on", ["nan", "raised"]) == "nan\nraised"
    with pytest.raises(UsageError, match="break_on=3 is no text"):
        joined_texts("break_on", 3)


def test_which_rank_stops():
    text = "nan\nrank=2 and raised"
    assert for_rank(text, 0, 0) == text
    assert for_rank(text, 1, 0) == "rank=2 and raised"
    assert for_rank("nan", 1, 0) is None
    assert for_rank("nan", 1, 1) == "nan"
    assert for_rank(None, 0, 0) is None


@pytest.mark.parametrize(
    ("key", "text", "matches"),
    [
        ("word", "Linear", True), ("word", "fc*", True), ("word", "Lin*", True), ("word", "Conv2d", False),
        ("name", "Linear", False), ("name", "fc1", True), ("class", "Linear", True), ("class", "fc1", False),
    ],
)  # fmt: skip
def test_a_word_is_a_name_or_a_class(key, text, matches):
    assert ModuleNames(names=("fc1",), root="net", cls="Linear").match(Term(key, text)) is matches
