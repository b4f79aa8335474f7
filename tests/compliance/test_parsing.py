"""Text that nobody vouches for becomes a tree or one clear line, and lines keep their numbers."""

from __future__ import annotations

import ast

import pytest

from harness.compliance.parsing import MAX_SOURCE_BYTES, Unreadable, decode, older_f_strings, parse


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert decode(b"\xef\xbb\xbfx = 1\r\ny = 2\r") == "x = 1\ny = 2\n"


@pytest.mark.parametrize(
    ("data", "reason", "line"),
    [
        (b"x = '\xff'\n", "is not utf-8", 1),
        (b"x = 1\ny = '\xc3('\n", "is not utf-8: byte 0xc3 in line 2", 2),
        (b"x = 1\n\0", "null byte", 2),
        (b"# coding: utf-7\n+AGE-", "declares the encoding 'utf-7'", 1),
        (b"# coding: rot13\nvzcbeg bf", "declares the encoding 'rot13'", 1),
        (b"#!/bin/python\n# -*- coding: unicode_escape -*-\n", "declares the encoding 'unicode-escape'", 1),
        (b"\xff\xfex\0", "is UTF-16", 1),
        (b"#" * (MAX_SOURCE_BYTES + 1), "at most", 1),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(data: bytes, reason: str, line: int) -> None:
    with pytest.raises(Unreadable, match=reason) as caught:
        decode(data)
    assert caught.value.line == line


def test_other_encodings_that_python_reads_are_read() -> None:
    assert decode(b"# coding: latin-1\nx = '\xe9'\n").endswith("x = 'é'\n")


@pytest.mark.parametrize(
    "text",
    [
        "-" * 100_000 + "1",
        "not " * 5_000 + "1",
        "(" * 100_000,
        "1+" * 50_000 + "1",
        "a" + ".b" * 50_000,
        "a" + "()" * 50_000,
        "lambda:" * 50_000 + "1",
        "1 if 1 else " * 50_000 + "1",
        "if 1:\n pass\n" + "elif 1:\n pass\n" * 20_000,
        "1**" * 50_000 + "1",
        'f"{' * 50_000,
        "f'{" + "f'{" * 3_000 + "}'" * 3_000,
        "".join(" " * depth + "if 1:\n" for depth in range(300)),
        "x = " + "9" * 100_000,
        "x = 1 +",
        "return\x0c(",
        "a = '\udc80'",
        "1+" * 200 + "1",
    ],
)
def test_nested_or_broken_text_ends_in_one_line(text: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text", ["x=" * 50_000 + "1", "a;" * 50_000, "[" + "1," * 100_000 + "]", "1 and " * 50_000 + "1"]
)
def test_long_but_flat_text_is_read(text: str) -> None:
    assert isinstance(parse(text).tree, ast.Module)


@pytest.mark.parametrize(
    ("newer", "value"),
    [
        ("""f'{table['key']}'""", "7"),
        ('''f"{", ".join(names)} {{x}}"''', "a, b {x}"),
        ('''f"{table["key"]:>{table["key"]}}|"''', "      7|"),
        (""""it's " + f"{table["key"]}"  # don't""", "it's 7"),
        ('''f"{'b' if table["key"] else "c"}"''', "b"),
    ],
)
def test_f_strings_of_newer_pythons_mean_the_same_here(newer: str, value: str) -> None:
    text = f"first = 1\nshown = {newer}\nlast = 3\n"
    scope = {"table": {"key": 7}, "names": ["a", "b"]}
    parsed = parse(text)
    exec(compile(parsed.tree, "test", "exec"), scope)  # our own text
    assert scope["shown"] == value
    assert parsed.text.split("\n")[2] == "last = 3"


def test_older_text_is_left_as_it_is() -> None:
    text = "x = 'it''s' + f\"{'a'}\" + '''f\"{\"''' # f'{'\n"
    assert older_f_strings(text) == text
    assert older_f_strings("x = 'open\ny = f\"{") == "x = 'open\ny = f\"{"


def test_names_tell_attributes_from_names() -> None:
    names = parse("import os.path as p\nmodel.eval()\nexec(x)\n").names
    assert {"os", "path", "model", "exec", "x", ".eval"} <= names
    assert "eval" not in names
