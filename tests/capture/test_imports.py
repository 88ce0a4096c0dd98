"""Imports that leave no trace in the program's environment."""

from __future__ import annotations

import os
import sys

import pytest

from modtrace.capture.engine.imports import without_arrow_thread

VARIABLE = "JE_ARROW_MALLOC_CONF"


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("of_the_program", [None, "narenas:2"])
def test_what_the_program_says_of_arrows_allocator_counts(monkeypatch, loaded, of_the_program):
    if of_the_program is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, of_the_program)
    if not loaded:
        monkeypatch.delitem(sys.modules, "pyarrow", raising=False)
    ours = of_the_program is None and not loaded
    with without_arrow_thread():
        assert os.environ.get(VARIABLE) == ("background_thread:false" if ours else of_the_program)
    assert os.environ.get(VARIABLE) == of_the_program
