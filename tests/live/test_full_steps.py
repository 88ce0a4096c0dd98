"""The next steps in full, asked of a run that goes on: by another process, by a key, and what is in the trace then."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.live import LiveTrace
from modtrace.analysis.thinned_steps import asked_for, every_of, thinned_text
from modtrace.analysis.timeline import timeline
from modtrace.cli import main
from modtrace.errors import UsageError
from modtrace.trace.full_steps import FullAnswer, FullRequests, answer_to, ask
from modtrace.trace.schema import END_FILE, FULL_ANSWER_FILE, FULL_REQUEST_FILE
from modtrace.views.live import full_question
from modtrace.views.live.full_question import FullQuestion
from tests.live.made import Made
from tests.live.terminal import wait_for
from tests.live.test_screen import screen_text, with_screen

SCRIPT = """
import os, time, torch
net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for number in range(100_000):
    net(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    if number == 60:
        open("far", "w").close()
    if os.path.exists("stop"):
        break
    time.sleep(0.002)
    with open("at.new", "w") as file:
        file.write(str(number))
    os.replace("at.new", "at")
"""


def test_a_job_is_asked_by_another_process(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    run = [sys.executable, "-m", "modtrace", "run", "-q", "--keep", "100000", "-o", "t.mtrace", "train.py"]
    job = subprocess.Popen(run, cwd=tmp_path)
    try:
        wait_for(lambda: (tmp_path / "far").exists(), "the job does not begin")
        question = [sys.executable, "-m", "modtrace", "live", "--full", "3", "t.mtrace"]
        said = subprocess.run(question, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        first, last = map(int, re.fullmatch(r"steps (\d+) to (\d+) will be in full\n", said).groups())
        wait_for(lambda: int((tmp_path / "at").read_text()) > last + 5, "the job does not go on")
    finally:
        (tmp_path / "stop").touch()
        status = job.wait(60)
    assert status == 0
    assert last - first == 2
    assert first > 60
    trace = modtrace.load(tmp_path / "t.mtrace")
    assert trace.steps["every"].loc[first:last].tolist() == [1, 1, 1]
    assert len(trace.steps) < len(timeline(trace._read()).steps[0]) - 20, "most are left out"
    assert "3 asked for" in trace.summary(width=200).splitlines()[1] + thinned_text(trace._read(), 0)
    for step in range(first, last + 1):
        assert set(trace.calls[trace.calls["step"] == step]["kind"]) >= {"module", "backward", "phase"}
    done = subprocess.run(question, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has ended" in done.stderr


def run(*, asks, steps=120, **options):
    """A trace, and for each step at which so many were asked for the answer."""
    net, answers = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), {}
    stepping = torch.optim.SGD(net.parameters(), 0.1)
    with warnings.catch_warnings(), modtrace.trace(**options) as trace:
        warnings.simplefilter("ignore")
        folder = next(trace._tracer._folder.parent.glob("rank-*"))
        for step in range(steps):
            net(torch.ones(2, 4)).sum().backward()
            stepping.step()
            if step in asks:
                request = ask(folder, asks[step])
                trace._tracer.flush()
                answers[step] = answer_to(folder, request)
    return trace, answers


def test_steps_that_were_asked_for_are_recorded_and_said():
    trace, answers = run(asks={40: 2, 70: 5}, keep=1000)
    assert answers == {40: FullAnswer("steps", 42, 44), 70: FullAnswer("steps", 72, 77)}
    stored = trace._read()
    wanted = {42, 43, *range(72, 77)}
    assert wanted <= set(trace.steps.index)
    assert set(asked_for(stored, 0).nonzero()[0].tolist()) == wanted
    assert all(every_of(stored, 0)[step] == 1 for step in wanted)
    assert trace.steps["in_statistics"].loc[sorted(wanted)].all()
    assert re.search(r"7 asked for$", thinned_text(stored, 0))
    recorded = timeline(stored).steps[0].recorded
    assert recorded.sum() < 100
    calls = trace.calls[trace.calls["kind"] == "module"].groupby("step").size()
    assert (calls == 3).all()


def test_they_are_kept_though_the_room_for_remarkable_steps_is_used_up():
    """An eighth of the room is more than such a step takes; asked for, it may take all of what is left."""
    from modtrace.capture.engine.thinning import Thinning

    for asked in (False, True):
        thinning = Thinning(1000, is_on=True)
        thinning.room_bytes, thinning._used = 1_000, 600.0
        for step in range(1, 40):
            thinning.step_began(step, step * 1000, is_known=True)
        if asked:
            thinning.note_asked([("asked", {"what": ["full"], "first_step": [30], "end_step": [31]})])
        thinning._decided = 30
        thinning._decide(30, rows=8, failed=0, signature=-1, counted=0)  # 320 bytes of 400
        assert thinning._ends == ([] if asked else [31])


def test_a_run_that_keeps_all_says_so():
    _, answers = run(asks={30: 3}, keep="all")
    assert answers[30] == FullAnswer("all")


def test_a_run_that_has_reached_its_limit_says_so(tmp_path):
    trace, answers = run(
        asks={2990: 3},
        steps=3000,
        keep="all",
        rollups=True,
        path=tmp_path / "t.mtrace",
        max_bytes=700_000,
    )
    assert answers[2990] == FullAnswer("over")
    assert len(trace.rollups)


def test_a_run_that_is_not_thinned_yet_records_them_anyway():
    trace, answers = run(asks={30: 3})
    assert answers[30] == FullAnswer("steps", 32, 35)
    assert len(trace.steps) == 120
    assert thinned_text(trace._read(), 0) == ""


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"request": 1}',
        '{"request": "1", "steps": 3}',
        '{"request": 1, "steps": 0}',
        '{"request": 1, "steps": -3}',
        '{"request": 1, "steps": 1000000}',
        '{"request": 1, "steps": 1.5}',
        '{"request": 1, "steps": true}',
    ],
)
def test_what_is_no_request_is_passed_over(tmp_path, content):
    requests = FullRequests(tmp_path)
    assert requests.new() is None
    (tmp_path / FULL_REQUEST_FILE).write_text(content)
    assert requests.new() is None
    request = ask(tmp_path, 3)
    assert requests.new() == request
    assert requests.new() is None, "each is seen once"
    (tmp_path / FULL_REQUEST_FILE).unlink()
    os.symlink(tmp_path / "elsewhere", tmp_path / FULL_REQUEST_FILE)
    assert requests.new() is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"request": 1, "state": "all"}',
        '{"request": NUMBER, "state": "great"}',
        '{"request": NUMBER, "state": "steps"}',
        '{"request": NUMBER, "state": "steps", "first_step": 5, "end_step": 5}',
        '{"request": NUMBER, "state": "steps", "first_step": "5", "end_step": 6}',
    ],
)
def test_what_is_no_answer_is_none(tmp_path, content):
    request = ask(tmp_path, 3)
    (tmp_path / FULL_ANSWER_FILE).write_text(content.replace("NUMBER", str(request.number)))
    assert answer_to(tmp_path, request) is None
    FullRequests(tmp_path).answer(request, FullAnswer("steps", 5, 8))
    assert answer_to(tmp_path, request) == FullAnswer("steps", 5, 8)


def answered(folder, answer):
    """Answer what is asked in a folder."""
    requests = FullRequests(folder)
    requests.answer(requests.new(), answer)


def test_ranks_that_say_different_things(tmp_path):
    path = tmp_path / "t.mtrace"
    folders = [Made(path, rank=rank).folder for rank in range(4)]
    (folders[3] / END_FILE).write_text("{}")
    question = FullQuestion(path, 3)
    assert not question.look()
    assert question.text == "no answer yet"
    answered(folders[0], FullAnswer("steps", 5, 8))
    answered(folders[2], FullAnswer("steps", 5, 8))
    assert not question.look()
    assert question.text == "ranks 0, 2: steps 5 to 7 will be in full; rank 1: no answer yet"
    answered(folders[1], FullAnswer("steps", 6, 7))
    assert question.look()
    assert question.text == "ranks 0, 2: steps 5 to 7 will be in full; rank 1: step 6 will be in full"


def test_a_run_that_says_nothing(tmp_path, monkeypatch, capsys):
    Made(tmp_path / "t.mtrace")
    monkeypatch.setattr(full_question, "SECONDS", 0.0)
    for words, message in ((["3"], "no answer within"), (["0"], "is no number of steps from 1 to 10,000")):
        with pytest.raises(SystemExit) as left:
            main(["live", str(tmp_path / "t.mtrace"), "--full", *words])
        assert left.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UsageError, match="has ended"):
        (tmp_path / "t.mtrace" / "rank-0" / END_FILE).write_text("{}")
        FullQuestion(tmp_path / "t.mtrace", 3)


def test_the_key_asks_and_shows_the_answer(tmp_path, monkeypatch):
    monkeypatch.setattr("modtrace.analysis.live.is_alive", lambda *_: True)
    made = Made(tmp_path / "t.mtrace")
    for _ in range(5):
        made.step()
    LiveTrace(tmp_path / "t.mtrace").look()

    async def act(screen, pilot):
        await pilot.press("u")
        assert re.search("steps in full, from the next one on: *3", screen_text(pilot.app))
        await pilot.press("backspace", "x", "enter")
        assert "is no number of steps" in screen_text(pilot.app)
        await pilot.press("backspace", "4", "enter")
        assert not screen.ask_bar.is_open
        assert json.loads((made.folder / FULL_REQUEST_FILE).read_text())["steps"] == 4
        screen.look()
        assert "will be in full" not in screen_text(pilot.app)
        answered(made.folder, FullAnswer("steps", 6, 10))
        screen.look()
        await pilot.pause()
        assert [shown.message for shown in pilot.app._notifications] == ["steps 6 to 9 will be in full"]

    with_screen(tmp_path / "t.mtrace", (120, 32), act)


def test_where_no_answer_can_be_written_the_recording_goes_on(tmp_path):
    net = nn.Linear(2, 2)
    with modtrace.trace(path=tmp_path / "t.mtrace", keep=100) as trace:
        (folder,) = (tmp_path / "t.mtrace").glob("rank-*")
        (folder / FULL_ANSWER_FILE).mkdir()
        ask(folder, 2)
        trace._tracer.flush()
        for _ in range(5):
            net(torch.ones(1, 2)).sum().backward()
    assert (trace.calls["kind"] == "module").sum() == 5
    assert not trace._read().notes
