"""What a program's constants are and what can be reached is found without running it."""

import ast
from textwrap import dedent

import pytest

from harness.compliance.findings import Source
from harness.compliance.parsing import Unreadable
from harness.compliance.program import UNKNOWN, Instance, load_program, parse


def program(text, environment=None, arguments=(), **modules):
    entry = Source("train_gpt.py", dedent(text))
    others = [Source(f"{name}.py", dedent(one)) for name, one in modules.items()]
    return load_program([entry, *others], entry, environment or {}, arguments)


def value(text, name="x", **others):
    """The folded value of a module-level name."""
    one = program(text, **others)
    return one.constant(ast.Name(id=name, ctx=ast.Load()), one.entry.scope)


def reached(one):
    return {function.name.partition(".")[2] for function in one.reached if "<lambda" not in function.name}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import os\nx = int(os.environ.get('N', 16 * 1024 ** 2))", 16 * 1024**2),
        ("from os import environ as e\nx = float(e.get('N', '6e2'))", 600.0),
        ("import os\nx = bool(int(os.getenv('N', default='0')))", False),
        ("import os\nx = os.environ['N']", UNKNOWN),
        (
            "import os\ndef env(name, default, kind):\n    return kind(os.environ.get(name, default))\n"
            "x = env('N', '7', int)",
            7,
        ),
        ("import os\nget = lambda n, d: type(d)(1) if 0 else d\nx = get('N', 5)", 5),
        ("class C:\n    a = 3\n    b = a * 2\nc = C()\nx = c.b", 6),
        ("from dataclasses import dataclass, field\n@dataclass\nclass C:\n    a: int = field(default=4)\nx = C().a", 4),
        ("from dataclasses import dataclass\n@dataclass\nclass C:\n    a: int = 4\nx = C(a=5).a", 5),
        ("class C:\n    def __init__(self, a=2):\n        self.a = a\nx = C().a", 2),
        ("class C:\n    a = 1\nc = C()\nc.a = 2\nx = c.a", UNKNOWN),
        ("x = 600 * 1000 if 600 > 0 else None", 600_000),
        ("import os\nx = 8 // int(os.environ.get('WORLD_SIZE', '1'))", 1),
        ("import os\nx = 'RANK' in os.environ", True),
        ("import os\nx = int(os.environ.get('RANK', '0')) == 0", UNKNOWN),
        ("import os.path as p\nx = f\"{p.join('a', 'b')}_{3:02d}\"", "a/b_03"),
        ("from pathlib import Path\nx = Path('a') / 'b'", "a/b"),
        ("from pathlib import Path\nx = str(Path(__file__).resolve().parent / 'a')", "a"),
        ("class P:\n    def resolve(self):\n        return 3\nx = P().resolve()", 3),
        ("x = input().resolve()", UNKNOWN),
        ("x = 'A'.lower() in ('a', 'b')", True),
        ("x = {'a': 1, 'b': 2}['b']", 2),
        ("x = [1, 2]\nx.append(3)", UNKNOWN),
        ("x = 1\nfor i in range(3):\n    x += 1", UNKNOWN),
        ("class C:\n    def __init__(self):\n        self.a = []\n        self.a.append(1)\nx = len(C().a)", UNKNOWN),
        ("class C:\n    def __init__(self):\n        self.a = {}\n        self.a[1] = 2\nx = len(C().a)", UNKNOWN),
        ("class C:\n    def __init__(self):\n        self.a = [1, 2]\nx = len(C().a)", 2),
        ("from collections import OrderedDict\nkept = OrderedDict()\nx = kept.get('a') is not None", UNKNOWN),
        ("import time\nx = time.time()", UNKNOWN),
        ("x = 10 ** 10 ** 10", UNKNOWN),
        ("x = 'a' * 10 ** 9", UNKNOWN),
        ("x = 1 / 0", UNKNOWN),
        ("x = x + 1", UNKNOWN),
        ("a, (b, x) = 1, (2, 3)", 3),
        ("def f(n):\n    if n > 1:\n        return 'many'\n    return 'one'\nx = f(5)", "many"),
        ("def f(n):\n    global x\n    x = 2\nx = 1", UNKNOWN),
        ("D = dict(a=1)\nx = D['a']", 1),
    ],
)
def test_constants(text, expected):
    assert value(text) == expected or (expected is UNKNOWN and value(text) is UNKNOWN)


SETTING = """
import os
def setting(name, default):
    text = os.environ.get(name)
    if text is None:
        return default
    if not text.strip():
        raise ValueError(name)
    return text.strip().lower() in ("1", "true")
class Options:
    cache = setting("CACHE", False)
x = {0}
"""


@pytest.mark.parametrize("asked", ["setting('CACHE', False)", "Options.cache", "Options().cache"])
@pytest.mark.parametrize(("environment", "expected"), [({}, False), ({"CACHE": "1"}, True), ({"CACHE": "0"}, False)])
def test_a_function_that_returns_early_is_folded(asked, environment, expected):
    """What its first lines are asked for is made of what they say: a name in them, of the test behind it."""
    assert value(SETTING.format(asked), environment=environment) is expected


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        (
            "def f(a):\n    one()\n    if a:\n        return two()\n    else:\n        return three()\n    g()\nf(0)",
            "one three",
        ),
        ("def f(a):\n    one()\n    if a:\n        return two()\n    g()\nf(0)", "one g"),
        ("one()\nexit()\ng()", "one"),
        ("for a in range(3):\n    one()\n    continue\n    g()\ntwo()", "one two"),
    ],
)
def test_what_follows_the_last_statement_that_runs_is_dead(text, runs):
    called = {one.node.func.id for one in program(text).live_of(ast.Call)} - {"f", "exit", "range"}
    assert called == set(runs.split())


def test_none_has_no_attributes():
    found = program(
        "import sys\none = None\nif len(sys.argv) > 1:\n    import torch as one\nx = one.load\ny = None\nz = y.load"
    )
    assert found.external(found.entry.tree.body[3].value, found.entry.scope) == "torch.load"
    assert found.values(found.entry.tree.body[5].value, found.entry.scope) == (UNKNOWN,)


def test_the_documented_command_comes_before_defaults():
    assert value("import os\nx = int(os.environ.get('N', 1))", environment={"N": "2"}) == 2
    flags = """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--wall-clock", type=float, default=600)
        parser.add_argument("--fast", action="store_true")
        args = parser.parse_args()
        x = (args.wall_clock, args.fast)
    """
    assert value(flags) == (600, False)
    assert value(flags, arguments=["--wall-clock", "0", "--fast"]) == (0, True)
    assert value(flags, arguments=["--wall-clock=30"]) == (30, False)


def test_a_variable_that_the_command_sets_to_something_unknown():
    entry = Source("train_gpt.py", "import os\nx = os.environ.get('N', '1')\ny = 'N' in os.environ")
    one = load_program([entry], entry, {}, (), unknown=["N"])
    names = [one.constant(ast.Name(id=name, ctx=ast.Load()), one.entry.scope) for name in "xy"]
    assert names == [UNKNOWN, True]


def test_parameters_are_what_calls_pass():
    one = program("def f(a, b=2):\n    return a\nf(1)\nf(1, b=2)\ndef g(c):\n    pass\ng(1)\ng(2)\n")
    f, g = one.functions["train_gpt.f"], one.functions["train_gpt.g"]
    name = lambda text: ast.Name(id=text, ctx=ast.Load())  # noqa: E731
    assert (one.constant(name("a"), f.scope), one.constant(name("b"), f.scope)) == (1, 2)
    assert one.constant(name("c"), g.scope) is UNKNOWN and one.constants(name("c"), g.scope) == (1, 2)


def test_values_of_objects_go_through_calls_and_wrappers():
    one = program(
        """
        import torch
        from model import GPT as Net
        from torch.nn.parallel import DistributedDataParallel as DDP
        def run(m):
            m(1)
            m.loss(2)
        base = Net().to("cuda").bfloat16()
        compiled = torch.compile(base, dynamic=False)
        run(DDP(compiled))
    """,
        model="""
            import torch
            class GPT(torch.nn.Module):
                def forward(self, x): return x
                def loss(self, y): return y
        """,
    )
    run = one.functions["train_gpt.run"]
    calls = [node for node, _, _ in one.live(run.scope) if isinstance(node, ast.Call)]
    assert [one.resolve(call, run.scope).name for call in calls] == ["model.GPT.forward", "model.GPT.loss"]
    assert isinstance(one.values(calls[0].func, run.scope)[0], Instance)


def names_called(one, call):
    return [function.short_name for function in one.callees(call, one.entry.scope)]


def test_a_call_through_an_attribute_finds_the_function_however_it_came_there():
    one = program(
        """
        import tools
        def first(): pass
        def second(): pass
        def third(): pass
        class Base:
            kept = first
            def run(self): pass
            def forward(self): pass
        class Holder(Base):
            def __init__(self): self.stored = second
        holder = Holder()
        holder.given = third
        holder.run()
        holder.stored()
        holder.given()
        Holder.kept()
        tools.helper()
        tools.other()
        Holder().cuda()
        holder.unknown()
    """,
        tools="def helper(): pass\nother = helper",
    )
    calls = [node for node, _, _ in one.live(one.entry.scope) if isinstance(node, ast.Call)]
    found = {ast.unparse(call.func): names_called(one, call) for call in calls}
    assert {name: functions for name, functions in found.items() if "." in name} == {
        "holder.run": ["run"],
        "holder.stored": ["second"],
        "holder.given": ["third"],
        "Holder.kept": ["first"],
        "tools.helper": ["helper"],
        "tools.other": ["helper"],
        "Holder().cuda": [],  # gives the model back, and does not run it
        "holder.unknown": [],
    }
    bag = program("from types import SimpleNamespace as Bag\ndef f(): pass\nbag = Bag(step=f)\nbag.step()")
    calls = [node for node, _, _ in bag.live(bag.entry.scope) if isinstance(node, ast.Call)]
    assert [names_called(bag, call) for call in calls] == [[], ["f"]]


def test_what_is_mentioned_under_another_name_or_in_a_keyword_is_reached():
    text = "from tools import helper as h\ndef step(): pass\nprint(key=h, sep=step)"
    assert reached(program(text, tools="def helper(): pass")) == {"step", "helper"}


def test_class_methods_are_given_their_class():
    text = """
    import os, sys
    from dataclasses import dataclass, field
    @dataclass
    class Clock:
        seconds: float = float(os.environ.get("SECONDS", 600.0))
    @dataclass
    class Config:
        clock: Clock = field(default_factory=Clock)
        @classmethod
        def read(cls, steps, more=2):
            config = cls()
            config.steps = steps * more
            return config
    config = Config.read(7)
    a, b = config.clock.seconds, config.steps
    c = sys.modules[__name__].Config.read(7).clock.seconds
    d = sys.modules["json"].Config.read(7).clock.seconds
    """
    assert [value(text, name) for name in "abcd"] == [600.0, 14, 600.0, UNKNOWN]
    one = program(text)
    read = one.functions["train_gpt.Config.read"]
    seconds = ast.parse("config.clock.seconds", mode="eval").body  # as code inside the method sees it
    assert one.constant(seconds, read.scope) == 600.0


def test_external_names_survive_renaming():
    one = program("from torch import optim as o\nmake = o.Adam\nx = make")
    assert one.external(ast.Name(id="x", ctx=ast.Load()), one.entry.scope) == "torch.optim.Adam"


def test_what_is_reached():
    one = program(
        """
        import os
        from helpers import used
        def alive(): used()
        def dead(): inner()
        def inner(): pass
        def switched_off(): pass
        def after_exit(): pass
        def by_table(): pass
        def late(): pass
        TABLE = {"a": by_table}
        class Unused:
            def method(self): pass
        class Used:
            def __init__(self): self.method()
            def method(self): pass
            def never(self): pass
        if __name__ == "__main__":
            alive(); Used(); TABLE["a"]()
            if int(os.environ.get("NGRAM", "0")) and Unused().method():
                switched_off()
            callback = lambda: late()
            raise SystemExit
            after_exit()
    """,
        helpers="def used(): pass\ndef unused(): pass",
    )
    assert reached(one) == {"alive", "used", "by_table", "late", "Used.__init__", "Used.method"}


def test_functions_that_are_looked_up_by_name_may_run():
    assert reached(program("def f(): pass\ndef g(): pass\nglobals()['f']()")) == {"f", "g"}
    one = program("import tools\ngetattr(tools, 'f')()", tools="def f(): pass\ndef g(): pass")
    assert reached(one) == {"f"}
    assert reached(program("def f(): pass\ndef dead(): globals()['f']()")) == set()


def test_reachability_of_statements():
    one = program("""
        import os, sys
        def f(rank):
            while True:
                if rank == 0:
                    a = 1
                    break
                else:
                    continue
                b = 1
            for _ in range(0):
                c = 1
            if os.environ.get("X", "") == "on":
                d = 1
            e = 1
            sys.exit(0)
            g = 1
        f(int(os.environ["RANK"]))
    """)
    scope = one.functions["train_gpt.f"].scope
    states = {node.targets[0].id: sure for node, _, sure in one.live(scope) if isinstance(node, ast.Assign)}
    assert states == {"a": UNKNOWN, "e": True}


def test_code_that_another_file_runs():
    one = program(
        "exec(open(__file__.replace('train_gpt', 'inner')).read())",
        inner="def f(): pass\nif __name__ == '__main__':\n    f()",
    )
    assert reached(one) == {"f"}
    assert reached(
        program("import runpy\nrunpy.run_path('inner.py', run_name='__main__')", inner="def f(): pass\nf()")
    ) == {"f"}


def test_comprehension_variables_are_their_own():
    assert value("h = 3\ny = [h for h in range(9)]\nx = h") == 3


@pytest.mark.parametrize(
    "text",
    ["(" * 300, "x = " + "(" * 150 + ")" * 150, "x = " + "-" * 5000 + "1", "x = 1" + "+1" * 5000, "\0", "def f(:"],
)
def test_hostile_text_is_refused_in_one_line(text):
    try:
        parse(Source("a.py", text))
    except Unreadable as error:
        assert str(error).startswith("a.py") and "\n" not in str(error)


def test_unreadable_siblings_do_not_hide_the_entry():
    one = program("x = 1", broken="def f(:")
    assert [source.path for source, _ in one.unreadable] == ["broken.py"]
    with pytest.raises(Unreadable):
        program("def f(:")
