"""Writes troubleshooting.md from the messages of the program and what to do for each: `python docs/troubleshooting_page.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

from messages import Message, messages, untold  # noqa: E402 - beside this file

PAGE = DOCS / "troubleshooting.md"
__all__ = ["Message", "messages", "page", "untold"]

INTRODUCTION = """\
<!-- Written by docs/troubleshooting_page.py from the messages in the code of modtrace. -->
# Troubleshooting

Every message of modtrace, and what to do. Search this page for a part of yours; `...` stands for what is filled in.

First, what has no message:

| symptom | reason and remedy |
|---|---|
| the summary has no steps | nothing ended one: [what ends a step](training.md#steps). `modtrace.step()` at the end of the loop's body does |
| a module is missing in the tree | it was called as `module.forward(x)`, or is inside of a compiled or fused region: [limits](limits.md) |
| a number is empty or `?` | it is not known: the call raised, or nobody measured it. The gaps in every view say what could not be recorded |
| `*` beside a step | FLOPs were counted in it, so its time is in no statistic |
| a run with modtrace is much slower | [what it costs](overhead.md); `--engine calls`, `--no-flops`, fewer watched steps |
| the script behaves differently | [what may differ](limits.md#what-may-differ); else it is a fault, which we want to know |
| nothing is printed at the end | the process was killed, or `-q` is set: `modtrace info` shows what was recorded |
| colours or lines look wrong | `NO_COLOR=1`, `--plain`, `COLUMNS=120` |
| something inside of modtrace fails | `MODTRACE_DEBUG=1` prints its traceback. The program goes on in any case |
"""

AGAIN = "Write it as the message says. `modtrace COMMAND --help` and [the command line](command-line.md) have all options."
FILTER = "[The language of filters](viewer.md#filters) has all keys, comparisons and units."
DAMAGED = "The files were changed, or badly copied: copy the trace again. Where it is as it was written, it is a fault of modtrace."
OTHER_TORCH = "Nothing to do: this torch lacks a private name that modtrace uses, and all else is recorded. [Other versions of torch](recording.md#other-versions-of-torch)."
FAULT = "A fault of modtrace; the rest is recorded. `MODTRACE_DEBUG=1` prints its traceback, which we would like to have."
PROFILER = "A profiler of the program comes first. Switch it off in the watched steps, or watch others."

SECTIONS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("A command or an argument is refused",
     "Nothing has been started or changed; the exit status is 2.", (
        (r"\.\.\. exists already|-f replaces it", "Name another place with `-o`, or replace it with `-f` (`force=True`)."),
        (r"there is no command|there is no option|to run \.\.\. and record|has no option|what should be run|which is missing in front of|\.\.\. needs \.\.\.$|can't (open|find)|names no script|an option of python", "Put `modtrace run` in front of the script, and options of modtrace before its name. What follows the name is the script's."),
        (r"names no steps", "`3` is step 3, `0:3` is steps 0, 1 and 2, `auto` is steps 3 and 4."),
        (r"/\.\.\./ is no expression|filter|has no number in front|has no unit: did you|is a number: did you|is compared with|is no comparison|is no number that is known|^\.\.\. is not known: |takes a colon|\.\.\.: takes|^\.\.\. takes \.\.\.$|: is not known: |phase: takes|is known of calls|is not known while a run|a holder of memory has|a step has total|^'\.\.\.' cannot be read|--sort takes", FILTER),
        (r"a \) |a condition|an expression|is no shape|is for --break|is no text, nor a list|asks for what is known", "[Breakpoints](debugging.md#breakpoints) have the conditions, and when each is known."),
        (r"is several things|are modules of several|is a module (and|of)|no module (or phase|with the number)|has not seen that module", "Take one of the names that the message lists; `t.modules` has all."),
        (r"there is no table", "Take one of the names that the message lists."),
        (r"is no choice of steps", "`--keep auto`, `--keep all`, or a number: [which steps are recorded](long-runs.md)."),
        (r"rank \.\.\. is not in the trace", "Take one of the ranks that the message lists; `modtrace ranks` has them all."),
        (r"is no size", "Write a number and a unit: `500KB`, `20MB`, `4GB`."),
        (r"limit|--fail-on|findings are counted|a baseline file holds|check looks|check takes|: nan has|runs are compared by their medians|no module is called|has no unit: write|is about a change", "[A gate for CI](comparing.md#a-gate-for-ci) has the form of limits, and the names."),
        (r"baseline needs", "`modtrace baseline -o F TRACE` makes one."),
        (r"^--git|git says|there is no revision|has no folder", "Name a commit, branch or tag of the repository that you are in."),
        (r"diff takes|compare|--against|--env|--runs|--noise|--map|--junit|--numerics|--run cannot|stands between|starts several processes", "[Comparing runs](guides/comparing-runs.md) has the forms."),
        (r"no values: record|no step has values", "Record both runs with `--values 0:3`, the same steps."),
        (r"%%?modtrace|-o takes the name of a variable", "[Notebooks](guides/notebooks.md) has the forms; `%%modtrace --help` the options."),
        (r"already; make another one|being recorded: copy|nothing has been recorded yet|model given to trace|trace\(\) takes", "One `modtrace.trace()` records one run: make another. Keep a reference to its model."),
        (r"pm\(\) looks", "Call it after a cell has failed."),
        (r"global lock", "Set `PYTHON_GIL=1`, or use a Python with its lock. [Systems](systems.md#python-without-its-global-lock)."),
        (r"torch is not here|cannot be measured", "Measure on the machine with the device; the result is kept for it."),
        (r"too many traces are named|too many folders", "Remove or move old traces, or name another place with `-o`."),
        (r"is not a directory|is not a modtrace trace; it|is not a regular file; it|is this very trace|is being recorded by process", "Name another place: modtrace replaces nothing but a trace or a file that it may have written."),
        (r"no report can be written|cannot write|cannot make|^\.\.\. cannot be read: |its folder is not there|is not for a terminal|there is no (trace at )?\.\.\.$", "Check that the folder is there, and that you may write to it."),
        (r"has ended: steps in full|cannot be asked|no answer within|is no number of steps from", "[Steps in full](long-runs.md#steps-in-full-when-you-want-them) are asked of a run that goes on and calls modules, by the user whose run it is."),
        (r"calls are too many for one page", "Leave `--full` out, or say how large the page may get."),
        (r"--|-t |engine is|one trace at a time|ls takes|measuring a device|say what to export|no recorder has|is not measured|\.\.\.: \.\.\.", AGAIN),
     )),
    ("A trace cannot be opened",
     "The exit status is 4.", (
        (r"there is no trace|no trace here|is not a trace|holds no process", "Name the directory `NAME.mtrace`. A run without a module call leaves a trace without calls: `modtrace info NAME` says why."),
        (r"permission denied|cannot read", "A trace can be read by its owner alone: change its mode, or copy it."),
        (r"baseline|holds no runs|^\.\.\. cannot be read: \.\.\.$", "`modtrace baseline -o F TRACE` makes one. Keep it with the version of modtrace that reads it."),
        (r"has format|columns that do not belong", "Open it with the version of modtrace that the message names."),
        (r"contradicts itself|below zero|more than \.\.\. processes|is no name of a file", DAMAGED),
        (r"memory", "Allow more with `--max-memory 8GB`, or record less: `--max-size`, `--rollups`."),
     )),
    ("A file cannot be written",
     "The exit status is 3; of a run it is the script's.", (
        (r"limit of \.\.\. bytes", "Give a larger `--max-size`, or keep sums with `--rollups`."),
        (r"cannot write", "The disk is full or gone, or the place may not be written to."),
     )),
    ("A comparison or a check fails",
     "The exit status is 1, 5 or 6.", (
        (r"a limit is exceeded", "The table says which. `modtrace view A --against B` shows where it comes from."),
        (r"it cannot be told", "More runs; a limit on what has no noise (`flops`, `calls`); or `--unknown-ok`."),
        (r"ended with", "The script itself failed: what it printed is in the file that is named."),
     )),
    ("Warnings while a program runs",
     "On stderr, most of them as Python warnings (`RuntimeWarning`). The program goes on.", (
        (r"goes on unrecorded", "What came before is in the trace. The first part of the message is the reason: a full disk, `--max-size`, or a fault."),
        (r"single calls are not recorded", "`--max-size` was reached and `--rollups` keeps sums: [long runs](long-runs.md)."),
        (r"the rest is recorded", FAULT),
        (r"modules deep", "Use `--engine calls`, which adds no frame, or raise `sys.setrecursionlimit` in the script."),
        (r"is not of this launch", "Two jobs were given one name. Nothing is mixed: name another place with `-o`, or replace the old trace with `-f`."),
        (r"this process writes to", "The place is not shared by all machines, or rank 0 has not begun there. [Ranks](ranks.md)."),
        (r"nothing stops", "`--break` and `--pdb` ask at a terminal: start the script from one, without a batch system around it."),
        (r"goes on as process", "As you asked for: the lines below say how to look again and how to stop it."),
        (r"is for one process: use|needs pseudo-terminals|needs a terminal", "`--live` is left out and the script runs without it. Use `modtrace live` in another shell."),
        (r"live view failed", "A fault of modtrace; the script goes on, and its output follows."),
        (r"Ignoring unimportable", "Python's own message: `PYTHONBREAKPOINT` names a debugger that is not installed."),
     )),
    ("Gaps: what is missing in a trace",
     "Every view shows them (`!` in the viewer), and `t.gaps` has them. The rest is recorded.", (
        (r"Flight Recorder is turned off", "Leave `TORCH_FR_BUFFER_SIZE` unset, or above 0. [Collectives](ranks.md#collectives)."),
        (r"Flight Recorder keeps", "Give torch a larger `TORCH_FR_BUFFER_SIZE`. [Collectives](ranks.md#collectives)."),
        (r"collectives of \.\.\. are not recorded", "Nothing to do: those of Gloo alone are. [Collectives](ranks.md#collectives)."),
        (r": torch \.\.\. has no", OTHER_TORCH),
        (r"did not come to its end|ended before anything|still running", "The process was killed, or runs on. What was written up to a second before is there."),
        (r"its first \.\.\. rows|calls that were written are missing|left out: what they belong|^batch |became shorter|cannot be opened|does not begin|has columns that|^holds |^is cut|is not a regular file$|removed or changed", "What is whole is shown. " + DAMAGED),
        (r"written by modtrace", "Open it with a newer modtrace, to see the rest."),
        (r"limit of \.\.\. bytes", "Give a larger `--max-size`, or keep sums with `--rollups`."),
        (r"limit of recursion", "Use `--engine calls`, or raise `sys.setrecursionlimit` in the script."),
        (r"greenlets", "Nothing to do: greenlets that take turns inside a forward cannot be told apart."),
        (r"replaced Module\.__call__", "Use the default engine, or put `Module.__call__` back in the program."),
        (r"CUDA_VISIBLE_DEVICES|had not used a device|this torch cannot ask", "Watch later steps, after the program has used the device. [Operators and kernels](memory.md#operators-and-kernels)."),
        (r"lost some of its events|more allocations than", "Watch fewer steps."),
        (r"torch's profiler|history of the allocator|ran \.\.\. only", PROFILER),
        (r"graph is captured|a graph was being captured|program compiles with", "Nothing can be looked at while a graph is captured or compiled: watch other steps."),
        (r"too many events|had not come to their end|may not be asked|too many in one call|more at once than torch keeps", "Nothing to do: these rows are null, all others are there."),
        (r"several devices", "[The device of a call](device-time.md#what-is-measured) is that of its input."),
        (r"has no counters|allocator has", "An allocator of the program's own has no counters. Use torch's for this run."),
        (r"calls of several threads|rank 0 of|rank \.\.\. of \.\.\. is shown", "Nothing to do: it is said so that nobody reads more into the numbers."),
        (r"switched off by|from here on|any more|any further|are printed|is not|are not|do not", FAULT),
     )),
)  # fmt: skip

KINDS = {
    "Warnings while a program runs": "warning",
    "Gaps: what is missing in a trace": "gap",
}
"""What kind of message a section is of; the others are of errors."""


def section_of(message: Message) -> tuple[str, str]:
    """(section, what to do) of a message.

    Raises:
        LookupError: there is none: add a row to SECTIONS.
    """
    errors = message.kind == "error"
    # What belongs to reading a trace, to writing and to comparing is asked before what may be anything.
    order = sorted(SECTIONS, key=lambda section: section[0].startswith("A command"))
    for title, _, rows in order:
        if KINDS.get(title, "error") == ("error" if errors else message.kind):
            for pattern, remedy in rows:
                if re.search(pattern, message.text) and belongs(title, message):
                    return title, remedy
    raise LookupError(f"docs/troubleshooting_page.py has no line for: {message.text}")


def belongs(title: str, message: Message) -> bool:
    """Whether an error is of the class that a section speaks of."""
    return message.kind != "error" or message.error in CLASSES[title]


CLASSES = {
    "A command or an argument is refused": ("UsageError", "CellError", "ModtraceError"),
    "A trace cannot be opened": ("TraceError",),
    "A file cannot be written": ("WriteError", "SizeLimitError"),
    "A comparison or a check fails": ("RegressionError", "CannotTellError", "RunFailedError"),
}


def page() -> str:
    """The text of troubleshooting.md."""
    rows: dict[tuple[str, str], list[str]] = {}
    for message in messages():
        rows.setdefault(section_of(message), []).append(message.text)
    parts = [INTRODUCTION]
    for title, text, remedies in SECTIONS:
        parts += [f"\n## {title}\n\n{text}\n\n| message | what to do |\n|---|---|\n"]
        for remedy in dict.fromkeys(remedy for _, remedy in remedies):
            if (title, remedy) in rows:
                shown = "<br>".join(f"`{cell(text)}`" for text in dict.fromkeys(rows[title, remedy]))
                parts += [f"| {shown} | {remedy} |\n"]
    return "".join(parts)


def cell(text: str) -> str:
    """Text in code font in a cell of a table."""
    return text.replace("`", "'").replace("|", "&#124;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
