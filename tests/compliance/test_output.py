"""A reviewer sees every finding with its place, and nothing of what was checked can command a terminal or a page."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from harness.compliance import output
from harness.compliance.catalogue import CHECKS
from harness.compliance.findings import Finding, Place, Report, Source, Status
from harness.compliance.interchange import as_json, as_sarif

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\r\b\x7f\u2028\udc9b\x00[bold]x[/bold]\t`|<script>"


def text_of(reports: list[Report], terminal: bool = False) -> str:
    stream = io.StringIO()
    output.print_text(reports, Console(file=stream, highlight=False, force_terminal=terminal, width=80))
    return stream.getvalue()


def hostile_report() -> Report:
    source = Source(HOSTILE.replace("/", ""), f"a = 1\nb = '{HOSTILE.replace(chr(13), '')}'\n", (HOSTILE,))
    place = Place(source, 2, 5, HOSTILE)
    finding = Finding("hidden-code", Status.HOLD, HOSTILE, (place, place))
    return Report(HOSTILE, (finding,), (source,), root=HOSTILE)


def test_text_shows_each_finding_with_its_path_and_its_code(report: Report) -> None:
    said = text_of([report])
    assert said.startswith("FLAG   records/mine\n")
    for expected in (
        "FLAG   target-keyed-cache  An n-gram cache is keyed by the token that it predicts",
        "the key holds the target",
        "1. records/mine/train_gpt.py:3:20  targets come in",
        "2. records/mine/train_gpt.py:4:10  and go into the key",
        ">      4 |     keys = [hash((a, b)) for a, b in zip(history, targets)]",
        "HOLD   hidden-code",
        "records/mine/packed.py!lzma!base85:2:5  opened here",
        "CLEAN  score-first-ttt",
        "seed 42 has no log",
    ):
        assert expected in said, expected
    assert said.index("target-keyed-cache") < said.index("hidden-code") < said.index("score-first-ttt")
    silent = said.splitlines()[-1]
    assert silent.startswith("  CLEAN  ")
    named = {"record-logs", "hidden-code", "score-first-ttt", "target-keyed-cache"}
    assert set(silent.removeprefix("  CLEAN  ").split(", ")) == set(CHECKS) - named


def test_the_mark_stands_below_the_column() -> None:
    source = Source("a.py", "\tx = f(y)\n" + "z = " + "1 + " * 100 + "bad(x)" + " + 1" * 100 + "\n")
    for place, expected in ((Place(source, 1, 6, ""), "f(y)"), (Place(source, 2, 405, ""), "bad(x)")):
        rows = output.frame(place)
        at = next(index for index, (margin, _) in enumerate(rows) if margin.startswith(">"))
        offset = rows[at + 1][1].index("^")
        assert rows[at][1][offset:].startswith(expected)
        assert len(rows[at][1]) <= output.WIDTH + 10


def test_lines_are_counted_as_python_does() -> None:
    place = Place(Source("a.py", "a = 1\x0c\nb = '\x1c\u2028'\r\nc = 3\rd = 4"), 3, 1, "")
    assert place.text == "c = 3"
    assert (">      3 | ", "c = 3") in output.frame(place)
    assert output.frame(Place(place.source, 9, 1, "")) == []


def test_several_targets_end_with_their_count(report: Report) -> None:
    said = text_of([report, Report("other"), Report("third")])
    assert said.splitlines()[-1] == "FLAG  3 targets: 1 FLAG, 2 CLEAN"
    assert text_of([]).splitlines() == ["CLEAN  0 targets"]


def test_one_line_for_each_target(report: Report) -> None:
    stream = io.StringIO()
    output.print_verdicts([report, Report("other")], Console(file=stream, highlight=False))
    assert stream.getvalue() == "FLAG   records/mine: target-keyed-cache, record-logs\nCLEAN  other\n"


@pytest.mark.parametrize("form", ["text", "terminal", "verdicts", "markdown", "json", "sarif"])
def test_nothing_that_was_checked_commands_a_terminal(form: str) -> None:
    reports = [hostile_report()]
    if form == "verdicts":
        stream = io.StringIO()
        output.print_verdicts(reports, Console(file=stream, highlight=False))
        said = stream.getvalue()
    else:
        said = {
            "text": text_of,
            "terminal": lambda reports: re.sub(r"\x1b\[[0-9;]*m", "", text_of(reports, terminal=True)),
            "markdown": output.markdown,
            "json": as_json,
            "sarif": as_sarif,
        }[form](reports)
    assert [character for character in said if not character.isprintable() and character != "\n"] == []
    said.encode()  # no lone surrogates
    assert "owned" in said and "[bold]" in said.replace("\\[", "[").replace("\\]", "]")


def test_colours_of_the_terminal_are_rich_s_alone() -> None:
    """What was checked is shown without its own escape sequences, which would change the sequences between words."""
    plain, coloured = text_of([hostile_report()]), text_of([hostile_report()], terminal=True)
    assert "\x1b[" in coloured and re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_markdown_has_a_table_and_every_finding(report: Report) -> None:
    page = output.markdown([report, Report("other")])
    assert page.startswith("# Compliance: FLAG\n\n2 targets: 1 FLAG, 1 CLEAN.\n")
    assert "| records/mine | FLAG | target-keyed-cache, record-logs, hidden-code |" in page
    assert "| other | CLEAN |  |" in page
    assert "## FLAG: An n-gram cache is keyed by the token that it predicts (`target-keyed-cache`)" in page
    assert "2. records/mine/train\\_gpt.py:4:10: and go into the key" in page
    assert page.count("```text") == page.count("```\n") == 3


def test_markdown_of_hostile_code_stays_in_its_fence() -> None:
    source = Source("a.py", "x = '''\n````\n<img src=x>\n'''\n")
    finding = Finding("hidden-code", Status.HOLD, "| a | <img src=x> @all", (Place(source, 3, 1, "`x`"),))
    page = output.markdown([Report("a|b", (finding,))])
    assert "\n`````text\n" in page and page.rstrip().count("`````") == 2
    outside = page.partition("`````text")[0]
    assert "| a\\|b | HOLD |" in outside and "\\<img src=x\\>" in outside and "\\`x\\`" in outside


def test_markdown_is_cut_where_the_page_is_full(report: Report) -> None:
    many = Report("many", report.findings * 1000, root="many")
    page = output.markdown([many])
    assert len(page.encode()) < 2**20
    assert page.rstrip().endswith("There is more than this page can hold; the other formats have it all.")
    assert "more than this page" not in output.markdown([report])


def test_an_explanation_has_all_of_the_catalogue() -> None:
    stream = io.StringIO()
    output.print_explanation(CHECKS["slot"], Console(file=stream, highlight=False, width=10_000))
    for part in (CHECKS["slot"].title, CHECKS["slot"].rationale, CHECKS["slot"].rule, "error"):
        assert part in stream.getvalue()
