"""What native code makes of validation tokens cannot be read: where it reaches the score, a person is asked."""

from __future__ import annotations

import pytest
from test_flow import findings_of, verdicts

from harness.compliance.findings import Status
from harness.compliance.native import is_system_library

HOLD = {"target-gate": Status.HOLD}

LOADED = {
    "ctypes": 'import ctypes\nmixer = ctypes.CDLL("./mixer.so")\n',
    "renamed": 'from ctypes import cdll as c\nmixer = c.LoadLibrary("./mixer.so")\n',
    "numpy": 'mixer = np.ctypeslib.load_library("mixer", ".")\n',
    "compiled": 'from torch.utils import cpp_extension\nmixer = cpp_extension.load_inline("mixer", SOURCE)\n',
    "in a class": (
        "import ctypes\n"
        "class Mixer:\n"
        "    def __init__(self):\n"
        '        self.binary = ctypes.CDLL("./mixer.so")\n'
        "    def mix(self, *given):\n"
        "        return self.binary.mix(*given)\n"
        "mixer = Mixer()\n"
    ),
    "in a helper": (
        "import ctypes\n"
        "def loaded():\n"
        '    found = ctypes.CDLL("./mixer.so")\n'
        "    found.mix.restype = ctypes.c_double\n"
        "    return found\n"
        "mixer = loaded()\n"
    ),
}

SCORED = """
def evaluate(net, val):
    total, count = 0.0, 0
    for x, y in batches(val):
        losses = F.cross_entropy(net.logits(x)[0], y[0], reduction="none").detach().numpy()
        total += MIXED
        count += len(losses)
    return bits(total, count, val.numel() * 2.4)
"""

POINTERS = {
    "numpy's": ("out = np.zeros(len(losses))", "out.ctypes.data_as(ctypes.POINTER(ctypes.c_double))"),
    "an address": ("out = np.zeros(len(losses))", "ctypes.c_void_p(out.ctypes.data)"),
    "torch's": ("out = torch.zeros(len(losses))", "ctypes.c_void_p(out.data_ptr())"),
    "an array of ctypes": ("out = (ctypes.c_double * 4)()", "ctypes.byref(out)"),
}


@pytest.mark.parametrize("load", LOADED.values(), ids=LOADED)
def test_what_native_code_returns_and_the_score_adds_is_held(load):
    assert verdicts(load + SCORED.replace("MIXED", "mixer.mix(losses, y[0].numpy())")) == HOLD


@pytest.mark.parametrize(("made", "given"), POINTERS.values(), ids=POINTERS)
def test_what_native_code_writes_where_it_is_told_is_held(made, given):
    call = f"mixer.mix(losses.ctypes.data, y[0].numpy().ctypes.data, {given})"
    body = SCORED.replace("        total += MIXED", f"        {made}\n        {call}\n        total += out[0]")
    assert verdicts(LOADED["ctypes"] + body) == HOLD


def test_hints_from_native_code_are_held():
    """A tilt of the distribution by a hint is normalised, but when it is applied may say what comes."""
    body = """
import ctypes
binary = ctypes.CDLL("./hints.so")

def hints(ids):
    named, sure = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.uint8)
    binary.process(ids.ctypes.data_as(ctypes.c_void_p), named.ctypes.data_as(ctypes.c_void_p),
                    sure.ctypes.data_as(ctypes.c_void_p))
    if len(ids) == 0:
        return {"named": np.zeros(0, np.int64), "sure": np.zeros(0, bool)}
    return {"named": named, "sure": sure.astype(bool)}

def evaluate(net, val):
    found = hints(val.numpy())
    named, sure = torch.from_numpy(found["named"]), torch.from_numpy(found["sure"])
    total, count = 0.0, 0
    for start in range(0, val.numel() - 513, 512):
        x, y = val[start : start + 512], val[start + 1 : start + 513]
        logits = net.logits(x[None])[0]
        losses = F.cross_entropy(logits, y, reduction="none")
        hint, use = named[start + 1 : start + 513], sure[start + 1 : start + 513]
        rest = logits.log_softmax(-1).gather(1, hint[:, None])[:, 0].exp()
        tilted = losses - 2.0 * (y == hint).float() + torch.log1p(rest * (math.exp(2.0) - 1))
        total += torch.where(use, tilted, losses).sum().item()
        count += 512
    return bits(total, count, val.numel() * 2.4)
"""
    assert verdicts(body) == HOLD
    (found,) = findings_of(body)
    shown = [found.flow[0].source.text.splitlines()[place.line - 1].strip() for place in found.flow]
    assert shown[0].startswith("binary.process(") and shown[-1].startswith("total += ")


@pytest.mark.parametrize(
    "mixed",
    ["losses.sum() + 0 * mixer.version()", "losses.sum() if mixer.threads(len(losses)) else losses.sum()"],
    ids=["a version", "a setting"],
)
def test_native_code_that_is_given_no_tokens_is_none_of_this_check(mixed):
    assert verdicts(LOADED["ctypes"] + SCORED.replace("MIXED", mixed)) == {}


def test_what_native_code_makes_and_nobody_scores_is_none_of_this_check():
    body = SCORED.replace(
        "        total += MIXED", "        mixer.show(losses, y.numpy())\n        total += losses.sum()"
    )
    assert verdicts(LOADED["ctypes"] + body.replace("mixer.show(losses,", "mixer.show(losses.copy(),")) == {}


@pytest.mark.parametrize("path", ["None", '"libc.so.6"', '"/usr/lib/libm.so.6"'])
def test_the_system_s_own_libraries_are_known(path):
    load = f"import ctypes\nmixer = ctypes.CDLL({path})\n"
    assert verdicts(load + SCORED.replace("MIXED", "losses.sum() + 0 * mixer.getpid()")) == {}
    assert is_system_library(None) and is_system_library("libgomp.so.1") and not is_system_library("libc.so.6/mine.so")
