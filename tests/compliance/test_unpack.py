"""Packed code is found without being executed, whatever way leads to it, and what cannot be found is held."""

from __future__ import annotations

import ast
import base64
import bz2
import codecs
import gzip
import lzma
import textwrap
import time
import zlib
from functools import partial
from pathlib import Path

import brotli
import pytest

from harness.compliance import unpack as unpacking
from harness.compliance.findings import Finding, Source, Status
from harness.compliance.inputs import read_target
from harness.compliance.program import load_program
from harness.compliance.unpack import MAX_BYTES, unpack, unpack_target

INNER = "import os\n\n\ndef hidden():\n    return os.sep\n\n\nhidden()\n"
DATA = INNER.encode()


def packed(text: str, files: dict[str, bytes] | None = None) -> tuple[list[Source], list[Finding]]:
    return unpack(Source("train.py", textwrap.dedent(text)), (files or {}).get)


def texts(text: str, files: dict[str, bytes] | None = None) -> list[str]:
    """What a script carries, besides itself."""
    sources, findings = packed(text, files)
    assert findings == []
    return [source.text for source in sources[1:]]


def held(text: str, files: dict[str, bytes] | None = None) -> Finding:
    _, findings = packed(text, files)
    assert [(finding.check, finding.status) for finding in findings] == [("hidden-code", Status.HOLD)]
    return findings[0]


B64 = base64.b64encode(zlib.compress(DATA)).decode()
B85 = base64.b85encode(lzma.compress(DATA)).decode()
RAW = lzma.compress(DATA, format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
HALF = len(B64) // 2

ONE_WAY = {
    "zlib and base64": f"import zlib, base64\nexec(zlib.decompress(base64.b64decode('{B64}')))",
    "aliases": f"import zlib as z, base64 as b\nexec(z.decompress(b.b64decode({B64!r})).decode('utf-8'))",
    "from imports": f"from base64 import b85decode as d\nfrom lzma import decompress as u\nexec(u(d({B85!r})))",
    "star imports": f"from base64 import *\nfrom lzma import *\nexec(decompress(b85decode({B85!r})))",
    "raw lzma": "import lzma as L,base64 as B\n"
    f"exec(L.decompress(B.b85decode({base64.b85encode(RAW)!r}),format=L.FORMAT_RAW,filters=[{{'id':L.FILTER_LZMA2}}]))",
    "bz2 and hex": f"import bz2\nexec(bz2.decompress(bytes.fromhex('{bz2.compress(DATA).hex()}')))",
    "gzip and ascii85": "import gzip, base64\n"
    f"exec(gzip.decompress(base64.a85decode({base64.a85encode(gzip.compress(DATA))!r})))",
    "several statements": f"""
        import base64, zlib
        first = '{B64[:HALF]}'
        second = '{B64[HALF:]}'
        whole = first
        whole += second
        blob = base64.b64decode(whole)
        blob = zlib.decompress(blob)
        code = compile(blob, 'x', 'exec')
        exec(code, globals())
        """,
    "a list that is joined": f"import base64, zlib\nparts = [{B64[:HALF]!r}, {B64[HALF:]!r}]\n"
    "exec(zlib.decompress(base64.b64decode(''.join(parts))))",
    "a loop": f"import base64, zlib\nt = ''\nfor p in ({B64[:HALF]!r}, {B64[HALF:]!r}):\n    t += p\n"
    "exec(zlib.decompress(base64.b64decode(t)))",
    "functions": f"""
        import base64, zlib
        def opened(data, how=zlib):
            raw = base64.b64decode(data)
            return how.decompress(raw)
        def main():
            exec(opened({B64!r}), globals())
        if __name__ == "__main__":
            main()
        """,
    "reversed": f"import base64, zlib\nexec(zlib.decompress(base64.b64decode({B64[::-1]!r}[::-1])))",
    "xor": f"key = 23\nexec(bytes(b ^ key for b in bytes.fromhex('{bytes(b ^ 23 for b in DATA).hex()}')))",
    "character codes": f"exec(''.join(chr(c) for c in {list(DATA)}))",
    "map": f"exec(''.join(map(chr, {list(DATA)})))",
    "exec under another name": f"run = exec\nrun({INNER!r})",
    "exec of builtins": f"import builtins\ngetattr(builtins, 'ex' + 'ec')({INNER!r})",
    "exec through globals": f"globals()['__builtins__'].exec({INNER!r})",
    "imports by name": f"exec(__import__('zlib').decompress(__import__('base64').b64decode({B64!r})))",
    "decompress objects": "import zlib, base64\n"
    f"d = zlib.decompressobj()\nexec(d.decompress(base64.b64decode({B64!r})))",
    "codecs": "import codecs\n"
    f"exec(codecs.decode(codecs.decode({base64.b64encode(zlib.compress(DATA))!r}, 'base64'), 'zlib'))",
    "rot13": f"import codecs\nexec(codecs.decode({codecs.encode(INNER, 'rot13')!r}, 'rot13'))",
    "replaced characters": f"exec({INNER.replace('hidden', '@@')!r}.replace('@@', 'hidden'))",
    "a lambda": f"import base64, zlib\nu = lambda x: zlib.decompress(base64.b64decode(x))\nexec(u({B64!r}))",
    "with a byte order mark": f"exec({base64.b64encode(chr(0xFEFF).encode() + DATA)!r} and {chr(0xFEFF) + INNER!r})",
    "in a class": f"class A:\n    def go(self):\n        exec({INNER!r})\nA().go()",
    "a dictionary": f"import zlib, base64\nd = {{'code': {B64!r}}}\nexec(zlib.decompress(base64.b64decode(d['code'])))",
    "an f-string": f"part = {INNER[9:]!r}\nexec(f'import os{{part}}')",
    "a conditional expression": f"import sys\nexec({INNER!r} if 3 > 2 else 'import evil')",
}


@pytest.mark.parametrize("way", ONE_WAY.values(), ids=ONE_WAY.keys())
def test_code_is_found(way: str) -> None:
    assert texts(way) == [INNER]


def test_brotli_is_opened() -> None:
    data = base64.b85encode(brotli.compress(DATA)).decode()
    assert texts(f"import brotli as B,base64 as b\nexec(B.decompress(b.b85decode({data!r})))") == [INNER]
    bomb = base64.b85encode(brotli.compress(bytes(MAX_BYTES + 1))).decode()
    finding = held(f"import brotli as B,base64 as b\nexec(B.decompress(b.b85decode({bomb!r})))")
    assert "unpacks to more than" in finding.message


BESIDE = {
    "exec of open": "exec(open('model.py').read())",
    "by __file__": "exec(open(__file__.replace('train', 'model')).read())",
    "with": "with open('model.py') as file:\n    exec(compile(file.read(), 'model.py', 'exec'))",
    "pathlib": "from pathlib import Path\nexec((Path(__file__).parent / 'model.py').read_text())",
    "os.path": "import os\n"
    "exec(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'model.py'), 'rb').read())",
    "runpy": "import runpy\nrunpy.run_path('model.py', run_name='__main__')",
    "runpy of a module": "import runpy\nrunpy.run_module('model')",
    "importlib": "import importlib.util as u\ns = u.spec_from_file_location('m', 'model.py')\n"
    "m = u.module_from_spec(s)\ns.loader.exec_module(m)",
    "a path from the repository": "exec(open('records/x/model.py').read())",
}


@pytest.mark.parametrize("way", BESIDE.values(), ids=BESIDE.keys())
def test_code_beside_the_script_is_found(way: str) -> None:
    sources, findings = packed(way, {"model.py": DATA})
    assert findings == []
    assert [source.name for source in sources] == ["train.py"]  # the other is a source of its own


ELSEWHERE = [
    "from pathlib import Path\nr = Path(__file__).resolve().parents[3]\nrunpy.run_path(r / 'y' / 'x' / 'train.py')",
    "from pathlib import Path\nr = Path(__file__).parent.parent\nrunpy.run_path(r / 'x' / 'train.py')",
    "runpy.run_path('/workspace/x/train.py')",
]


@pytest.mark.parametrize("way", ELSEWHERE)
def test_a_file_of_the_same_name_in_another_folder_is_another_file(way: str) -> None:
    finding = held(f"import runpy\n{way}", {"train.py": b"x = 1"})
    assert "there is no file" in finding.message and "x/train.py" in finding.message
    _, findings = packed(f"import runpy\n{way}", {"train.py": b"x = 1", "x/train.py": DATA})
    assert findings == []


def test_a_payload_file_is_opened() -> None:
    payload = base64.b85encode(lzma.compress(DATA))
    text = "import lzma, base64\nexec(lzma.decompress(base64.b85decode(open('weights.bin', 'rb').read())))"
    sources, findings = packed(text, {"weights.bin": payload})
    assert (findings, sources[1].name, sources[1].text) == ([], "weights.bin!base85!lzma", INNER)
    assert "no file 'weights.bin'" in held(text).message


def test_layers_are_named_from_the_outside_and_keep_their_own_lines() -> None:
    middle = f"x = 1\n\nimport zlib, base64\nexec(zlib.decompress(base64.b64decode({B64!r})))\n"
    data = base64.b85encode(lzma.compress(middle.encode())).decode()
    sources, findings = packed(f"import lzma, base64\nexec(lzma.decompress(base64.b85decode({data!r})))")
    assert findings == []
    assert [source.name for source in sources] == [
        "train.py",
        "train.py!base85!lzma",
        "train.py!base85!lzma!base64!zlib",
    ]
    assert sources[2].text.splitlines()[3] == "def hidden():"


def test_an_inner_layer_sees_the_names_of_the_outer_one() -> None:
    assert texts(f"payload = {INNER!r}\nexec('exec(payload)')") == ["exec(payload)", INNER]


def test_two_payloads_have_two_names() -> None:
    sources, _ = packed("exec('a = 1')\nexec('b = 2')")
    assert [(source.name, source.text) for source in sources[1:]] == [
        ("train.py!exec", "a = 1"),
        ("train.py!exec 2", "b = 2"),
    ]


def test_newer_f_strings_in_packed_code_parse_here() -> None:
    inner = 'd = {"a": 1}\nprint(f"{d["a"]}")\nlast = 1\n'
    (found,) = texts(f"exec({inner!r})")
    compile(found, "inner", "exec")
    assert found.splitlines()[2] == "last = 1"


HELD = {
    "the network": ("import urllib.request as r\nexec(r.urlopen('http://x').read())", "urlopen"),
    "the environment": ("import os\nexec(os.environ['CODE'])", "environment variable CODE"),
    "the command line": ("import sys\nexec(sys.argv[1])", "not known"),
    "an argument": ("def f(code):\n    exec(code)\nsomething(f)", "argument 'code'"),
    "a result": ("def f(code):\n    exec(code)\nf(unknown())", "not known"),
    "byte code": ("import marshal\nexec(marshal.loads(b'x'))", "byte code"),
    "a function of byte code": ("import types\ntypes.FunctionType(c, {})()", "byte code"),
    "a file of byte code": (
        "from importlib.machinery import SourcelessFileLoader as S\nS('m', 'm.pyc').load_module()",
        "byte code",
    ),
    "broken data": ("import zlib\nexec(zlib.decompress(b'nothing'))", "Error"),
    "cut data": (f"import zlib\nexec(zlib.decompress({zlib.compress(DATA)[:-9]!r}))", "end too early"),
    "a condition": ("import random\nexec('a' if random.random() > 1 else 'b')", "condition"),
    "a module's name": ("import importlib, os\nimportlib.import_module(os.environ['M'])", "environment variable M"),
    "no text": ("exec(b'\\xff\\xfe')", "is UTF-16"),
    "a changed list": ("c = ['x']\nwhile more():\n    c[0] = next_part()\nexec(c[0])", "condition"),
    "an endless loop": (
        "x = 0\nfor i in range(10 ** 5):\n    for j in range(10 ** 5):\n        x += 1\nexec(str(x))",
        "a loop changes it",
    ),
}


def test_a_long_loop_leaves_time_for_what_comes_after_it() -> None:
    loops = "".join(f"t{i} = 0\nfor i in range(10 ** 5):\n    t{i} += i * i + 1\n" for i in range(6))
    (found,) = texts(f"import base64, zlib\n{loops}exec(zlib.decompress(base64.b64decode({B64!r})))")
    assert found == INNER
    finding = held("for i in range(10 ** 5):\n    x = i + 1 + 1 + 1\nexec(('a = 1', 'a = 2')[x > 7])")
    assert "a loop changes it" in finding.message  # half of it was looked at, which is not the end


@pytest.mark.parametrize(("text", "reason"), HELD.values(), ids=HELD.keys())
def test_what_cannot_be_worked_out_is_held_with_its_reason(text: str, reason: str) -> None:
    finding = held(text)
    assert reason in finding.message
    assert finding.flow[-1].source.path == "train.py"


def test_what_a_call_executes_is_held_once() -> None:
    held("import runpy\nfor p in ['a.py', 'b.py', 'c.py']:\n    runpy.run_path(p)")


def test_both_are_said_where_one_call_executes_known_and_unknown_code() -> None:
    sources, findings = packed("def f(code):\n    exec(code)\nf('a = 1')\nf(input())")
    assert [source.text for source in sources[1:]] == ["a = 1"]
    assert len(findings) == 1


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()\nfor p in model.parameters():\n    p.exec = 1",
        "# exec(payload)\nnote = 'exec(lzma.decompress(x))'\nwrapper = b'exec(' + data + b')'",
        "import torch\nf = torch.compile(model)\nre.compile('a')",
        "import importlib\nfor name in ('a', 'b'):\n    importlib.import_module(name)",
        "import ast\nast.literal_eval(x)",
    ],
)
def test_ordinary_code_executes_nothing_hidden(text: str) -> None:
    sources, findings = packed(text)
    assert (len(sources), findings) == (1, [])


SLOW = {
    "conditions over many names": "".join(f"a{n} = 1\n" for n in range(20_000)) + "if f():\n    b = 1\n" * 20_000,
    "functions over many names": "".join(f"a{n} = 1\n" for n in range(20_000)) + "def f():\n    pass\n" * 20_000,
    "an execution per item": "for n in range(10 ** 5):\n    exec(f'a{n} = 1')",
    "a detour before another name for exec": "for i in range(10 ** 5):\n    for j in range(10 ** 5):\n        i\n"
    "run = [exec][0]\nrun(code)",
}


@pytest.mark.parametrize("text", SLOW.values(), ids=SLOW.keys())
def test_what_takes_too_long_is_given_up_and_held(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_Budget", partial(unpacking._Budget, steps=unpacking.MAX_STEPS // 5))
    begin = time.process_time()
    _, findings = packed(f"{text}\nexec\n")
    assert time.process_time() - begin < 20
    assert [(finding.check, finding.status) for finding in findings] == [("hidden-code", Status.HOLD)]


BOMB = bytes(MAX_BYTES + 1)
BOMBS = {
    "zlib": f"import zlib\nexec(zlib.decompress({zlib.compress(BOMB, 9)!r}))",
    "lzma": f"import lzma\nexec(lzma.decompress({lzma.compress(BOMB)!r}))",
    "bz2": f"import bz2\nexec(bz2.decompress({bz2.compress(BOMB)!r}))",
    "repetition": "exec('a = 1\\n' * 10 ** 9)",
    "nested repetition": "x = 'a' * 10 ** 6\n" + "x = x + x\n" * 30 + "exec(x)",
    "a huge number": "exec('x' * (10 ** 10 ** 10))",
    "shifts": "exec('x' * (1 << 10 ** 9))",
    "a huge range": "exec(''.join(list(range(10 ** 12))))",
    "huge bytes": "exec(bytes(10 ** 12))",
    "replacement": "exec(('a' * 10 ** 6).replace('a', 'b' * 10 ** 6))",
    "recursion": "def f(x):\n    return f(x + 'a')\nexec(f('a'))",
    "its own text without end": "x = 'exec(x)'\nexec(x)",
    "growing layers": "x = 'x = x + \" \"\\nexec(x)'\nexec(x)",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_end_in_a_finding_or_at_a_limit(text: str) -> None:
    sources, findings = packed(text)
    assert len(sources) < 60
    assert all(finding.status is Status.HOLD for finding in findings)
    assert findings or "its own" in text or "exec(x)" in text


def test_a_wrapper_gives_way_to_what_it_executes(tmp_path: Path) -> None:
    (tmp_path / "train_gpt.py").write_text(ONE_WAY["raw lzma"])
    target = read_target(tmp_path)
    assert target.entry is not None and target.entry.path == "train_gpt.py"
    found = unpack_target(target)
    assert [run.entry.name for run in found.runs] == ["train_gpt.py!base85!lzma"]
    assert found.runs[0].entry.text == INNER
    assert found.explained == {("train_gpt.py", 2)}


def test_a_wrapper_that_does_more_stays_an_entry(tmp_path: Path) -> None:
    (tmp_path / "train_gpt.py").write_text(f"exec({INNER!r})\ndef patched():\n    pass\nhidden = patched\n")
    found = unpack_target(read_target(tmp_path))
    assert [run.entry.name for run in found.runs] == ["train_gpt.py", "train_gpt.py!exec"]


def test_a_wrapper_around_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "train_gpt.py").write_text(BESIDE["by __file__"].replace("'train'", "'train_gpt'"))
    (tmp_path / "model.py").write_bytes(b"\xef\xbb\xbf" + DATA)
    found = unpack_target(read_target(tmp_path))
    assert [(run.entry.name, run.entry.text) for run in found.runs] == [("model.py", INNER)]


def test_the_run_command_decides_about_variables(tmp_path: Path) -> None:
    (tmp_path / "train_gpt.py").write_text("import os\nexec(os.environ.get('CODE', 'a = 1'))\n")
    assert [source.text for source in unpack_target(read_target(tmp_path)).sources[1:]] == ["a = 1"]
    (tmp_path / "run.sh").write_text("CODE='b = 2' python train_gpt.py\n")
    assert [source.text for source in unpack_target(read_target(tmp_path)).sources[1:]] == ["b = 2"]
    (tmp_path / "run.sh").write_text("CODE=$MORE python train_gpt.py\n")
    (finding,) = unpack_target(read_target(tmp_path)).findings
    assert "environment variable CODE" in finding.message


def test_nothing_is_executed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    text = f"open({str(trace)!r}, 'w').write('x')\nexec(\"open({str(trace)!r}, 'w')\")\nimport this_is_no_module"
    packed(text)
    assert not trace.exists()


MEMORY = """
import numpy as np
LIMIT = 7
class Memory:
    def first(self, x):
        return x + LIMIT
"""


def wrapped(code: str, times: int = 1) -> str:
    for _ in range(times):
        data = base64.b85encode(lzma.compress(code.encode())).decode()
        code = f"import lzma, base64\n_text = lzma.decompress(base64.b85decode({data!r})).decode()\nexec(_text)\n"
    return code


@pytest.mark.parametrize(
    "start",
    [
        "from memory import Memory\nMemory().first(1)",
        "import memory\nmemory.Memory().first(1)",
        "from memory import *\nMemory().first(1)",
    ],
)
@pytest.mark.parametrize("times", [0, 1, 2])
def test_what_is_packed_in_a_module_is_what_others_import_from_it(start, times, tmp_path) -> None:
    (tmp_path / "train_gpt.py").write_text(start + "\n")
    (tmp_path / "memory.py").write_text(wrapped(MEMORY, times))
    (tmp_path / "submission.json").write_text("{}")
    found = unpack_target(read_target(tmp_path))
    run = next(one for one in found.runs if one.entry.path == "train_gpt.py")
    program = load_program(found.sources, run.entry, {}, [])
    assert {one.name.rpartition(".")[2] for one in program.reached} >= {"first"}
    assert all(module.name == name for name, module in program.modules.items())
    call = next(one.node for one in program.live_of(ast.Call) if isinstance(one.node.func, ast.Attribute))
    assert [one.name.rpartition(".")[2] for one in program.callees(call, program.entry.scope)] == ["first"]


def test_of_what_is_packed_in_several_layers_the_one_that_defines_is_imported(tmp_path) -> None:
    (tmp_path / "train_gpt.py").write_text("import memory\nmemory.Memory().first(1)\n")
    (tmp_path / "memory.py").write_text(wrapped(MEMORY + wrapped("FOUND = 3\n")))
    (tmp_path / "submission.json").write_text("{}")
    found = unpack_target(read_target(tmp_path))
    run = next(one for one in found.runs if one.entry.path == "train_gpt.py")
    program = load_program(found.sources, run.entry, {}, [])
    assert {one.name.rpartition(".")[2] for one in program.reached} >= {"first"}


@pytest.mark.parametrize("times", [1, 2])
def test_numbers_that_are_packed_in_a_module_are_known(times, tmp_path) -> None:
    (tmp_path / "train_gpt.py").write_text("import limits\nprint(limits.LIMIT)\n")
    (tmp_path / "limits.py").write_text(wrapped("LIMIT = 7\n", times))
    (tmp_path / "submission.json").write_text("{}")
    found = unpack_target(read_target(tmp_path))
    run = next(one for one in found.runs if one.entry.path == "train_gpt.py")
    program = load_program(found.sources, run.entry, {}, [])
    call = next(one.node for one in program.live_of(ast.Call))
    assert program.constant(call.args[0], program.entry.scope) == 7


def test_what_is_packed_in_a_module_that_defines_more_is_a_part_of_it_only(tmp_path) -> None:
    """Which of both an import means is not known, so nothing is taken for it."""
    (tmp_path / "train_gpt.py").write_text("import memory\nmemory.Memory().first(1)\n")
    (tmp_path / "memory.py").write_text(wrapped(MEMORY) + "class Memory:\n    pass\n")
    (tmp_path / "submission.json").write_text("{}")
    found = unpack_target(read_target(tmp_path))
    run = next(one for one in found.runs if one.entry.path == "train_gpt.py")
    program = load_program(found.sources, run.entry, {}, [])
    assert program.modules["memory"].source.layers == ()
