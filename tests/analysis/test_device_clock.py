"""Rows of devices on the clock of the host: never before their launch, however the clocks drift apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modtrace.analysis.device_times import WINDOW_NS, on_host_clock

MS = 1_000_000
SECOND = 1_000 * MS


class Device:
    """One that works off what is launched, by a clock that begins at some time and runs at another speed.

    began_ns: the truth, by the host's clock.
    """

    def __init__(self, launched, took, *, first=0, drift=0.0, busy_until=0):
        self.launched, self.took = np.array(launched), np.array(took)
        self.began = np.zeros(len(launched), np.int64)
        free = busy_until
        for at, (launch, took_ns) in enumerate(zip(launched, took, strict=True)):
            self.began[at] = max(launch, free)
            free = self.began[at] + took_ns
        self.waited = self.began - self.launched
        self.clock = first + np.round((self.began - self.began[0]) * (1 + drift)).astype(np.int64)

    def found(self):
        return on_host_clock(self.launched, self.clock, self.took)

    def shortest_wait(self, at):
        """The shortest wait of a row that was surely looked at together with one."""
        near = np.abs(self.launched - self.launched[at]) < WINDOW_NS * 0.4
        return int(self.waited[near].min())


@pytest.mark.parametrize("drift", [0.002, -0.002, 0.00001])
def test_clocks_that_drift(drift):
    """Steps of 10 ms, of which the device works 6, for a minute: 120 ms apart at its end."""
    launched = np.arange(0, 60 * SECOND, 10 * MS)
    device = Device(launched, np.full(len(launched), 6 * MS), drift=drift)
    error = device.found() - device.began
    assert (error >= 0).all(), "each was begun at once"
    assert error.max() <= abs(drift) * WINDOW_NS


def test_a_recording_that_begins_behind_a_full_queue():
    """The device is 300 ms behind when the clocks are compared; when it has caught up, that is over for all around."""
    launched = np.arange(0, 20 * SECOND, 10 * MS)
    device = Device(launched, np.full(len(launched), 6 * MS), busy_until=300 * MS)
    error = device.found() - device.began
    assert device.waited[0] == 300 * MS
    assert (error == 0).all()


def test_a_queue_that_is_always_full():
    """Nothing says more than that rows come after their launch: the error is the shortest wait."""
    launched = np.arange(0, 2 * SECOND, 10 * MS)
    device = Device(launched, np.full(len(launched), 11 * MS), busy_until=50 * MS)
    error = device.found() - device.began
    assert (error == -50 * MS).all()


def test_what_was_seen_before_the_queue_filled_is_not_forgotten():
    """Ten seconds behind a full queue the rows still lie behind each other without a hole or an overlap."""
    launched = np.concatenate([np.arange(0, SECOND, 10 * MS), SECOND + np.arange(1_000) * 9 * MS])
    took = np.concatenate([np.full(100, 6 * MS), np.full(1_000, 12 * MS)])
    device = Device(launched, took)
    assert device.shortest_wait(1_099) > SECOND
    assert (device.found() == device.began).all()


def test_nothing_recorded():
    none = np.zeros(0, np.int64)
    assert len(on_host_clock(none, none, none)) == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3 * SECOND), st.integers(0, SECOND)),
        min_size=1,
        max_size=40,
    ),
    st.integers(-SECOND, SECOND),
    st.floats(-0.002, 0.002),
    st.integers(0, 3 * SECOND),
)
def test_never_before_its_launch(rows, first, drift, busy_until):
    launched = np.cumsum([pause for pause, _ in rows])
    device = Device(launched, [took for _, took in rows], first=first, drift=drift, busy_until=busy_until)
    found, span = device.found(), int(device.began[-1] - device.began[0])
    assert (found >= device.launched).all()
    assert (np.diff(found) >= 0).all()
    apart = np.diff(found) - device.took[:-1]
    assert (apart >= np.minimum(np.diff(device.clock) - device.took[:-1], 0)).all(), "no new overlap"
    assert (found - device.began <= abs(drift) * (WINDOW_NS + span) + 1).all()
    for at in range(len(rows)):
        assert device.began[at] - found[at] <= device.shortest_wait(at) + abs(drift) * WINDOW_NS + 1
