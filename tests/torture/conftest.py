"""Torture tests run torch on one thread, so that sums come out the same bit for bit."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    yield
    torch._dynamo.reset()
