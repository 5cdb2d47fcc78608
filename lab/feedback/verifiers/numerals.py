"""Exact numbers out of text: `−1,234.5`, `1 234`, `3/4`, `1 \\frac{3}{4}`, `½`, `1.5 × 10³`, `$12`, `12 km`, `50 %`.

Values are rational numbers, never floats. Text that holds something more than plain numbers (a root, π, ±, a power, a
variable, `12,5`, `3:4`) has no value at all, so that half of it cannot pass for the answer.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

MOST_DIGITS, MOST_EXPONENT = 400, 400


class Number(NamedTuple):
    """One number of a text: its value, whether a percent sign follows, and where it stands in the plain text."""

    value: Fraction
    percent: bool
    start: int
    end: int


_CHARACTERS = {
    **{ord(c): "-" for c in "−﹣－–‐‑"},
    **{ord(c): " " for c in "\u00a0\u2007\u2009\u202f\u3000"},
    **{ord("０") + i: str(i) for i in range(10)},
    **dict(zip(map(ord, "’‘´＋．，％×·⋅∗≈≃＝⁄∕"), "'''+.,%****===//", strict=True)),
}
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_VULGAR = dict(
    zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "1/2 1/3 2/3 1/4 3/4 1/5 2/5 3/5 4/5 1/6 5/6 1/8 3/8 5/8 7/8".split(), strict=True)
)

_PART = r"(?:\{\s*([-+]?[0-9.]+)\s*\}|([0-9]))"
_REWRITES = [
    (re.compile(pattern, re.IGNORECASE), to)
    for pattern, to in (
        (r"(?<=[0-9])\s*\*\*\s*(?=[-+(]?[0-9])", "^"),  # a power, before bold type goes
        (r"\*\*|__|`", ""),
        (r"\{,\}", ","),
        (r"\\!|\\left(?![a-z])|\\right(?![a-z])", ""),
        (r"\\[,;: ()\[\]]|~|\\quad|\\qquad|\\displaystyle", " "),
        (r"\\([$%#&_])", r"\1"),
        (r"\^\s*\{?\s*\\circ\s*\}?|°", " degrees "),
        (r"\\(?:text[a-z]*|math(?:rm|bf|it|sf)|mbox|operatorname|bf|boldsymbol)\s*\{([^{}]*)\}", r" \1 "),
        (r"(?<=[a-z])\s*\^\s*\{?\s*[-+]?[0-9]+\s*\}?", ""),  # of a unit
        (r"\\(?:times|cdot|ast)(?![a-z])", "*"),
        (r"\\(?:approx|simeq)(?![a-z])", "="),
        (r"\\[dtc]frac", r"\\frac"),
        (rf"(?<=[0-9])\s*\\frac\s*{_PART}\s*{_PART}", r" \1\2/\3\4"),
        (rf"\\frac\s*{_PART}\s*{_PART}", r"\1\2/\3\4"),
        (r"(?<=[0-9])\s*[$€£¥₹₩]\s*(?=[0-9])", " ; "),
        (r"[$€£¥₹₩]\s*", ""),
        (r"\b(?:minus|negative)\s+(?=[0-9.])", "-"),
    )
]

_DIGITS = r"(?:[0-9]{1,3}(?:(?P<sep>[,' ])[0-9]{3}(?:(?P=sep)[0-9]{3})*)(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_NUMBER = re.compile(
    rf"""
    (?P<sign> (?<![\w)\]}}%.]) [-+] )?  (?<![A-Za-z_^\\0-9.])
    (?: (?P<whole>[0-9]+)[ ]+(?P<part>[0-9]+)[ ]*/[ ]*(?P<of>[0-9]+)
      | 10[ ]*\^[ ]*[{{(]?[ ]*(?P<power>[-+]?[0-9]+)[ ]*[}})]?
      | (?P<number>{_DIGITS})
        (?: e(?P<e>[-+]?[0-9]+) | [ ]*[*x][ ]*10[ ]*\^[ ]*[{{(]?[ ]*(?P<ten>[-+]?[0-9]+)[ ]*[}})]? )?
        (?: [ ]*/[ ]*(?P<below>{_DIGITS.replace("sep", "below_sep")}) )?
    )
    (?P<scale> [ ]*(?:thousand|million|billion|trillion)s?\b )?
    (?P<percent> [ ]*(?:%|percent\b|per[ ]cent\b) )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NOT_PLAIN = re.compile(r"\\[A-Za-z]|[±√πΠ∞∛]")
_NOT_THE_END = re.compile(r"\s*[\^/]\s*[({-]?[0-9{]|\s*\^|[.,':]?[0-9]|[xyz]\b|\s*\(\s*[0-9]")
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def plain(text: str) -> str:
    """The text with LaTeX, Markdown, currencies and other signs written in ASCII as far as numbers need it."""
    for sign, words in _VULGAR.items():
        text = re.sub(rf"(?<=[0-9])\s*{sign}", f" {words}", text).replace(sign, words)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: "^{" + m[0].translate(_RAISED) + "}", text)
    text = text.translate(_CHARACTERS)
    for pattern, to in _REWRITES:
        text = pattern.sub(to, text)
    return text.strip()


def numbers(text: str) -> list[Number] | None:
    """Every number of a plain text, in order; None if the text holds something that is more than plain numbers.

    A sign counts where it touches its number, or stands first. Digits inside words (`H2O`, `cm^2`) are no numbers.
    """
    if _NOT_PLAIN.search(text):
        return None
    text = re.sub(r"\A([-+])\s+(?=[0-9.])", lambda m: m[1].rjust(m.end()), text)  # the same length: spans stay true
    found = []
    for match in _NUMBER.finditer(text):
        value = None if _NOT_THE_END.match(text, match.end()) else _value(match)
        if value is None:
            return None
        found.append(Number(value, match["percent"] is not None, match.start(), match.end()))
    return found


def _value(match: re.Match[str]) -> Fraction | None:
    exponent = int((match["power"] or match["e"] or match["ten"] or "0")[:9])
    if len(match[0]) > MOST_DIGITS or abs(exponent) > MOST_EXPONENT:
        return None
    below = Fraction(_digits(match["below"] or match["of"] or "1"))
    if below == 0 or (match["part"] and int(match["part"]) >= below):
        return None
    if match["whole"]:
        value = int(match["whole"]) + int(match["part"]) / below
    else:
        value = Fraction(_digits(match["number"] or "1")) * Fraction(10) ** exponent / below
    value *= _SCALES.get((match["scale"] or "").strip().lower().removesuffix("s"), 1)
    return -value if match["sign"] == "-" else value


def _digits(text: str) -> str:
    return re.sub(r"[,' ]", "", text)
