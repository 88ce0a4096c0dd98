"""Limits held against runs whose numbers are known."""

from __future__ import annotations

import pytest

from modtrace.analysis.comparing.comparison import Comparison
from modtrace.analysis.comparing.gate import held_against, held_against_run, verdict
from modtrace.analysis.comparing.limits import parse_limits
from modtrace.errors import UsageError
from tests.comparing.made_runs import NET, noisy_runs, run_of

STEP_MS = (sum(time or 0 for _, time in NET.values()) + 700 + 2600 + 400 + 90) / 1000


def status(comparison, text):
    (result,) = held_against(comparison, parse_limits(text))
    return result.status


@pytest.fixture(scope="module")
def same():
    return Comparison(noisy_runs(5, 1), noisy_runs(5, 2))


@pytest.fixture(scope="module")
def slower():
    """`head` takes twice as long: the step 7 to 8 % longer."""
    return Comparison(
        noisy_runs(5, 3, noise=0.005, drift=0.005),
        noisy_runs(5, 4, noise=0.005, drift=0.005, scale={"head": 2}),
    )


@pytest.fixture(scope="module")
def noisy():
    return Comparison(noisy_runs(5, 5, noise=0.2, drift=0.2), noisy_runs(5, 6, noise=0.2, drift=0.2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("step:+5%", "fine"), ("step:+1ms", "fine"), ("step:-5%", "exceeded"), ("head.forward:+10%", "fine"),
        ("h.*:+10%", "fine"), ("calls:+0", "fine"), ("calls:+0%", "fine"), ("calls:-1", "exceeded"),
        ("flops:+0", "unknown"), ("nan", "unknown"), ("step.p95<1s", "fine"), ("step<1ms", "exceeded"),
    ],
)  # fmt: skip
def test_equal_runs(same, text, expected):
    assert status(same, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("step:+5%", "exceeded"), ("step:+20%", "fine"), ("step:+1ms", "exceeded"), ("step:+7.5%", "unknown"),
        ("head:+50%", "exceeded"), ("model.head:+50%", "exceeded"), ("head.backward:+150%", "fine"),
        ("h.*.forward:+10%", "fine"), ("*:+50%", "exceeded"), ("embed:+5%", "fine"),
    ],
)  # fmt: skip
def test_a_module_that_is_slower(slower, text, expected):
    assert status(slower, text) == expected


def test_of_several_modules_the_worst_is_the_first(slower):
    (result,) = held_against(slower, parse_limits("*.time:+50%"))
    assert (result.measured[0].name, result.measured[0].status) == ("head", "exceeded")
    assert len(result.measured) == len(NET)
    assert {one.status for one in result.measured[1:]} == {"fine"}


def test_noise_is_no_reason_to_fail_nor_to_pass(noisy):
    assert status(noisy, "step:+5%") == "unknown"
    assert status(noisy, "step:+400%") == "fine"


def test_with_one_run_a_side_only_what_every_step_says_counts():
    def one_run(factor, within):
        return Comparison([run_of(within=within)], [run_of(within=within, scale=dict.fromkeys(NET, factor))])

    assert status(one_run(1, 0.01), "step:+5%") == "fine"
    assert status(one_run(1, 0.1), "step:+5%") == "unknown"
    assert status(one_run(2, 0.1), "step:+5%") == "exceeded"
    assert status(one_run(1, 0.1), "calls:+0") == "fine"


def test_numbers_that_vary_are_judged_by_all_runs():
    def runs(*values):
        return [run_of(totals={"peak": value}) for value in values]

    for other, expected in (((100, 101), "fine"), ((102, 104), "unknown"), ((104, 106), "exceeded")):
        assert status(Comparison(runs(100, 102), runs(*other)), "peak:+1%") == expected
    assert status(Comparison(runs(100), runs(None)), "peak:+1%") == "unknown"


def test_numbers_of_modules():
    found = Comparison([run_of(numbers={"flops": {"head": 100}})], [run_of(numbers={"flops": {"head": 101}})])
    assert status(found, "head.flops:+0") == "exceeded"
    assert status(found, "head.flops:+1%") == "fine"
    assert status(found, "embed.flops:+1%") == "unknown"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoder:+5%", "no module is called encoder"), ("heed:+5%", "did you mean head"),
        ("findings", "modtrace check"), ("step.p95:+5%", "compared by their medians"),
    ],
)  # fmt: skip
def test_a_limit_that_fits_nothing_is_told(same, text, message):
    with pytest.raises(UsageError, match=message):
        held_against(same, parse_limits(text))


@pytest.mark.parametrize(
    ("values", "expected"),
    [((False, False), "fine"), ((False, True), "exceeded"), ((None, False), "unknown")],
)
def test_values_that_are_not_finite(values, expected):
    found = Comparison([run_of()], [run_of(nonfinite=value) for value in values])
    assert status(found, "nan") == expected


def single(text, findings=0, **options):
    (result,) = held_against_run(run_of(**options), parse_limits(text), lambda: findings)
    return result.status


def test_one_run_against_budgets():
    assert single(f"step<{STEP_MS + 0.1:.3f}ms") == "fine"
    assert single(f"step<{STEP_MS - 0.1:.3f}ms") == "exceeded"
    assert single(f"step.max<{STEP_MS + 0.1:.3f}ms", within=0.1) == "exceeded"
    assert single("head.forward<1.1ms") == "fine"
    assert single("head.forward<0.9ms") == "exceeded"
    assert single("peak<2GB") == "unknown"
    assert single("peak<2GB", totals={"peak": 10}) == "fine"
    assert single("head.device<1ms") == "unknown"
    assert single("findings", findings=0) == "fine"
    assert single("findings", findings=1) == "exceeded"
    assert single("findings<3", findings=2) == "fine"
    with pytest.raises(UsageError, match="modtrace diff"):
        single("step:+5%")


def test_the_verdict_is_the_worst(same):
    def of(text, **options):
        return verdict(held_against(same, parse_limits(text)), **options)

    assert of("step:+5%, calls:+0") == "fine"
    assert of("step:+5%, peak:+1%") == "unknown"
    assert of("step:+5%, peak:+1%", unknown_ok=True) == "fine"
    assert of("step<1ms, peak:+1%") == "exceeded"
    assert of("step<1ms, peak:+1%", unknown_ok=True) == "exceeded"
