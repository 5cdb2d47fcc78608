"""Verifiers: many ways to write the right answer, many to cheat, and what must hold for every answer."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lab.feedback.verifiers import VERIFIERS, VerifierError, make
from lab.feedback.verifiers.committed import committed
from lab.feedback.verifiers.numerals import numbers, plain

DIGITS = "0123456789"


def reward(text: str, completion: str, prompt: str = "", **row: Any) -> float | None:
    return make(text)(prompt, completion, row)


# --- number: by hand -------------------------------------------------------------------------------------------------

RIGHT: dict[Any, tuple[str, ...]] = {
    1234: ("1234", "1,234", "1 234", "1'234", "1’234", "1\u202f234", "1\u00a0234", "1{,}234", r"1\,234", "1234.0",
           "1234.",
           "１２３４", "1.234e3", "1.234E+3", "1.234 × 10³", r"1.234 \times 10^{3}", "1.234*10^3", "1.234 thousand"),
    -5: ("-5", "−5", "–5", "- 5", "minus 5", "negative 5", "$-5$", "-$5", r"\(-5\)", "x=-5", "x = - 5", "−5 °C",
         "-5.00",
         r"\boxed{-5}", "-10/2", r"-\frac{10}{2}"),
    "3/4": ("3/4", "3 / 4", "0.75", ".75", r"\frac{3}{4}", r"\dfrac34", r"\tfrac{3}{4}", r"\frac 3 4", "¾", "6/8",
            "75%",
            "75 %", r"75\%", "75 percent", r"$\frac{3}{4}$ cups", "3⁄4"),
    "1 3/4": ("1.75", "1 3/4", r"1\frac{3}{4}", r"1 \dfrac{3}{4}", "1¾", "1 ¾", "7/4"),
    r"-1\frac{1}{2}": ("-1.5", "-3/2", "-1½", "−1 1/2"),
    "50": ("50", "50%", "50 %", r"50\%", "50 per cent"),
    "50%": ("50", "50%", "0.5", "1/2"),
    10**6: ("10^6", "10^{6}", "10⁶", "10**6", "1e6", "1,000,000", "1 000 000", "1'000'000", "1 million", r"10^{ 6 }"),
    0: ("0", "0.0", "-0", "0%", r"\boxed{0}", "0/7"),
    12: ("12 km", "12km", r"12 \text{ km}", r"\boxed{12\text{ km}}", r"\boxed{\textbf{12}}", "$12", "$12$", "€12",
         "12 €",
         "12$", "USD 12", "12°", r"12^\circ", r"12^{\circ}C", "12 km/h", "12/day", "12 m^2", "12 m²", "12 H2O",
         "**12**",
         "`12`", "(12)", "[12]", r"\left(12\right)", "≈ 12", "approx. 12", "12!", "12?", "x = 12", "the 12 of them"),
    "$1,000.50": ("1000.5", "1,000.50", "$1000.50"),
    2.5: ("2.5", "5/2", "2½", "2.50"),
    "She pays 3 + 4 = 7 dollars.\n#### 7": ("7", "7 dollars"),
}  # fmt: skip
"""The row's answer -> ways to write it."""


@pytest.mark.parametrize(("answer", "text"), [(a, t) for a, texts in RIGHT.items() for t in texts])
def test_a_number_counts_however_it_is_written(answer: Any, text: str):
    for frame in ("{}", "The answer is {}", "Answer: {}", "#### {}", "So:\n\n**Answer:** {}\n"):
        completion = frame.format(text)
        assert reward("number", completion, answer=answer) == 1, completion
    if "boxed" not in text:
        assert reward("number", rf"We try 99 first. $\boxed{{{text}}}$ It took 3 tries.", answer=answer) == 1


WRONG: dict[Any, tuple[str, ...]] = {
    7: ("", " ", "seven", "8", "-7", "70", "7.0001", "6/7", "7/6", "7^2", "2^7", "7²", "7**2", r"\sqrt{7}", "√7",
        r"7\pi", "7π",
        "±7", r"\pm 7", "7:1", "1:7", "1.2.7", "7.1.2", "7,5", "7x", "3(7)", r"\frac{7}{x}", "7e999999999", "7/0",
        "v7", "H7"),
    1234: ("12,34", "1,23,4", "1234,5", "1.234", "1.234,00", "1,234,5", "01 2341"),
    "3/4": ("4/3", "3", "4", "3/4/1", "0.7500001", "0.74", "34"),
    "1 3/4": ("1", "3/4", "13/4", "1 4/3"),
    "50%": ("5", "500", "0.05"),
    -5: ("5", "+5", "10-5", "10 - 5"),
}  # fmt: skip
"""The row's answer -> what is not it."""


@pytest.mark.parametrize(("answer", "text"), [(a, t) for a, texts in WRONG.items() for t in texts])
def test_another_number_or_more_than_one_does_not_count(answer: Any, text: str):
    for completion in (text, f"The answer is {text}", f"#### {text}", rf"\boxed{{{text}}}"):
        assert reward("number", completion, answer=answer) == 0, completion


@pytest.mark.parametrize("completion", [
    "She has 3 apples and 4 pears, so 7.", "3 + 4 = 7", "3+4=7 apples", "First 3.\nThen 4.\nThat makes 7 apples.",
    "The answer is 8. Wait.\nThe answer is 7.", r"\boxed{8} no, \boxed{7}", "#### 8\n#### 7", "Answer:\n7",
    "Answer:\n\n$$\n7\n$$", "Answer:\n- 7", "**Final Answer**\n7 apples", "<answer>7</answer>",
    "<answer>\n7\n</answer> 3",
    "The answer is 7. She was at 2 shops.", "The answer is 7\nbecause 3 + 4 is that.", "The answer is x = 3 + 4 = 7.",
    r"\boxed{x = 7}", r"\boxed{7}. It took 3 steps.", r"\boxed{\text{7 apples}}", r"\boxed{ {7} }", r"\fbox{7}",
    "THE ANSWER IS: **7**", "the answer is therefore $7$.", "<think>8 9 10</think>7",
])  # fmt: skip
def test_the_last_answer_counts(completion: str):
    assert reward("number", completion, answer=7) == 1


@pytest.mark.parametrize("completion", [
    "0 1 2 3 4 5 6 7", "0,1,2,3,4,5,6,7", "1, 2, 3, 4, 5, 6 and 7", "6 or 7", "6/7", "6 to 7", "6-7", "6 – 7", "6; 7",
    "The answer is 7 or 8", "The answer is 7, 8", "The answer is 7 and maybe 8.", "#### 7 8", r"\boxed{7, 8}",
    r"\boxed{7 \text{ or } 8}", "Answer: 7 8 9", "<answer>7 8</answer>", "The answer is 7.\nThe answer is 8.",
    r"\boxed{7", r"\boxed{}", "The answer is", "####", "The answer is\n", "7\n8", "The answer is not clear.\nAnswer:",
    r"7 \boxed{\text{none}}", "7 <answer></answer>",
])  # fmt: skip
def test_lists_cut_answers_and_thoughts_before_the_marker_do_not_count(completion: str):
    assert reward("number", completion, answer=7) == 0


def test_tolerance_is_absolute_and_exact():
    assert reward("number?tolerance=0.01", "3.14", answer="3.15") == 1
    assert reward("number?tolerance=0.01", "3.14", answer="3.150001") == 0
    assert reward("number?tolerance=0.1", "0.3", answer="0.2") == 1  # in floats the difference is below, in 0.4 above
    assert reward("number?tolerance=0.1", "0.3", answer="0.4") == 1
    assert reward("number", "0.1", answer=0.1) == 1
    assert reward("number", "1/3", answer="0.3333333333333333") == 0


def test_a_long_number_is_read_or_refused_at_once():
    start = time.monotonic()
    assert reward("number", "1" * 400, answer="1" * 400) == 1
    assert reward("number", "9" * 100_000, answer=7) == 0
    assert reward("number", "1," * 50_000 + "7", answer=7) == 0
    assert reward("number", "answer " * 50_000, answer=7) == 0
    assert reward("number", "{" * 50_000 + r"\boxed{" * 5_000, answer=7) == 0
    assert time.monotonic() - start < 10


def test_numbers_of_a_text():
    found = numbers(plain("from 1,000 to −2½ and 3e2 %"))
    assert found is not None
    assert [(n.value, n.percent) for n in found] == [(1000, False), (Fraction(-5, 2), False), (300, True)]
    assert numbers(plain("about √2")) is None
    assert numbers("none") == []


def test_what_is_committed():
    assert committed("", "a = 1") == ("a = 1", False)
    assert committed("", r"\boxed{\frac{1}{2}\{\}} 3") == (r"\frac{1}{2}\{\}", True)
    assert committed("Is it 3?", "Is it 3? Yes") == ("Yes", False)
    assert committed("", "Answer:\n\n* 5\n6") == ("5", True)


# --- number: what must hold for every answer -------------------------------------------------------------------------

decimals = st.from_regex(r"-?(0|[1-9][0-9]{0,6})(\.[0-9]{1,3})?", fullmatch=True)
fractions = st.from_regex(r"-?[1-9][0-9]{0,2}/[1-9][0-9]{0,2}", fullmatch=True)
frames = st.sampled_from(["{}", "The answer is {}.", "Answer: {}", "#### {}", r"\boxed{{{}}}", "so x = {}", "${}$",
                          "<answer>{}</answer>"])  # fmt: skip
words = st.text("abcdefgh \n.,?!", max_size=30)


@given(st.one_of(decimals, fractions), frames, st.data())
@settings(deadline=None, max_examples=150)
def test_one_digit_decides(answer: str, frame: str, data: st.DataObject):
    assert reward("number", frame.format(answer), answer=answer) == 1
    at = data.draw(st.sampled_from([i for i, c in enumerate(answer) if c in DIGITS]))
    other = data.draw(st.sampled_from([d for d in DIGITS if d != answer[at]]))
    assert reward("number", frame.format(answer[:at] + other + answer[at + 1 :]), answer=answer) == 0


@given(
    st.integers(0, 9), frames, st.sampled_from([" ", ", ", ",", "; ", " or ", " and ", "/", "\t", " | ", "-", " to "])
)
@settings(deadline=None, max_examples=150)
def test_all_digits_listed_earn_nothing(answer: int, frame: str, between: str):
    for digits in (DIGITS, DIGITS[::-1], DIGITS.replace(str(answer), "") + str(answer)):
        assert reward("number", frame.format(between.join(digits)), answer=answer) == 0


@given(words, decimals, words)
@settings(deadline=None, max_examples=100)
def test_the_echoed_prompt_earns_nothing(before: str, answer: str, after: str):
    """The right number in the prompt is no answer, and one after the prompt still is."""
    prompt = f"q {before} {answer} {after} q"
    for name in ("number", "choice", "equals"):
        row = {"answer": "A" if name == "choice" else answer}
        asked = prompt + " A" if name == "choice" else prompt
        assert reward(name, asked, asked, **row) == 0
        assert reward(name, asked * 3, asked, **row) == 0
        assert reward(name, f"{asked} {row['answer']}", asked, **row) == 1


@given(st.text(), decimals)
@settings(deadline=None, max_examples=200)
def test_any_text_gets_the_same_reward_twice(text: str, answer: str):
    for name in ("number", "choice", "equals", "format"):
        row = {"answer": "A" if name == "choice" else answer}
        first = reward(name, text, **row)
        assert first in (0, 1)
        assert reward(name, text, **row) == first


EMPTY = ["number", "maths", "choice", "equals", "format", "json_schema?schema={}", "length?least=1"]


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_completion_earns_nothing(name: str):
    for completion in ("", " ", "\n\n"):
        assert reward(name, completion, answer="1" if name != "choice" else "A") == 0


# --- choice ----------------------------------------------------------------------------------------------------------

CHOICES = ["Rome", "Paris", "A cat", "12"]


@pytest.mark.parametrize("completion", [
    "B", "(B)", "B.", "B)", "b", "(b)", "b)", "[B]", "**B**", "$B$", "B: Paris", "B) Paris", "(B) Paris", "Paris",
    "paris.",
    "I choose B", "The answer is B", "the answer is (B).", "Answer: B", "Answer:\nB", r"\boxed{B}", r"\boxed{\text{B}}",
    r"\boxed{\textbf{(B)}}", "A is wrong.\nThe answer is B.", "The answer is A. No.\nThe answer is B", "#### B",
    "The answer is B. A is wrong.", "<answer>B</answer>", "The answer is Paris.", "B because it's the capital",
])  # fmt: skip
def test_the_chosen_option_counts(completion: str):
    for answer in ("B", "b", "(B)", 1, "1", "Paris"):
        assert reward("choice", completion, answer=answer, choices=CHOICES) == 1


@pytest.mark.parametrize("completion", [
    "", "A", "E", "A or B", "B or A", "A, B", "(A) (B)", "A) or B", "A B C D", "ABCD", "BB", "Rome", "Rome or Paris",
    "A) Paris", "Paris (A)", "The answer is A or B", "The answer is (A) and (B)", r"\boxed{A, B}",
    "The answer is A, B, C, D",
    "Parisian", "The answer is B.\nThe answer is A.", "B is tempting.\nThe answer is A", "Answer: all of them",
])  # fmt: skip
def test_another_option_or_two_do_not_count(completion: str):
    assert reward("choice", completion, answer="B", choices=CHOICES) == 0


def test_articles_are_no_letters():
    assert reward("choice", "(C) A cat", answer="C", choices=CHOICES) == 1
    assert reward("choice", "A cat", answer="C", choices=CHOICES) == 1
    assert reward("choice", "B. A dog", answer="B") == 1
    assert reward("choice", "I think B", answer="B", choices=list("vwxyzuvwxy")) == 1
    assert reward("choice", "A dog", answer="A") == 1
    assert reward("choice", "A or B", answer="B") == 0


def test_numbers_of_options():
    assert reward("choice?first=1", "B", answer=2) == 1
    assert reward("choice?first=1", "B", answer="2", choices={"text": CHOICES, "label": list("ABCD")}) == 1
    assert reward("choice", "H", answer=7) == 1


@given(st.sampled_from("ABCDEFGH"), st.sampled_from("ABCDEFGH"), frames)
@settings(deadline=None, max_examples=100)
def test_one_letter_decides(right: str, said: str, frame: str):
    assert reward("choice", frame.format(said), answer=right) == (right == said)
    assume(said != right)
    assert reward("choice", frame.format(f"{said} or {right}"), answer=right) == 0
    assert reward("choice", frame.format(" ".join("ABCDEFGH")), answer=right) == 0


# --- equals, regex, format, length -----------------------------------------------------------------------------------


def test_equals():
    assert reward("equals", " Straße\n", answer="STRASSE") == 1
    assert reward("equals", "yes!", answer="yes") == 0
    assert reward("equals", "3", answer=3) == 1


def test_regex():
    assert reward("regex?pattern=^yes$", " yes\n") == 1
    assert reward("regex?pattern=^yes$", "yes yes") == 0
    assert reward("regex?pattern=\\d+", "no 12") == 1
    assert reward("regex?pattern=\\d+&whole=true", "no 12") == 0
    assert reward("regex?pattern=\\d+&whole=true", "12") == 1
    assert reward("regex?pattern=a=b%26c", "a=b&c") == 1
    assert reward("regex", "abc", pattern="b") == 1
    assert reward("regex", "abc", pattern=None) is None


@pytest.mark.parametrize(("completion", "expected"), [
    ("<think>a</think>b", 1), ("\n<think>\na\n</think>\nb\n", 1), ("<think></think>b", 1), ("<think>a</think>", 0),
    ("<think>a</think> \n", 0), ("a", 0), ("a<think>b</think>c", 0), ("</think>a<think>b", 0), ("<think>a", 0),
    ("a</think>b", 0),
    ("<think>a</think>b<think>c</think>d", 0), ("<think><think>a</think>b", 0), ("<think>a</think></think>b", 0),
    ("", 0),
])  # fmt: skip
def test_format(completion: str, expected: int):
    assert reward("format", completion) == expected
    other = completion.replace("<think>", "[").replace("</think>", "]")
    assert reward("format?open=[&close=]", other) == expected


def test_format_after_a_prompt_that_opens():
    assert reward("format", "a</think>b", "Q: 1 + 1?<think>\n") == 1
    assert reward("format", "<think>a</think>b", "Q: 1 + 1?<think>\n") == 0


@pytest.mark.parametrize(("options", "words", "expected"), [
    ("target=10", 10, 1), ("target=10", 5, 0.5), ("target=10", 15, 0.5), ("target=10", 20, 0), ("target=10", 30, 0),
    ("target=10", 0, 0), ("most=4", 0, 1), ("most=4", 4, 1), ("most=4", 5, 0.75), ("most=4", 8, 0),
    ("least=4", 3, 0.75),
    ("least=4", 4, 1), ("least=4", 400, 1), ("least=2&most=4", 1, 0.5), ("least=2&most=4", 3, 1),
    ("least=2&most=4", 6, 0.5),
])  # fmt: skip
def test_length(options: str, words: int, expected: float):
    """r = max(0, min(1, n / least, 2 − n / most))."""
    assert reward(f"length?{options}", "word " * words) == expected
    assert reward(f"length?{options}&unit=characters", "ü" * words) == expected


# --- json_schema -----------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@pytest.mark.parametrize(("completion", "expected"), [
    ('{"age": 3}', 1), (' {"age": 3}\n', 1), ('```json\n{"age": 3}\n```', 1), ('Here:\n```\n{"age": 3}\n```\nDone.', 1),
    ('{"age": "3"}', 0), ("{}", 0), ("[]", 0), ("", 0), ('{"age": 3', 0), ('{"age": NaN}', 0), ('Here: {"age": 3}', 0),
    ('```\n{"age": 3}\n```\n```\n{"age": 4}\n```', 0), ("[" * 100_000, 0), ('```json\n{"age": 3}', 0),
])  # fmt: skip
def test_json_schema(completion: str, expected: int):
    assert reward("json_schema", completion, schema=SCHEMA) == expected
    option = '{"type":"object","properties":{"age":{"type":"integer"}},"required":["age"]}'
    assert reward(f"json_schema?schema={option}", completion) == expected


def test_a_schema_fetches_nothing():
    with pytest.raises(
        VerifierError, match=r"\AThe schema refers to http://127.0.0.1:9/a, which is not in it; nothing"
    ):
        reward("json_schema", "{}", schema={"$ref": "http://127.0.0.1:9/a"})
    assert reward("json_schema", "3", schema={"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}) == 1


# --- maths -----------------------------------------------------------------------------------------------------------

maths = make("maths")

EQUAL = {
    r"\frac{1}{2}": ("1/2", "0.5", r"\frac12", r"\boxed{\frac{2}{4}}", "The answer is $1/2$.", "x = 1/2", r"50\%",
                     "Answer: 1/2"),
    "x^2+2x+1": ("(x+1)^2", r"\boxed{(x+1)^2}", "x**2+2*x+1", "$x^2+2x+1$", "The answer is $(1+x)^2$."),
    r"\frac{\sqrt{3}}{2}": (r"\sqrt{3}/2", "sqrt(3)/2", r"\frac{3}{2\sqrt{3}}", r"\boxed{\sqrt{\frac{3}{4}}}"),
    r"\{1,2\}": (r"\{2,1\}", "1, 2", r"x=1 \text{ or } x=2"),
    r"\begin{pmatrix}1\\2\end{pmatrix}": (r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}",),
    "5": ("5", "x=5", "$x = 5$", r"First \boxed{4}, then \boxed{5}.", r"\boxed{5 \text{ km}}", r"\log_2 32", "5.0"),
    r"(1, \infty)": (r"(1,\infty)", r"\left(1, +\infty\right)"),
    "$2\\pi$": (r"2\pi", r"\pi \cdot 2", r"\boxed{2\pi}"),
}  # fmt: skip
UNEQUAL = {
    r"\frac{1}{2}": ("", "2", "0.51", "$1/2$ or $1/3$", "1/2, 1/3", "The answer is", r"\boxed{}", r"\boxed{1/2",
                     "half"),
    "x^2+2x+1": ("x^2+2x", "(x-1)^2", "(y+1)^2", "x"),
    r"\{1,2\}": ("1", "2", r"\{1,2,3\}", "1,2,3,4,5,6,7,8,9"),
    "5": ("4", "1,2,3,4,5", "5x", "x", r"5\pi", "The answer is 5.\nThe answer is 6.", "9" * 501),
    r"\begin{pmatrix}1\\2\end{pmatrix}": (r"\begin{pmatrix}2\\1\end{pmatrix}", "1", "12"),
}  # fmt: skip


@pytest.mark.parametrize("answer", EQUAL)
def test_equal_formulas(answer: str):
    assert {c: maths("", c, {"answer": answer}) for c in EQUAL[answer]} == dict.fromkeys(EQUAL[answer], 1)


@pytest.mark.parametrize("answer", UNEQUAL)
def test_unequal_formulas(answer: str):
    assert {c: maths("", c, {"answer": answer}) for c in UNEQUAL[answer]} == dict.fromkeys(UNEQUAL[answer], 0)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["{}", "The answer is ${}$.", r"\boxed{{{}}}"]), st.data())
@settings(deadline=None, max_examples=30)
def test_one_digit_of_a_formula_decides(a: int, b: int, frame: str, data: st.DataObject):
    answer = f"{a}x+{b}"
    other = data.draw(st.sampled_from([d for d in range(1, 10) if d != b]))
    assert maths("", frame.format(f"{b}+{a}x"), {"answer": answer}) == 1
    assert maths("", frame.format(f"{a}x+{other}"), {"answer": answer}) == 0
    assert maths(f"Is it {answer}?", f"Is it {answer}?", {"answer": answer}) == 0
    assert maths("", frame.format(",".join(DIGITS)), {"answer": str(a)}) == 0


def test_algebra_that_does_not_end_is_wrong_from_any_thread_and_the_next_is_right():
    found: list[float | None] = []

    def ask() -> None:
        for completion in ("9^{9^{9^9}}", r"\boxed{\sum_{n=1}^{10000000} \sin(n^n)}", "3"):
            found.append(make("maths?seconds=1.5")("", completion, {"answer": "3"}))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(60)
    assert found == [0, 0, 1]


def test_a_row_that_is_no_mathematics_is_refused():
    with pytest.raises(VerifierError, match=r"The row's answer is '\+\+', which cannot be read as mathematics"):
        maths("", "3", {"answer": "++"})


# --- python ----------------------------------------------------------------------------------------------------------

TESTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'"]


@pytest.mark.parametrize(("completion", "expected"), [
    ("def add(a, b): return a + b", 1), ("Here:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.", 1),
    ("```\ndef add(a, b): return 0\n```\nBetter:\n```py\ndef add(a, b): return a + b\n```", 1),
    ("def add(a, b): return int(a) + int(b)", 2 / 3), ("def add(a, b): return 3", 1 / 3), ("", 0), ("def add(a, b:", 0),
    ("I cannot do that.", 0), ("import os; os._exit(0)", 0), ("```python\ndef add(a, b): return a + b", 0), ("\x00", 0),
    ("def add(a, b):\n    if a == -1: raise SystemExit\n    return a + b", 2 / 3),
])  # fmt: skip
def test_the_share_of_tests(completion: str, expected: float):
    assert reward("python", completion, tests=TESTS) == pytest.approx(expected, abs=1e-12)


def test_all_tests_or_nothing():
    some = "def add(a, b): return int(a) + int(b)"
    assert reward("python?all=true", some, tests=TESTS) == 0
    assert reward("python", some, tests="\n".join(TESTS)) == 0
    assert reward("python", some, tests="\n".join(TESTS[:2])) == 1
    assert reward("python?all=true", "def add(a, b): return a + b", tests=TESTS) == 1
    assert reward("python?seconds=0.5", "while True: pass", tests=TESTS) == 0
    assert reward("python?memory_mb=64", "x = bytearray(10**8)\ndef add(a, b): return a + b", tests=TESTS) == 0


# --- rows and options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, entry in VERIFIERS.items() if entry.needs])
def test_a_missing_column_is_refused_and_null_does_not_apply(name: str):
    (column,) = VERIFIERS[name].needs
    sentence = rf"The row has no column '{column}', which the verifier reads; its columns: question, source\.\Z"
    with pytest.raises(VerifierError, match=sentence):
        reward(name, "x", question="?", source="book")
    with pytest.raises(VerifierError, match="its columns: none"):
        reward(name, "x")
    assert reward(name, "x", **{column: None}) is None


@pytest.mark.parametrize(("text", "row", "sentence"), [
    ("number", {"answer": "many"},
     "The row's answer is 'many', which is no single number; repair the row or take `maths`."),
    ("number", {"answer": True},
     "The row's answer is True, which is no single number; repair the row or take `maths`."),
    ("number", {"answer": "1 or 2"},
     "The row's answer is '1 or 2', which is no single number; repair the row or take `maths`."),
    ("choice", {"answer": "I"}, "The row's answer is 'I', which is none of its 8 options A–H; give a letter, a number "
     "from 0 on, or an option's text."),
    ("choice", {"answer": 3, "choices": ["x", "y"]}, "The row's answer is 3, which is none of its 2 options A–B; give "
     "a letter, a number from 0 on, or an option's text."),
    ("choice?first=1", {"answer": 0}, "The row's answer is 0, which is none of its 8 options A–H; give a letter, "
     "a number from 1 on, or an option's text."),
    ("choice", {"answer": "A", "choices": "xy"}, "The row's choices are 'xy'; give a list of the options' texts."),
    ("equals", {"answer": " "}, "The row's answer is empty, which an empty completion would equal."),
    ("python", {"tests": []}, "The row's tests are []; give asserts as one text, or a list of texts."),
    ("python", {"tests": ["", "x"]}, "The row's tests are ['', 'x']; give asserts as one text, or a list of texts."),
    ("python", {"tests": "assert ="}, "The row's test 'assert =' is not Python: invalid syntax (<test>, line 1)."),
    ("regex", {"pattern": "("},
     "The pattern '(' is no regular expression: missing ), unterminated subpattern at position 0."),
    ("json_schema", {"schema": {"type": "thing"}}, "The schema {'type': 'thing'} is no JSON Schema: 'thing' is not "
     "valid under any of the given schemas."),
])  # fmt: skip
def test_rows_that_cannot_be_judged(text: str, row: dict[str, Any], sentence: str):
    with pytest.raises(VerifierError) as raised:
        reward(text, "x", **row)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(("text", "sentence"), [
    ("luck", "There is no verifier 'luck'; there are number, maths, choice, equals, python, regex, json_schema, "
     "format, length."),
    ("number?digits=3", "number has no option 'digits'; it has tolerance."),
    ("equals?case=true", "equals has no option 'case'; it has none."),
    ("number?tolerance=1&tolerance=2", "number has the option 'tolerance' twice; give it once."),
    ("number?tolerance=much", "number: tolerance is 'much'; it must be a number."),
    ("number?tolerance=-1", "tolerance is -1; it must be a number of at least 0."),
    ("number?tolerance=nan", "tolerance is nan; it must be a number of at least 0."),
    ("python?all=maybe", "python: all is 'maybe'; it must be true or false."),
    ("python?seconds=0", "seconds is 0 and memory_mb is 256; give more than 0 s, and 32 MB or more."),
    ("maths?seconds=0", "seconds is 0; a comparison needs more than 0 s."),
    ("choice?first=one", "choice: first is 'one'; it must be a whole number."),
    ("length?unit=lines&most=3", "length: unit is 'lines'; it must be words or characters."),
    ("length", "least is None and most is None; give one of them or both, 1 ≤ least ≤ most."),
    ("length?least=5&most=4", "least is 5 and most is 4; give one of them or both, 1 ≤ least ≤ most."),
    ("length?most=0", "least is None and most is 0; give one of them or both, 1 ≤ least ≤ most."),
    ("length?target=5&most=4", "target stands for both least and most; give it alone, or the other two."),
    ("format?open=", "open is '' and close is '</think>'; give two different tags."),
    ("json_schema?schema={", "The schema '{' is no JSON Schema: Expecting property name enclosed in double quotes: "
     "line 1 column 2 (char 1)."),
])  # fmt: skip
def test_what_cannot_be_made(text: str, sentence: str):
    with pytest.raises(VerifierError) as raised:
        make(text)
    assert str(raised.value) == sentence


def test_the_registry_documents_itself():
    for name, entry in VERIFIERS.items():
        assert entry.help.endswith("."), name
        assert "Raises:" in entry.doc, name
        assert all(option.help and option.type for option in entry.options), name
    (option,) = VERIFIERS["number"].options
    assert (option.name, option.type, option.default) == ("tolerance", "a number", 0.0)
    assert [o.type for o in VERIFIERS["length"].options] == ["a whole number"] * 3 + ["words or characters"]


def test_importing_the_verifiers_is_cheap():
    code = "import sys, lab.feedback.verifiers as v; v.make('number'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {m.split(".")[0] for m in done.stdout.split()} & {
        "torch",
        "numpy",
        "sympy",
        "math_verify",
        "jsonschema",
    } == set()
