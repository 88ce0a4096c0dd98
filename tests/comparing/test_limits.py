"""Limits as they are written, and what is said of those that cannot be read."""

from __future__ import annotations

import pytest

from modtrace.analysis.comparing.limits import FIGURES, Limit, parse_limits
from modtrace.analysis.comparing.run_numbers import SUBTREE
from modtrace.errors import UsageError


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("step:+5%", {"target": "step", "share": 0.05}),
        ("step:-3%", {"target": "step", "share": -0.03}),
        ("step : +2.5 %", {"target": "step", "share": 0.025}),
        ("step:+2ms", {"target": "step", "amount": 2e6}),
        ("peak:+1%", {"target": "peak", "share": 0.01}),
        ("peak:+100MB", {"target": "peak", "amount": 1e8}),
        ("flops:+0", {"target": "flops", "amount": 0.0}),
        ("calls:+3", {"target": "calls", "amount": 3.0}),
        ("calls:-1", {"target": "calls", "amount": -1.0}),
        ("encoder.*.forward:+10%", {"target": "encoder.*", "quantity": "forward", "share": 0.1}),
        ("h.0.mlp:+10%", {"target": "h.0.mlp", "quantity": SUBTREE, "share": 0.1}),
        ("h.0.mlp.time:+10%", {"target": "h.0.mlp", "quantity": SUBTREE, "share": 0.1}),
        ("head.flops:+0", {"target": "head", "quantity": "flops", "amount": 0.0}),
        ("model.step.forward:+1%", {"target": "model.step", "quantity": "forward", "share": 0.01}),
        ("step.p50<50ms", {"target": "step", "amount": 5e7, "compare": "<"}),
        ("step.p95 <= 80ms", {"target": "step", "figure": "p95", "amount": 8e7, "compare": "<="}),
        ("backward.max<1s", {"target": "backward", "figure": "max", "amount": 1e9, "compare": "<"}),
        ("enc.forward.mean<3ms",
         {"target": "enc", "quantity": "forward", "figure": "mean", "amount": 3e6, "compare": "<"}),
        ("peak<2GB", {"target": "peak", "amount": 2e9, "compare": "<"}),
        ("flops<=4GFLOP", {"target": "flops", "amount": 4e9, "compare": "<="}),
        ("recompiles<1", {"target": "recompiles", "amount": 1.0, "compare": "<"}),
        ("nan", {"target": "nan"}),
        ("findings", {"target": "findings", "amount": 1, "compare": "<"}),
        ("findings<3", {"target": "findings", "amount": 3.0, "compare": "<"}),
    ],
)  # fmt: skip
def test_each_form_of_a_limit(text, limit):
    (found,) = parse_limits(text)
    assert found == Limit(text=text, **{"figure": FIGURES[0], **limit})


def test_several_with_commas_or_one_a_line():
    assert [limit.text for limit in parse_limits("step:+5%, peak:+1%\nnan, ")] == [
        "step:+5%",
        "peak:+1%",
        "nan",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "takes limits such as"),
        ("step", "says no limit: write step:.5% or step<50ms"),
        ("peak", "write peak:.5% or peak<2GB"),
        ("step:5%", "is no limit"),
        ("step+5%", "says no limit"),
        ("step:+5", "has no unit"),
        ("step<50", "has no unit: did you mean step<50ms"),
        ("step<50MB", "compared with something like"),
        ("calls:+3ms", "compared with something like"),
        ("nan<3", "nan has no amount"),
        ("nan:+1%", "nan has no amount"),
        ("findings:+1", "counted in one trace"),
        ("peak.p95<2GB", "p95 is of times, peak has none"),
    ],
)
def test_what_cannot_be_read_is_told(text, message):
    with pytest.raises(UsageError, match=message.replace(".5", r"\+5").replace("peak.p95", "peak.p95")):
        parse_limits(text)
