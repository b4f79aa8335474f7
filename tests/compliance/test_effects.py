"""A script that writes code to a file and executes that is followed, and held where what is in the file is not certain;
so are environment variables that it sets before."""

from __future__ import annotations

import ast
import base64
import lzma
import textwrap
from pathlib import Path

import pytest

from harness.compliance.effects import Effects, Unsure
from harness.compliance.findings import Finding, Source, Status
from harness.compliance.inputs import read_target
from harness.compliance.program import load_program
from harness.compliance.unpack import MAX_INNER, unpack, unpack_target

INNER = "import os\n\n\ndef hidden():\n    return os.sep\n\n\nhidden()\n"
DATA = f"c = lzma.decompress(base64.b85decode({base64.b85encode(lzma.compress(INNER.encode())).decode()!r}))\n"
IMPORTS = "import base64, lzma, os, pathlib, runpy, shutil, sys, tempfile\nimport importlib.util as u\n"


def unpacked(text: str) -> tuple[list[Source], list[Finding]]:
    return unpack(Source("train.py", IMPORTS + DATA + textwrap.dedent(text)), {}.get)


WRITTEN = {  # what is done with the code c, and the name of the file then
    "beside the script": (
        """
        p = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_train.py")
        with open(p, "wb") as f: f.write(c)
        sys.argv[0] = p; runpy.run_path(p, run_name="__main__")
        """,
        "_train.py",
    ),
    "in a temporary folder": (
        """
        p = os.path.join(tempfile.mkdtemp(prefix="a"), "deep", "train.py")
        os.makedirs(os.path.dirname(p), exist_ok=True)
        open(p, "wb").write(c)
        exec(compile(open(p).read(), p, "exec"))
        """,
        "deep/train.py",
    ),
    "in one for a while": (
        """
        with tempfile.TemporaryDirectory() as d:
            p = pathlib.Path(d) / "train.py"
            p.write_bytes(c)
            runpy.run_path(str(p))
        """,
        "train.py",
    ),
    "in one with a name": (
        """
        d = tempfile.TemporaryDirectory()
        pathlib.Path(d.name, "train.py").write_text(c.decode())
        runpy.run_path(d.name + "/train.py")
        d.cleanup()
        """,
        "train.py",
    ),
    "in a temporary file": (
        """
        with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as f:
            f.write(c.decode())
            f.flush()
        exec(open(f.name).read())
        os.unlink(f.name)
        """,
        "file.py",
    ),
    "by its descriptor": (
        """
        d, p = tempfile.mkstemp(suffix=".py")
        os.write(d, c); os.close(d)
        runpy.run_path(p)
        """,
        "file.py",
    ),
    "in a descriptor's file": (
        """
        d, p = tempfile.mkstemp(".py")
        with os.fdopen(d, "wb") as f: f.write(c)
        runpy.run_path(p)
        """,
        "file.py",
    ),
    "unless it is there": (
        """
        p = "/tmp/inner.py"
        with open("/tmp/lock", "w") as lock:
            fcntl.flock(lock, 2)
            if not os.path.exists(p) or os.path.getsize(p) != len(c):
                with open(p, "wb") as f: f.write(c)
        s = u.spec_from_file_location("__main__", p)
        m = u.module_from_spec(s); s.loader.exec_module(m)
        """,
        "tmp/inner.py",
    ),
    "unless it is there, by a path": (
        """
        p = pathlib.Path("inner.py")
        if not p.exists() or p.read_bytes() != c: p.write_bytes(c)
        runpy.run_path(str(p))
        """,
        "inner.py",
    ),
    "or": ("p = 'inner.py'\nos.path.exists(p) or open(p, 'wb').write(c)\nrunpy.run_path(p)", "inner.py"),
    "in pieces": (
        """
        with open("inner.py", "w") as f:
            for line in c.decode().splitlines(True): f.write(line)
        runpy.run_path("inner.py")
        """,
        "inner.py",
    ),
    "in lines": (
        "f = open('inner.py', 'w')\nf.writelines(c.decode().splitlines(True))\nf.close()\nrunpy.run_path('inner.py')",
        "inner.py",
    ),
    "and then more": (
        """
        open("inner.py", "wb").write(c[:20])
        with open("inner.py", "ab") as f: f.write(c[20:])
        runpy.run_path("inner.py")
        """,
        "inner.py",
    ),
    "moved": (
        "open('a', 'wb').write(c)\nshutil.copy('a', 'b.bin')\nos.replace('b.bin', 'i.py')\nrunpy.run_path('i.py')",
        "a!b.bin!i.py",
    ),
    "by a function": (
        """
        def unpack_to(folder):
            p = os.path.join(folder, "inner.py")
            with open(p, "wb") as f: f.write(c)
            return p
        runpy.run_path(unpack_to(tempfile.mkdtemp()))
        """,
        "inner.py",
    ),
    "of several": (
        """
        d = tempfile.mkdtemp()
        for n, t in {"inner.py": c.decode(), "other.txt": "x"}.items():
            p = os.path.join(d, n); os.makedirs(os.path.dirname(p), exist_ok=True)
            open(p, "w").write(t)
        runpy.run_path(d + "/inner.py")
        """,
        "inner.py",
    ),
    "once more, after something unknown": (
        "open('i.py', 'wb').write(b'x')\nmore.write('y')\nopen('i.py', 'wb').write(c)\nrunpy.run_path('i.py')",
        "i.py",
    ),
    "at once, after something unknown": (
        "p = pathlib.Path('i.py')\np.write_bytes(b'x')\nmore.write('y')\np.write_bytes(c)\nrunpy.run_path(p)",
        "i.py",
    ),
    "before a loop": ("open('i.py', 'wb').write(c)\nwhile more(): x = 1\nrunpy.run_path('i.py')", "i.py"),
    "and removed": ("open('i.py', 'wb').write(c)\nrunpy.run_path('i.py')\nos.remove('i.py')", "i.py"),
    "as text that is bytes": ("open('i.py', 'w').write(c.decode())\nexec(open('i.py', 'rb').read())", "i.py"),
}


@pytest.mark.parametrize("way", WRITTEN)
def test_a_file_that_is_written_and_executed_is_followed(way: str) -> None:
    text, name = WRITTEN[way]
    sources, findings = unpacked(text)
    assert findings == []
    assert [source.text for source in sources[1:]] == [INNER]
    assert sources[1].name == f"train.py!base85!lzma!{name}"
    assert sources[1].file == name.rpartition("!")[2]


UNCERTAIN = {  # the reason that is given
    "never": ("open('i.py', 'w')", "nothing is seen to be written"),
    "under a condition": ("open('i.py', 'wb').write(c)\nif more(): open('i.py', 'w').write('x')", "a condition"),
    "one of two": ("if more(): open('i.py', 'wb').write(c)\nelse: open('i.py', 'w').write('x')", "a condition"),
    "when the other failed": (
        "try: open('i.py', 'wb').write(c)\nexcept OSError: open('i.py', 'w').write('x')",
        "a condition",
    ),
    "in a conditional expression": ("open('i.py', 'wb').write(c if more() else b'x')", "a condition"),
    "by a conditional expression": (
        "open('i.py','wb').write(c) if more() else open('i.py','w').write('x')",
        "condition",
    ),
    "after an unknown": ("open('i.py', 'wb').write(c)\nmore() and open('i.py', 'w').write('x')", "a condition"),
    "nobody knows how often": ("f = open('i.py', 'wb')\nwhile more(): f.write(c)", "a loop"),
    "for nobody knows what": ("f = open('i.py', 'wb')\nfor x in more(): f.write(c)", "a loop"),
    "in a comprehension": ("f = open('i.py', 'wb')\n[f.write(c) for x in more()]", "a loop"),
    "to a file that was there": ("open('i.py', 'ab').write(c)", "appended"),
    "something unknown": ("open('i.py', 'wb').write(more())", "not known"),
    "then something unknown": ("f = open('i.py', 'wb')\nf.write(c)\nf.write(more())\nf.write(c)", "not known"),
    "text as bytes": ("open('i.py', 'w').write(c)", "no text"),
    "by another function": ("f = open('i.py', 'wb')\nf.write(c)\nshutil.copyfileobj(more(), f)", "copyfileobj() may"),
    "by print": ("f = open('i.py', 'w')\nprint(c, file=f)\nf.write('')", "print() may"),
    "by what is not known": ("f = open('i.py', 'wb')\nf.write(c)\nmore(f)", "may write to it"),
    "at another place": ("f = open('i.py', 'wb')\nf.write(c)\nf.seek(0)\nf.write(b'x')", "seek() may"),
    "as a part of something": ("f = open('i.py', 'wb')\nf.write(c)\nmore.f = f\nmore.f.write(b'x')", "other code"),
    "in a list": ("f = open('i.py', 'wb')\nf.write(c)\nh = [0]\nh[0] = f\nh[0].write(b'x')", "other code"),
    "under an unknown name": ("f = open('i.py', 'wb')\nf.write(c)\n(f if more() else g).write(b'x')", "not known"),
    "given its path": ("open('i.py', 'wb').write(c)\nmore('i.py')", "may write to it"),
    "given its path, too": ("p = pathlib.Path('i.py')\np.write_bytes(c)\nmore(p)", "may write to it"),
    "renamed over": ("p = pathlib.Path('i.py')\np.write_bytes(c)\npathlib.Path('j').rename(p)", "rename() may"),
    "copied over": ("open('i.py', 'wb').write(c)\nshutil.copy('weights.bin', 'i.py')", "no file 'weights.bin'"),
}


@pytest.mark.parametrize("way", UNCERTAIN)
def test_what_is_not_certain_to_be_in_a_file_is_held(way: str) -> None:
    text, reason = UNCERTAIN[way]
    sources, findings = unpacked(f"{text}\nrunpy.run_path('i.py')\n")
    assert [(finding.check, finding.status) for finding in findings] == [("hidden-code", Status.HOLD)]
    assert reason in findings[0].message
    assert [source.name for source in sources] == ["train.py"]


def test_a_doubt_stays_where_the_file_is_not_opened_again_for_certain() -> None:
    for again in ("0 and open('i.py', 'wb').write(c)", "if more(): open('i.py', 'wb').write(c)"):
        text = f"open('i.py', 'wb').write(c)\nmore.write('x')\n{again}\nrunpy.run_path('i.py')"
        assert "file that is not known" in unpacked(text)[1][0].message


NOT_WRITTEN = {  # what is not evaluated leaves nothing behind
    "a lambda": "f = open('i.py', 'wb')\ng = lambda: f.write(b'x')\nf.write(c)",
    "behind a false": "f = open('i.py', 'wb')\n0 and f.write(b'x')\nf.write(c)",
    "behind a true": "f = open('i.py', 'wb')\n1 or f.write(b'x')\nf.write(c)",
    "the other of two": "f = open('i.py', 'wb')\nf.write(c if 1 else f.write(b'x'))",
    "to the terminal": "open('i.py', 'wb').write(c)\nsys.stdout.write('done')",
    "a mode and a lock": "open('i.py', 'wb').write(c)\nos.chmod('i.py', 0o755)\nprint('i.py')",
}


@pytest.mark.parametrize("way", NOT_WRITTEN)
def test_what_is_not_evaluated_writes_nothing(way: str) -> None:
    sources, findings = unpacked(f"{NOT_WRITTEN[way]}\nrunpy.run_path('i.py')\n")
    assert findings == []
    assert [source.text for source in sources[1:]] == [INNER]


def test_a_file_that_is_written_again_by_a_function_is_held() -> None:
    """The function is looked at last, and may be called before."""
    again = "def again():\n    open('i.py', 'w').write('evil()')\nmore(again)\n"
    _, findings = unpacked(f"{again}open('i.py', 'wb').write(c)\nrunpy.run_path('i.py')")
    assert "written more than once" in findings[0].message


def test_a_file_in_the_folder_of_the_script_has_one_name() -> None:
    text = "p = os.path.join(os.path.dirname(__file__), 'i.py')\nopen(p, 'wb').write(c)\nrunpy.run_path('i.py')"
    sources, findings = unpack(Source("records/x/train.py", IMPORTS + DATA + text), {}.get)
    assert (findings, [source.name for source in sources[1:]]) == ([], ["records/x/train.py!base85!lzma!i.py"])


def test_a_file_that_packed_code_starts_is_one_source() -> None:
    sources, findings = unpacked("open('i.py', 'wb').write(c)\nexec('import runpy\\nrunpy.run_path(\"i.py\")')")
    assert findings == []
    assert [source.text for source in sources[1:]].count(INNER) == 1


def test_no_more_modules_are_read_than_the_limit() -> None:
    sources, _ = unpacked("for i in range(99):\n    open(f'm{i}.py', 'w').write(f'x = {i}')\nexec('y = 1')")
    assert len(sources) == MAX_INNER + 1


def folder(tmp_path: Path, text: str, more: str = "") -> Path:
    (tmp_path / "train_gpt.py").write_text(IMPORTS + DATA + textwrap.dedent(text))
    (tmp_path / "submission.json").write_text("{}")
    (tmp_path / "run.sh").write_text(f"{more} python train_gpt.py\n")
    return tmp_path


FLAT = "import torch\nfor x in range(9):\n    loss = torch.load('a')(x)\n    seen.append(loss)\nexec('y = 1')\n"


@pytest.mark.parametrize(
    ("text", "shell"),
    [
        (FLAT, False),
        (FLAT.replace("import torch", "torch = __import__('torch')"), False),
        (FLAT.replace("import torch", "torch = __import__(name)"), False),
        (FLAT.replace("import torch", "from train import torch"), False),
        (FLAT.replace("for x in range(9):", "try:").replace("exec", "except ValueError: z = 2\nexec"), False),
        (FLAT.replace("import torch", "import os.path as torch"), True),
    ],
)
def test_a_flat_script_that_executes_something_beside_is_a_program(text: str, shell: bool, tmp_path: Path) -> None:
    (tmp_path / "train_gpt.py").write_text(text)
    names = [run.entry.name for run in unpack_target(read_target(tmp_path)).runs]
    assert ("train_gpt.py" in names) is not shell


MODULES = """
d = tempfile.mkdtemp()
for n, t in [("start.py", "import memory\\nfrom tools import sizes\\nmemory.first(sizes.LIMIT)\\n"),
             ("memory.py", "def first(x):\\n    return x\\n"), ("train_gpt.py", "def never():\\n    pass\\n"),
             ("tools/__init__.py", ""), ("tools/sizes.py", "LIMIT = 7\\n")]:
    open(os.path.join(d, n), "w").write(t)
sys.path.insert(0, d)
runpy.run_path(d + "/start.py")
"""


def test_modules_that_are_written_are_imported(tmp_path: Path) -> None:
    found = unpack_target(read_target(folder(tmp_path, MODULES)))
    assert found.findings == ()
    (run,) = found.runs
    assert run.entry.name == "train_gpt.py!start.py"
    program = load_program(found.sources, run.entry, {}, [])
    assert {one.short_name for one in program.reached} == {"first"}
    reached = {module.source.file for module in program.reached_modules}
    assert reached - {"tools/__init__.py"} == {"start.py", "memory.py", "tools/sizes.py"}
    call = next(one.node for one in program.live_of(ast.Call) if isinstance(one.node.func, ast.Attribute))
    assert program.constant(call.args[0], program.entry.scope) == 7


SET = {  # what the code that is executed runs with
    "assigned": ("os.environ['A'] = '2'", {"A": "2"}, set()),
    "assigned over the command": ("os.environ['GIVEN'] = '2'", {"GIVEN": "2"}, set()),
    "a default": ("os.environ.setdefault('A', '2')", {"A": "2"}, set()),
    "a default that is not taken": ("os.environ.setdefault('GIVEN', '2')", {"GIVEN": "1"}, set()),
    "several": ("os.environ.update(A='2', B='3')", {"A": "2", "B": "3"}, set()),
    "a dictionary": ("os.environ.update({'A': '2'})", {"A": "2"}, set()),
    "under another name": ("from os import environ as e\ne['A'] = '2'", {"A": "2"}, set()),
    "one of many": ("for k, v in [('A', '2'), ('B', '3')]: os.environ.setdefault(k, v)", {"A": "2", "B": "3"}, set()),
    "to something unknown": ("os.environ['A'] = more()", {}, {"A"}),
    "under a condition": ("if more(): os.environ['A'] = '2'", {}, {"A"}),
    "under the opposite, too": ("os.environ['A'] = '2'\nif more(): os.environ['A'] = '3'", {}, {"A"}),
    "taken away": ("os.environ.pop('GIVEN', None)", {}, {"GIVEN"}),
    "put": ("os.putenv('A', '2')", {"A": "2"}, set()),
}


@pytest.mark.parametrize("way", SET)
def test_variables_that_are_set_before_are_known_to_what_is_executed(way: str, tmp_path: Path) -> None:
    text, expected, unknown = SET[way]
    found = unpack_target(read_target(folder(tmp_path, f"{text}\nexec(c)", "GIVEN=1")))
    run = found.runs[-1]
    assert run.entry.name == "train_gpt.py!base85!lzma"
    given = {name: value for name, value in run.environment.items() if name != "WORLD_SIZE"}
    assert given == ({"GIVEN": "1"} if "GIVEN" not in unknown else {}) | expected
    assert run.unknown == unknown
    assert run.expanded == expected.keys() - {"GIVEN"} | unknown | (
        {"GIVEN"} if expected.get("GIVEN") == "2" else set()
    )


def test_a_variable_that_is_set_is_read_again() -> None:
    sources, findings = unpacked("os.environ['CODE'] = c.decode()\nexec(os.environ['CODE'])")
    assert (findings, [source.text for source in sources[1:]]) == ([], [INNER])


def test_many_files_end_at_the_limit_on_steps() -> None:
    text = "for i in range(20000):\n    open('f' + str(i), 'w').write('x')\n    if more(): x = 1\nrunpy.run_path('f7')"
    _, findings = unpacked(text)
    assert [finding.check for finding in findings] == ["hidden-code"]


def test_the_states_that_effects_go_back_to_are_not_changed_later() -> None:
    effects = Effects()
    effects.opened("a", binary=False, keep=False)
    before = effects.state()
    effects.write("a", "x")
    assert effects.file("a") == "x"
    effects.back_to(before)
    assert effects.file("a") == Unsure("nothing is seen to be written to it")
    effects.write("b", "y")
    assert "b" not in before[0]
