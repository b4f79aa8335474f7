"""Hostile input ends in a clear finding about the file that it is in, in seconds, end to end; what lies beside it is
still checked."""

from __future__ import annotations

import base64
import lzma
import os
import socket
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.compliance import inputs
from harness.compliance.check import check_all, find_targets
from harness.compliance.findings import Report, Status
from harness.compliance.interchange import as_json, as_sarif
from harness.compliance.output import markdown
from harness.compliance.unpack import MAX_BYTES

SECONDS = 30.0  # each takes well under one where nothing else runs


def packed(code: str, times: int = 1) -> str:
    for _ in range(times):
        data = base64.b64encode(zlib.compress(code.encode()))
        code = f"import base64, zlib\nexec(zlib.decompress(base64.b64decode({data})))\n"
    return code


def bomb() -> str:
    data = base64.b85encode(lzma.compress(b"#" * 4 * MAX_BYTES, preset=0)).decode()
    return f"import base64, lzma\nexec(lzma.decompress(base64.b85decode('{data}')))\n"


TEXTS: dict[str, Callable[[], bytes]] = {
    "nested-parentheses": lambda: b"x = " + b"(" * 100_000 + b")" * 100_000,
    "nested-lists": lambda: b"x = " + b"[" * 90 + b"]" * 90 + b"\ny = " + b"-" * 90_000 + b"1",
    "nested-blocks": lambda: b"".join(b" " * level + b"if x:\n" for level in range(99)) + b" " * 99 + b"pass\n",
    "long-attribute-chain": lambda: b"x = a" + b".a" * 100_000,
    "long-sum": lambda: b"x = 1" + b" + 1" * 100_000,
    "long-comparison": lambda: b"x = 1" + b" < 1" * 100_000,
    "chained-calls": lambda: b"f" + b"()" * 100_000,
    "nested-lambdas": lambda: b"f = " + b"lambda: " * 50_000 + b"0",
    "huge-integer": lambda: b"x = " + b"9" * 2_000_000,
    "huge-power": lambda: b"x = 9 ** 9 ** 9 ** 9\ny = 'a' * (10 ** 12)\nz = [0] * 10 ** 11\nw = 1 << 10 ** 11\n",
    "huge-string": lambda: b"x = '" + b"a" * 3_900_000 + b"'",
    "huge-file": lambda: b"x = 1\n" * 2_000_000,
    "long-elif": lambda: b"if a:\n  b\n" + b"elif a:\n  b\n" * 20_000,
    "not-utf-8": lambda: b"x = '\xff\xfe\xfa'\n",
    "utf-16": lambda: "x = 1\n".encode("utf-16"),
    "null-bytes": lambda: b"x = 1\0\ny = 2\n",
    "odd-encoding": lambda: b"# coding: utf-7\nx = 1\n",
    "no-python": lambda: b"\x7fELF" + bytes(range(1, 255)) * 100,
    "not-python": lambda: b"this is prose, and nothing else\n",
    "control-characters": lambda: b"x = '\x1b]0;owned\x07\x1b[2J'\ny = \x0c(\n",
    "lone-surrogate": lambda: b"x = '\\ud800'\nexec('\\ud800')\n",
    "zip-bomb": lambda: bomb().encode(),
    "packed-forty-times": lambda: packed("x = 1\n", 40).encode(),
    "packs-itself": lambda: b"exec(open(__file__).read())\n",
    "endless-recursion": lambda: b"def f(x):\n  return f(f(x + 1))\nexec(f(f(1)))\n",
    "endless-loop": lambda: b"x = ''\nwhile True:\n  x += 'a'\nexec(x)\n",
    "cyclic-imports": lambda: b"import train_gpt\nfrom train_gpt import *\ntrain_gpt.x = train_gpt\n",
    "cyclic-classes": lambda: b"class A(B): pass\nclass B(A): pass\nA().f().g()\n",
    "self-in-self": lambda: b"x = [1]\nx.append(x)\nf = lambda f: f(f)\nf(f)\nexec(x[0])\n",
    "exponential-strings": lambda: b"a = 'x' * 99\n" + b"a = a + a + a\n" * 60 + b"exec(a)\n",
    "exponential-calls": lambda: (
        b"def f0(x):\n  return x\n"
        + b"".join(b"def f%d(x):\n  return f%d(x) + f%d(x)\n" % (n, n - 1, n - 1) for n in range(1, 60))
        + b"exec(f59(input()))\n"
    ),
    "many-functions": lambda: b"".join(b"def f%d(x):\n  return f%d(x)\n" % (n, n + 1) for n in range(20_000)),
}


UNREADABLE = {"nested-parentheses", "huge-file", "not-utf-8", "utf-16", "null-bytes", "odd-encoding", "no-python"}
NOT_UNPACKED = {"zip-bomb", "packed-forty-times", "endless-recursion", "endless-loop", "exponential-strings"}


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_code_ends_in_a_verdict_about_its_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / "train_gpt.py").write_bytes(TEXTS[name]())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train_gpt.py").write_text("print(1)\n")
    start = time.monotonic()
    hostile, other = check_all(find_targets([tmp_path]))
    assert time.monotonic() - start < SECONDS
    assert "unreadable" not in {finding.check for finding in other.findings}
    if name in UNREADABLE:
        assert hostile.status_of("unreadable") is Status.HOLD
        assert any("train_gpt.py" in one.message for one in hostile.findings if one.check == "unreadable")
    if name in NOT_UNPACKED:
        assert hostile.status is not Status.CLEAN
    well_formed(hostile)


def test_what_is_packed_is_checked_with_its_own_lines(tmp_path: Path) -> None:
    code = "import torch, urllib.request\n\n\nurllib.request.urlopen('https://example.org/x')\n" + TRAINING
    (tmp_path / "train_gpt.py").write_text(packed(code, 3))
    (report,) = check_all(find_targets([tmp_path / "train_gpt.py"]))
    (finding,) = [finding for finding in report.findings if finding.check == "network-at-eval"]
    place = finding.flow[-1]
    assert finding.status is Status.FLAG
    assert (place.source.path, place.line, len(place.source.layers)) == ("train_gpt.py", 4, 6)
    assert report.status_of("hidden-code") is Status.CLEAN


TRAINING = """
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(4)).sum().backward()
optimizer.step()
"""


def make_links(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    (folder / "self.py").symlink_to("self.py")
    (folder / "passwd.py").symlink_to("/etc/passwd")
    (folder / "gone.py").symlink_to("nowhere")


def make_special(folder: Path) -> None:
    os.mkfifo(folder / "pipe.py")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket must be short
        server.bind("socket.py")
        os.chdir(here)


def make_deep(folder: Path) -> None:
    here = os.getcwd()
    os.chdir(folder)
    for _ in range(200):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here)


def make_many(folder: Path) -> None:
    for number in range(1_100):
        (folder / f"{number}.txt").touch()


def make_odd_names(folder: Path) -> None:
    for name in (b"\xff\xfe.py", b"line\nend.py", b"\x1b[2J.py", b"[bold].py", "\u202egpj.py".encode()):
        (folder / os.fsdecode(name)).write_text("this is no Python\n")


def make_hole(folder: Path) -> None:
    (folder / "train.log").touch()
    os.truncate(folder / "train.log", 2**40)
    (folder / "README.md").touch()
    os.truncate(folder / "README.md", 2**40)
    (folder / "submission.json").write_text("[" * 100_000)


@pytest.mark.parametrize("make", [make_links, make_special, make_deep, make_many, make_odd_names, make_hole])
def test_a_hostile_folder_ends_in_findings(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "MAX_NAMES", 1_000)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "train_gpt.py").write_text("print(1)\n")
    make(folder)
    start = time.monotonic()
    (report,) = check_all(find_targets([folder]))
    assert time.monotonic() - start < SECONDS
    assert report.status_of("unreadable") is Status.HOLD
    assert not any("root:" in source.text for source in report.sources)
    well_formed(report)


def well_formed(report: Report) -> None:
    """Every format can say it."""
    for text in (as_json([report]), as_sarif([report]), markdown([report])):
        assert text.encode()
    for finding in report.findings:
        assert len(finding.message) < 2_000
