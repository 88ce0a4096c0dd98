"""A program sees nothing of its values being read: outputs, gradients, random numbers, over the zoo."""

from __future__ import annotations

import pytest

import modtrace
from tests.torture.models import CASE_LIST, CASES
from tests.torture.observe import observe
from tests.torture.test_unchanged import NO_HOOKS, PYTHON_LIMITS

PINNED = (
    "modes", "functional_transforms", "six_threads", "exceptions_in_threads", "training_steps", "hooks_of_every_sort",
    "parametrised", "wrapper_subclass_asked_for_size",
)  # fmt: skip
"""Cases that are run with --nan-pin too."""


def with_values():
    return modtrace.trace(values=(0, 1_000), values_with="norm", nan=True)


def with_pin():
    return modtrace.trace(nan_pin=True, engine="calls")


@pytest.mark.parametrize(
    ("case", "trace"),
    [
        *(pytest.param(case, with_values, id=case.name) for case in CASE_LIST),
        *(pytest.param(CASES[name], with_pin, id=f"{name}-pin") for name in PINNED),
    ],
)
def test_a_run_is_bitwise_the_same(case, trace):
    observe(case)  # torch gives some warnings once in a process
    plain = observe(case)
    traced = observe(case, trace)
    for key, value in plain.items():
        if key == "warnings" and case.name in PYTHON_LIMITS:
            continue  # modtrace says that it stopped recording
        assert traced[key] == value, key
    assert traced.keys() == plain.keys()
    assert traced["global hooks"] == NO_HOOKS
