"""Two sides of runs that are made of numbers: what differs is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modtrace.analysis.comparing.comparison import Comparison
from modtrace.analysis.comparing.name_map import NameMap
from modtrace.views.difference_text import line_label
from tests.comparing.made_runs import NET, OUTSIDE, US, noisy_runs, run_of


def names_of(lines):
    return [line.name for line in lines]


def without(net, *names):
    return {name: facts for name, facts in net.items() if not name.startswith(names)}


def test_a_run_beside_itself():
    found = Comparison([run_of()], [run_of()])
    assert found.environment == found.structure == found.numbers == []
    assert {change.verdict for change in found.steps.values()} == {"unknown"}
    assert found.steps["step"].reason == "one run a side: cannot tell"
    assert found.step_change.lines == []
    assert (found.step_change.change_ns, found.step_change.other_ns, found.step_change.unmatched_ns) == (
        0,
        0,
        0,
    )


def test_equal_runs_are_the_same():
    found = Comparison(noisy_runs(5, 1), noisy_runs(5, 2))
    assert found.steps["step"].verdict == "same"
    assert found.steps["step"].low < 1 < found.steps["step"].high
    assert not any(change.changed for module in found.modules for change in module.times.values())
    assert found.step_change.lines == []


@pytest.mark.parametrize("name", ["h.3.mlp.fc", "head", "h.0.norm", "embed"])
def test_one_module_that_is_slower_is_named_and_no_other(name):
    added = 0.1 * sum(time or 0 for _, time in NET.values()) / NET[name][1]
    found = Comparison(noisy_runs(5, 3), noisy_runs(5, 4, scale={name: 1 + added}))
    assert names_of(found.step_change.lines) == [name]
    line = found.step_change.lines[0]
    assert line.change_ns == pytest.approx(added * NET[name][1] * US, rel=0.25)
    assert (line.time.verdict, line.type, line.modules) == ("slower", NET[name][0], 1)


def test_one_among_hundreds_of_modules():
    net = {"": ("Net", 5), **{f"layer_{number}": ("Linear", 100) for number in range(400)}}
    found = Comparison(noisy_runs(5, 5, net=net), noisy_runs(5, 6, net=net, scale={"layer_137": 1.3}))
    assert names_of(found.step_change.lines) == ["layer_137"]


def test_the_smallest_subtree_that_explains_it():
    """All of an MLP is one line, not its three parts; an own time is that of the module, not of a child."""
    slow = {name: 1.5 for name in NET if name.startswith("h.2.mlp")}
    found = Comparison(noisy_runs(5, 7), noisy_runs(5, 8, scale=slow))
    assert names_of(found.step_change.lines) == ["h.2.mlp"]
    found = Comparison(noisy_runs(5, 7), noisy_runs(5, 8, scale={"h.2.attn": 40}))
    assert names_of(found.step_change.lines) == ["h.2.attn"]


def test_repeats_are_one_line_and_more_where_they_went_apart():
    slow = {f"h.{block}.attn.qkv": 1.4 for block in range(6)}
    found = Comparison(noisy_runs(5, 9), noisy_runs(5, 10, scale=slow))
    line = found.step_change.lines[0]
    assert (line.name, line.modules, len(found.step_change.lines)) == ("h.*.attn.qkv", 6, 1)
    slow["h.3.attn.qkv"] = 0.5
    found = Comparison(noisy_runs(5, 9), noisy_runs(5, 10, scale=slow))
    assert {(line.name, line.modules, line.time.verdict) for line in found.step_change.lines} == {
        ("h.*.attn.qkv", 5, "slower"), ("h.3.attn.qkv", 1, "faster"),
    }  # fmt: skip


def test_what_is_outside_of_modules_has_its_line():
    found = Comparison(noisy_runs(5, 11), noisy_runs(5, 12, scale={"optimizer": 1.6}))
    assert names_of(found.step_change.lines) == ["optimizer"]
    assert found.step_change.lines[0].change_ns == pytest.approx(0.6 * OUTSIDE["optimizer"] * US, rel=0.2)


def test_a_change_that_only_moves_time_is_seen_where_it_is():
    slow = {"h.1.mlp.fc": 2.0, "head": (NET["head"][1] - NET["h.1.mlp.fc"][1]) / NET["head"][1]}
    found = Comparison(noisy_runs(5, 13), noisy_runs(5, 14, scale=slow))
    assert found.steps["step"].verdict == "same"
    assert {(line.name, line.time.verdict) for line in found.step_change.lines} == {
        ("h.1.mlp.fc", "slower"), ("head", "faster"),
    }  # fmt: skip


@settings(max_examples=60)
@given(st.integers(0, 1 << 30), st.integers(1, 6), st.integers(1, 6), st.floats(0, 0.3))
def test_lines_add_up_to_the_change_of_the_step(seed, first, second, noise):
    drawn = np.random.default_rng(seed)
    slow = {name: float(drawn.lognormal(0, 0.8)) for name in NET if drawn.random() < 0.1}
    fewer = without(NET, *drawn.choice(["h.1", "h.4.mlp", "head", "nothing"], 2))
    found = Comparison(
        noisy_runs(first, seed, noise=noise, within=noise),
        noisy_runs(second, seed + 1, net=fewer, noise=noise, scale=slow, within=noise),
    )
    change = found.step_change
    total = sum(line.change_ns for line in change.lines) + change.unmatched_ns + change.other_ns
    assert total == change.change_ns == found.steps["step"].change_ns
    nodes = [node for line in change.lines for node in line.nodes]
    assert len(nodes) == len(set(nodes))


@settings(max_examples=60)
@given(st.integers(0, 1 << 30))
def test_without_noise_nothing_is_left_over(seed):
    """Each module that changed is in exactly one line, so `other` holds nothing but rounding."""
    drawn = np.random.default_rng(seed)
    leaves = [name for name in NET if not any(other.startswith(f"{name}.") for other in NET if name)]
    slow = {name: 1.3 for name in [*leaves[1:], *OUTSIDE] if drawn.random() < 0.15}
    found = Comparison([run_of(within=0)] * 5, [run_of(scale=slow, within=0)] * 5, noise=0.0001)
    change = found.step_change
    assert abs(change.other_ns) <= len(NET) + 10
    assert sum(line.change_ns for line in change.lines) == pytest.approx(change.change_ns, abs=len(NET) + 10)


def test_where_the_whole_cannot_be_told_its_forward_has_the_line():
    """As on a busy machine: the backward of a module varies so much that only its forward is known to be slower."""

    def runs(seed, forward):
        drawn, result = np.random.default_rng(seed), []
        for run in noisy_runs(5, seed):
            number = [module.name for module in run.modules].index("h.2.attn.qkv")
            factors = {name: np.ones(len(run.modules)) for name in ("forward", "backward", "subtree")}
            factors["forward"][number] = forward
            factors["backward"][number] = factors["subtree"][number] = drawn.lognormal(0, 1)
            times = {
                kind: replace(spent, p50_ns=(spent.p50_ns * factors[kind]).astype(np.int64))
                for kind, spent in run.module_times.items()
                if kind in factors
            }
            result.append(replace(run, module_times={**run.module_times, **times}))
        return result

    found = Comparison(runs(1, 1), runs(2, 3))
    (line,) = found.step_change.lines
    assert (line.name, line.part, line.time.verdict, line.rest) == (
        "h.2.attn.qkv",
        "forward",
        "slower",
        False,
    )
    assert line.change_ns == pytest.approx(2 * 0.4 * NET["h.2.attn.qkv"][1] * US, rel=0.1)
    assert line_label(line) == "h.2.attn.qkv forward"
    change = found.step_change
    assert change.change_ns == line.change_ns + change.unmatched_ns + change.other_ns
    assert Comparison(runs(1, 1), runs(2, 1)).step_change.lines == []


def test_modules_that_one_side_alone_has_are_a_row():
    more = {**NET, "h.2.adapter": ("Adapter", 100), "h.2.adapter.down": ("Linear", 700)}
    found = Comparison(noisy_runs(5, 15), noisy_runs(5, 16, net=more))
    assert found.step_change.unmatched_ns == pytest.approx(800 * US, rel=0.1)
    assert names_of(found.step_change.lines) == []
    assert [(change.what, change.name, change.modules) for change in found.structure] == [
        ("added", "h.2.adapter", 2)
    ]
    back = Comparison(noisy_runs(5, 16, net=more), noisy_runs(5, 15))
    assert back.step_change.unmatched_ns == pytest.approx(-800 * US, rel=0.1)
    assert [(change.what, change.name, change.modules) for change in back.structure] == [
        ("removed", "h.2.adapter", 2)
    ]


def test_a_module_that_runs_in_few_steps_adds_its_part_alone():
    net = {**NET, "evaluator": ("Linear", 20_000)}
    options = {"share": {"evaluator": 0.1}, "net": net}
    found = Comparison(noisy_runs(5, 17, **options), noisy_runs(5, 18, scale={"evaluator": 2}, **options))
    line = next(line for line in found.step_change.lines if line.name == "evaluator")
    assert line.change_ns == pytest.approx(0.1 * 20_000 * US, rel=0.1)


def test_one_run_a_side_tells_only_what_is_beyond_every_step():
    slow = Comparison([run_of(within=0.3)], [run_of(within=0.3, scale={"head": 1.5})])
    assert slow.step_change.lines == []
    assert {change.verdict for module in slow.modules for change in module.times.values()} == {"unknown"}
    slower = Comparison([run_of(within=0.1)], [run_of(within=0.1, scale={"head": 3})])
    assert names_of(slower.step_change.lines) == ["head"]
    assert slower.step_change.lines[0].time.reason == "beyond every step of the baseline"
    few = Comparison([run_of(within=0.1, steps=4)], [run_of(within=0.1, scale={"head": 3}, steps=4)])
    assert few.step_change.lines == []
    assert few.steps["step"].reason == "too few steps to tell"


@pytest.mark.parametrize(
    ("runs", "enough"),
    [((1, 1), False), ((4, 4), False), ((5, 5), True), ((3, 7), True), ((1, 50), False), ((1, 79), True)],
)
def test_how_many_runs_are_enough(runs, enough):
    found = Comparison([run_of()] * runs[0], [run_of(scale={"head": 2})] * runs[1])
    assert found.enough_runs == enough


def test_noise_that_is_as_large_is_not_told_from_a_change():
    found = Comparison(
        noisy_runs(5, 19, noise=0.2, drift=0.2), noisy_runs(5, 20, noise=0.2, drift=0.2, scale={"head": 1.1})
    )
    assert found.step_change.lines == []
    assert found.steps["step"].verdict == "unknown"
    assert found.steps["step"].reason == "the noise of the runs is as large"


def test_the_band_is_what_counts_as_no_change():
    runs = (
        noisy_runs(5, 21, noise=0.001, drift=0.001),
        noisy_runs(5, 22, noise=0.001, drift=0.001, scale={"head": 1.04}),
    )
    assert names_of(Comparison(*runs).step_change.lines) == []
    assert names_of(Comparison(*runs, noise=0.02).step_change.lines) == ["head"]


def test_a_change_that_may_be_within_the_band_is_not_told():
    runs = noisy_runs(5, 1), noisy_runs(5, 2, scale=dict.fromkeys(NET, 1.06))
    step = Comparison(*runs).steps["step"]
    assert (step.verdict, step.reason) == ("unknown", "not surely more than 5%")
    assert 1 < step.low < 1.05 < step.high


def test_structure_is_told_by_what_it_is():
    one = run_of(shapes={"head": (("weight", (10, 8)),)}, outputs={"head": "f32[8,10]"})
    other_net = {
        ("trunk" + name[1:] if name == "h" or name.startswith("h.") else name): facts
        for name, facts in NET.items()
    }
    other_net["embed"] = ("OneHot", 300)
    other = run_of(
        other_net,
        shapes={"head": (("weight", (12, 8)),)},
        outputs={"head": "f32[8,12]"},
        dtypes={"head": "bfloat16"},
    )
    found = Comparison([one], [other])
    told = {(change.what, change.name, change.baseline, change.candidate) for change in found.structure}
    assert told == {
        ("renamed", "trunk", "h", "trunk"),
        ("class", "embed", "Embedding", "OneHot"),
        ("parameters", "head", "weight[10,8]", "weight[12,8]"),
        ("dtype", "head", "float32", "bfloat16"),
        ("output", "head", "f32[8,10]", "f32[8,12]"),
    }
    assert [change.confidence for change in found.structure if change.what == "renamed"] == [1.0]


def test_a_map_of_names_is_followed():
    net = {"": ("Net", 1), "one": ("Linear", 10), "two": ("Conv2d", 10)}
    swapped = {"": ("Net", 1), "uno": ("Conv2d", 10), "due": ("Linear", 10)}
    found = Comparison([run_of(net)], [run_of(swapped)], names=NameMap(["one=uno", "two=due"]))
    told = {(change.what, change.name, change.baseline) for change in found.structure}
    assert {("mapped", "uno", "one"), ("mapped", "due", "two")} <= told


def test_numbers_are_told_at_the_modules_that_they_come_from():
    flops = {"": 9000, "h.2": 3000, "h.2.mlp": 2000, "h.2.mlp.fc": 1000, "h.2.mlp.proj": 1000}
    more = {"": 9500, "h.2": 3500, "h.2.mlp": 2500, "h.2.mlp.fc": 1500, "h.2.mlp.proj": 1000}
    for base in (flops, more):
        base.update({name: base.get(name, 0) for name, (_, time) in NET.items() if time is not None})
    found = Comparison(
        [run_of(numbers={"flops": flops}, totals={"flops": 9000})],
        [run_of(numbers={"flops": more}, totals={"flops": 9500, "calls": 70})],
    )
    told = [(change.name, change.key, change.baseline, change.candidate) for change in found.numbers]
    assert told == [
        ("", "calls", (57, 57), (70, 70)),
        ("", "flops", (9000, 9000), (9500, 9500)),
        ("h.2.mlp.fc", "flops", (1000, 1000), (1500, 1500)),
    ]


def test_calls_that_are_more_because_the_module_around_is_called_more_are_no_news():
    twice = {name: 2 for name in NET if name.startswith("h.3") and NET[name][1] is not None}
    found = Comparison([run_of()], [run_of(numbers={"calls": twice})])
    assert [(change.name, change.key) for change in found.numbers] == [("h.3", "calls")]


def test_a_number_that_is_not_known_is_no_change():
    found = Comparison(
        [run_of(totals={"peak": None, "saved": 5})], [run_of(totals={"peak": 7, "saved": None})]
    )
    assert found.numbers == []


def test_a_number_that_varies_is_told_where_the_sides_are_apart():
    runs = [run_of(totals={"peak": value}) for value in (10, 12, 11)]
    assert Comparison(runs, [run_of(totals={"peak": 12})]).numbers == []
    change = Comparison(runs, [run_of(totals={"peak": 13})]).numbers[0]
    assert (change.key, change.baseline, change.candidate) == ("peak", (10, 12), (13, 13))


def test_the_environment_is_told_by_name():
    found = Comparison(
        [run_of(environment={"device": "a", "engine": None})],
        [run_of(environment={"device": "b", "engine": "hooks"})],
    )
    assert [(change.name, change.baseline, change.candidate) for change in found.environment] == [
        ("device", "a", "b")
    ]


def test_notes_are_told_once():
    noted = [run_of(notes=("recorded until 3 s",)) for _ in range(3)]
    found = Comparison(noted, [run_of(), run_of(without(NET, "head"))])
    assert found.notes == [
        "recorded until 3 s", "the runs of the candidate have different modules: those of the first are compared",
    ]  # fmt: skip
