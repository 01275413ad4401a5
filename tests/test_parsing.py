"""JSON and YAML from strangers: one sentence for whatever is wrong, and nothing that takes long or much memory."""

import time
from dataclasses import dataclass
from typing import Literal

import pytest

from mlx_ltxw.errors import UserError
from mlx_ltxw.parsing import build, parse_json, parse_yaml

LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "the name 'a' occurs twice"),
        ("[NaN]", "NaN is no JSON number"),
        ("[-Infinity]", "-Infinity is no JSON number"),
        ("[1e400]", "a number is not finite"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 100 + "]" * 100, "nested too deeply"),
        ("1" * 5000, "a number is too long"),
        ('"\\ud800"', "half a character"),
        ("", "Expecting value at line 1"),
        ("{", "line 1, column 2"),
        (b"\xff{}", "byte 0 is no UTF-8"),
        (b"\xff\xfe{}}", "is no UTF-16"),
    ],
)
def test_json_that_is_refused(text, words):
    with pytest.raises(UserError, match=words) as caught:
        parse_json(text, "x.json", "Make it again.")
    assert str(caught.value).startswith("x.json is not valid JSON: ")
    assert caught.value.hint == "Make it again."


def test_json_that_is_read():
    assert parse_json(b'\xef\xbb\xbf{"a": [1, 2.5, null, "\xc3\xa9"]}', "x") == {"a": [1, 2.5, None, "é"]}
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        assert parse_json('{"é": "“hush”"}'.encode(encoding), "x") == {"é": "“hush”"}
    assert parse_json("1" * 31, "x") == int("1" * 31)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "occurs twice"),
        ("[" * 10_000, "nested too deeply"),
        ("a: " + "[" * 10_000 + "]" * 10_000, "nested too deeply"),
        ("- " * 20_000, "nested too deeply"),
        ("&a [*a]", "nested too deeply"),
        (LAUGHS, "too many values"),
        ("a: " + "1" * 5000, "damaged"),
        ("a: 1e999", "not finite"),
        ("a: !!int 'abc'", "damaged"),
        ("a: !!bool x", "damaged"),
        ("a: !!float ''", "damaged"),
        ("a: !!timestamp x", "constructor for the tag"),
        ("!!python/object/apply:os.system [true]", "constructor for the tag"),
        ("? [a]\n: 1", "list or table"),
        ("a: *none", "undefined alias"),
        ("a: \x01", "unacceptable character"),
        ("\ud800", "unacceptable character"),
        ("x" * 300_000, "more than 262,144 characters"),
    ],
)
def test_yaml_that_is_refused(text, words):
    began = time.process_time()
    with pytest.raises(UserError, match=words):
        parse_yaml(text, "x.yaml")
    assert time.process_time() - began < 10


def test_yaml_that_is_read():
    """YAML 1.1's surprises stay texts: dates, times, binary and octal numbers."""
    text = "a: 1\nb: [x, 'y']\nc: 1e-4\nd: -.5\ne: yes\nf: ~\ng:\nh: 2001-99-99\ni: 0b102\nj: 1:30\nk: 012\nl: .inf\n"
    assert parse_yaml(text, "x") == {
        "a": 1, "b": ["x", "y"], "c": 1e-4, "d": -0.5, "e": True, "f": None, "g": None, "h": "2001-99-99",
        "i": "0b102", "j": "1:30", "k": "012", "l": ".inf",
    }  # fmt: skip


@dataclass(frozen=True)
class Inner:
    scale: float
    rest: float = 0.0


@dataclass(frozen=True)
class Outer:
    text: str
    numbers: tuple[int, ...] = (10,)
    inner: Inner | None = None
    kind: Literal["a", "b"] = "a"


def test_dataclasses():
    made = build(Outer, {"text": "x", "numbers": [1, 2], "inner": {"scale": 3}}, "x")
    assert made == Outer("x", (1, 2), Inner(3.0))
    assert type(made.inner.scale) is float
    assert vars(build(Outer, {"text": "x"}, "x")) == vars(Outer("x"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"text": 1}, "'text' is a whole number, not a text"),
        ({"text": "x", "numbers": [1, True]}, r"'numbers\[1\]' is true or false, not a whole number"),
        ({"text": "x", "numbers": [1.0]}, r"'numbers\[0\]' is a number, not a whole number"),
        ({"text": "x", "numbers": [10**30]}, "out of range"),
        ({"text": "x", "inner": {"scale": float("nan")}}, "not finite"),
        ({"text": "x", "inner": {"scale": "3"}}, r"'inner\.scale' is a text, not a number"),
        ({"text": "x", "inner": {"scale": 3, "more": 1}}, r"no field 'inner\.more'"),
        ({"text": "x", "inner": []}, "'inner' is a list, not a table"),
        ({"text": "x", "kind": "c"}, "'kind' is 'c', and can only be a, b"),
        ({"text": "x", "more": 1, "most": 2}, "no field 'more' or 'most'"),
        ({}, "the field 'text' is missing"),
        ([], "no table"),
        (None, "no table"),
        ({1: 2}, "no field '1'"),
    ],
)
def test_values_that_do_not_fit(values, words):
    with pytest.raises(UserError, match=words) as caught:
        build(Outer, values, "The request", "Look there.")
    assert str(caught.value).startswith("The request cannot be used: ")
