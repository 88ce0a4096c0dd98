"""What tests of views share."""

from __future__ import annotations

import pytest

from tests.views.browser import launched


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium. Of one file of tests: while it is there no other loop of asyncio can run."""
    yield from launched()
