"""A weight or a choice that looks at the token that came is seen however it is written; what only knows the context, or
evaluates a distribution, passes."""

from __future__ import annotations

import pytest
from test_flow import SCALAR, TAIL, findings_of, verdicts

from harness.compliance.findings import Source, Status
from harness.compliance.flow_gates import mixing_weights
from harness.compliance.program import load_program

FLAG = {"target-gate": Status.FLAG}
BOTH = {"target-keyed-cache": Status.FLAG, "target-gate": Status.FLAG}

# Two tables of hashes, and a mix by numpy. KNOWN is where the tables are said to know something.
MATCHED = """
SIZE = 1 << 20

class Memory:
    def __init__(self, orders):
        self.orders = orders
        self.some = [np.zeros(SIZE) for _ in range(orders)]
        self.full = [np.zeros(SIZE) for _ in range(orders)]

    def keys(self, ids, at, order):
        key = np.zeros(len(at), np.int64)
        for k in range(order + 1):
            key ^= ids[at - 1 - k] * (36313 + 2 * k)
        return key % SIZE, (key ^ ids[at] * 51647) % SIZE

    def ask(self, ids, at):
        p, found = np.zeros(len(at)), np.zeros(len(at), bool)
        length = np.zeros(len(at), np.int64)
        for order in range(self.orders - 1, -1, -1):
            a, b = self.keys(ids, at, order)
            seen, hits = self.some[order][a], self.full[order][b]
            known = KNOWN
            if known.any():
                where = np.nonzero(known)[0]
                p[where] = np.minimum(hits[where], seen[where]) / seen[where]
                length[where] = order
                found[where] = True
        return p, found, length

    def learn(self, ids, at):
        for order in range(self.orders):
            a, b = self.keys(ids, at, order)
            np.add.at(self.some[order], a, 1)
            np.add.at(self.full[order], b, 1)

def evaluate(net, val):
    ids, memory = val.numpy(), Memory(4)
    total, count = 0.0, 0
    for start in range(8, val.numel() - 513, 512):
        x, y = val[start : start + 512], val[start + 1 : start + 513]
        logits = net.logits(x[None])[0]
        loss = F.cross_entropy(logits, y, reduction="none").detach().numpy()
        own = np.exp(-loss)
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).detach().numpy()
        rate = 0.1 + 0.4 / (1 + np.exp(3 - entropy))
        at = np.arange(start + 1, start + 513)
        guess, found, length = memory.ask(ids, at)
MIX
        total += float(loss.sum())
        count += 512
        memory.learn(ids, at)
    return bits(total, count, val.numel() * 2.4)
"""
SEES_TARGET = "(seen >= 2) & (hits > 0) & ~found"
SEES_CONTEXT = "(seen >= 2) & ~found"
MIXES = {
    "where": """
        mixed = np.where(found, (1 - rate) * own + rate * guess, own)
        loss = -np.log(np.clip(mixed, 1e-12, 1.0))
""",
    "index": """
        own[found] = (1.0 - rate[found]) * own[found] + rate[found] * guess[found]
        loss = -np.log(np.maximum(own, 1e-12))
""",
    "rate": """
        share = np.where(found, rate, 0.0)
        rest = 1 - share
        loss = -np.log(np.maximum(own * rest + share * guess, 1e-12))
""",
    "order": """
        table = np.array([0.0, 0.2, 0.3, 0.4])
        share = table[length]
        loss = -np.log(np.maximum((1 - share) * own + share * guess, 1e-12))
""",
    "logaddexp": """
        share = np.where(found, rate, 1e-9)
        loss = -np.logaddexp(np.log(share) + np.log(guess + 1e-12), np.log1p(-share) - loss)
""",
    "logaddexp, written out": """
        share = np.where(found, rate, 1e-9)
        loss = -np.logaddexp(np.log(share) + np.log(guess + 1e-12), np.log(1 - share) - loss)
""",
    "scaled where it lies": """
        mixed = (1 - rate) * own + rate * guess
        mixed[found] *= 1.1
        loss = -np.log(np.maximum(mixed, 1e-12))
""",
    "one by one": """
        for i in range(512):
            if found[i]:
                loss[i] = -math.log((1 - rate[i]) * own[i] + rate[i] * guess[i])
""",
}


def matched(known: str, mix: str) -> str:
    return MATCHED.replace("KNOWN", known).replace("MIX\n", MIXES[mix])


@pytest.mark.parametrize("mix", MIXES)
def test_mixing_only_where_the_target_was_counted_is_flagged(mix):
    assert verdicts(matched(SEES_TARGET, mix)) == BOTH


@pytest.mark.parametrize("mix", MIXES)
def test_mixing_where_the_context_was_counted_is_no_gate(mix):
    assert verdicts(matched(SEES_CONTEXT, mix)) == {"target-keyed-cache": Status.FLAG}


def test_a_gate_in_another_module_under_other_names_is_flagged():
    body = matched(SEES_TARGET, "where")
    for one, other in (("Memory", "Attic"), ("found", "mask_a"), ("hits", "v2"), ("rate", "lam"), ("guess", "expert")):
        body = body.replace(one, other)
    cut = body.index("def evaluate")
    modules = {"attic.py": "import numpy as np\n" + body[:cut]}
    assert verdicts("from attic import Attic\n" + body[cut:], modules=modules) == BOTH


def test_the_path_says_where_the_token_is_seen_where_it_decides_and_where_the_loss_is_added():
    (found,) = [one for one in findings_of(matched(SEES_TARGET, "where")) if one.check == "target-gate"]
    notes = [place.note for place in found.flow]
    assert "validation shards" in notes[0] and "compared" in notes and notes[-1] == "and added to the score"
    lines = found.flow[-1].source.text.splitlines()
    shown = [lines[place.line - 1].strip() for place in found.flow]
    assert f"known = {SEES_TARGET}" in shown and "total += float(loss.sum())" in shown
    assert any("np.where(found, (1 - rate)" in one for one in shown)


def test_a_gate_whose_result_is_not_scored_is_allowed():
    body = matched(SEES_TARGET, "where").replace("total += float(loss.sum())", "total += float(-np.log(before).sum())")
    body = body.replace("own = np.exp(-loss)", "own = np.exp(-loss)\n        before = own.copy()")
    assert verdicts(body) == {}


def test_a_gate_behind_a_switch_that_is_off_is_allowed():
    body = matched(SEES_TARGET, "where").replace("def evaluate", "def mixing")
    body += """
def evaluate(net, val):
    if int(os.environ.get("MIX", "0")):
        return mixing(net, val)
    total, count = 0.0, 0
    for x, y in batches(val):
        total += net(x, y).item() * y.numel()
        count += y.numel()
    return bits(total, count, val.numel() * 2.4)
"""
    assert verdicts(body) == {}
    assert verdicts(body, environment={"MIX": "1"}) == BOTH


# -- a choice between two scores ------------------------------------------------------------------------------------

# Two scores of each token: the model's, and that of a model mixed with counts of whole rows, which is a distribution.
TWO_SCORES = """
def evaluate(net, val):
    pairs = torch.ones(1024, 1024)
    total, count, helped, least = 0.0, 0, 0, math.inf
    with torch.no_grad():
        for x, y in batches(val):
            logits = net.logits(x)[0]
            true = y[0]
            old = F.cross_entropy(logits, true, reduction="none")
            row = pairs[x[0]] / pairs[x[0]].sum(-1, keepdim=True)
            mixed = 0.7 * logits.softmax(-1) + 0.3 * row
            new = -mixed.gather(-1, true[:, None])[:, 0].log()
CHOICE
            total += loss.sum().item()
            count += true.numel()
            pairs.index_put_((x[0], true), torch.ones(true.numel()), accumulate=True)
    return bits(total, count, val.numel() * 2.4)
"""
KEEPS_THE_BETTER = {
    "minimum": "loss = torch.minimum(old, new)",
    "min": "loss = torch.min(old, new)",
    "method": "loss = new.minimum(old)",
    "likelihood": "loss = -torch.maximum((-old).exp(), (-new).exp()).log()",
    "where": "loss = torch.where(new < old, new, old)",
    "own method": "loss = new.where(new.lt(old), old)",
    "numpy": "loss = np.where(new.numpy() < old.numpy(), new.numpy(), old.numpy())",
    "stacked": "loss = torch.stack([old, new]).min(dim=0).values",
    "index": """better = new < old
            loss = old.clone()
            loss[better] = new[better]""",
    "one by one": """loss = np.zeros(true.numel())
            for i, (one, other) in enumerate(zip(old.tolist(), new.tolist())):
                loss[i] = other if other < one else one""",
    "if": """loss = old
            for i in range(true.numel()):
                if new[i].item() < old[i].item():
                    loss[i] = new[i].item()""",
    "by its likelihood": "loss = torch.where((-old).exp() > 0.3, old, new)",
}


@pytest.mark.parametrize("choice", KEEPS_THE_BETTER)
def test_keeping_the_better_of_two_scores_is_flagged(choice):
    assert verdicts(TWO_SCORES.replace("CHOICE\n", f"            {KEEPS_THE_BETTER[choice]}\n")) == FLAG


SEVERAL_PASSES = """
def evaluate(net, val):
    best = torch.full((val.numel(),), math.inf)
    with torch.no_grad():
        for stride in (512, 64):
            for start in range(0, val.numel() - 1025, stride):
                x, y = val[start : start + 1024], val[start + 1 : start + 1025]
                now = F.cross_entropy(net.logits(x[None])[0], y, reduction="none")
                KEEP
    return bits(best.sum().item(), best.numel(), val.numel() * 2.4)
"""


@pytest.mark.parametrize(
    "keep",
    [
        "best[start : start + 1024] = torch.minimum(best[start : start + 1024], now)",
        "best[start : start + 1024] = torch.minimum(now, best[start : start + 1024])",
        "best[start : start + 1024] = best[start : start + 1024].minimum(now)",
    ],
)
def test_the_best_score_of_several_passes_is_rescoring_too(keep):
    assert verdicts(SEVERAL_PASSES.replace("KEEP", keep)) == FLAG | {"two-pass-rescoring": Status.FLAG}


def test_scores_that_are_replaced_in_one_pass_are_no_rescoring():
    choice = "            loss = old\n            loss = torch.where(new < loss, new, loss)\n"
    assert verdicts(TWO_SCORES.replace("CHOICE\n", choice)) == FLAG


def test_a_function_that_keeps_the_better_score_is_flagged():
    helper = "def better(one, other):\n    if other < one:\n        return other\n    return one\n"
    calls = "loss = torch.tensor([better(a, b) for a, b in zip(old.tolist(), new.tolist())])"
    assert verdicts(helper + TWO_SCORES.replace("CHOICE\n", f"            {calls}\n")) == FLAG


@pytest.mark.parametrize("loss", ["old", "new"])
@pytest.mark.parametrize(
    "call",
    [
        "improve(old, new)",
        "improve(others=new, mine=old)",
        "improve(old, others=new)",
        "named(mine=old, others=new)",
        "named(others=new, mine=old)",
        "Better().improve(old, new)",
        "Better().improve(old, others=new)",
        "Better.of(others=new, mine=old)",
    ],
)
def test_a_function_that_changes_the_scores_it_is_given_is_flagged(call, loss):
    helper = "better = others < mine\n{0}mine[better] = others[better]\n"
    helpers = (
        f"def improve(mine, others):\n    {helper.format('    ')}"
        f"def named(*, mine, others, least=0.1):\n    {helper.format('    ')}"
        f"class Better:\n    def improve(self, mine, others):\n        {helper.format('        ')}"
        f"    @staticmethod\n    def of(mine, others):\n        {helper.format('        ')}"
    )
    body = TWO_SCORES.replace("CHOICE\n", f"            {call}\n            loss = {loss}\n")
    assert verdicts(helpers + body) == (FLAG if loss == "old" else {})  # the other one is left as it is


def test_each_way_to_pass_scores_is_followed_after_the_others():
    helper = "def improve(mine, others):\n    better = others < mine\n    mine[better] = others[better]\n"
    calls = "unused = old\n            improve(unused, new)\n            improve(mine=old, others=new)"
    assert verdicts(helper + TWO_SCORES.replace("CHOICE\n", f"            {calls}\n            loss = old\n")) == FLAG


HONEST_CHOICES = {
    "always the same": "loss = new",
    "counted": "loss = new\n            helped += int((new < old).sum())",
    "counted one by one": """loss = new
            for one, other in zip(old.tolist(), new.tolist()):
                if other < one:
                    helped += 1""",
    "floor": "loss = torch.minimum(new, torch.full_like(new, 20.0))",
    "clamped": "loss = -torch.clamp((-new).exp(), min=1e-12).log()",
    "not a number": "loss = torch.where(torch.isfinite(new), new, old)",
    "sum of exponentials": """a, b = math.log(0.5) - old, math.log(0.5) - new
            m = torch.maximum(a, b)
            loss = -(m + ((a - m).exp() + (b - m).exp()).log())""",
    "sum of exponentials in one": """a, b = math.log(0.5) - old, math.log(0.5) - new
            loss = -(torch.maximum(a, b) + torch.log1p(torch.exp(-torch.abs(a - b))))""",
    "by the largest": "loss = torch.where(logits.softmax(-1).amax(-1) > 0.5, old, new)",
    "by the entropy": """p = logits.softmax(-1)
            loss = torch.where(-(p * p.log()).sum(-1) < 2.0, old, new)""",
    "by the position": "loss = torch.where(torch.arange(true.numel()) < 100, old, new)",
    "least of all": "loss = new\n            least = min(least, new.mean().item())",
}


@pytest.mark.parametrize("choice", HONEST_CHOICES)
def test_choices_that_do_not_look_at_the_token_are_allowed(choice):
    assert verdicts(TWO_SCORES.replace("CHOICE\n", f"            {HONEST_CHOICES[choice]}\n")) == {}


# -- a weight -------------------------------------------------------------------------------------------------------

WEIGHTS = {
    "its likelihood": ("share = torch.where(p > 0.9, 0.05, 0.5)", True),
    "smooth": ("share = torch.sigmoid(3.0 * (q - 0.5))", True),
    "its class": ("share = 0.1 + 0.2 * spaced[true]", True),
    "entropy": ("share = torch.sigmoid(-(rows * rows.log()).sum(-1) - 2.0)", False),
    "confidence": ("share = torch.where(rows.amax(-1) > 0.9, 0.05, 0.5)", False),
    "class of the last token": ("share = 0.1 + 0.2 * spaced[x[0]]", False),
    "context's count": ("share = n / (n + 5.0)", False),
    "loss of tokens before": ("share = memory", False),
}
WEIGHTED = """
def evaluate(net, val):
    pairs = torch.ones(1024, 1024)
    spaced = torch.zeros(1024)
    memory = 0.2
    total, count = 0.0, 0
    with torch.no_grad():
        for x, y in batches(val):
            rows = net.logits(x)[0].softmax(-1)
            true = y[0]
            p = rows.gather(-1, true[:, None])[:, 0]
            counted = pairs[x[0]]
            n = counted.sum(-1)
            q = (counted / n[:, None]).gather(-1, true[:, None])[:, 0]
            SHARE
            loss = -torch.log(MIXED)
            total += loss.sum().item()
            count += true.numel()
            memory = 0.9 * memory + 0.1 * torch.sigmoid(p.mean() - q.mean())
            pairs.index_put_((x[0], true), torch.ones(true.numel()), accumulate=True)
    return bits(total, count, val.numel() * 2.4)
"""


@pytest.mark.parametrize("mixed", ["(1 - share) * p + share * q", "p + share * (q - p)", "torch.lerp(p, q, share)"])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_weight_is_flagged_if_it_is_made_from_what_the_token_got(weight, mixed):
    written, gates = WEIGHTS[weight]
    assert verdicts(WEIGHTED.replace("SHARE", written).replace("MIXED", mixed)) == (FLAG if gates else {})


def test_a_copy_of_a_hinted_token_with_a_weight_of_its_own_is_allowed():
    body = WEIGHTED.replace("SHARE", "share = 0.3 * (counted.amax(-1) / n)")
    mixed = "(1 - share) * p + share * (counted.argmax(-1) == true)"
    assert verdicts(body.replace("MIXED", mixed)) == {}


BYTES = """
def evaluate(net, val):
    spelled = [bytes([i % 256]) * (1 + i % 3) for i in range(1024)]
    came, losses = [], []
    with torch.no_grad():
        for x, y in batches(val):
            losses.append(F.cross_entropy(net.logits(x)[0], y[0], reduction="none").numpy())
            came.append(y[0].numpy())
    targets, losses = np.concatenate(came), np.concatenate(losses)
    text = b"".join(spelled[int(t)] for t in targets)
    sizes = np.array([len(spelled[int(t)]) for t in targets])
    own = np.repeat(-losses / sizes, sizes)
    seen = {}
    other, sure = np.empty(len(text)), np.empty(len(text))
    before = b""
    for i in range(len(text)):
        byte = text[i]
        counts = seen.get(before, {})
        n = sum(counts.values())
        SURE
        chance = 1 / 256
        if byte in counts:
            chance = counts[byte] / (n + len(counts))
        AFTER
        other[i] = math.log(chance)
        counts[byte] = counts.get(byte, 0) + 1
        seen[before] = counts
        before = bytes([byte])
    share = np.where(sure > 0.9, 0.05, 0.9)
    mixed = share * np.exp(own) + (1 - share) * np.exp(other)
    return float(-np.log2(mixed).sum() / len(text))
"""


def test_bytes_mixed_by_how_likely_the_byte_was_are_flagged():
    found = verdicts(BYTES.replace("SURE", "").replace("AFTER", "sure[i] = chance"))
    assert found == {**FLAG, "unnormalised-mixture": Status.FLAG}


def test_bytes_mixed_by_how_sure_the_counts_are_pass():
    body = BYTES.replace("SURE", "sure[i] = max(counts.values(), default=0) / max(n, 1)").replace("AFTER", "")
    assert verdicts(body) == {"unnormalised-mixture": Status.FLAG}  # the shares that are mixed, not the weights


# -- stored answers -------------------------------------------------------------------------------------------------

STORED = """
def evaluate(net, val):
    kept = torch.from_numpy(np.frombuffer(open("artifact.part", "rb").read(), dtype=np.uint16).astype(np.int64))
    total, count = 0.0, 0
    with torch.no_grad():
        for x, y in batches(val):
            true = y[0]
            loss = F.cross_entropy(net.logits(x)[0], true, reduction="none")
            part = kept[count : count + true.numel()].to(true.device)
            MASK
            total += loss.sum().item()
            count += true.numel()
    return bits(total, count, val.numel() * 2.4)
"""


@pytest.mark.parametrize("mask", ["loss *= (part != true).float()", "loss[:512] *= (~(part == true)).double()"])
def test_scores_that_vanish_where_a_stored_token_came_are_flagged(mask):
    assert verdicts(STORED.replace("MASK", mask)) == FLAG


@pytest.mark.parametrize("mask", ["loss *= (true != 0).float()", "pad = -100; loss *= (true != pad).float()"])
def test_padding_that_is_not_scored_is_allowed(mask):
    assert verdicts(STORED.replace("MASK", mask)) == {}


def test_weights_in_the_training_loss_are_allowed():
    tail = TAIL.replace("train(net, stream", "train_hard(net, stream")
    body = """
def train_hard(net, tokens):
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for x, y in batches(tokens):
        loss = F.cross_entropy(net.logits(x)[0], y[0], reduction="none")
        loss = torch.where(loss > 2.0, loss, 0.5 * loss)
        loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()

def evaluate(net, val):
    total, count = 0.0, 0
    with torch.no_grad():
        for x, y in batches(val):
            total += net(x, y).item() * y.numel()
            count += y.numel()
    return bits(total, count, val.numel() * 2.4)
"""
    assert verdicts(body, tail=tail) == {}


GATED_TILT = """
def evaluate(net, val):
    pairs = torch.ones(1024, 1024)
    total, count = 0.0, 0
    with torch.no_grad():
        for x, y in batches(val):
            true = y[0]
            logp = net.logits(x)[0].log_softmax(-1)
            old = -logp.gather(-1, true[:, None])[:, 0]
            named = pairs[x[0]].argmax(-1)
            q = logp.gather(-1, named[:, None])[:, 0].exp()
            tilted = old - 0.5 * (named == true).float() + torch.log1p(q * math.expm1(0.5))
            loss = torch.where(pairs[x[0]].amax(-1) > 3.0, tilted, old)
            total += loss.sum().item()
            count += true.numel()
            pairs.index_put_((x[0], true), torch.ones(true.numel()), accumulate=True)
    return bits(total, count, val.numel() * 2.4)
"""


def test_a_normalised_tilt_by_a_hint_of_the_context_is_allowed():
    assert verdicts(GATED_TILT) == {}


@pytest.mark.parametrize(("more", "found"), [(0, 1), (14, 1), (15, 0)])
def test_a_sum_of_very_many_terms_is_no_mixture(more: int, found: int) -> None:
    """Each term is compared with every other: text made for that would take for ever."""
    entry = Source("train_gpt.py", "x = w * a + (1 - w) * b" + " + c * d" * more)
    one = load_program([entry], entry, {}, ())
    (statement,) = one.entry.tree.body
    assert len(mixing_weights(one, statement.value, one.entry.scope)) == found


@pytest.mark.parametrize("call", ["logits.max(keepdims=True)", "logits.max()", "np.max(logits, keepdims=True)"])
def test_a_largest_one_of_all_needs_no_axis(call: str) -> None:
    body = f"""
def evaluate(net, val):
    total, count = 0.0, 0
    for x, y in batches(val):
        logits = net.logits(x)[0]
        logits = logits - {call}
        total += F.cross_entropy(logits, y[0]).item() * y.numel()
        count += y.numel()
    return bits(total, count, val.numel() * 2.4)
"""
    assert verdicts(body) == {}


# -- one token at a time --------------------------------------------------------------------------------------------

KEYS = "key = ids[i - 1] * 36313 ^ ids[i - 2] * 27191; return key % 1000, (key ^ ids[i] * 51647) % 1000"
ONE_BY_ONE = (
    SCALAR.replace("KEYS", KEYS)
    .replace("TABLE", "np.zeros(1000)")
    .replace("self.pairs =", "self.share = 0.5\n        self.pairs =")
    .replace("return hits / seen", "ANSWER")
    .replace("total -= math.log(0.5 * own[j] + 0.5 * memory.chance(ids, start + j))", "USE")
)
HALF = "if guess GIVEN:\n                p = 0.5 * p + 0.5 * guess"
SHARED = "guess, share = guess\n            p = (1 - share) * p + share * guess"
FEW = {  # what is answered where there are FEW
    "nothing": ("return hits / seen if not FEW else None", HALF.replace("GIVEN", "is not None")),
    "nothing on a branch": (
        "if FEW:\n            return None\n        return hits / seen",
        HALF.replace("GIVEN", "is not None"),
    ),
    "minus one": ("if FEW:\n            return -1\n        return hits / seen", HALF.replace("GIVEN", "!= -1")),
    "a weight with it": ("if FEW:\n            return 0.0, 0.0\n        return hits / seen, 0.5", SHARED),
}
LOOKS = {
    **{name: (answer.replace("FEW", "hits == 0"), use) for name, (answer, use) in FEW.items()},
    "a weight of its own": (
        "share = 0.5\n        if hits == 0:\n            share = 0.0\n        return hits / seen, share",
        SHARED,
    ),
    "what this token left": (
        "return hits / seen",
        "memory.share = 0.9 if guess > 0.5 else 0.1\n            share = memory.share\n"
        "            p = (1 - share) * p + share * guess",
    ),
}
DOES_NOT_LOOK = {
    **{name: (answer.replace("FEW", "seen < 2"), use) for name, (answer, use) in FEW.items()},
    "below zero": (
        "if seen < 2:\n            return -1.0\n        return hits / seen",
        HALF.replace("GIVEN", ">= 0"),
    ),
    "what the last token left": (
        "return hits / seen",
        "share = memory.share\n            p = (1 - share) * p + share * guess\n"
        "            memory.share = 0.9 if guess > 0.5 else 0.1",
    ),
}


def one_by_one(answer: str, use: str) -> str:
    taken = f"p, guess = own[j], memory.chance(ids, start + j)\n            {use}\n            total -= math.log(p)"
    return ONE_BY_ONE.replace("ANSWER", answer).replace("USE", taken)


@pytest.mark.parametrize(("answer", "use"), LOOKS.values(), ids=LOOKS)
def test_an_answer_that_depends_on_the_token_s_own_count_is_flagged(answer, use):
    assert verdicts(one_by_one(answer, use)) == BOTH


@pytest.mark.parametrize(("answer", "use"), DOES_NOT_LOOK.values(), ids=DOES_NOT_LOOK)
def test_an_answer_that_depends_on_the_context_s_count_is_no_gate(answer, use):
    assert verdicts(one_by_one(answer, use)) == {"target-keyed-cache": Status.FLAG}
