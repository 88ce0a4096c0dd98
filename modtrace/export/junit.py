"""Limits as a JUnit file, which CI systems show: a test case a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from modtrace.analysis.comparing.gate import CANNOT_TELL, EXCEEDED, LimitResult, Measured
from modtrace.text import plain


def junit(
    results: Sequence[LimitResult], suite: str, told: Callable[[Measured], str], *, unknown_ok: bool = False
) -> bytes:
    """The file, as UTF-8.

    Args:
        results: the limits.
        suite: name of the test suite.
        told: what was measured, as a text.
        unknown_ok: what cannot be told is skipped; else it is an error.
    """
    exceeded = [result for result in results if result.status == EXCEEDED]
    unknown = [result for result in results if result.status == CANNOT_TELL]
    top = Element(
        "testsuite",
        name=plain(suite),
        tests=str(len(results)),
        failures=str(len(exceeded)),
        errors=str(0 if unknown_ok else len(unknown)),
        skipped=str(len(unknown) if unknown_ok else 0),
    )
    for result in results:
        case = SubElement(top, "testcase", classname="modtrace", name=plain(result.limit.text))
        lines = [plain(" ".join(filter(None, (one.name, told(one))))) for one in result.measured]
        if result.status == EXCEEDED:
            failure = SubElement(case, "failure", message=f"limit exceeded: {lines[0]}")
            failure.text = "\n".join(lines)
        elif result.status == CANNOT_TELL:
            tag = "skipped" if unknown_ok else "error"
            SubElement(case, tag, message=f"cannot tell: {lines[0]}")
        else:
            SubElement(case, "system-out").text = "\n".join(lines)
    document: bytes = tostring(top, encoding="utf-8", xml_declaration=True)
    return document
