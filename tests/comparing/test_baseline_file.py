"""Baseline files: what is read is what was written, they name no files, and damage is told."""

from __future__ import annotations

import copy
import json
import random

import numpy as np
import pytest

from modtrace.analysis.comparing.baseline_file import baseline_text, read_baseline
from modtrace.analysis.comparing.comparison import Comparison
from modtrace.errors import TraceError
from modtrace.export.difference_json import difference_json
from tests.comparing.made_runs import NET, noisy_runs, run_of


def written(path, runs):
    path.write_text(baseline_text(runs))
    return read_baseline(path)


def test_what_is_read_is_what_was_written(tmp_path):
    run = run_of(
        totals={"peak": 12345, "flops": None}, numbers={"flops": {"head": 99}}, outputs={"head": "f32[8,12]"},
        nonfinite=False, notes=("recorded until 3 s",), dtypes={"head": "bfloat16"}, share={"embed": 0.5},
    )  # fmt: skip
    (found,) = written(tmp_path / "b.json", [run])
    for name in (
        "modules",
        "dtypes",
        "outputs",
        "step_names",
        "outside_names",
        "totals",
        "steps",
        "training",
        "nonfinite",
    ):
        assert getattr(found, name) == getattr(run, name), name
    assert found.notes == run.notes
    assert found.environment == run.environment
    for key, values in run.module_numbers.items():
        assert found.module_numbers[key].tolist() == values.tolist(), key
    for kind, times in run.module_times.items():
        read = found.module_times[kind]
        assert read.steps.tolist() == times.steps.tolist(), kind
        assert np.allclose(read.p50_ns, times.p50_ns, rtol=6e-4)
        assert (read.least_ns <= times.least_ns * 1.001 + 1).all()
        assert (read.most_ns >= times.most_ns * 0.999 - 1).all()


def test_a_name_of_any_length_is_read_again(tmp_path):
    run = run_of(environment={"host": "h" * 5_000}, outputs={"head": "f" * 5_000})
    (found,) = written(tmp_path / "b.json", [run])
    assert found.environment == run.environment
    assert found.outputs == run.outputs


def test_a_comparison_with_it_is_that_with_the_runs(tmp_path):
    base, other = noisy_runs(5, 1), noisy_runs(5, 2, scale={"head": 1.5})
    one, two = Comparison(base, other), Comparison(written(tmp_path / "b.json", base), other)
    assert (
        [line.name for line in two.step_change.lines]
        == [line.name for line in one.step_change.lines]
        == ["head"]
    )
    verdicts = [
        [time.verdict for module in found.modules for time in module.times.values()] for found in (one, two)
    ]
    assert verdicts[0] == verdicts[1]
    assert two.environment == two.structure == two.numbers == []


def test_steps_of_all_runs_bound_those_of_each(tmp_path):
    runs = [
        run_of(within=within, scale={"head": factor})
        for within, factor in ((0.1, 1), (0.3, 1.2), (0.05, 0.9))
    ]
    one, two = Comparison(runs, [run_of()]), Comparison(written(tmp_path / "b.json", runs), [run_of()])
    for name in ("least_ns", "most_ns"):
        sides = [getattr(found.baseline.module_times("subtree"), name) for found in (one, two)]
        assert np.allclose(*sides, rtol=0.02)


def test_it_is_small_and_names_no_file(tmp_path):
    run = run_of(environment={"arguments": "--data /secret/place/train.csv"})
    run.modules[0] = run.modules[0].__class__("model", "", "Net", "secret_package.models")
    text = baseline_text([run])
    assert len(text) < 8_000
    assert "secret" not in text
    assert text.isascii()
    assert len(baseline_text(noisy_runs(5, 1))) < 14_000


def test_runs_of_two_models_are_kept_apart(tmp_path):
    fewer = {name: facts for name, facts in NET.items() if name != "head"}
    found = written(tmp_path / "b.json", [run_of(), run_of(fewer), run_of()])
    assert [len(run.modules) for run in found] == [len(NET), len(NET), len(NET) - 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no JSON"), ("{", "holds no JSON"), ("[]", "is no baseline"), ("{}", "is no baseline"),
        ('{"format": "modtrace-baseline", "version": 2}', "another format"),
        ('{"format": "modtrace-baseline", "version": 1}', "is damaged"),
        ('{"format": "modtrace-baseline", "version": 1, "models": [], "runs": []}', "holds no runs"),
        ("[" * 100_000, "holds no JSON"),
    ],
)  # fmt: skip
def test_what_is_no_baseline_is_told(text, message, tmp_path):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(TraceError, match=message):
        read_baseline(tmp_path / "b.json")


def test_damage_is_an_error_or_does_no_harm(tmp_path):
    """Any value replaced by another: the file is refused, or what is read can be compared."""
    drawn = random.Random(0)
    whole = json.loads(baseline_text([run_of(), run_of()]))
    refused = 0
    for _ in range(400):
        data = copy.deepcopy(whole)
        place, key = data, None
        while isinstance(place, dict | list) and place and (key is None or drawn.random() < 0.9):
            above, key = place, drawn.choice(list(place) if isinstance(place, dict) else range(len(place)))
            place = above[key]
        above[key] = drawn.choice([None, -5, 1 << 70, 1e400, "text", [], {}, [[]], True, 3, "\x1b[2J"])
        (tmp_path / "b.json").write_text(json.dumps(data))
        try:
            runs = read_baseline(tmp_path / "b.json")
        except TraceError:
            refused += 1
            continue
        difference_json(Comparison(runs, [run_of()]))
    assert 100 < refused < 400
