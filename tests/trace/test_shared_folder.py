"""Processes that begin at the same moment still come to one trace."""

from __future__ import annotations

import pytest

from modtrace.trace import shared_folder
from modtrace.trace.folder import create
from modtrace.trace.schema import FORMAT
from modtrace.trace.shared_folder import Membership, enter

KEY = "job-7"
RUN = {"format": FORMAT, "launch": KEY}


def member(rank):
    return Membership(KEY, f"rank-{rank}", names_it=rank == 0, exact=False, since_unix=0.0, restarted=False)


@pytest.mark.parametrize("taken", [(), ("x.mtrace",)])
def test_a_trace_made_between_looking_and_making_is_found(tmp_path, monkeypatch, taken):
    """Rank 1 has seen no trace of its launch; before it makes one, rank 0 has made it."""
    for name in taken:
        (tmp_path / name).write_text("not a trace")
    look, first = shared_folder._candidates, []

    def looked(path, stem):
        yield from look(path, stem)
        if not first:
            first.append(None)
            first[0] = enter(path, RUN, member(0))[0]

    monkeypatch.setattr(shared_folder, "_candidates", looked)
    folder, _ = enter(tmp_path / "x.mtrace", RUN, member(1))
    assert folder.parent == first[0].parent
    assert folder.parent.name == ("x-2.mtrace" if taken else "x.mtrace")
    assert sorted(one.name for one in folder.parent.glob("rank-*")) == ["rank-0", "rank-1"]


def test_a_trace_written_between_reading_and_looking_is_found(tmp_path, monkeypatch):
    """Another process writes `run.json` and its folder after this one has read in vain, before it looks again."""
    path = tmp_path / "x.mtrace"
    path.mkdir()
    run = {"format": FORMAT, "launch": "job"}
    read = shared_folder.read_run
    seen = []

    def read_too_early(asked):
        answer = read(asked)
        if not seen:
            create(asked, run, process="rank-0", force=True)
        seen.append(answer)
        return answer

    monkeypatch.setattr(shared_folder, "read_run", read_too_early)
    member = Membership("job", "rank-1", names_it=False, exact=True, since_unix=0.0, restarted=False)
    folder, warning = enter(path, run, member)
    assert seen[0] is None
    assert (folder, warning) == (path / "rank-1", None)
