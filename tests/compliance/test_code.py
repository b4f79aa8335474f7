"""All checks together on one entry point."""

import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from harness.compliance import code
from harness.compliance.catalogue import CHECKS
from harness.compliance.code import About, Clock, check_code
from harness.compliance.findings import Source, Status, worst
from harness.compliance.inputs import Run

ROOT = Path(__file__).parents[2]
CHEAT = """
    import os, time, urllib.request, torch
    urllib.request.urlretrieve("http://a/b", "c")
    for step in range(9):
        torch.zeros(1).backward()
    ok = os.path.getsize("a") < 16 * 1024 * 1024
    print("val_bpb:1.0123")
"""


def check(text, **options):
    entry = Source("train_gpt.py", dedent(text))
    return check_code([entry], Run(entry), About(**options))


def test_every_rule_has_its_say_and_names_a_check():
    found = {finding.check for finding in check(CHEAT) if finding.status is Status.FLAG}
    assert found >= {"network-at-eval", "wallclock-cap", "size-cap", "constant-score"}
    assert {finding.check for finding in check(CHEAT)} <= set(CHECKS)


def test_each_check_of_the_catalogue_is_one_that_some_code_can_report():
    """Its id stands somewhere besides the catalogue and the list of what is undecided where a rule fails."""
    package = Path(code.__file__).parent
    texts = [path.read_text() for path in package.glob("*.py") if path.name not in ("catalogue.py", "code.py")]
    assert [name for name in CHECKS if not any(f'"{name}"' in text for text in texts)] == []


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        (Clock.OWN, [Status.FLAG]),
        (Clock.DISPUTED, [Status.HOLD]),
        (Clock.FREE, [Status.CLEAN]),  # said all the same: it is a fact about the run
        (Clock.REFEREE, []),
    ],
)
def test_whoever_keeps_the_clock_for_the_code(clock, expected):
    assert [finding.status for finding in check(CHEAT, clock=clock) if finding.check == "wallclock-cap"] == expected


def test_an_unknown_limit_is_no_question_where_none_is_asked_for():
    text = CHEAT.replace("range(9)", "iter(int, 1)").replace(
        "    torch.zeros", "    if time.time() > float(input()): break\n        torch.zeros", 1
    )
    held = [finding.status for finding in check(text) if finding.check == "wallclock-cap"]
    assert held == [Status.HOLD]
    assert not [finding for finding in check(text, clock=Clock.FREE) if finding.check == "wallclock-cap"]


def test_every_finding_has_a_place_in_the_text():
    for finding in check(CHEAT):
        assert finding.flow and finding.flow[-1].text.strip()


@pytest.mark.parametrize("rule", code.RULES)
@pytest.mark.parametrize("error", [RecursionError("too deep"), AttributeError("no such thing")])
def test_a_rule_that_fails_leaves_its_checks_undecided_and_the_others_their_say(rule, error, monkeypatch):
    def fails(program):
        yield from rule(program)
        raise error

    before = check(CHEAT)
    monkeypatch.setattr(code, "RULES", {fails if one is rule else one: ids for one, ids in code.RULES.items()})
    after = check(CHEAT)
    held = [one for one in after if "could not be decided" in one.message]
    assert [one.check for one in held] == list(code.RULES[fails])
    assert all(one.status is Status.HOLD and str(error) in one.message for one in held)
    assert [one for one in after if one not in held] == before


def test_unreadable_code_is_a_finding():
    (finding,) = check("def f(:")
    assert (finding.check, finding.status) == ("unreadable", Status.HOLD)


def test_nothing_that_is_checked_is_executed(tmp_path):
    mark = tmp_path / "mark"
    names = set(sys.modules)
    check(f"open({str(mark)!r}, 'w')\nimport antigravity\nx = [open({str(mark)!r}, 'w') for _ in range(3)]")
    assert not mark.exists() and "antigravity" not in set(sys.modules) - names


@pytest.mark.parametrize(
    "text",
    [
        "x = 0\n" + "x += x\n" * 20_000,
        "x0 = 1\n" + "".join(f"x{i + 1} = x{i} + x{i}\n" for i in range(3_000)),
        "".join(f"def f{i}(a):\n    return f{i + 1}(a) + f{i + 1}(a)\n" for i in range(300)) + "y = f0(1)\n",
        "def f(a):\n    return f(f(a))\nwhile f(1) < f(2):\n    f(3).backward()\n",
        "class A(A):\n    def f(self): return self.f()\nA().f()\n",
        "import train_gpt\ntrain_gpt.train_gpt.x\nfrom train_gpt import *\ny = z\n",
        "d = {" + ", ".join(f"{i}: {i}" for i in range(20_000)) + "}\nprint(d[3])\n",
        "x = 'a' * 10 ** 12 + 'b' * 10 ** 12\ny = 10 ** 10 ** 10 << 10 ** 9\nz = f'{3:999999999}'\n",
        "if a:\n    pass\n" + "elif a:\n    pass\n" * 60,
        "global x\nx = 1\ndef f():\n    nonlocal y\n    y = 2\nf()\n",
    ],
)
def test_hostile_code_is_looked_at_in_time(text):
    started = time.process_time()
    assert worst(finding.status for finding in check(text)) in Status
    assert time.process_time() - started < 20


def test_our_own_submission_is_clean():
    sources = [Source(path.name, path.read_text()) for path in sorted((ROOT / "submission").glob("*.py"))]
    for name in ("train.py", "quantize.py", "serve.py"):
        entry = next(source for source in sources if source.path == name)
        findings = check_code(sources, Run(entry, arguments=("--config", "record")), About(Clock.REFEREE))
        assert worst(finding.status for finding in findings) is Status.CLEAN, findings
