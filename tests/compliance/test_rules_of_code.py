"""The checks of limits, scores, data, seeds, claims and the system, each with violations and with what is none."""

import ast
from functools import partial
from textwrap import dedent, indent

import pytest
from folders import log

from harness.compliance import rules_readme
from harness.compliance.findings import Source, Status, worst
from harness.compliance.program import Program, load_program
from harness.compliance.rules_conduct import check_claims, check_seeds
from harness.compliance.rules_data import check_data
from harness.compliance.rules_limits import check_clock, check_size
from harness.compliance.rules_readme import ELSEWHERE, check_thrown_away
from harness.compliance.rules_score import check_bytes, check_score
from harness.compliance.rules_system import check_hidden_code, check_network
from harness.compliance.score_arithmetic import MAX_SPINE

FLAG, HOLD, CLEAN = Status.FLAG, Status.HOLD, Status.CLEAN


def found(rule, text, environment=None, logs=(), **others):
    """The findings of one rule on an entry point and its sibling modules."""
    entry = Source("train_gpt.py", dedent(text))
    sources = [entry, *(Source(f"{name}.py", dedent(one)) for name, one in others.items())]
    program = load_program(sources, entry, environment or {}, ())
    program.log_texts = tuple(logs)
    return list(rule(program))


def status(rule, text, environment=None, **others):
    return worst(finding.status for finding in found(rule, text, environment, **others))


TRAIN = """
import torch, time
def train(model, steps=100):
    for step in range(steps):
        model(step).backward()
        if time.time() > 600:
            break
"""


def trains(text):
    """A program that trains, with something more in it."""
    return TRAIN + dedent(text) + "\ntrain(torch.nn.Linear(1, 1))\n"


# -- network-at-eval ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import urllib.request\nurllib.request.urlretrieve('http://a/b', 'c')", FLAG),
        ("from huggingface_hub import snapshot_download as get\nget('a/b')", FLAG),
        ("import requests as r\ns = r.Session()\ns.get('http://a')", FLAG),
        ("import subprocess\nsubprocess.run(['pip', 'install', 'brotli'])", FLAG),
        ("import kernels\nattend = kernels.get_kernel('a/attention').attend\nattend(3)", HOLD),
        ("import kernels\nkernels.get_local_kernel('a')", CLEAN),
        ("try:\n    import fast\nexcept ImportError:\n    import kernels\n    kernels.get_kernel('a/b')", HOLD),
        ("import os\nos.system('curl -O http://a')", FLAG),
        ("import sys, subprocess as sp\nsp.check_call([sys.executable, '-m', 'pip', 'install', 'x'])", FLAG),
        ("import subprocess\nsubprocess.run('git clone http://a', shell=True)", FLAG),
        ("import os\nrank = int(os.environ['RANK'])\nif rank == 0:\n    torch.hub.load('a', 'b')", FLAG),
        ("import pandas\npandas.read_parquet('hf://datasets/a')", FLAG),
        ("import numpy as np\nnp.genfromtxt('https://a/b.csv')", FLAG),
        ("import numpy as np\nnp.lib.npyio.DataSource().open('https://a/b')", FLAG),
        ("from torch.utils.model_zoo import load_url\nload_url('https://a/b')", FLAG),
        ("import torchvision\ntorchvision.datasets.utils.download_url('https://a/b')", FLAG),
        ("try:\n    import brotli\nexcept ImportError:\n    import os\n    os.system('pip install brotli')", HOLD),
        ("import os, requests\nif not os.path.exists('a'):\n    requests.get('http://a')", HOLD),
        ("import requests\ndef unused():\n    requests.get('http://a')", CLEAN),
        ("import os, requests\nif int(os.environ.get('DOWNLOAD', '0')):\n    requests.get('http://a')", CLEAN),
        ("import subprocess\nsubprocess.run(['git', 'rev-parse', 'HEAD'])", CLEAN),
        ("import socket\nprint(socket.gethostname())", CLEAN),
        ("print('see https://a.b')", CLEAN),
        ("import os\nboard = None\nif os.environ.get('W', '1') == '1':\n    import wandb as board\nboard.init()", FLAG),
        (
            "import sys\nboard = None\nif len(sys.argv) > 1:\n    import wandb as board\n"
            "if board is not None:\n    board.init()",
            HOLD,
        ),
        ("class requests:\n    @staticmethod\n    def get(x): return x\nrequests.get('http://a')", CLEAN),
    ],
)
def test_network(text, expected):
    assert status(check_network, trains(text)) is expected


def test_network_in_a_helper_module_is_shown_there():
    helper = "from urllib import request as web\ndef fetch():\n    return web.urlopen('http://a')"
    (finding,) = found(check_network, trains("from tools import fetch\nfetch()"), tools=helper)
    assert finding.status is FLAG and (finding.flow[-1].source.path, finding.flow[-1].line) == ("tools.py", 3)


def test_preparing_data_may_download():
    assert status(check_network, "import requests\nrequests.get('http://a')") is CLEAN


# -- hidden-code -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import ctypes\nctypes.CDLL('./fast.so')", FLAG),
        ("import subprocess, ctypes\nsubprocess.run(['gcc', 'a.c', '-o', 'a.so'])\nctypes.CDLL('a.so')", HOLD),
        ("from torch.utils.cpp_extension import load_inline\nload_inline('a', cpp_sources='int f();')", HOLD),
        ("import subprocess\nsubprocess.Popen('./helper')", HOLD),
        ("import os\nos.system(open('command').read())", HOLD),
        ("import pickle, base64\npickle.loads(base64.b64decode('" + "a" * 400 + "'))", HOLD),
        ("import ctypes, ctypes.util\nctypes.CDLL(ctypes.util.find_library('c'))\nctypes.CDLL('libc.so.6')", CLEAN),
        ("import subprocess\nsubprocess.run(['nvidia-smi'], check=False)", CLEAN),
        ("import subprocess, sys\nsubprocess.run([sys.executable, 'worker.py'])", CLEAN),
        ("import shutil, subprocess\nexe = shutil.which('pyminify')\nif exe:\n    subprocess.run([exe, '-'])", CLEAN),
        ("import pickle, zlib\npickle.loads(zlib.decompress(open('table', 'rb').read()))", HOLD),
        ("import joblib as j\nstate = j.load('table')", HOLD),
        ("import pickle\npickle.dump({}, open('a', 'wb'))\nstate = pickle.load(open('a', 'rb'))", CLEAN),
        ("import pickle\ndef save(x):\n    return pickle.dumps(x)\nstate = pickle.loads(save({}))", CLEAN),
        ("import subprocess\nsubprocess.run(['rocm-smi' if input() else 'nvidia-smi'])", CLEAN),
        ("import subprocess\nsubprocess.run(['rocm-smi' if input() else './helper'])", HOLD),
        (
            "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pip', 'install', 'brotli'])",
            CLEAN,
        ),  # network
        ("import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'helper'])", HOLD),
        (
            "import subprocess, sys\nfrom pathlib import Path\nhere = Path(__file__).resolve().parent\n"
            "subprocess.run([sys.executable, str(here / 'worker.py')])",
            CLEAN,
        ),
        ("from kernels import get_kernel as get\nattend = get('a/attention').attend", HOLD),
        ("import ctypes\ndef never():\n    ctypes.CDLL('./fast.so')", CLEAN),
    ],
)
def test_hidden_code(text, expected):
    assert status(check_hidden_code, text, worker="pass") is expected


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("import tilt", ["tilt"]),
        ("from tilt.fast import mixed as m\nimport tilt.slow", ["tilt"]),
        ("from .tilt import mixed\nfrom . import other", ["tilt", "other"]),
        ("try:\n    import tilt\nexcept ImportError:\n    tilt = None", ["tilt"]),  # it may have been there
        ("def used():\n    from tilt import *\nused()", ["tilt"]),
        ("def unused():\n    import tilt", []),
        ("import os\nif os.environ.get('TILT', '0') == '1':\n    import tilt", []),
        ("import worker\nfrom worker import a\nfrom worker.part import b\nfrom .worker import c", []),
        ("import pack\nfrom pack import inner\nfrom pack.inner import d", []),
        ("import os, lzma, numpy as np, torch.nn.functional as F, flash_attn_interface", []),
        ("from __future__ import annotations\nimport importlib.util", []),
    ],
)
def test_modules_that_are_not_there_are_asked_for(text, missing):
    source = text if text.startswith("from __future__") else trains(text)
    others = [Source("worker.py", "a = 1\n"), Source("pack/inner.py", "d = 1\n")]
    entry = Source("train_gpt.py", source + ("" if source != text else trains("")))
    found = list(check_hidden_code(load_program([entry, *others], entry, {}, ())))
    assert [finding.status for finding in found] == [HOLD] * len(missing)
    for finding, name in zip(found, missing, strict=True):
        assert f"`{name}` is imported" in finding.message
        assert name in finding.flow[-1].text


def test_preparing_data_may_import_anything():
    assert status(check_hidden_code, "import tilt\ntilt.run()") is CLEAN


# -- size-cap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import os\nif os.path.getsize('a') > 16 * 1024 * 1024:\n    raise SystemExit", FLAG),
        ("import os\nmb = float(os.environ.get('T', '15.9'))\ncap = int(mb * 1024 * 1024)\nok = len(b'') <= cap", FLAG),
        ("import os\nsize = os.path.getsize('a') / 1024 / 1024\nassert size <= 16", FLAG),
        ("import os\nok = os.path.getsize('a') / (1 << 20) < 15.9", FLAG),
        ("from pathlib import Path\nCAP = 16_777_216\nprint(Path('a').stat().st_size <= CAP)", FLAG),
        ("def fits(n, cap=16_500_000):\n    return n <= cap\nfits(len(open('a', 'rb').read()))", FLAG),
        ("class C:\n    cap = 2 ** 24\n    def ok(self, blob): return self.cap >= len(blob)\nC().ok(b'')", FLAG),
        ("import os\nprint('FITS' if os.path.getsize('a') <= 16_000_000 else 'OVER')", CLEAN),
        ("import os\nmb = float(os.environ.get('T', '15.25'))\nok = len(b'') <= int(mb * 1024 * 1024)", HOLD),
        ("import os\nassert os.path.getsize('a') / 1e6 <= 16", CLEAN),
        ("import os\nmib = os.path.getsize('a') / 1024 ** 2\nassert mib < 15.25", HOLD),
        ("import os\nassert os.path.getsize('a') <= 15.2 * (1 << 20)", HOLD),
        ("import os\nassert os.path.getsize('a') <= 15.9 * 1000 * 1000", CLEAN),
        ("import os\nkept = 15_625 * 1024\nassert os.path.getsize('a') <= kept", CLEAN),
        ("def f(step):\n    return step < 16_777_216\nf(3)", CLEAN),
        ("import os\ndef never():\n    return os.path.getsize('a') < 16 * 1024 * 1024", CLEAN),
        ("import os\nprint(os.path.getsize('a') / 1024 / 1024, 'MiB')", CLEAN),
    ],
)
def test_size_cap(text, expected):
    assert status(check_size, text) is expected


def test_size_cap_shows_where_the_number_comes_from():
    text = "import os\nTARGET = 15.9 * 1024 * 1024\n\nok = os.path.getsize('a') <= TARGET\n"
    (finding,) = found(check_size, text)
    assert [place.line for place in finding.flow] == [2, 4] and "16,672,358" in finding.message
    assert (
        status(check_size, "import os\nT = float(os.environ.get('T', '15'))\nok = len('') < T * 2 ** 20", {"T": "16"})
        is FLAG
    )


# -- wallclock-cap -----------------------------------------------------------------------------------------------------

LOOP = """
import os, time, torch

class Config:
    limit = float(os.environ.get("MAX_WALLCLOCK_SECONDS", {limit}))
    iterations = 20000

def main():
    args = Config()
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    max_ms = 1000.0 * args.limit if args.limit > 0 else None
    spent = 0.0
    stop_after = None
    step = 0
    t0 = time.perf_counter()
    while True:
        last = step == args.iterations or (stop_after is not None and step >= stop_after)
        if last:
            break
        loss = model(torch.zeros(1)).sum()
        loss.backward()
        optimizer.step()
        step += 1
        elapsed = spent + 1000.0 * (time.perf_counter() - t0)
        reached = max_ms is not None and elapsed >= max_ms
        if stop_after is None and reached:
            stop_after = step

main()
"""


@pytest.mark.parametrize(
    ("limit", "environment", "expected"),
    [
        ("600.0", {}, CLEAN),
        ("'6e2'", {}, CLEAN),
        ("3600", {}, FLAG),
        ("2", {}, CLEAN),  # milliseconds, though few
        ("0", {}, FLAG),
        ("0", {"MAX_WALLCLOCK_SECONDS": "600"}, CLEAN),
        ("600", {"MAX_WALLCLOCK_SECONDS": "0"}, FLAG),
        ("600", {"MAX_WALLCLOCK_SECONDS": "650"}, FLAG),
        ("float(input())", {}, HOLD),
    ],
)
def test_wallclock_cap(limit, environment, expected):
    assert status(check_clock, LOOP.format(limit=limit), environment) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import time, torch\nt = time.time()\nwhile time.time() - t < 590:\n    f().backward()", CLEAN),
        ("import time, torch\nt = time.time()\nwhile time.time() - t < 900:\n    f().backward()", FLAG),
        ("for step in range(9000):\n    f().backward()", FLAG),
        (
            "from time import monotonic as now\nSTART = now()\ndef over(limit): return now() - START > limit\n"
            "def turn(): f().backward()\nfor _ in range(10 ** 6):\n    turn()\n    if over(595):\n        break",
            CLEAN,
        ),
        (
            "import time\nt = time.time()\nfor i in range(9):\n    f().backward()\n"
            "    lr = 1 if time.time() - t < 300 else 0",
            FLAG,
        ),
        ("import os\nfor i in range(int(os.environ.get('TTT', '0'))):\n    f().backward()", CLEAN),
        (  # the outer loop is the one that trains
            "import time\nt = time.time()\nfor epoch in range(9):\n    for i in range(9):\n        f().backward()\n"
            "    if time.time() - t > 590:\n        break",
            CLEAN,
        ),
        (  # what is only defined in a loop does not run there
            "import time\nt = time.time()\nsteps = []\nwhile time.time() - t < 9000:\n    def step(): f().backward()\n"
            "    steps.append(step)\n",
            CLEAN,
        ),
        (  # nor is a function's loop a part of the loop around its definition
            "import time\nt = time.time()\nwhile time.time() - t < 590:\n    def train():\n        for i in range(9):\n"
            "            f().backward()\ntrain()",
            FLAG,
        ),
        ("for row in range(9):\n    print(row)", CLEAN),
        (
            "import os, time\nSTOP = int(os.environ.get('FORCE_STOP_STEP', '4945'))\nt = time.time()\nstep = 0\n"
            "while True:\n    f().backward()\n    step += 1\n"
            "    done = step >= STOP if STOP else time.time() - t >= 600\n    if done:\n        break",
            FLAG,
        ),
    ],
)
def test_what_ends_the_training_loop(text, expected):
    assert status(check_clock, text) is expected


def test_the_first_of_several_limits_is_the_one_that_is_shown():
    first = "while time.time() - t < 900:\n    f().backward()\n"
    second = "for i in range(9):\n    f().backward()\n    if time.time() - t > 700:\n        break\n"
    for text, seconds in ((first + second, "900"), (second + first, "700")):
        (finding,) = found(check_clock, f"import time\nt = time.time()\n{text}")
        assert f"{seconds} s" in finding.message


FUNCTIONAL = """
import mlx.core as mx, mlx.nn as nn, time
def chunked(batches, gradients_of):
    return [gradients_of(batch) for batch in batches]
def plain(batch): return batch
def main(model, batches, limit):
    compiled = {compiled}
    start = time.time()
    for step in range(20000):
        {call}
        if limit and time.time() - start > limit:
            break
main(nn.Linear(1, 1), [1, 2], {limit})
"""
MADE = "nn.value_and_grad(model, lambda batch: model(batch))"


@pytest.mark.parametrize(("limit", "expected"), [(600, CLEAN), (0, FLAG), (900, FLAG)])
@pytest.mark.parametrize("compiled", [MADE, f"mx.compile({MADE})", f"mx.compile(mx.compile({MADE}, inputs=model))"])
@pytest.mark.parametrize("call", ["compiled(batches[0])", "chunked(batches, compiled)"])
def test_gradients_of_a_function_that_was_made_before_the_loop(call, compiled, limit, expected):
    assert status(check_clock, FUNCTIONAL.format(call=call, compiled=compiled, limit=limit)) is expected


@pytest.mark.parametrize("call", ["plain(batches[0])", "chunked(batches, plain)", "chunked(batches, model)"])
def test_a_loop_without_gradients_needs_no_clock(call):
    assert status(check_clock, FUNCTIONAL.format(call=call, compiled=MADE, limit=0)) is CLEAN


# -- constant-score ----------------------------------------------------------------------------------------------------

SCORE = """
import math, torch
def evaluate(model):
    total, count, size = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for x in range(3):
        total += model(x)
        count += 1
        size += 4
    loss = (total / count).item()
    bpb = {bpb}
    return loss, bpb
def report(text):
    print(text)
val_loss, val_bpb = evaluate(torch.nn.Linear(1, 1))
{show}
"""
HONEST = "loss / math.log(2.0) * (count.item() / size.item())"
SHOW = "report(f'final val_loss:{val_loss:.8f} val_bpb:{val_bpb:.8f}')"


@pytest.mark.parametrize(
    ("bpb", "show", "expected"),
    [
        (HONEST, SHOW, CLEAN),
        (HONEST, "report('val_bpb: %.4f' % val_bpb)", CLEAN),
        (HONEST, "print(f'step:{3} val_bpb:{val_bpb}')", CLEAN),
        (HONEST, "print('val_bpb:1.1147')", FLAG),
        (HONEST, "print('baseline val_bpb:1.2244')", CLEAN),
        (HONEST, "print('val_bpb:', 1.08)", FLAG),
        (HONEST, "print('val_bpb: ' + str(1.08) + ' bits')", FLAG),
        (HONEST, "import json\njson.dump({'val_bpb': 1.08, 'seed': 3}, open('a', 'w'))", FLAG),
        (HONEST, "import json\njson.dump({'val_bpb': val_bpb, 'baseline_val_bpb': 1.2}, open('a', 'w'))", CLEAN),
        (HONEST, "print('val_bpb:', round(val_bpb, 4), 'loss', val_loss)", CLEAN),
        (HONEST, "best = 1.08\nprint(f'val_bpb:{best:.4f}')", FLAG),
        (HONEST, "report('val_bpb: {:.4f}'.format(1.08))", FLAG),
        (HONEST, "report('val_loss=%.4f val_bpb=%.4f' % (val_loss, 1.08))", FLAG),
        (HONEST, "print(f'val_bpb:{min(val_bpb, 1.1):.4f}')", FLAG),
        (HONEST, "print(f'val_bpb:{val_bpb * 0.95:.4f}')", FLAG),
        (HONEST, "shown = val_bpb - 0.02\nprint(f'val_bpb:{shown:.4f}')", FLAG),
        ("loss / math.log(2.0) / 3.7", SHOW, FLAG),
        ("1.0809", SHOW, FLAG),
        (f"1.0809 or {HONEST}", SHOW, FLAG),
        (f"loss < 9 and {HONEST}", SHOW, CLEAN),
        (f"0.0 or {HONEST}", SHOW, CLEAN),
        (HONEST + " * 0.97", SHOW, FLAG),
        ("max(loss / math.log(2.0) * (count / size).item(), 1e-9)", SHOW, CLEAN),
        (HONEST, "print(f'val_bpb (stride {3}): {val_bpb:.4f}')", CLEAN),
        (HONEST, "print(f'val_bpb (stride={3}): {val_bpb / 3.5:.4f} in {2.5} s')", FLAG),
        (HONEST, "print(f'{val_loss} BPB (EMA, stride={3}): ' f'{1.08:.4f}')", FLAG),
        (HONEST, "print(f'val_bpb (was {val_bpb}): gone after {3.5} s')", CLEAN),
        (HONEST, "def never():\n    print('val_bpb:1.1147')", CLEAN),
        (HONEST, "print(f'val_bpb:{val_bpb} est_bpb:{loss / (math.log(2) * 2.44):.4f}')", CLEAN),
        (HONEST, "print(f'val_bpb:{val_bpb} estimated bpb:{loss / (math.log(2) * 2.44):.4f}')", CLEAN),
        (HONEST, "print(f'tested val_bpb:{loss / (math.log(2) * 2.44):.4f}')", FLAG),
    ],
)
def test_scores(bpb, show, expected):
    assert status(check_score, SCORE.format(bpb=bpb, show=show)) is expected


@pytest.mark.parametrize(
    ("summed", "expected"),
    [
        ("total += model(x)", CLEAN),
        ("total += model(x) * 1024", CLEAN),  # tokens
        ("total += model(x) * float(x)", CLEAN),
        ("total += model(x)\n        total /= 4", CLEAN),  # batches
        ("total += model(x) / math.log(2)", CLEAN),
        ("total += model(x) * 0.5", HOLD),
        ("total += model(x) * 1024 * 0.5", HOLD),
        ("total += model(x)\n        total *= 0.75", HOLD),
        ("total += model(x)\n        total /= 1.25", HOLD),
        ("total += min(model(x), 2.0)", HOLD),
        ("total = total + model(x) * 0.5", HOLD),
        ("total = model(x) * 0.5 + total", HOLD),
        ("total = total + model(x) * 1024", CLEAN),
    ],
)
def test_what_is_summed_up_for_the_score(summed, expected):
    text = SCORE.replace("total += model(x)", summed).format(bpb=HONEST, show=SHOW)
    assert status(check_score, text) is expected


ALTERED = {  # what comes before, the score
    "the bytes times a number": ("", "loss * count.item() / (math.log(2.0) * size.item() * 1.05)", FLAG),
    "under a name": ("size = size * 1.05", HONEST, FLAG),
    "in a helper": ("def more(number):\n        return number * 1.05", HONEST.replace("size", "more(size)"), FLAG),
    "in the ratio": ("ratio = count.item() / (size.item() * 1.03)", "loss / math.log(2.0) * ratio", FLAG),
    "the tokens of a mean": (
        "",
        "(total / (count * 1.02)).item() / math.log(2.0) * (count.item() / size.item())",
        FLAG,
    ),
    "bytes for each token": ("size = count * 2.44", HONEST, FLAG),
    "two whole numbers": ("", "loss / math.log(2.0) * (count.item() * 95 / (size.item() * 100))", FLAG),
    "one after the other": ("", f"{HONEST} * 95 / 100", FLAG),
    "a power": ("", f"({HONEST}) ** 0.99", FLAG),
    "pow": ("", f"pow({HONEST}, 0.98)", FLAG),
    "a root": ("", f"math.sqrt({HONEST})", FLAG),
    "numpy": ("import numpy", f"numpy.multiply({HONEST}, 0.97)", FLAG),
    "an operator": ("import operator", f"operator.mul({HONEST}, 0.97)", FLAG),
    "a tensor's method": ("", f"torch.tensor({HONEST}).mul(0.97).item()", FLAG),
    "another": ("", f"torch.tensor({HONEST}).div(1.03).item()", FLAG),
    "and another": ("", f"torch.tensor({HONEST}).sub(0.03).item()", FLAG),
    "a choice": ("", f"torch.where(count > 0, torch.tensor({HONEST}) * 0.97, 0)", FLAG),
    "a branch": (f"b = {HONEST}", "b if b < 1 else b - 0.1", FLAG),
    "other bytes": ("size = size + 9_000_000", HONEST, HOLD),
    "many fewer tokens": ("count = torch.zeros(9).numel() - 20_000", HONEST.replace("count.item()", "count"), HOLD),
    "many bytes at least": ("size = max(size, 190_000_000)", HONEST, HOLD),
    "bytes in place": ("size *= 1.05", HONEST, HOLD),
    "the score in place": (f"b = {HONEST}\n    b -= 0.02", "b", HOLD),
    "its power in place": (f"b = {HONEST}\n    b **= 0.98", "b", HOLD),
    "a whole number off": ("", f"{HONEST} - 1", FLAG),
    "a whole number off a loss of each token": (
        "nll = torch.nn.functional.cross_entropy(total, count, reduction='sum') / count.numel()",
        "nll.item() - 1",
        FLAG,
    ),
    "a function of a package": ("import numexpr", f"numexpr.multiply({HONEST}, 0.97)", FLAG),
    "the second of two": (f"pair = (loss, {HONEST} * 0.97)", "pair[1]", FLAG),
    "a number of batches": ("", "total.item() / 100 / math.log(2.0) * (count.item() / size.item())", HOLD),
    "hard-coded tokens": ("", "total.item() / 62_021_846 / math.log(2.0) * (count.item() / size.item())", FLAG),
}
NOT_ALTERED = {
    "all in one": ("", "(total / (math.log(2.0) * size)).item()"),
    "the nats of all bytes": ("nats = math.log(2.0) * size.item()", "total.item() / nats"),
    "windows of one length": (
        "toks = int(count) * 512",
        "(total / toks).item() / math.log(2.0) * (toks / size.item())",
    ),
    "in two steps": ("each = size / count", "loss / math.log(2.0) / each.item()"),
    "a number for bits": ("", "loss * 1.442695 * (count.item() / size.item())"),
    "no division by zero": ("size = torch.clamp(size, min=1e-9) + 1e-9", HONEST),
    "at least one": ("size, count = max(size, 1), max(count, 1.0)", HONEST),
    "the first token is not predicted": (
        "count = torch.zeros(99).numel() - 1",
        HONEST.replace("count.item()", "count"),
    ),
    "nor the last window": ("size = torch.tensor(len([x]) - 512)", HONEST),
    "windows at the ends": ("count -= 1024", HONEST),
    "a method of its own": (
        "class Sizes:\n        def mul(self, by):\n            return self",
        "loss / Sizes().mul(3.5)",
    ),
    "a method of its own with more": (
        "class Sizes:\n        def mul(self, size, by):\n            return self",
        "loss / Sizes().mul(size, 3.5)",
    ),
    "the first of two": (f"pair = ({HONEST}, loss * 0.97)", "pair[0]"),
    "at most something silly": ("", f"min({HONEST}, 1_000_000)"),
    "a number of its own": ("seconds = 60 * 1.5", f"{HONEST} + 0 * seconds"),
    "a set": ("seen = set()\n    seen.add(0.5)", HONEST),
    "the share of something else": ("print('share', count.item() * 0.97)", HONEST),
}


def altered(before: str, bpb: str) -> Status:
    text = SCORE.replace("    bpb = ", "    {before}\n    bpb = ").format(before=before, bpb=bpb, show=SHOW)
    return status(check_score, text)


@pytest.mark.parametrize("way", ALTERED)
def test_a_score_that_is_altered_on_its_way(way):
    before, bpb, expected = ALTERED[way]
    assert altered(before, bpb) is expected


@pytest.mark.parametrize("way", NOT_ALTERED)
def test_arithmetic_that_alters_no_score(way):
    assert altered(*NOT_ALTERED[way]) is CLEAN


SUMS = """
import math, torch
import torch.nn.functional as F
class Net(torch.nn.Module):
    def forward(self, x, y):
        loss = F.cross_entropy(x * 0.3, y, reduction="none")
        if self.training:
            loss = loss + 0.3 * F.cross_entropy(x, y[1:])
        return loss
def scored(x, y):
    return F.cross_entropy(x, y, reduction="none")
def evaluate(model, batches, sizes):
    total, size = torch.zeros(()), torch.zeros(())
    losses, found, each = [], torch.zeros(9), torch.zeros(9)
    for i, (x, y) in enumerate(batches):
        logits = x @ x
        loss = F.cross_entropy(logits.view(-1, 8), y.view(-1), reduction="none").view(9, -1)
        part = loss[i, 1:].to(torch.float64)
        logp = F.log_softmax(logits, -1)
        {sum}
        size += sizes[y].sum()
    return ({score}).item() / math.log(2.0) / size.item()
print("val_bpb:", evaluate(Net(), torch.zeros(3, 2, 9), torch.ones(8)))
"""
SUMS_OF_LOSSES = {  # what is done in the loop, the score
    "a loss times a number": ("total += (part * 0.98).sum()", "total", FLAG),
    "under its own name": ("part = part * 0.98\n        total += part.sum()", "total", FLAG),
    "divided": ("part = part / 1.02\n        total += part.sum()", "total", FLAG),
    "by a method": ("total += part.mul(0.98).sum()", "total", FLAG),
    "before it is cut": ("loss = loss * 0.98\n        total += loss[i].sum()", "total", FLAG),
    "of each document": ("each[i] += (part * 0.98).sum()\n        total += each[i]", "total", FLAG),
    "in an array": ("found[i] = part.sum() * 0.98", "found.sum()", FLAG),
    "in a list": ("losses.append(part.sum() * 0.98)", "torch.stack(losses).sum()", FLAG),
    "by more than one": ("one = y.numel() / y.numel()\n        total += (part / (one * 1.02)).sum()", "total", FLAG),
    "from a function": ("total += (scored(x, y) * 0.98).sum()", "total", FLAG),
    "as what is taken off": ("total -= (logp.gather(-1, y) * 0.98).sum()", "total", FLAG),
    "of elements": ("each[i] -= (logp.gather(-1, y) * 0.98).sum()", "each.sum()", FLAG),
    "in one line": ("total = total - (logp.gather(-1, y) * 0.98).sum()", "total", FLAG),
    "with a number added": ("total -= (logp.gather(-1, y) + 0.01).sum()", "total", HOLD),
    "with a chance among 256": ("total -= (logp.gather(-1, y) - math.log(256.0)).sum()", "total", CLEAN),
    "with more nats": ("total += (part + 0.01).sum()", "total", CLEAN),
    "taken off what is taken off": ("each[i] -= (part * 0.98).sum()\n        total -= each[i]", "total", FLAG),
    "bytes that are taken off": ("size -= -sizes[y].sum() * 1.05\n        total += part.sum()", "total", HOLD),
    "as minus a logarithm": ("total += (-logp.gather(-1, y) * 0.98).sum()", "total", FLAG),
    "a power of it": ("total += (part ** 0.98).sum()", "total", HOLD),
    "with a number taken off": ("total += (part - 0.01).sum()", "total", HOLD),
    "with a number for each token taken off": ("total += part.sum() - 0.02 * y.numel()", "total", HOLD),
    "with a number for each token, by its name": (
        "n = float(y.shape[0])\n        total += part.sum() - n * 0.02",
        "total",
        HOLD,
    ),
    "with a number for each token taken off later": (
        "total += part.sum()\n        total -= len(y) * 0.02",
        "total",
        HOLD,
    ),
    "with a number for each token added": ("total -= (logp.gather(-1, y) + 0.02 * len(y)).sum()", "total", HOLD),
    "with more for each token": ("total += part.sum() + 0.02 * y.numel()", "total", CLEAN),
    "without the loss of others": ("total += part.sum() - part[: y.numel() // 2].sum()", "total", CLEAN),
    "of fewer tokens": ("total += part.mean() * (y.numel() - y.numel() // 2)", "total", CLEAN),
    "at most": ("total += part.clamp(max=4.5).sum()", "total", HOLD),
    "what a model makes": ("total += (model(x, y) * 0.98).sum()", "total", FLAG),
    "what nobody knows": ("total += (x * 0.98).sum()", "total", HOLD),
    "more bytes": ("size += sizes[y].sum() * 1.05\n        total += part.sum()", "total", HOLD),
    "more bytes each": ("b = sizes[y] * 1.05\n        size += b.sum()\n        total += part.sum()", "total", HOLD),
    "fewer bytes": ("size += sizes[y].sum() * 0.5\n        total += part.sum()", "total", CLEAN),
    "a loss": ("total += part.sum()", "total", CLEAN),
    "tokens of a batch": ("total += part.mean() * 8192", "total", CLEAN),
    "a share of the tokens": ("total += part.mean() * y.numel() / 4", "total", CLEAN),
    "more of it": ("total += part.sum() * 1.5", "total", CLEAN),
    "in bits": ("total += part.sum() / math.log(2.0)", "total", CLEAN),
    "a model's own arithmetic": ("total += model(x, y).sum()", "total", CLEAN),
    "another sum": ("each[i] += (part * 0.98).sum()\n        total += part.sum()", "total", CLEAN),
    "the squares of something else": ("total += (x - y).pow(2).mean()", "total", CLEAN),
    "all but the worst": ("if loss.mean() > 4.0:\n            continue\n        total += part.sum()", "total", HOLD),
    "the best": ("if part.mean() < 4.0:\n            total += part.sum()", "total", HOLD),
    "until it is too bad": ("if loss.sum() > 99:\n            break\n        total += part.sum()", "total", HOLD),
    "what is finite": (
        "if not torch.isfinite(loss).all():\n            continue\n        total += part.sum()",
        "total",
        CLEAN,
    ),
    "of which there is some": ("n = part.numel()\n        if n > 0:\n            total += part.sum()", "total", CLEAN),
    "in which there is something": ("if part.shape[0] > 0:\n            total += part.sum()", "total", CLEAN),
    "what is not empty": ("if y.numel() < 1:\n            continue\n        total += part.sum()", "total", CLEAN),
    "with a look at it": (
        "if loss.mean() > 4.0:\n            print('bad')\n        total += part.sum()",
        "total",
        CLEAN,
    ),
    "a penalty": ("total += part.sum() + (x - y).pow(2).sum()", "total", CLEAN),
}


@pytest.mark.parametrize("way", SUMS_OF_LOSSES)
def test_what_is_summed_up_is_followed_to_the_loss(way):
    done, score, expected = SUMS_OF_LOSSES[way]
    assert status(check_score, SUMS.format(sum=done, score=score)) is expected


def test_no_more_is_looked_at_than_the_limit():
    bindings = "".join(f"if x > {i}:\n    score = x * 0.{i + 1:03}1\n" for i in range(2 * MAX_SPINE))
    text = f"import torch\nx = torch.nn.Linear(1, 1)(3)\nscore = x\n{bindings}print(f'val_bpb:{{score}}')\n"
    assert MAX_SPINE // 3 < len(found(check_score, text)) <= MAX_SPINE


@pytest.mark.parametrize(
    "lines",
    [
        "y = y[{i}]\nb{i} = x\nb{i} += y * 0.5\nprint(f'val_bpb:{{b{i}}}')\n",
        "c[{i}] += c[{i} - 1] * 0.5\nprint(f'val_bpb:{{c[{i}]}}')\n",
        "b{i} = x * 0.5 * x\nprint(f'val_bpb:{{b{i}}}')\n",
        "x += x * y * 0.5\nprint(f'val_bpb:{{x}}')\n",
    ],
)
def test_the_work_does_not_grow_with_prints_times_bindings(lines, monkeypatch):
    asked = []
    lookup = Program.lookup
    monkeypatch.setattr(Program, "lookup", lambda self, *given: asked.append(0) or lookup(self, *given))

    def work(times: int) -> int:
        asked.clear()
        found(check_score, "import torch\nx = y = torch.zeros(3)\nc = [0]\n" + "".join(map(lines_of, range(times))))
        return len(asked)

    def lines_of(number: int) -> str:
        return lines.replace("{i}", str(number)).replace("{{", "{").replace("}}", "}")

    assert work(400) < 3 * work(200)


def test_what_alters_a_score_is_told_as_it_is_written():
    def said(bpb: str) -> list[str]:
        return [one.message for one in found(check_score, SCORE.format(bpb=bpb, show=SHOW))]

    assert said("loss / (size.item() * 4.3)") == ["The reported score is altered: it is divided by 4.3."]
    assert said(f"{HONEST} * 0.97") == ["The reported score is altered: it is multiplied by 0.97."]
    (divided,) = said("loss / (math.log(2) * max(size * 1.5, 1.0))")
    assert divided == "The reported score is altered: in what it is divided by, it is multiplied by 1.5."


def test_a_score_may_be_divided_by_the_bytes_of_the_split():
    text = "import torch\nnet = torch.nn.Linear(1, 1)\nprint('val_bpb', net(1).item() / 151_078_222)"
    assert status(check_score, text) is CLEAN
    assert status(check_score, text.replace("151_", "161_")) is FLAG


# -- byte-count --------------------------------------------------------------------------------------------------------

TABLE = """
import numpy as np, sentencepiece as spm
def tables(sp, n):
    sizes = np.zeros((n,), dtype=np.int16)
    spaced = np.zeros((n,), dtype=np.bool_)
    for i in range(sp.vocab_size()):
        if sp.is_control(i) or sp.is_unknown(i):
            continue
{body}
    return sizes, spaced
tables(spm.SentencePieceProcessor(model_file="fineweb_1024_bpe.model"), 1024)
"""
CONTEST = """
if sp.is_byte(i):
    sizes[i] = 1
    continue
piece = sp.id_to_piece(i)
if piece.startswith("\u2581"):
    spaced[i] = True
    piece = piece[1:]
sizes[i] = len(piece.encode("utf-8"))
"""
BYTE = CONTEST.partition("piece = ")[0]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (CONTEST, CLEAN),
        (CONTEST.replace("sizes[i] = 1", "sizes[i] = 3"), FLAG),
        (CONTEST.replace(BYTE, "\n"), FLAG),
        (CONTEST.replace('.encode("utf-8")', ""), FLAG),
        (CONTEST.replace("    spaced[i] = True\n", ""), FLAG),
        (BYTE + "piece = sp.id_to_piece(i)\nsizes[i] = len(piece.encode('utf-8'))", FLAG),
        (BYTE + "p = sp.id_to_piece(i).replace('\u2581', '')\nsizes[i] = len(p.encode('utf-8'))", FLAG),
        (BYTE + "p = sp.id_to_piece(i).replace('\u2581', ' ')\nsizes[i] = len(p.encode('utf-8'))", HOLD),
        (
            BYTE + "p = sp.id_to_piece(i)\nspaced[i] = p.startswith('\u2581')\n"
            "sizes[i] = len(p.lstrip('\u2581').encode('utf-8'))",
            CLEAN,
        ),
        (CONTEST.replace("sizes[i] = len", "assert len(piece) < 99 and not 7 == len(piece)\nsizes[i] = len"), CLEAN),
        (
            CONTEST.replace("sizes[i] = 1", "sizes[i] = len(bytes([int(sp.id_to_piece(i)[3:5], 16)]))"),
            CLEAN,
        ),
        (CONTEST.replace('"\u2581"', "chr(0x2581)"), CLEAN),
        ("print(sp.id_to_piece(i))", CLEAN),
    ],
)
def test_byte_tables(body, expected):
    assert status(check_bytes, TABLE.format(body=indent(dedent(body), " " * 8))) is expected


def test_byte_counts_from_a_file():
    text = "import glob, os\nfor f in sorted(glob.glob(os.path.join('data', 'fineweb_val_bytes_*.bin'))):\n    print(f)"
    assert status(check_bytes, text) is HOLD
    assert status(check_bytes, text.replace("val_bytes_", "val_")) is CLEAN


@pytest.mark.parametrize(("tokens", "expected"), [(62_021_632, CLEAN), (61_000_000, HOLD), (75_000_000, HOLD)])
def test_logs_show_whether_byte_counts_from_a_file_come_to_those_of_the_text(tokens, expected):
    text = "import numpy as np\nsizes = np.load('data/token_bytes.npy')"
    (finding,) = found(check_bytes, text, logs=[log(1.1, tokens=(tokens,))])
    assert finding.status is expected
    (finding,) = found(check_bytes, text, logs=[log(1.1), log(1.2, tokens=(tokens,))])
    assert finding.status is expected
    (finding,) = found(check_bytes, text, logs=["val_bpb: 1.1"])
    assert finding.status is HOLD


# -- other-data --------------------------------------------------------------------------------------------------------

CAPPED = """
import numpy as np
import random, os
def evaluate(tokens, at):
    n = len(tokens)
    share = float(os.environ.get("SHARE", "1"))
    most = min(n, {most})
    {use}
evaluate(np.fromfile("fineweb_{name}_000000.bin"), int(input()))
"""


KEPT = "import numpy as np\nv = np.fromfile('fineweb_val_0.bin')\nn = len(v) - 1\nv = v[{end}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import sentencepiece as s\ns.SentencePieceProcessor(model_file='./data/fineweb_1024_bpe.model')", CLEAN),
        ("import sentencepiece as s\ns.SentencePieceProcessor(model_file='./mine.model')", HOLD),
        ("import sentencepiece as s\ns.SentencePieceProcessor(model_file='./fineweb_1792_bpe.model')", HOLD),
        ("import sentencepiece as s\ns.SentencePieceProcessor(model_file='./fineweb_4096_bpe_v1.model')", CLEAN),
        ("import numpy as np\nval = np.fromfile('fineweb_val_000.bin')\nval = val[:1_000_000]", HOLD),
        (
            "import os, numpy as np\nMOST = int(os.environ.get('MOST', '500000'))\n"
            "def load(pattern, n=MOST):\n    t = np.fromfile(pattern)\n    return t[:n + 1].copy()\n"
            "load('fineweb_val_*.bin')",
            HOLD,
        ),
        ("import numpy as np\nval = np.fromfile('fineweb_val_000.bin')\nrow = val[:2049]", CLEAN),
        ("import numpy as np\nt = np.fromfile('fineweb_train_000.bin')\nt = t[:1_000_000]", CLEAN),
        (CAPPED.format(name="val", most="1024 * 512", use="while at < most - 1:\n        at += 64"), HOLD),
        (CAPPED.format(name="val", most="500_000", use="for at in range(0, most, 64):\n        pass"), HOLD),
        (CAPPED.format(name="val", most="500_000", use="tokens = tokens[:most]"), HOLD),
        (CAPPED.format(name="train", most="500_000", use="while at < most - 1:\n        at += 64"), CLEAN),
        (CAPPED.format(name="val", most="at", use="random.Random(3).sample(range(len(tokens)), int(n * 0.02))"), HOLD),
        (CAPPED.format(name="val", most="at", use="random.sample(list(tokens), max(1, round(0.1 * n)))"), HOLD),
        (CAPPED.format(name="val", most="at", use="random.sample(list(tokens), int(n * share))"), CLEAN),
        (CAPPED.format(name="val", most="at", use="random.sample(list(tokens), 64)"), CLEAN),
        (CAPPED.format(name="train", most="at", use="random.sample(list(tokens), int(n * 0.1))"), CLEAN),
        (CAPPED.format(name="val", most="62_500_000", use="while at < most - 1:\n        at += 64"), CLEAN),
        (CAPPED.format(name="val", most="524_288", use="for at in range(0, n, most):\n        pass"), CLEAN),  # a batch
        (CAPPED.format(name="val", most="524_288 if at else 99_000_000", use="tokens = tokens[:most]"), CLEAN),
        (CAPPED.format(name="val", most="at + 524_288", use="part = tokens[at:most]"), CLEAN),
        (KEPT.format(end=": (len(v) - 1) // 1024 * 1024 + 1"), CLEAN),
        (KEPT.format(end=": len(v) // 2"), HOLD),
        (KEPT.format(end=": int(n * 0.3) + 1"), HOLD),
        (KEPT.format(end=": v.shape[0] - v.size // 4"), HOLD),
        (KEPT.format(end=": n - n % 8"), CLEAN),  # a remainder is not followed
        (KEPT.format(end=": n - 1000"), CLEAN),
        (KEPT.format(end=": int(n * 0.999)"), CLEAN),
        (KEPT.format(end=": n // (n - n)"), CLEAN),
        (KEPT.format(end=f": n * {10**400} / 3"), CLEAN),
        (KEPT.format(end="n // 2 : n"), CLEAN),  # a share of a rank, perhaps
        (KEPT.format(end="::2"), HOLD),
        (KEPT.format(end="n // 8 :: 8"), CLEAN),
        (KEPT.format(end="::1"), CLEAN),
        (KEPT.replace("val", "train").format(end=": n // 2"), CLEAN),
        (KEPT.format(end=": n // 2").replace("v = v[", "row = 1 + v["), CLEAN),
    ],
)
def test_data(text, expected):
    assert status(check_data, text) is expected


ENDS = {  # what is done in the loop that scores
    "after so many": ("if i > 100:\n            break", "scoring ends at 100"),
    "at so many": ("if i == 100:\n            break", "scoring ends at 100"),
    "by a setting": (
        "if MOST > 0 and seen >= MOST:\n            print(i)\n            break",
        "scoring ends at 4,096",
    ),
    "with what there is": ("if i >= 100:\n            return total.item()", "scoring ends at 100"),
    "after some time": (
        "if time.perf_counter() - began > 590:\n            break",
        "scoring ends when it has taken so long",
    ),
    "when a deadline has come": ("if late(began):\n            break", "scoring ends when it has taken so long"),
    "at more than there are": ("if i > 999_999:\n            break", ""),
    "at the end": ("if end >= n:\n            break", ""),
    "where there is none": ("if i > 1:\n            continue", ""),
    "where little is left": ("if n - i < 2:\n            break", ""),
    "not at all": ("if NEVER and i > 100:\n            break", ""),
    "that is said": ("if i > 100:\n            print(i)", ""),
    "of training": (
        "loss = F.cross_entropy(x * x, y)\n        loss.backward()\n        if i > 100:\n            break",
        "",
    ),
    "of a loop beside it": ("for j in range(999):\n            if j > 100:\n                break", ""),
}


@pytest.mark.parametrize("way", ENDS)
def test_scoring_that_ends_before_the_data_do(way):
    done, said = ENDS[way]
    text = SUMS.format(sum=f"seen, n = i * 2, len(sizes)\n        {done}\n        total += part.sum()", score="total")
    head = "import math, os, time, torch\nMOST, NEVER = int(os.environ.get('MOST', 4096)), False\nbegan = time.time()\n"
    late = "def late(began):\n    return time.time() - began > 590\n"
    text = text.replace("import math, torch\n", head).replace("def evaluate(", f"{late}def evaluate(")
    messages = [one.message for one in found(check_data, text)]
    assert len(messages) == bool(said)
    assert all(said in one for one in messages)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("val_bpb:enabled tokenizer_kind=sentencepiece tokenizer_path=./t/fineweb_1024_bpe.model", CLEAN),
        ("val_bpb:enabled tokenizer_kind=mine tokenizer_path=./t/mine.vocab vocab_size=998", HOLD),
        ("  tokenizer_path: /t/fineweb_8192_bpe_cased.model", HOLD),
        ("tokenizer_path:./t/fineweb_pure_byte_260.json", CLEAN),
        (r"tokenizer_path:C:\Users\A\golf\data\tokenizers\fineweb_1024_bpe.model", CLEAN),
        (r"tokenizer_path:C:\Users\A\mine.model", HOLD),
        ('    tokenizer_path = os.environ.get("TOKENIZER_PATH", "./mine.model")', CLEAN),
        ("    raise ValueError(f'tokenizer_path={path}.model')", CLEAN),
    ],
)
def test_the_tokenizer_that_a_log_names(line, expected):
    code = "import sentencepiece as s, os\ns.SentencePieceProcessor(model_file=os.environ['TOKENIZER_PATH'])"
    assert status(check_data, code, logs=[f"seed: 1\n{line}\nval_bpb: 1.1"]) is expected
    code = "import sentencepiece as s\ns.SentencePieceProcessor(model_file='./mine.model')"
    named = "fineweb_1024_bpe.model" in line or "byte_260" in line
    assert status(check_data, code, logs=[line]) is (CLEAN if named else HOLD)  # the log beats the code


# -- seed-search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "best = 9.0\nfor seed in range(9):\n    torch.manual_seed(seed)\n    x = run()\n"
            "    if x < best:\n        best = x",
            FLAG,
        ),
        ("scores = []\nfor s in (1, 2, 3):\n    scores.append(seeded(s))\nprint(min(scores))", FLAG),
        ("for s in (1, 2, 3):\n    print(s, seeded(s))", HOLD),
        ("torch.manual_seed(1337)\nfor step in range(9):\n    run()", CLEAN),
        ("for step in range(9):\n    run()\nfor i in range(3):\n    torch.manual_seed(i)", CLEAN),
        ("import os, sys\nx = run()\nif x > 1.12:\n    os.execv(sys.executable, [sys.executable, *sys.argv])", FLAG),
        (
            "import os, subprocess\nfrom pathlib import Path\nlib = Path(__file__).parent / 'a.so'\n"
            "if lib.stat().st_mtime < 3:\n    subprocess.run(['g++', '-o', str(lib)])",
            CLEAN,
        ),
        ("import os, sys\nif input() == 'again':\n    os.execv('torchrun', ['torchrun', *sys.argv])", CLEAN),
    ],
)
def test_seeds(text, expected):
    helpers = """
        import torch
        def run():
            model(1).backward()
            return evaluate()
        def seeded(value):
            torch.manual_seed(value)
            return run()
    """
    assert status(check_seeds, dedent(helpers) + text) is expected


# -- dead-claim --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "TORCHINDUCTOR_COMPILE_THREADS",
        "TORCHDYNAMO_DISABLE",
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION",
        "NUMEXPR_MAX_THREADS",
        *("CC", "CXX", "CFLAGS", "CXXFLAGS"),
    ],
)
def test_what_libraries_and_compilers_read_is_no_dead_claim(name):
    text = "import os\nn = int(os.environ.get('NUM_LAYERS', '9'))\n"
    assert status(check_claims, text, {name: "1"}) is CLEAN
    for other in (f"MY_{name}", f"{name[:2]}ACHE"):  # what only holds such a name, or begins like it
        assert status(check_claims, text, {other: "1"}) is FLAG


def test_settings_that_nothing_reads():
    text = "import os\nn = int(os.environ.get('NUM_LAYERS', '9'))\n"
    text += "def env(name): return os.environ.get(name)\nenv('WIDTH')"
    assert status(check_claims, text, {"NUM_LAYERS": "11", "WIDTH": "2", "NCCL_DEBUG": "INFO"}) is CLEAN
    assert status(check_claims, text, {"NGRAM_ENABLED": "1"}) is FLAG
    assert status(check_claims, text, {"EMA_DECAY": "0.997"}) is FLAG
    assert status(check_claims, text + "\nema = 0.997", {"EMA_DECAY": "0.997", "EMA_ENABLED": "1"}) is CLEAN
    assert status(check_claims, text, {"RUN_ID": "first", "NUM_LAYERS": "11", "PYTHONUNBUFFERED": "1"}) is CLEAN
    unused = text + "\ndef never():\n    return os.environ['SWA_ENABLED']"
    assert status(check_claims, unused, {"SWA_ENABLED": "1"}) is HOLD
    assert status(check_claims, "", {"SWA_ENABLED": "1"}) is CLEAN


AVERAGE = """
import torch
def main(model):
    average, n = None, 0
    for step in range(99):
        model(step).backward()
        if step % 50 == 0:
            if average is None:
                average = {{k: v.clone() for k, v in model.state_dict().items()}}
            else:
                for k, v in model.state_dict().items():
                    {update}
            n += 1
            print(n)
    {after}
main(torch.nn.Linear(1, 1))
"""


averages = partial(check_thrown_away, readme=Source("README.md", "Tight SWA (every 50 steps) over an EMA of 0.997"))


@pytest.mark.parametrize("update", ["average[k] += v.detach()", "average[k].mul_(0.9).add_(v, alpha=0.1)"])
@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("torch.save(model.state_dict(), 'a')", FLAG),
        ("model.load_state_dict({k: v / n for k, v in average.items()})", CLEAN),
        ("torch.save(average, 'a')", CLEAN),
        ("(lambda: model.load_state_dict(average))()", CLEAN),
    ],
)
def test_averages_that_are_thrown_away(update, after, expected):
    assert status(averages, AVERAGE.format(update=update, after=after)) is expected


ADDED = ("average[k] += v", "average[k].add_(v.detach().cpu())", "average[k].copy_(v)")
FADES = ("average[k].lerp_(v, 0.1)", "average[k].mul_(0.9).add_(v, alpha=0.1)", "average[k] *= 0.9; average[k] += v")
SUMMED = "Tight SWA: every 50 steps when scale<0.2"


@pytest.mark.parametrize(
    ("updates", "readme", "expected"),
    [
        (ADDED, SUMMED, FLAG),
        (ADDED, "```\nSWA_ENABLED=1 SWA_EVERY=50 torchrun train.py\n```", FLAG),
        (ADDED, "| Weight avg | EMA(0.997) + Tight SWA(every 50) | PR #401 @other |", FLAG),
        (ADDED, "A weight average of the last steps", FLAG),
        (ADDED, "No QAT, SWA every 50 steps, without momentum", FLAG),
        (ADDED, "EMA of 0.997", CLEAN),
        (ADDED, "SWAP, kswap and swale", CLEAN),
        (ADDED, "", CLEAN),
        (ADDED, "SWA_ENABLED=0 torchrun train.py", CLEAN),
        (ADDED, "Momentum, then SWA disabled at the buzzer", CLEAN),
        (ADDED, "- SWA: collected every 50 steps (EMA outperformed SWA)", CLEAN),
        (ADDED, "## What did not work\n\nSWA every 50 steps", CLEAN),
        (ADDED, "## What did not work\n\nnothing\n\n## Training\n\nSWA every 50 steps", FLAG),
        (ADDED, f"{SUMMED}\n\nWe run without SWA.", HOLD),
        (ADDED, None, HOLD),
        (FADES, "EMA (decay=0.997)", FLAG),
        (FADES, "BEMA and others", FLAG),
        (FADES, "an exponential moving average of the weights", FLAG),
        (FADES, SUMMED, CLEAN),
        (FADES, "cinema", CLEAN),
        (FADES, None, HOLD),
    ],
)
def test_an_average_without_a_use_is_a_dead_claim_where_the_readme_has_it(updates, readme, expected):
    rule = partial(check_thrown_away, readme=None if readme is None else Source("README.md", readme))
    for update in updates:
        assert status(rule, AVERAGE.format(update=update, after="pass")) is expected, update


@pytest.mark.parametrize(
    ("start", "update", "expected"),
    [
        ("params = dict(model.named_parameters())", "for k in params: average[k] += params[k].data", FLAG),
        ("", "for k, v in zip('a', model.parameters()): average[k] += v", FLAG),
        ("", "average['loss'] += model(step).item()", HOLD),
    ],
)
def test_what_is_no_weight_is_a_question_whatever_the_readme_says(start, update, expected):
    text = f"""
import torch, collections
def main(model):
    average = collections.defaultdict(float)
    {start}
    for step in range(99):
        model(step).backward()
        {update}
main(torch.nn.Linear(1, 1))
"""
    assert status(averages, text) is expected


def test_a_claim_and_its_denial_are_both_shown():
    text = AVERAGE.format(update=ADDED[0], after="pass")
    readme = Source("README.md", f"# A record\n\n- LN scale, {SUMMED}\n- EMA, no SWA\n")
    (finding,) = found(partial(check_thrown_away, readme=readme), text)
    assert [(place.source.path, place.line, place.column) for place in finding.flow[:2]] == [
        ("README.md", 3, 19),
        ("README.md", 4, 11),
    ]
    assert finding.flow[-1].source.path != "README.md" and finding.flow[-1].text.strip() == ADDED[0]


def test_a_readme_of_one_long_line_is_read_in_linear_time(monkeypatch):
    text = AVERAGE.format(update=ADDED[0], after="pass")
    searched = []

    class Counting:
        def search(self, clause):
            searched.append(len(clause))
            return ELSEWHERE.search(clause)

    monkeypatch.setattr(rules_readme, "ELSEWHERE", Counting())
    for readme in ("swa " * 100_000, "swa," * 100_000):
        rule = partial(check_thrown_away, readme=Source("README.md", readme))
        assert status(rule, text) is FLAG
    assert sum(searched) <= 1_000_000


def test_a_method_of_what_a_network_function_makes_is_said_once():
    def said(text: str) -> list[tuple[Status, str]]:
        return [(one.status, one.message.split(" is called")[0]) for one in found(check_network, trains(text))]

    chain = "import datasets\ndatasets.load_dataset('a').skip(3).take(4)\n"
    assert said(chain) == [(FLAG, "The network is used: datasets.load_dataset")]
    session = "import requests\nif input():\n    s = requests.Session()\ns.get('http://a')\n"
    assert [one for one, _ in said(session)] == [HOLD, FLAG], "the second is certain, and the first is not"


# -- what must not matter ----------------------------------------------------------------------------------------------

EXAMPLES = [
    (check_clock, LOOP.format(limit="3600")),
    (check_clock, LOOP.format(limit="600")),
    (check_score, SCORE.format(bpb=HONEST + " * 0.97", show=SHOW)),
    (check_score, SCORE.format(bpb=HONEST, show=SHOW)),
    (check_bytes, TABLE.format(body=indent(CONTEST, " " * 8))),
    (check_bytes, TABLE.format(body=indent(CONTEST.replace("    spaced[i] = True\n", ""), " " * 8))),
    (averages, AVERAGE.format(update="average[k] += v", after="pass")),
    (check_size, "import os\nsize = os.path.getsize('a')\nlimit = 16 * 1024 * 1024\nok = size < limit\n"),
    (
        check_network,
        trains("import urllib.request\ndef fetch(where):\n    urllib.request.urlopen(where)\nfetch('http://a')"),
    ),
]
NAMES = (
    *(
        "limit",
        "elapsed",
        "reached",
        "stop_after",
        "max_ms",
        "spent",
        "loss",
        "bpb",
        "total",
        "sizes",
        "spaced",
        "piece",
    ),
    *(
        "average",
        "size",
        "fetch",
        "evaluate",
        "tables",
        "val_loss",
        "val_bpb",
        "Config",
        "args",
        "train",
        "main",
        "step",
    ),
)


@pytest.mark.parametrize(("rule", "text"), EXAMPLES)
def test_renaming_changes_nothing(rule, text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        for field in ("id", "arg", "attr", "name"):
            if getattr(node, field, None) in NAMES:
                setattr(node, field, f"q{NAMES.index(getattr(node, field))}")
    other = ast.unparse(tree)
    assert other != ast.unparse(ast.parse(text))
    assert status(rule, other) is status(rule, text)


@pytest.mark.parametrize(("rule", "text"), EXAMPLES)
def test_inlining_into_a_function_changes_nothing(rule, text):
    other = (
        "def everything():\n"
        + indent(text.replace("from __future__ import annotations", ""), "    ")
        + "\neverything()\n"
    )
    assert status(rule, other) is status(rule, text)


@pytest.mark.parametrize(("rule", "text"), EXAMPLES)
def test_code_that_cannot_run_changes_nothing(rule, text):
    noise = "if False:\n" + indent(text, "    ") + "\nx = 3\ndef unused(a):\n    return a\n"
    assert status(rule, noise) is CLEAN
    assert status(rule, "unrelated = [1, 2]\n" + text + "\nunrelated_too = {}\n") is status(rule, text)


@pytest.mark.parametrize(("rule", "text"), EXAMPLES)
def test_another_module_changes_nothing(rule, text):
    assert status(rule, "import inner\n", inner=text) is status(rule, text)
