"""What holds for every test: one thread for numbers, no clock in hypothesis, nothing compiled is left behind."""

from __future__ import annotations

import os
import sys

import hypothesis
import pytest

# Set before torch is imported and inherited by the scripts tests start: sums come out the same each time.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

# The same examples on every machine, and none of them fails for being slow.
hypothesis.settings.register_profile("modtrace", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("modtrace")


def pytest_addoption(parser):
    """`pytest --engine calls` runs tests with that carrier wherever they do not choose one themselves."""
    parser.addoption("--engine", choices=("hooks", "calls"), default="hooks")


def pytest_configure(config):
    if (engine := config.getoption("--engine")) != "hooks":
        import modtrace

        os.environ["MODTRACE_ENGINE"] = engine
        modtrace.trace.__kwdefaults__["engine"] = engine


@pytest.fixture(autouse=True, scope="module")
def nothing_compiled():
    """What a file of tests has compiled is forgotten: functions are not recorded where something was compiled."""
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch"]._dynamo.reset()
        sys.modules["torch._dynamo.utils"].counters.clear()


@pytest.fixture(autouse=True, scope="module")
def no_process_group():
    """A process has one default group: what a file of tests has left is not in the way of the next."""
    yield
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was():
    """Modes and switches of torch's that outlive a test change what the tests after it see."""
    before = _switches()
    yield
    assert before is None or _switches() == before


def _switches():
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "_C"):
        return None
    return {
        "functions shown to subclasses": torch._C._is_torch_function_enabled(),
        "functions shown to modes": not torch._C._is_torch_function_all_disabled(),
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
    }
