"""A table that each turn of a loop makes anew, or empties, knows nothing of the turn before; one that is kept does."""

from __future__ import annotations

import ast
import textwrap

import pytest
from test_flow import verdicts

from harness.compliance.findings import Status
from harness.compliance.renewal import _is_live

SWEEP = """
learned = []
table = None

class Counts:
    def __init__(self, *orders):
        self.rows = {}
        self.orders = orders or [np.zeros((1024, 1024)) for _ in range(2)]

    def reset(self):
        self.rows = {}

    def restart(self):
        self.former = self.rows
        self.rows = {}

def table_of(size):
    table = np.zeros((size, size))
    return table

def keeper(own):
    def found():
        return own
    return found

recall = keeper(np.zeros((1024, 1024)))
remember = keeper(Counts())

def evaluate(net, val):
    ids = val.tolist()
    BEFORE
    best = 9.0
    for weight in (0.3, 0.5):
        MADE
        total, count = 0.0, 0
        for start in range(2, len(ids) - 513, 512):
            x, y = val[start - 1 : start + 511], val[start : start + 512]
            own = F.log_softmax(net.logits(x[None])[0], -1).gather(-1, y[:, None])[:, 0].exp().tolist()
            for i in range(start, start + 512):
                row = ROW
                p = (row[ids[i]] + weight * own[i - start]) / (sum(row) + weight)
                total -= math.log(p)
                count += 1
            for i in range(start, start + 512):
                LEARN
        best = min(best, bits(total, count, count * 2.4))
        AFTER
    return best
"""
ARRAY = {"ROW": "table[ids[i - 1]]", "LEARN": "table[ids[i - 1], ids[i]] += 1"}
ROWS = {"ROW": "ROWS.get(ids[i - 1], [0] * 1024)", "LEARN": "ROWS.setdefault(ids[i - 1], [0] * 1024)[ids[i]] += 1"}
ORDERS = {"ROW": "tables[1][ids[i - 1]]", "LEARN": "tables[1][ids[i - 1], ids[i]] += 1"}


def rows(name: str) -> dict[str, str]:
    return {part: text.replace("ROWS", name) for part, text in ROWS.items()}


def sweep(before: str = "", made: str = "", after: str = "", **parts: str) -> str:
    parts |= {"BEFORE": before or "pass", "MADE": made or "pass", "AFTER": after or "pass"}
    lines = []
    for line in SWEEP.splitlines():
        for part, text in parts.items():
            if part in line.split() or line.endswith(f" = {part}"):
                line = line.replace(part, textwrap.indent(text, line[: len(line) - len(line.lstrip())]).lstrip())
        lines.append(line)
    return "\n".join(lines)


RENEWED = {
    "array": sweep(made="table = np.zeros((1024, 1024))", **ARRAY),
    "annotated": sweep(made="table: np.ndarray = np.zeros((1024, 1024))", **ARRAY),
    "converted": sweep(made="table = np.zeros((1024, 1024)).astype(np.int32)", **ARRAY),
    "filled": sweep("table = np.zeros((1024, 1024))", "table.fill(0)", **ARRAY),
    "zeroed": sweep("table = torch.zeros((1024, 1024))", "table.zero_()", **ARRAY),
    "slice": sweep("table = np.zeros((1024, 1024))", "table[:] = 0", **ARRAY),
    "ellipsis": sweep("table = np.zeros((1024, 1024))", "table[...] = 0", **ARRAY),
    "dictionary": sweep(made="table = {}", **rows("table")),
    "cleared": sweep("table = {}", "table.clear()", **rows("table")),
    "default": sweep(
        made="table = defaultdict(lambda: [0] * 1024)", **ARRAY | {"LEARN": "table[ids[i - 1]][ids[i]] += 1"}
    ),
    "again at the end": sweep("table = {}", after="table = {}", **rows("table")),
    "array again at the end": sweep("table = np.zeros((1024, 1024))", after="table = np.zeros((1024, 1024))", **ARRAY),
    "one by one": sweep("tables = {}", "for n in (1, 2):\n    tables[n] = np.zeros((1024, 1024))", **ORDERS),
    "list": sweep(made="tables = [np.zeros((1024, 1024)), np.zeros((1024, 1024))]", **ORDERS),
    "comprehension": sweep(made="tables = [np.zeros((1024, 1024)) for _ in range(2)]", **ORDERS),
    "by number": sweep(made="tables = {n: np.zeros((1024, 1024)) for n in range(2)}", **ORDERS),
    "instance": sweep(made="cache = Counts()", **rows("cache.rows")),
    "list of an instance": sweep(
        made="cache = Counts()", ROW="cache.orders[1][ids[i - 1]]", LEARN="cache.orders[1][ids[i - 1], ids[i]] += 1"
    ),
    "method": sweep("cache = Counts()", "cache.reset()", **rows("cache.rows")),
}
KEPT = {
    "array": sweep("table = np.zeros((1024, 1024))", **ARRAY),
    "dictionary": sweep("table = {}", **rows("table")),
    "made once": sweep("table = None", "if table is None:\n    table = np.zeros((1024, 1024))", **ARRAY),
    "a part is emptied": sweep("table = np.zeros((1024, 1024))", "table[0] = 0", **ARRAY),
    "the other half is emptied": sweep("table = np.zeros((1024, 1024))", "table[512:] = 0", **ARRAY),
    "of another one": sweep("table = given = np.zeros((1024, 1024))", "table[:] = given", **ARRAY),
    "filled with ones": sweep("table = np.zeros((1024, 1024))", "table.fill(1)", **ARRAY),
    "under another name": sweep(
        "older = np.zeros((1024, 1024))",
        "table = np.zeros((1024, 1024))",
        "older = table",
        **ARRAY | {"ROW": "older[ids[i - 1]]"},
    ),
    "in a list": sweep(
        "tables = []",
        "table = np.zeros((1024, 1024))\ntables.append(table)",
        **ARRAY | {"ROW": "tables[0][ids[i - 1]]"},
    ),
    "in the same instance": sweep(
        "cache = Counts()\ncache.former = {}",
        "cache.restart()",
        **rows("cache.rows") | {"ROW": "cache.former[ids[i - 1]]"},
    ),
    "of a function that keeps it": sweep(made="table = recall()", **ARRAY),
    "of a function that keeps an instance": sweep(made="cache = remember()", **rows("cache.rows")),
    "given back": sweep(
        "older = table_of(1024)", "table = table_of(1024)", "older = table", **ARRAY | {"ROW": "older[ids[i - 1]]"}
    ),
    "another instance": sweep(
        "older = Counts()",
        "cache = Counts()",
        "older = cache",
        **rows("cache.rows") | {"ROW": "older.rows[ids[i - 1]]"},
    ),
    "of a model": sweep("net.table = np.zeros((1024, 1024))", "tables = [net.table, net.table]", **ORDERS),
    "of a model, in an instance": sweep(
        "net.table = np.zeros((1024, 1024))",
        "cache = Counts(net.table)",
        ROW="cache.orders[0][ids[i - 1]]",
        LEARN="cache.orders[0][ids[i - 1], ids[i]] += 1",
    ),
    "of the module": sweep(
        "global table",
        "table = np.zeros((1024, 1024))\nlearned.append(table)",
        ROW="learned[0][ids[i - 1]]",
        LEARN="table[ids[i - 1], ids[i]] += 1",
    ),
    "rows made when missed": sweep(
        "table = {}",
        ROW="table.get(ids[i - 1], [0] * 1024)",
        LEARN="row = table.get(ids[i - 1])\nif row is None:\n    row = table[ids[i - 1]] = [0] * 9\nrow[ids[i]] += 1",
    ),
}


@pytest.mark.parametrize("body", RENEWED.values(), ids=RENEWED)
def test_what_a_turn_makes_or_empties_knows_nothing_of_the_turn_before(body):
    assert verdicts(body) == {}


@pytest.mark.parametrize("body", KEPT.values(), ids=KEPT)
def test_what_a_turn_keeps_knows_the_tokens_of_the_turn_before(body):
    assert verdicts(body) == {"two-pass-rescoring": Status.FLAG}


@pytest.mark.parametrize(
    ("text", "live"),
    [
        ("made = 1\nuse(made)", False),
        ("made = 1\nuse(name)", True),
        ("made = 1\nname = 2\nuse(name)", False),
        ("use(name)\nmade = 1\nname = 2", False),
        ("while given:\n    use(name)\n    made = 1", True),
        ("while given:\n    use(name)\n    made = 1\nname = 2", True),
        ("while given:\n    use(name)\n    made = 1\n    name = 2", False),
        ("while given:\n    use(name)\n    made = 1\n    if made:\n        name = 2", True),
        ("while given:\n    name = 2\n    use(name)\n    made = 1", False),
        ("while given:\n    name = 2\n    made = 1\nuse(name)", True),
        ("while given:\n    if given:\n        name = 2\n        made = 1\n    use(name)", True),
        ("while given:\n    if given:\n        name = 2\n        use(name)\n        made = 1", False),
        ("for part in given:\n    for name in part:\n        use(name)\n    made = 1", False),
        ("for part in given:\n    use(name)\n    for other in part:\n        name = 2\n        made = 1", True),
        ("for part in use(name):\n    made = 1", False),
        ("while use(name):\n    made = 1", True),
        ("made = 1\nname = name + 1", True),
        ("made = 1\nname += 1", True),
        ("made = 1\nif made:\n    name = 2\nuse(name)", True),
        ("made = 1\nif made:\n    name = 2\n    use(name)", False),
        ("if given:\n    made = 1\n    name = 2\n    use(name)", False),
        ("if given:\n    made = 1\n    name = 2\nelse:\n    name = 3\nuse(name)", False),
        ("made = 1\nfor name in given:\n    use(name)", False),
        ("made = 1\nfor part in name:\n    use(part)", True),
        ("made = 1\nwith name as name:\n    use(name)", True),
        ("made = 1\nwith open() as name:\n    use(name)", False),
        ("made = 1\ntry:\n    name = 2\nexcept OSError:\n    pass\nuse(name)", True),
        ("def inner():\n    return name\nmade = 1\nname = 2\nuse(inner)", True),
        ("made = 1\nname = 2", False),
    ],
)
def test_a_name_is_live_until_it_is_bound_again(text, live):
    function = ast.parse(text)
    made = next(one for one in ast.walk(function) if isinstance(one, ast.Assign) and one.targets[0].id == "made")
    assert _is_live("name", made, function) is live
