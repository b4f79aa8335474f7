"""What a program switches on itself is not folded to what it was before."""

from __future__ import annotations

import base64
import textwrap
import zlib

import pytest

from harness.compliance.check import check_target, find_targets
from harness.compliance.code import check_code
from harness.compliance.findings import Source, Status
from harness.compliance.inputs import Run
from harness.compliance.program import MAX_OTHER_NAMES, UNKNOWN, Program, load_program
from harness.compliance.unpack import unpack
from harness.compliance.writes import Writes

HEAD = """import argparse, builtins, collections, dataclasses, functools, operator, os, sys, types, typing
import urllib.request
import torch
for step in range(9):
    torch.zeros(1).backward()
"""
PARSED = 'parser = argparse.ArgumentParser()\nparser.add_argument("--on", action="store_true")\n'
SETTINGS = "class H:\n    on = False\n"
FIELDS = "@dataclasses.dataclass\nclass H:\n    width: int = 4\n    on: bool = False\n"
CONFIG = {"config": "ON = False\ndef enable():\n    global ON\n    ON = True\n"}
READ = 'ON = int(os.environ.get("FETCH", "0"))\n'

# name -> what is run first, the condition of a download, other modules
SWITCHED_ON = {
    "a variable of the environment": ('os.environ["FETCH"] = "1"\n' + READ, "ON"),
    "a default for it": ('os.environ.setdefault("FETCH", "1")\n' + READ, "ON"),
    "several at once": ('os.environ.update({"FETCH": "1", "OTHER": "0"})\n' + READ, "ON"),
    "by keywords": ('os.environ.update(FETCH="1")\n' + READ, "ON"),
    "by an operator": ('os.environ |= {"FETCH": "1"}\n' + READ, "ON"),
    "under another name": ('table = os.environ\ntable["FETCH"] = "1"\n' + READ, "ON"),
    "imported": ('from os import environ as table\ntable["FETCH"] = "1"\n' + READ, "ON"),
    "in a loop": ('for k, v in {"A": "2", "FETCH": "1"}.items():\n    os.environ[k] = v\n' + READ, "ON"),
    "by a helper": ('def put(k, v):\n    os.environ[k] = v\nput("FETCH", "1")\n' + READ, "ON"),
    "behind another": ('os.environ["A"] = "1"\nif os.getenv("A"):\n    os.environ["FETCH"] = "1"\n' + READ, "ON"),
    "after it was taken away": ('os.environ.pop("FETCH", None)\nos.environ["FETCH"] = "1"\n' + READ, "ON"),
    "and perhaps taken away": (
        'import config\nos.environ["FETCH"] = "1"\n' + READ,
        "ON",
        {"config": "import os\n" + "\n" * 20 + 'os.environ.pop("FETCH", None)\n'},
    ),
    "in a function that is called later": (
        'def on():\n    return os.getenv("FETCH")\nos.environ["FETCH"] = "1"\n',
        "on()",
    ),
    "and perhaps off again": (
        'os.environ["FETCH"] = "1"\nif input():\n    os.environ["FETCH"] = "0"\n' + READ,
        "ON",
    ),
    "whatever is asked for": ('os.environ[input()] = "1"\n' + READ, "ON"),
    "behind many others": (
        SETTINGS + "class G: pass\n" + 'setattr(G, "a" + "b", 1)\n' * 60 + 'setattr(H, "o" + "n", True)\n',
        "H.on",
    ),
    "a computed name of a module": ('import config\nsetattr(config, "O" + "N", True)\n', "config.ON", CONFIG),
    "that it is set": ('os.environ["FETCH"] = ""\n', '"FETCH" in os.environ'),
    "where it is read": ("def late():\n    os.environ['FETCH'] = '1'\nlate()\n", 'os.getenv("FETCH")'),
    "by another module": ("import config\n" + READ, "ON", {"config": 'import os\nos.environ["FETCH"] = "1"\n'}),
    "the whole environment": ('os.environ = {"FETCH": "1"}\n' + READ, "ON"),
    "an argument that is appended": (PARSED + 'sys.argv.append("--on")\nargs = parser.parse_args()\n', "args.on"),
    "arguments that are added": (PARSED + 'sys.argv += ["--on"]\nargs = parser.parse_args()\n', "args.on"),
    "other arguments": (PARSED + 'sys.argv = [sys.argv[0], "--on"]\nargs = parser.parse_args()\n', "args.on"),
    "a list of arguments": (PARSED + 'args = parser.parse_args(["--on"])\n', "args.on"),
    "a parser's default": (PARSED + "parser.set_defaults(on=True)\nargs = parser.parse_args()\n", "args.on"),
    "defaults in a mapping": (PARSED + 'parser.set_defaults(**{"on": True})\nargs = parser.parse_args()\n', "args.on"),
    "setattr on arguments": (PARSED + 'args = parser.parse_args()\nsetattr(args, "on", True)\n', "args.on"),
    "vars of arguments": (PARSED + 'args = parser.parse_args()\nvars(args)["on"] = True\n', "args.on"),
    "setattr on a class": (SETTINGS + 'setattr(H, "on", True)\n', "H.on"),
    "computed names": (SETTINGS + 'for k, v in {"on": True}.items():\n    setattr(H, k, v)\n', "H.on"),
    "a name in two parts": (SETTINGS + 'setattr(H, "o" + "n", True)\n', "H.on"),
    "setattr on an object": (SETTINGS + 'h = H()\nsetattr(h, "on", True)\n', "h.on"),
    "__dict__": (SETTINGS + 'h = H()\nh.__dict__["on"] = True\n', "h.on"),
    "__dict__ and update": (SETTINGS + "h = H()\nh.__dict__.update(on=True)\n", "h.on"),
    "__dict__ under a name": (SETTINGS + 'h = H()\nheld = vars(h)\nheld["on"] = True\n', "h.on"),
    "object.__setattr__": (SETTINGS + 'h = H()\nobject.__setattr__(h, "on", True)\n', "h.on"),
    "its own __setattr__": (SETTINGS + 'h = H()\nh.__setattr__("on", True)\n', "h.on"),
    "keywords that become attributes": (
        "class H:\n    on = False\n    def __init__(self, **given):\n        for k, v in given.items():\n"
        "            setattr(self, k, v)\nh = H(on=True)\n",
        "h.on",
    ),
    "a field by its place": (FIELDS + "h = H(8, True)\n", "h.on"),
    "a field of a mapping": (FIELDS + 'h = H(**{"on": True})\n', "h.on"),
    "fields that are not known": (FIELDS + "h = H(*input().split())\n", "h.on"),
    "settings like a mapping": (
        SETTINGS + "    def __setitem__(self, k, v):\n        setattr(self, k, v)\nh = H()\nh['on'] = True\n",
        "h.on",
    ),
    "what another has": (
        PARSED + "args = parser.parse_args()\nkept = {k: getattr(sys, k[1:]) for k in dir(args)}\n"
        "for k, v in kept.items():\n    setattr(args, k, v)\n",
        "args.on",
    ),
    "a namespace": ("h = types.SimpleNamespace(on=False)\nh.on = True\n", "h.on"),
    "globals()": ('ON = False\nglobals()["ON"] = True\n', "ON"),
    "globals() and update": ("ON = False\nglobals().update(ON=True)\n", "ON"),
    "the module itself": ("ON = False\nsys.modules[__name__].ON = True\n", "ON"),
    "setattr on it": ('ON = False\nsetattr(sys.modules[__name__], "ON", True)\n', "ON"),
    "executed text": ('ON = False\nexec("ON = True")\n', "ON"),
    "another module's name": ("import config\nconfig.ON = True\n", "config.ON", CONFIG),
    "setattr on another module": ('import config\nsetattr(config, "ON", True)\n', "config.ON", CONFIG),
    "a name of its own": ("import config\nconfig.enable()\n", "config.ON", CONFIG),
    "from elsewhere": ("import config, other\n", "config.ON", CONFIG | {"other": "import config\nconfig.ON = True\n"}),
    "a mapping under another name": ('C = {"on": False}\nD = C\nD["on"] = True\n', 'C["on"]'),
    "a mapping that is passed": ('C = {"on": False}\ndef put(d):\n    d["on"] = True\nput(C)\n', 'C["on"]'),
    "a mapping that is kept": ('C = {"on": False}\nclass K: pass\nK.held = C\nK.held["on"] = True\n', 'C["on"]'),
    "a list that is passed": ("C = [False]\ndef put(d):\n    d[0] = True\nput(d=C)\n", "C[0]"),
    "a default that is changed": (
        "def put(d, s=[False]):\n    if d:\n        s[0] = True\n    return s[0]\nput(1)\n",
        "put(0)",
    ),
    "an attribute of a function": ("def f(): pass\nf.on = False\nsetattr(f, 'on', True)\n", "f.on"),
    "a function of a package": ('os.getenv = lambda *given: "1"\n', 'int(os.getenv("FETCH", "0"))'),
    "a builtin": ("builtins.bool = lambda given: True\n", "bool(0)"),
    "an object that says what it is": ("class H:\n    def __bool__(self):\n        return False\nh = H()\n", "not h"),
    "an object that is empty": ("class H:\n    def __len__(self):\n        return 0\nh = H()\n", "not h"),
    "an object that answers for all": (
        SETTINGS + "    def __getattribute__(self, n):\n        return 1\nh = H()\n",
        "h.on",
    ),
}
STILL_OFF = {
    "nothing is set": (READ, "ON"),
    "it is set afterwards": (READ + 'os.environ["FETCH"] = "1"\n', "ON"),
    "another variable is set": ('os.environ["OTHER"] = "1"\n' + READ, "ON"),
    "it is set to what it was": ('os.environ.setdefault("FETCH", "0")\n' + READ, "ON"),
    "where that cannot run": ('if False:\n    os.environ["FETCH"] = "1"\n' + READ, "ON"),
    "by a script that is not run": (READ, "ON", {"smoke_test": 'import os\nos.environ["FETCH"] = "1"\n'}),
    "itself from itself": ('os.environ["FETCH"] = os.environ.get("FETCH", "0")\n' + READ, "ON"),
    "it is taken away": ('os.environ["FETCH"] = "1"\nos.environ.pop("FETCH")\n' + READ, "ON"),
    "another argument": (PARSED + 'sys.argv.append("--other")\nargs = parser.parse_args()\n', "args.on"),
    "what was given": (PARSED + "args = parser.parse_args(sys.argv[1:])\n", "args.on"),
    "another attribute": (SETTINGS + 'setattr(H, "other", True)\n', "H.on"),
    "another object": (SETTINGS + 'class G:\n    pass\nsetattr(G(), "on", True)\n', "H().on"),
    "modules that are exchanged": (
        SETTINGS
        + "net = torch.nn.Sequential()\nfor name, part in net.named_children():\n    setattr(net, name, part)\n",
        "H.on",
    ),
    "another of settings like a mapping": (
        SETTINGS + "    def __setitem__(self, k, v):\n        setattr(self, k, v)\nh = H()\nh['other'] = True\n",
        "h.on",
    ),
    "parts of what is not known": (
        SETTINGS + "def swap(parent, name, part):\n    setattr(parent, name, part)\nswap(*input().split())\n",
        "H.on",
    ),
    "another field": (FIELDS + "h = H(8)\n", "h.on"),
    "what it was is given back": (
        PARSED + "args = parser.parse_args()\nkept = {k: getattr(args, k) for k in dir(args)}\n"
        "for k, v in kept.items():\n    setattr(args, k, v)\n",
        "args.on",
    ),
    "another global": ('ON = False\nglobals()["OTHER"] = True\n', "ON"),
    "another module's name of that kind": ("import config\nON = False\nconfig.ON = True\n", "ON", CONFIG),
    "a copy is changed": ('C = {"on": False}\nD = dict(C)\nD["on"] = True\n', 'C["on"]'),
    "a mapping that is only read": ('C = {"on": False}\ndef look(d):\n    return d["on"]\nlook(C)\n', 'C["on"]'),
    "an object that says no": (SETTINGS + "h = H()\n", "not h"),
}


def fetches(first: str, condition: str, modules: dict[str, str] | None = None) -> bool:
    """Whether a program that downloads something under a condition is said to do that."""
    download = 'urllib.request.urlretrieve("http://a/b", "c")'
    text = f"{HEAD}{first}def main():\n    if {condition}:\n        {download}\nmain()\n"
    files = [Source("train.py", text), *(Source(f"{name}.py", other) for name, other in (modules or {}).items())]
    sources = [source for file in files for source in unpack(file)[0]]
    found = check_code(sources, Run(sources[0]))
    return any(one.check == "network-at-eval" and one.status is not Status.CLEAN for one in found)


@pytest.mark.parametrize("way", SWITCHED_ON)
def test_what_a_program_switches_on_itself_is_on(way: str) -> None:
    assert fetches(*SWITCHED_ON[way])


@pytest.mark.parametrize("way", STILL_OFF)
def test_what_it_does_not_switch_on_is_off(way: str) -> None:
    assert not fetches(*STILL_OFF[way])


HANDED_OVER = {
    "operator.attrgetter": 'operator.attrgetter("request.urlretrieve")(urllib)("http://a/b", "c")',
    "map": 'list(map(urllib.request.urlretrieve, ["http://a/b"], ["c"]))',
    "a keyword": 'functools.reduce(function=urllib.request.urlretrieve, iterable=["http://a/b", "c"])',
    "__import__": '__import__("urllib.request").request.urlretrieve("http://a/b", "c")',
    "vars of a package": 'vars(urllib.request)["urlretrieve"]("http://a/b", "c")',
    "its __dict__": 'urllib.request.__dict__["urlretrieve"]("http://a/b", "c")',
    "sys.modules": 'sys.modules["urllib.request"].urlretrieve("http://a/b", "c")',
}


@pytest.mark.parametrize("way", HANDED_OVER)
def test_a_function_of_a_package_is_found_however_it_is_named(way: str) -> None:
    assert fetches(HANDED_OVER[way] + "\n", "False")
    other = HANDED_OVER[way].replace("urllib.request", "os.path").replace("request.", "path.").replace("urllib", "os")
    assert not fetches(other.replace("urlretrieve", "join").replace("http://", "") + "\n", "False")


def value(text: str, environment: dict[str, str] | None = None, unknown=()) -> object:
    entry = Source("train.py", textwrap.dedent(text))
    program = load_program([entry], entry, environment or {}, (), unknown)
    return program.constant(program.entry.tree.body[-1].value, program.entry.scope)


def test_a_default_for_a_variable_leaves_what_is_documented() -> None:
    text = 'import os\nos.environ.setdefault("N", "7")\nint(os.environ.get("N", "1"))\n'
    assert value(text) == 7
    assert value(text, {"N": "3"}) == 3
    assert value(text, unknown=("N",)) is UNKNOWN
    assert value(text.replace("setdefault", "__setitem__"), {"N": "3"}) == 7


def test_a_module_that_was_imported_before_has_read_what_was_there() -> None:
    entry = Source("train.py", 'import os\nimport config\nos.environ["N"] = "0"\nconfig.N\n')
    late = Source("train.py", 'import os\nos.environ["N"] = "0"\nimport config\nconfig.N\n')
    for first, expected in ((entry, {1, 0}), (late, {0})):
        other = Source("config.py", 'import os\nN = int(os.environ["N"])\n')
        program = load_program([first, other], first, {"N": "1"}, ())
        found = program.constants(program.entry.tree.body[-1].value, program.entry.scope)
        assert set(found) == expected


def test_a_program_that_is_started_has_the_environment_that_it_is_given() -> None:
    launcher = 'import os, subprocess, sys\n{environment}\nsubprocess.run([sys.executable, "inner.py"], env=given)\n'
    inner = HEAD + READ + 'if ON:\n    urllib.request.urlretrieve("http://a/b", "c")\n'
    ways = [
        'given = dict(os.environ, FETCH="1")',
        'given = {**os.environ, "FETCH": "1"}',
        'given = os.environ.copy()\ngiven["FETCH"] = "1"',
        'given = dict(os.environ)\ngiven.update(FETCH="1")',
    ]
    for way in (*ways, "given = None"):
        entry = Source("train.py", launcher.format(environment=way))
        found = check_code([entry, Source("inner.py", inner)], Run(entry))
        assert any(one.check == "network-at-eval" for one in found) == (way in ways), way


@pytest.mark.parametrize(
    "lines",
    [
        'for k{i} in open("x"): setattr(H, k{i}, {i})\nif H.a{i}: pass\n',
        'os.environ["A{i}"] = "{i}"\nx{i} = int(os.environ.get("A{i}", "0"))\nif x{i}: pass\n',
        'os.environ[input("{i}")] = "{i}"\nx{i} = int(os.environ.get("A{i}", "0"))\nif x{i}: pass\n',
        'if os.environ.get("A{i}"): os.environ["A{i}0"] = "1"\n',
        'c{i} = c\nif c{i}["a"]: pass\nc = c{i}\n',
        'def f{i}(d): f{i}0(d)\nf{i}(c)\nif c["a"]: pass\n',
    ],
)
def test_the_work_does_not_grow_with_writes_times_reads(lines: str, monkeypatch) -> None:
    asked = 0

    def counted(function):
        def ask(*arguments):
            nonlocal asked
            asked += 1
            return function(*arguments)

        return ask

    for owner, name in ((Writes, "_folded"), (Program, "_other_names")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    text = f'{HEAD}{SETTINGS}c = {{"a": 1}}\n' + "".join(lines.format(i=i) for i in range(500))
    entry = Source("train.py", text)
    load_program([entry], entry, {}, ())
    assert asked < 500 * MAX_OTHER_NAMES  # and not 500 * 500


@pytest.mark.parametrize(
    "start",
    [
        "import base64, zlib\nexec(zlib.decompress(base64.b64decode({packed!r})))",
        "import runpy\nrunpy.run_path('inner.py', run_name='__main__')",
        "def main():\n    import inner\nmain()",
        "import importlib.util as u\ns = u.spec_from_file_location('inner', 'inner.py')\n"
        "s.loader.exec_module(u.module_from_spec(s))",
    ],
)
@pytest.mark.parametrize("on", ["1", "0"])
def test_what_starts_other_code_sets_its_variables(tmp_path, start: str, on: str) -> None:
    inner = HEAD + READ + 'if ON:\n    urllib.request.urlretrieve("http://a/b", "c")\n'
    packed = base64.b64encode(zlib.compress(inner.encode())).decode()
    (tmp_path / "inner.py").write_text(inner)
    (tmp_path / "submission.json").write_text("{}")
    start = start.format(packed=packed)
    (tmp_path / "train_gpt.py").write_text(f'import os\nos.environ.setdefault("FETCH", "{on}")\n{start}\n')
    (tmp_path / "README.md").write_text("```\npython train_gpt.py\n```\n")
    (target,) = find_targets([tmp_path])
    assert (check_target(target).status_of("network-at-eval") is not Status.CLEAN) == (on == "1")


@pytest.mark.parametrize(
    ("patch", "held"),
    [
        ("torch.nn.functional.cross_entropy = lambda *given, **named: 0.0", True),
        ("setattr(torch.nn.functional, 'cross_entropy', None)", True),
        ("for name in ['cross_' + 'entropy']:\n    setattr(torch.nn.functional, name, None)", True),
        ("torch.nn.functional.__dict__['cross_entropy'] = None", True),
        ("import math\nmath.log = lambda given: 1.0", True),
        ("import time as clock\nclock.perf_counter = lambda: 0.0", True),
        ("torch.Tensor.item = lambda self: 0.5", True),
        ("builtins.float = lambda given: 1.0", True),
        ("def half(x): return x\nhalf.__code__ = (lambda x: x / 2).__code__", True),
        ("def half(x=1): return x\nhalf.__defaults__ = (2,)", True),
        ("def never():\n    torch.Tensor.item = lambda self: 0.5", False),
        ("builtins.print = lambda *given: None", False),  # for all ranks but one
        ("torch.backends.cudnn.allow_tf32 = True", False),
        ("torch.nn.functional.rms_norm = lambda *given: given[0]", False),
        ("class Net:\n    def log(self): pass\nNet.log = None", False),
    ],
)
def test_functions_that_clocks_and_scores_rely_on_must_be_those(patch: str, held: bool) -> None:
    entry = Source("train.py", f"{HEAD}{patch}\n")
    found = [one for one in check_code([entry], Run(entry)) if one.check == "hidden-code"]
    assert [one.status for one in found] == [Status.HOLD] * held
