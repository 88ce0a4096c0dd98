"""Numbers as text: one rule of rounding, and the same digits in Python and in the page."""

from __future__ import annotations

import json
import math
import random
import struct
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np
import pytest

from modtrace import units
from tests.views.browser import HTML, evaluated

CASES = json.loads(Path(__file__).with_name("number_cases.json").read_text(encoding="utf-8"))
FORMATS = {
    "duration": units.duration,
    "size": units.size,
    "count": units.count,
    "FLOP": lambda number: units.scaled(number, "FLOP"),
}
WHOLE = tuple(FORMATS)
FORMATS["value"] = units.value


@pytest.mark.parametrize("name", FORMATS)
def test_cases(name):
    assert [[number, FORMATS[name](number)] for number, _ in CASES[name]] == CASES[name]


def test_shares():
    assert [[part, total, units.percent(part, total)] for part, total, _ in CASES["percent"]] == CASES[
        "percent"
    ]


@pytest.mark.parametrize("digits", [0, 1, 2])
def test_halves_go_up_on_the_decimal_value(digits):
    numbers = random.Random(7)
    for _ in range(2_000):
        scale = numbers.choice([10**3, 10**6, 10**9, 1 << 10, 1 << 20])
        number = numbers.randrange(10**12)
        if numbers.random() < 0.3:  # a half exactly
            number -= number % scale - scale // 2
        exact = (Decimal(number) / scale).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
        assert units.rounded(number, scale, digits) == str(exact)
        assert units.rounded(-number - 1, scale, digits).startswith("-")


def test_elements_of_tensors_are_rounded_on_their_exact_value():
    numbers = random.Random(3)
    for _ in range(5_000):
        number = numbers.choice([10 ** numbers.uniform(-9, 12), numbers.randrange(1, 4_000) / 16])
        text = units.value(number)
        exact = Decimal(number)
        step = Decimal(1).scaleb(exact.adjusted() - 2)
        if 100 <= exact < 99_999:
            step = Decimal(1)
        assert Decimal(text) == exact.quantize(step, ROUND_HALF_UP), number
        assert units.value(-number) == f"-{text}"
    assert [units.value(number) for number in (math.nan, math.inf, -math.inf, -0.0, np.float32(0.5))] == [
        "nan", "inf", "-inf", "0", "0.5",
    ]  # fmt: skip


def test_integers_of_numpy_do_not_overflow():
    large = 2**62
    assert units.scaled(np.int64(large), "FLOP") == units.scaled(large, "FLOP") == "4.61 EFLOP"
    assert units.percent(np.int64(large), np.int64(large)) == "100.0"
    assert units.size(np.int64(large)) == units.size(large)


def test_unknown_is_no_number():
    assert {units.in_unit(None, unit) for unit in ("ns", "bytes", "FLOP", "", units.VALUE)} == {"?"}
    assert units.in_unit(None, "FLOP", 1000) == ">1.00 kFLOP"


def test_the_page_writes_the_same_digits(browser):
    numbers = random.Random(1)
    drawn = [numbers.randrange(10 ** numbers.randrange(1, 16)) for _ in range(20_000)]
    halves = [
        step * numbers.randrange(1, 1000) + step // 2 for step in (10, 10**4, 10**7) for _ in range(700)
    ]
    every = [*drawn, *halves, *(number for name in WHOLE for number, _ in CASES[name] if number != -1)]
    script = (HTML / "format.js").read_text(encoding="utf-8")
    shown = evaluated(
        browser,
        f"""(numbers) => {{ {script}
        return numbers.map((number) => {{
          const positive = Math.abs(number);
          return [duration(number), size(positive), count(positive), scaled(positive, "FLOP")];
        }});
        }}""",
        every,
    )
    for number, texts in zip(every, shown, strict=True):
        positive = abs(number)
        wanted = [
            units.duration(number),
            units.size(positive),
            units.count(positive),
            FORMATS["FLOP"](positive),
        ]
        assert texts == wanted, number
    elements = [struct.unpack("<d", numbers.randbytes(8))[0] for _ in range(5_000)] + [
        math.copysign(10 ** numbers.uniform(-6, 8), numbers.choice([1, -1])) for _ in range(15_000)
    ]
    elements += [numbers.randrange(2_000) / 8 for _ in range(2_000)]  # halves exactly
    elements += [number for number, _ in CASES["value"]] + [math.nan, math.inf, -math.inf]
    shown = evaluated(browser, f"(numbers) => {{ {script} return numbers.map(tensorValue); }}", elements)
    assert shown == list(map(units.value, elements))
    pairs = [(numbers.randrange(10**12), numbers.randrange(10**12)) for _ in range(5_000)]
    pairs += [(part, total) for part, total, _ in CASES["percent"]]
    shares = evaluated(
        browser, f"(pairs) => {{ {script} return pairs.map((pair) => percent(...pair)); }}", pairs
    )
    assert shares == [units.percent(*pair) for pair in pairs]
