"""What is taken from a Python installation is its prose, whole and in order, and nothing is imported for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.data import prose
from harness.errors import InputError

SOURCE = '''
"""Read the values of a table, and write
them again in the order in which they were.

    >>> this is not the prose that we want to keep

- the first of the items has a sentence
  that hangs over its line
- the second of the items has one too

=====  =====
one    two
=====  =====
"""
raise SystemExit("importing this module would have ended the test at once")

# A comment over two lines is a paragraph
# of the text as well.
def f(x):
    value = f"this is {x} and not one of the constants that we want"
    text = """
    # this is not a comment but a part of a string
    """
    return x  # NOQA
'''


def test_strings_and_comments_of_a_source_file(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    assert prose.prose(prose.python_texts(path)) == [
        "Read the values of a table, and write them again in the order in which they were.",
        "- the first of the items has a sentence that hangs over its line",
        "- the second of the items has one too",
        "importing this module would have ended the test at once",
        "A comment over two lines is a paragraph of the text as well.",
        "# this is not a comment but a part of a string",
    ]


@pytest.mark.parametrize(
    "paragraph",
    [
        "Return a new list that holds the items of the old one.",
        "The value is used if there isn't another one (see above).",
    ],
)
def test_english_is_prose(paragraph: str) -> None:
    assert prose.is_prose(paragraph)


@pytest.mark.parametrize(
    "paragraph",
    [
        "",
        "Return it",
        "SOCK_STREAM SOCK_DGRAM SOCK_RAW AF_INET AF_INET6",
        'x = {"a": 1, "is": 2, "the": [3, 4], "of": (5, 6)}',
        "| this is | a row of | the table |",
        ">>> the_value_of(this) if it is not in the list",
        "this is the text with a \u2581 in it that we cannot restore",
        "this is the text with a \x07 in it that we cannot print",
    ],
)
def test_what_is_no_english_is_no_prose(paragraph: str) -> None:
    assert not prose.is_prose(paragraph)


def test_tests_and_installed_packages_are_no_sources(tmp_path: Path) -> None:
    for name in ("b.py", "a/c.txt", "test/d.py", "a/tests/e.py", "site-packages/f.py", "g.so", "_sysconfigdata_x.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "link.py").symlink_to("b.py")
    assert prose.source_files(tmp_path) == [tmp_path / "a/c.txt", tmp_path / "b.py"]


def test_a_source_that_does_not_parse_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def (:")
    with pytest.raises(InputError, match=r"broken.py: not valid Python 3"):
        prose.python_texts(path)


def test_the_builtin_modules_are_asked() -> None:
    docs = prose.builtin_docstrings()
    assert docs == prose.builtin_docstrings()
    assert any(text.startswith("Built-in functions, ") for text in docs["builtins"])
    assert {"sys", "itertools", "math"} <= docs.keys()


def test_the_help_topics_are_read() -> None:
    topics = prose.help_topics(prose.stdlib_folder() / prose.TOPICS)
    assert "assert" in topics
    assert len(topics) > 50
