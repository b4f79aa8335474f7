"""What code makes of the small vocabulary is what Python would make of it, or is not known."""

from __future__ import annotations

import ast
import textwrap
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.compliance import trial
from harness.compliance.findings import Source
from harness.compliance.program import load_program
from harness.compliance.trial import UNKNOWN, Array, Trial

BEGIN = """
import math
import numpy as np
import sentencepiece as spm
import torch

WEIGHTS = np.zeros(14)
"""
END = """
sp = spm.SentencePieceProcessor(model_file="a")
print(tables(sp))
"""
MEASURE = """
base = np.zeros((sp.vocab_size(),), dtype=np.int16)
for i in range(sp.vocab_size()):
    if sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i):
        continue
    base[i] = 1 if sp.is_byte(i) else len(sp.id_to_piece(i).lstrip("\\u2581").encode("utf-8"))
"""


def tried(body: str, around: str = "") -> tuple[Trial, object]:
    """What a function with these statements gives back."""
    text = f"{BEGIN}{around}\ndef tables(sp):\n{textwrap.indent(body, '    ')}\n{END}"
    ast.parse(text)
    source = Source("train_gpt.py", text)
    program = load_program([source], source, {}, [])
    (function,) = (one for name, one in program.functions.items() if name.endswith("tables"))
    trying = Trial(program, [function])
    return trying, trying.result(function)


def made(body: str, around: str = "") -> list[float] | None:
    """The numbers of an array, None if they are not known."""
    value = tried(body, around)[1]
    return value.values.tolist() if isinstance(value, Array) else None


RIGHT = trial.BYTES.tolist()
DOUBLE = [2 * one for one in RIGHT]
MORE = [one + 1 for one in RIGHT]


def test_the_vocabulary_has_every_kind_of_piece() -> None:
    for piece in trial.PIECES:
        text = piece.text.lstrip("\u2581")
        expected = {"plain": len(text.encode()), "byte": 1}.get(piece.kind, 0)
        assert piece.bytes == expected
    assert {one.kind for one in trial.PIECES} == {"plain", "byte", *trial.KIND_TESTS.values()}
    assert len(trial.NEXT) == trial.SIZE**2


WORKED_OUT = {
    "as it is": ("return base", RIGHT),
    "in place, under another name": ("other = base\nother += 1\nreturn base", MORE),
    "in place, by a method": ("other = torch.from_numpy(base)\nother.mul_(2)\nreturn base", DOUBLE),
    "in place, one after the other": ("other = base\nfor i in range(14):\n    other[i] *= 2\nreturn base", DOUBLE),
    "a copy": ("other = base.copy()\nother += 1\nreturn base", RIGHT),
    "another array": ("other = base\nother = other + 1\nreturn base", RIGHT),
    "what a function changes": ("change(base)\nreturn base", DOUBLE),
    "what a function gives": ("return changed(base)", DOUBLE),
    "at the end": ("try:\n    pass\nfinally:\n    base = base * 2\nreturn base", DOUBLE),
    "if all goes well": ("try:\n    pass\nexcept OSError:\n    pass\nelse:\n    base = base * 2\nreturn base", DOUBLE),
    "on the way": ("return np.array([(n := int(base[i])) * 2 for i in range(14)])", DOUBLE),
    "on the way, before": ("other = (double := base * 2)\nreturn double", DOUBLE),
    "by a function of arrays": ("return np.multiply(base, 2)", DOUBLE),
    "by a method": ("return torch.tensor(base).add(base)", DOUBLE),
    "as a power": ("return base * 2 ** 1", DOUBLE),
    "as a shift": ("return base << 1", DOUBLE),
    "what is shown": ("print(base)\nreturn base", RIGHT),
    "what is shown of a part": ("other = base\nprint(other, len(other))\nreturn base", RIGHT),
    "with another file open": ("with open('a') as file:\n    base += 1\nreturn base", MORE),
    "the logic of both": ("return np.logical_and(base > 2, base < 4)", [n == 3 for n in RIGHT]),
    "the logic of one": ("return (base > 2).logical_or(base == 0)", [n == 0 or n > 2 for n in RIGHT]),
    "the logic of none": ("return np.invert(base > 2)", [n <= 2 for n in RIGHT]),
}
TEXT = [piece.text for piece in trial.PIECES]
WORKED_OUT |= {
    "special tokens": ("return np.array([sp.unk_id(), sp.bos_id(), sp.eos_id(), sp.pad_id()])", [0, 1, 2, -1]),
    "the number of a piece": ("return np.array([sp.piece_to_id('ing'), sp.PieceToId('x')])", [TEXT.index("ing"), 0]),
    "of no token": ("try:\n    base[3] = len(sp.id_to_piece(99))\nfinally:\n    pass\nreturn base * 0", None),
    "kinds": ("return np.array([sp.is_unknown(i) for i in range(14)])", [text == "<unk>" for text in TEXT]),
    "as floats": ("return base.float()", RIGHT),
    "as truth": ("return torch.tensor(base).bool()", [n > 0 for n in RIGHT]),
    "as truth, of a type": ("return base.astype(np.bool_)", [n > 0 for n in RIGHT]),
    "how many": ("return base * 0 + len(base) + base.size + base.shape[0] + base.__len__()", [56] * 14),
    "at most": ("return torch.minimum(torch.tensor(base), torch.tensor([2] * 14))", [min(n, 2) for n in RIGHT]),
    "at most, by a method": ("return torch.tensor(base).clamp_max(2)", [min(n, 2) for n in RIGHT]),
    "between": ("return base.clip(1, 2)", [min(max(n, 1), 2) for n in RIGHT]),
    "between, by names": ("return np.clip(base, a_min=1, a_max=2)", [min(max(n, 1), 2) for n in RIGHT]),
    "like it": ("return np.ones_like(base) + np.zeros_like(base)", [1] * 14),
    "one after the other": ("return np.arange(14)", list(range(14))),
    "chosen": ("return np.where(base > 2, 2, base)", [min(n, 2) for n in RIGHT]),
    "filled": ("return np.full((14,), 3) + np.ones(14)", [4] * 14),
    "numbered": ("for i, n in enumerate(list(range(14))):\n    base[i] = n\nreturn base", list(range(14))),
    "of letters": ("return base * 0 + ord(chr(5)) + len(repr('a')) + sum([1, 2])", [11] * 14),
    "of numbers": ("return base * 0 + max(1, 2) + min(3, 4) + int(2.5) + abs(-1)", [8] * 14),
    "in a dictionary": ("found = dict()\nfound['a'] = base\nreturn found.get('a')", RIGHT),
    "of its keys": ("found = {'a': 1, 'b': 2}\nreturn np.array([found[key] for key in found.keys()])", [1, 2]),
    "of an empty list": (
        "found = list()\nfor n in tuple([1, 2]):\n    found.append(n)\nreturn np.array(found)",
        [1, 2],
    ),
    "of letters of a text": ("return np.array([len(letter) for letter in 'abc'])", [1, 1, 1]),
    "of an array": ("return np.array([int(n) + 1 for n in base])", MORE),
    "part of it": ("return base[3:5]", RIGHT[3:5]),
    "at two places": ("return base[:, None][3:5, 0]", RIGHT[3:5]),
    "with a way out": (
        "for i in range(14):\n    if i == 3:\n        break\nelse:\n    base = base * 2\nreturn base",
        RIGHT,
    ),
    "to the end": ("for i in range(14):\n    pass\nelse:\n    base = base * 2\nreturn base", DOUBLE),
    "either": ("return base * (0 or 2) * (1 and 1)", DOUBLE),
    "if not": ("return base * 2 if not 0 else base", DOUBLE),
    "with a sign": ("return -base * -2", DOUBLE),
    "inverted": ("return ~(base > 2)", [n <= 2 for n in RIGHT]),
    "inverted numbers": ("return ~base", None),
    "of a function without a name": ("return (lambda table: table * 2)(base)", DOUBLE),
    "by default": ("return scaled(base)", DOUBLE),
    "of an attribute": ("made = Made(base)\nreturn made.table", None),
    "an array is no truth": ("if base:\n    return base\nreturn base", None),
}
HELPERS = """
def scaled(table, by=2):
    return table * by

def change(table):
    table *= 2

def changed(table):
    return table * 2

def weighted(table):
    WEIGHTS.fill(table[4])

def unclear(table):
    torch.load("a").apply(table)
"""


@pytest.mark.parametrize("way", WORKED_OUT)
def test_what_code_makes_is_worked_out(way: str) -> None:
    body, expected = WORKED_OUT[way]
    assert made(MEASURE + body, HELPERS) == expected


NOT_KNOWN = {
    "under another name": "other = base\nfor i in torch.load('a'):\n    other[i] = 1\nreturn base",
    "under another name, in a list": "many = [base]\nfor i in torch.load('a'):\n    base[i] = 1\nreturn many[0]",
    "by a function of arrays": "np.copyto(base, torch.load('a'))\nreturn base",
    "by a function of the program": "unclear(base)\nreturn base",
    "by one that changes what is not its own": "weighted(base)\nreturn base",
    "into an array that is there": "np.add(base, 1, out=base)\nreturn base",
    "if it failed": "try:\n    torch.load('a')\nexcept OSError:\n    base = base * 2\nreturn base",
    "at the end": "try:\n    pass\nfinally:\n    base = torch.load('a')\nreturn base",
    "outside of the array": "base[99] = 1\nreturn base",
    "at no number": "base[{}] = 1\nreturn base",
    "of another size": "base[:] = [1, 2]\nreturn base",
    "at no place": "names = {}\nnames[[1]] = base\nreturn names[[1]]",
    "parts of a number": "a, b = 3\nreturn a",
    "what gives way": "if torch.load('a'):\n    return base\nreturn base * 2",
}


@pytest.mark.parametrize("way", NOT_KNOWN)
def test_what_is_not_certain_is_not_known(way: str) -> None:
    assert tried(MEASURE + NOT_KNOWN[way], HELPERS)[1] is UNKNOWN


def test_a_result_is_not_changed_by_those_who_use_it() -> None:
    trying, value = tried(MEASURE + "return base")
    assert isinstance(value, Array)
    with pytest.raises(ValueError, match="read-only"):
        value.values += 1
    assert trying.result(next(iter(trying.measuring))) is value


HOSTILE = [
    "while base is not None:\n    base = base + 1\n",
    "for j in range(10 ** 9):\n    n = 1\n",
    "big = np.zeros((10 ** 9,))\n",
    "text = 'x' * 10 ** 9\n",
    "text = '%1000000000d' % 3\n",
    "many = [0] * 10 ** 9\n",
    "n = 7 ** 9 ** 9\n",
    "n = 7 ** 99999999\n",
    "n = 1 << 10 ** 9\n",
    "n = pow(7, 99999999)\n",
    "n = 'x'.replace('', 'x' * 10 ** 6)\nn = n.replace('', n)\nn = n.replace('', n)\n",
    "for j in range(60000):\n    for k in range(60000):\n        n = 1\n",
    "t = 'ab'\nfor j in range(60000):\n    t = t + t\n",
    "t = [0]\nfor j in range(60000):\n    t = t + t\n",
    "t = [0]\nfor j in range(60000):\n    t.extend(t)\n",
    "t = []\nfor j in range(60000):\n    t.append(t)\n",
    "t = 2\nfor j in range(60000):\n    t = t * t\n",
    "t = np.zeros(60000)\nt = t[:, None] + t\n",
    "def f(x):\n    return f(x)\nn = f(1)\n",
    "n = [[[k for k in range(9999)] for j in range(9999)] for m in range(9999)]\n",
]


@pytest.mark.parametrize("body", HOSTILE)
def test_what_is_evaluated_is_bounded(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = 0
    expression = Trial.expression

    def counting(self: Trial, *given: object) -> object:
        nonlocal evaluated
        evaluated += 1
        return expression(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Trial, "expression", counting)
    tracemalloc.start()
    tried(MEASURE + body + "return base")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert evaluated <= trial.MAX_STEPS
    assert most < 100e6


NAMES = st.sampled_from(["base", "n", "t", "i", "sp", "piece"])
VALUES = st.recursive(
    NAMES | st.sampled_from(["0", "1", "-1", "3.5", "1e308", "10 ** 400", "None", "''", "b'\\xff'", "[]", "{}"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "<<", "&", "|", "@"]), inner).map(
            lambda one: f"({one[0]} {one[1]} {one[2]})"
        ),
        st.tuples(inner, st.sampled_from(["<", "==", "is", "in", "not in"]), inner).map(
            lambda one: f"({one[0]} {one[1]} {one[2]})"
        ),
        st.tuples(inner, inner).map(lambda one: f"{one[0]}[{one[1]}]"),
        st.tuples(inner, inner, inner).map(lambda one: f"{one[0]}[{one[1]}:{one[2]}]"),
        st.tuples(inner, inner).map(lambda one: f"[{one[0]}, {one[1]}]"),
        st.tuples(inner, inner).map(lambda one: f"({one[0]}, {one[1]})"),
        st.tuples(inner, inner).map(lambda one: f"{{{one[0]}: {one[1]}}}"),
        st.tuples(NAMES, inner, inner).map(lambda one: f"[{one[1]} for {one[0]} in {one[2]}]"),
        st.tuples(inner, inner, inner).map(lambda one: f"({one[0]} if {one[1]} else {one[2]})"),
        inner.map(lambda one: f"-({one})"),
        inner.map(lambda one: f"~({one})"),
        st.tuples(
            inner,
            st.sampled_from(
                (
                    *("sum", "clamp", "clip", "add_", "mul", "astype", "to", "encode", "replace", "find", "count"),
                    *("append", "extend", "get", "items", "decode", "id_to_piece", "is_byte", "vocab_size", "bool"),
                )
            ),
            st.lists(inner, max_size=3),
        ).map(lambda one: f"({one[0]}).{one[1]}({', '.join(one[2])})"),
        st.tuples(
            st.sampled_from(
                (
                    *("np.zeros", "np.full", "np.array", "np.where", "np.maximum", "np.arange", "np.clip", "np.add"),
                    *("torch.zeros_like", "torch.tensor", "np.logical_not", "len", "int", "float", "str", "max", "sum"),
                    *("range", "list", "enumerate", "ord", "chr", "abs", "bool", "dict", "repr", "math.log"),
                )
            ),
            st.lists(inner, max_size=3),
        ).map(lambda one: f"{one[0]}({', '.join(one[1])})"),
    ),
    max_leaves=6,
)
SIMPLE = st.one_of(
    st.tuples(NAMES, VALUES).map(lambda one: f"{one[0]} = {one[1]}"),
    st.tuples(NAMES, NAMES, VALUES).map(lambda one: f"{one[0]}, {one[1]} = {one[2]}"),
    st.tuples(NAMES, st.sampled_from(["+=", "*=", "/=", "**=", "//="]), VALUES).map(" ".join),
    st.tuples(NAMES, VALUES, VALUES).map(lambda one: f"{one[0]}[{one[1]}] = {one[2]}"),
    st.tuples(NAMES, VALUES).map(lambda one: f"{one[0]}.x = {one[1]}"),
    VALUES,
)
STATEMENTS = st.one_of(
    SIMPLE,
    st.tuples(NAMES, VALUES, SIMPLE).map(lambda one: f"for {one[0]} in {one[1]}:\n    {one[2]}"),
    st.tuples(VALUES, SIMPLE, SIMPLE).map(lambda one: f"if {one[0]}:\n    {one[1]}\nelse:\n    {one[2]}"),
    st.tuples(SIMPLE, SIMPLE).map(lambda one: f"try:\n    {one[0]}\nfinally:\n    {one[1]}"),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STATEMENTS, min_size=1, max_size=6), VALUES)
@pytest.mark.filterwarnings("ignore")
def test_no_code_breaks_it(statements: list[str], last: str) -> None:
    piece = "piece = sp.id_to_piece(4)\n"
    value = tried(MEASURE + piece + "\n".join(statements) + f"\nreturn {last}, base")[1]
    assert value is UNKNOWN or isinstance(value, Array | np.ndarray | tuple)
