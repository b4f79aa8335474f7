"""Bytes are counted as the contest does, however that is written, or it is said which token has others."""

from __future__ import annotations

import ast

import numpy as np
import pytest

from harness.compliance import trial
from harness.compliance.byte_counts import _wrong_table
from harness.compliance.findings import Source, Status, worst
from harness.compliance.program import load_program
from harness.compliance.rules_score import check_bytes, check_score

SCRIPT = """
import math
import numpy as np
import sentencepiece as spm
import torch
import torch.nn.functional as F

def tables(sp, vocab_size, device):
    count = int(sp.vocab_size())
    size = max(count, vocab_size)
    base = np.zeros((size,), dtype=np.int16)
    spaced = np.zeros((size,), dtype=np.bool_)
    boundary = np.ones((size,), dtype=np.bool_)
    for i in range(count):
        if sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i):
            continue
        boundary[i] = False
        if sp.is_byte(i):
            base[i] = 1
            continue
        piece = sp.id_to_piece(i)
        if piece.startswith("\\u2581"):
            spaced[i] = True
            piece = piece[1:]
        base[i] = len(piece.encode("utf-8"))
    return (
        torch.tensor(base, dtype=torch.int16, device=device),
        torch.tensor(spaced, dtype=torch.bool, device=device),
        torch.tensor(boundary, dtype=torch.bool, device=device),
    )

def evaluate(model, tokens, base, spaced, boundary, length):
    loss_sum, byte_count = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    model.eval()
    for start in range(0, tokens.numel() - 1, length):
        local = tokens[start : start + length + 1].to(dtype=torch.int64)
        x, y = local[:-1].reshape(1, -1), local[1:].reshape(1, -1)
        loss_sum += F.cross_entropy(model(x).view(-1, 8), y.view(-1), reduction="sum")
        previous, target = x.reshape(-1), y.reshape(-1)
        each = base[target].to(dtype=torch.int16)
        each += (spaced[target] & ~boundary[previous]).to(dtype=torch.int16)
        byte_count += each.to(torch.float64).sum()
    return loss_sum.item() / math.log(2.0) / byte_count.item()

def main(args):
    sp = spm.SentencePieceProcessor(model_file=args.path)
    base, spaced, boundary = tables(sp, args.vocab_size, "cuda")
    print("val_bpb:", evaluate(torch.load("net.pt"), torch.load("val.pt"), base, spaced, boundary, 1024))

import sys
main(sys.argv)
"""
MEASURED = '        base[i] = len(piece.encode("utf-8"))\n'
EACH = "        each = base[target].to(dtype=torch.int16)\n"
SPACES = "        each += (spaced[target] & ~boundary[previous]).to(dtype=torch.int16)\n"
SUMMED = "        byte_count += each.to(torch.float64).sum()\n"
LOOP = SCRIPT[SCRIPT.index("    for i in range(count)") : SCRIPT.index("    return (\n")]


def edited(*changes: tuple[str, str], script: str = SCRIPT) -> str:
    for old, new in changes:
        assert old in script, old
        script = script.replace(old, new, 1)
    ast.parse(script)
    return script


def found(text: str) -> list:
    source = Source("train_gpt.py", text)
    program = load_program([source], source, {}, [])
    return [one for rule in (check_bytes, check_score) for one in rule(program)]


def status(text: str) -> Status:
    return worst([one.status for one in found(text) if one.check == "byte-count"])


CLASS = edited(
    ("def main(args):\n", "class Data:\n    def __init__(self, sp, size, device):\n        self.sp = sp\n"),
    ("    sp = spm.SentencePieceProcessor(model_file=args.path)\n", ""),
    (
        '    base, spaced, boundary = tables(sp, args.vocab_size, "cuda")\n',
        "        self.base, self.spaced, self.boundary = tables(self.sp, size, device)\n\ndef main(args):\n"
        '    data = Data(spm.SentencePieceProcessor(model_file=args.path), 8, "cuda")\n',
    ),
    ("base, spaced, boundary, 1024", "data, 1024"),
    ("tokens, base, spaced, boundary, length", "tokens, data, length"),
    (EACH, EACH.replace("base", "data.base")),
    (SPACES, SPACES.replace("spaced", "data.spaced").replace("boundary", "data.boundary")),
)
RIGHT = {
    "as in the contest": SCRIPT,
    "in one line": edited(
        (EACH, ""),
        (SPACES, ""),
        (SUMMED, SUMMED.replace("each", "(base[target] + (spaced[target] & ~boundary[previous]))")),
    ),
    "in two sums": edited(
        (SPACES, ""), (SUMMED, SUMMED + "        byte_count += (spaced[target] & ~boundary[previous]).sum()\n")
    ),
    "one token after the other": edited(
        (
            EACH + SPACES + SUMMED,
            "        for p, t in zip(previous, target):\n"
            "            byte_count += base[t] + (spaced[t] & ~boundary[p])\n",
        )
    ),
    "with numpy": edited(
        (EACH, "        each = base.numpy()[target.numpy()].astype(np.int16, copy=True)\n"),
        (
            SPACES,
            "        each += np.logical_and(spaced[target], np.logical_not(boundary[previous])).astype(np.int16)\n",
        ),
        (SUMMED, "        byte_count += float(each.astype(np.float64).sum())\n"),
    ),
    "in a helper": edited(
        (
            "def evaluate(",
            "def counted(base, spaced, boundary, p, t):\n    n = base[t].to(torch.int16)\n"
            "    n += (spaced[t] & ~boundary[p]).to(torch.int16)\n    return n.sum()\n\ndef evaluate(",
        ),
        (EACH + SPACES + SUMMED, "        byte_count += counted(base, spaced, boundary, previous, target)\n"),
    ),
    "of a part of a batch": edited(
        (EACH, EACH.replace("[target]", "[y[0, 5:length]]")),
        (SPACES, SPACES.replace("[target]", "[y[0, 5:length]]").replace("[previous]", "[x[0, 5:length]]")),
    ),
    "of an object": CLASS,
    "lists": edited(
        ("np.zeros((size,), dtype=np.int16)", "[0] * size"),
        ("np.zeros((size,), dtype=np.bool_)", "[False] * size"),
        ("np.ones((size,), dtype=np.bool_)", "[True for _ in range(size)]"),
    ),
    "appended": edited(
        (
            LOOP,
            """    base = []
    for i in range(count):
        boundary[i] = sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i)
        text = sp.id_to_piece(i)
        spaced[i] = text[0] == chr(0x2581)
        base.append(0 if boundary[i] else 1 if sp.is_byte(i) else len(text.lstrip(chr(0x2581)).encode()))
""",
        ),
    ),
    "a table with the spaces in it": edited(
        (MEASURED, '        base[i] = len(piece.encode("utf-8")) + (1 if spaced[i] else 0)\n'),
        (SPACES, "        each -= (spaced[target] & boundary[previous]).to(torch.int16)\n"),
    ),
    "an assertion first": edited(
        (
            "    size = max(",
            "    assert len(sp.encode('a b')) > 1\n    for j in sp.encode('a b'):\n"
            "        print(sp.id_to_piece(j))\n    size = max(",
        )
    ),
    "under two names": edited(
        (EACH, EACH.replace("each", "n")),
        (SPACES, SPACES.replace("each", "n") + "        each = n.to(torch.int32)\n"),
    ),
    "of some of them": edited((SUMMED, SUMMED.replace("each", "each[torch.load('mask')]"))),
    "by methods": edited((SPACES, SPACES.replace("~boundary[previous]", "boundary[previous].logical_not()"))),
    "in whole numbers": edited(
        (SPACES, "        each += spaced[target].to(torch.int16) * (1 - boundary[previous].to(torch.int16))\n"),
    ),
    "or of tokens": edited(
        (SUMMED, "        if model.x:\n    " + SUMMED + "        else:\n            byte_count += y.numel()\n"),
    ),
    "with another table": edited(
        (
            "def evaluate(",
            "def starts(sp):\n    t = np.zeros(sp.vocab_size(), dtype=np.uint8)\n    for i in range(sp.vocab_size()):\n"
            "        t[i] = sp.id_to_piece(i).startswith('x')\n        t[3] = 1\n    return t\n\ndef evaluate(",
        ),
        ("    model.eval()\n", "    model.eval()\n    print(starts(spm.SentencePieceProcessor('a')))\n"),
    ),
    "weights for training": edited(
        (SUMMED, SUMMED + "        weight = base[target].float()\n        print(weight.sum())\n")
    ),
    "of nothing": "import torch\nprint('val_bpb:', torch.load('a').item())\n",
}


@pytest.mark.parametrize("way", RIGHT)
def test_bytes_that_are_counted_right(way: str) -> None:
    assert status(RIGHT[way]) is Status.CLEAN


TABLES = {  # the end of the message
    "twice": ((MEASURED, MEASURED.replace("len(", "2 * len(")), "`b` has 2 in the table, not 1."),
    "one more": ((MEASURED, MEASURED.replace("\n", " + 1\n")), "`b` has 2 in the table, not 1."),
    "one more later": ((MEASURED, f"{MEASURED}        base[i] += 1\n"), "`b` has 2 in the table, not 1."),
    "one more for all": ((MEASURED, f"{MEASURED}    base = base + 1\n"), "`b` has 2 in the table, not 1."),
    "two at least": (
        (MEASURED, '        base[i] = max(len(piece.encode("utf-8")), 2)\n'),
        "`b` has 2 in the table, not 1.",
    ),
    "two at least, by numpy": (
        (MEASURED, f"{MEASURED}    base = np.maximum(base, 2)\n"),
        "`b` has 2 in the table, not 1.",
    ),
    "two at least, clipped": ((MEASURED, f"{MEASURED}    base = base.clip(2, 99)\n"), "`b` has 2 in the table, not 1."),
    "two at least, chosen": (
        (MEASURED, f"{MEASURED}    base = np.where(base < 2, 2, base)\n"),
        "`b` has 2 in the table, not 1.",
    ),
    "UTF-16": ((MEASURED, MEASURED.replace("utf-8", "utf-16-le")), "`b` has 2 in the table, not 1."),
    "in hexadecimal": ((MEASURED, MEASURED.replace('"utf-8")', '"utf-8").hex()')), "`b` has 2 in the table, not 1."),
    "with a letter": ((MEASURED, MEASURED.replace("piece.", '(piece + "x").')), "`b` has 2 in the table, not 1."),
    "the mark of a space": (("            piece = piece[1:]\n", ""), "`\u2581a` has 4 in the table, not 1."),
    "when it is given back": (
        ("torch.tensor(base, dtype=torch.int16", "torch.tensor(base * 1.5, dtype=torch.float32"),
        "`b` has 1.5 in the table, not 1.",
    ),
    "bytes are three": (
        ("            base[i] = 1\n", "            base[i] = 3\n"),
        "A byte piece is counted as 3 bytes, not one.",
    ),
    "bytes by their names": (
        ("            base[i] = 1\n            continue\n", "            pass\n"),
        "`<0x41>` has 6 in the table, not 1.",
    ),
}


@pytest.mark.parametrize("way", TABLES)
def test_a_table_of_other_bytes_is_flagged(way: str) -> None:
    change, said = TABLES[way]
    findings = [one for one in found(edited(change)) if one.check == "byte-count"]
    assert [one.status for one in findings] == [Status.FLAG]
    assert findings[0].message.endswith(said)


SUMS = {
    "one more": ((EACH, EACH.replace("\n", " + 1\n")), "`b` behind `b` is 2, not 1."),
    "one more later": ((SPACES, f"{SPACES}        each += 1\n"), "`b` behind `b` is 2, not 1."),
    "twice": ((SUMMED, SUMMED.replace("sum()", "sum() * 2")), "`b` behind `b` is 2, not 1."),
    "two at least": ((EACH, EACH.replace(".to(", ".clamp(min=2).to(")), "`b` behind `b` is 2, not 1."),
    "a space for every token": (
        (SPACES, "        each += torch.ones_like(target).to(torch.int16)\n"),
        "`b` behind `b` is 2, not 1.",
    ),
    "either": ((SPACES, SPACES.replace("&", "|")), "`b` behind `b` is 2, not 1."),
    "two spaces": ((SPACES, SPACES + SPACES), "`\u2581a` behind `b` is 3, not 2."),
    "no space": ((SPACES, ""), "`\u2581a` behind `b` is 1, not 2."),
    "only behind boundaries": ((SPACES, SPACES.replace("~", "")), "`\u2581a` behind `b` is 1, not 2."),
    "what came before, too": (
        (SUMMED, f"{SUMMED}        byte_count += base[previous].sum()\n"),
        "`b` behind `b` is 2, not 1.",
    ),
    "what came before": ((EACH, EACH.replace("target", "previous")), "`ing` behind `b` is 1, not 3."),
}


@pytest.mark.parametrize("way", SUMS)
def test_sums_of_other_bytes_are_flagged(way: str) -> None:
    change, said = SUMS[way]
    findings = [one for one in found(edited(change)) if one.check == "byte-count"]
    assert [one.status for one in findings] == [Status.FLAG]
    assert findings[0].message.endswith(said)


def test_a_sum_that_is_begun_in_a_statement_of_its_own_is_followed() -> None:
    begun = "    loss_sum = torch.zeros(())\n    byte_count = torch.zeros((), dtype=torch.float64)\n"
    both = SCRIPT[SCRIPT.index("    loss_sum, byte_count") : SCRIPT.index("    model.eval()")]
    assert status(edited((both, begun))) is Status.CLEAN
    assert status(edited((both, begun), SUMS["one more"][0])) is Status.FLAG


@pytest.mark.parametrize("way", ["one more", "no space", "two spaces"])
def test_sums_in_an_object_s_tables_are_flagged(way: str) -> None:
    (old, new), said = SUMS[way]
    for name in ("base", "spaced", "boundary"):
        old, new = old.replace(f"{name}[", f"data.{name}["), new.replace(f"{name}[", f"data.{name}[")
    (finding,) = (one for one in found(edited((old, new), script=CLASS)) if one.check == "byte-count")
    assert finding.message.endswith(said)


QUESTIONS = {
    "a space behind boundaries, too": (SPACES, SPACES.replace(" & ~boundary[previous]", "")),
    "a space behind all but itself": (SPACES, SPACES.replace("[previous]", "[target]")),
    "control tokens have one": ("np.zeros((size,), dtype=np.int16)", "np.ones((size,), dtype=np.int16)"),
    "the number of tokens, too": (SUMMED, f"{SUMMED}        byte_count += y.numel()\n"),
    "a number, too": (SUMMED, f"{SUMMED}        byte_count += 1000\n"),
}


@pytest.mark.parametrize("way", QUESTIONS)
def test_what_may_not_matter_is_a_question(way: str) -> None:
    assert status(edited(QUESTIONS[way])) is Status.HOLD


WRONG = (MEASURED, MEASURED.replace("\n", " + 1\n"))
UNCLEAR = {  # of a table that is wrong, if it is that
    "another way out": (
        "    for i in range(count)",
        "    if torch.load('t'):\n        return None\n    for i in range(count)",
    ),
    "another loop": ("    return (\n", "    for i in torch.load('t'):\n        base[i] -= 1\n    return (\n"),
    "another branch": ("    return (\n", "    if torch.load('t'):\n        base = base - 1\n    return (\n"),
}


@pytest.mark.parametrize("way", UNCLEAR)
def test_a_table_of_which_something_is_not_known_is_no_finding(way: str) -> None:
    assert status(edited(WRONG)) is Status.FLAG
    assert status(edited(WRONG, UNCLEAR[way])) is Status.CLEAN


def test_tables_that_differ_are_not_known() -> None:
    main = '    base, spaced, boundary = tables(sp, args.vocab_size, "cuda")\n'
    other = "    if args.x:\n        base = base * 2\n"
    assert status(edited((main, main + other), SUMS["one more"][0])) is Status.CLEAN
    method = "    def load(self):\n        self.base, self.x = torch.load('t')\n"
    old, new = (part.replace("base[", "data.base[") for part in SUMS["one more"][0])
    script = edited(("class Data:\n", f"class Data:\n{method}"), (old, new), script=CLASS)
    assert status(script) is Status.CLEAN


def test_only_one_table_of_numbers_is_one_of_bytes() -> None:
    def wrong(*tables) -> str | None:
        return _wrong_table(tuple(trial.Array(np.array(one)) for one in tables))

    assert wrong(trial.BYTES) == wrong(trial.BYTES + trial.SPACED) == wrong(trial.BYTES, trial.SPACED) == ""
    assert "`b` has 2" in str(wrong(2 * trial.BYTES))
    assert wrong(2 * trial.BYTES, trial.BYTES) is None
    assert wrong(0 * trial.BYTES) is None
    assert wrong(trial.BYTES[:5]) is wrong() is None


NOT_KNOWN = {  # nothing is said about what does not work out
    "another table": (
        "    base, spaced, boundary = tables(",
        "    base, spaced, boundary = torch.load('t') if args.t else tables(",
    ),
    "a mask": (SUMMED, SUMMED.replace("each", "(each * torch.load('mask'))")),
    "a table that is changed elsewhere": (EACH, EACH.replace("base", "changed(base)")),
    "with what is not known": (EACH, EACH.replace("\n", " + torch.load('more')\n")),
}


@pytest.mark.parametrize("way", NOT_KNOWN)
def test_what_does_not_work_out_is_no_finding(way: str) -> None:
    assert status(edited(NOT_KNOWN[way])) is Status.CLEAN
