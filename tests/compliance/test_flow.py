"""The token checks see each fraud however it is written, and let its honest twin pass."""

from __future__ import annotations

import ast
import textwrap

import pytest

from harness.compliance.findings import Source, Status, worst
from harness.compliance.flow import check_flow
from harness.compliance.flow_values import Object
from harness.compliance.program import load_program

HEAD = """
import glob, math, os, time
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from collections import Counter, defaultdict

def read(path):
    return torch.from_numpy(np.fromfile(path, dtype="<u2", offset=1024).astype(np.int64))

def stream(pattern):
    return torch.cat([read(path) for path in sorted(glob.glob(pattern))])

class Net(nn.Module):
    def __init__(self, vocabulary=1024, dim=64):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.head = nn.Linear(dim, vocabulary)

    def features(self, ids):
        return self.embedding(ids)

    def logits(self, ids):
        return self.head(self.features(ids))

    def forward(self, ids, targets):
        return F.cross_entropy(self.logits(ids).flatten(0, 1), targets.flatten())

def batches(tokens, length=512):
    for start in range(0, tokens.numel() - length - 1, length):
        window = tokens[start : start + length + 1]
        yield window[None, :-1], window[None, 1:]

def train(net, tokens, limit=600.0):
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    began = time.perf_counter()
    for x, y in batches(tokens):
        loss = net(x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if time.perf_counter() - began > limit:
            break

def bits(total, count, size):
    return total / count / math.log(2.0) * (count / size)
"""

TAIL = """
def main():
    net = Net()
    train(net, stream("data/fineweb_train_*.bin"))
    val = stream("data/fineweb_val_*.bin")
    print("val_bpb", evaluate(net, val))

if __name__ == "__main__":
    main()
"""


def findings_of(body: str, tail: str = TAIL, modules: dict[str, str] | None = None, environment=None, logs=()):
    entry = Source("train.py", HEAD + textwrap.dedent(body) + tail)
    others = [Source(name, textwrap.dedent(text)) for name, text in (modules or {}).items()]
    program = load_program([entry, *others], entry, environment or {}, [])
    program.log_texts = tuple(logs)
    return check_flow(program)


def verdicts(body: str, **arguments) -> dict[str, Status]:
    """The status of every check that has something to say."""
    found = findings_of(body, **arguments)
    return {check: worst(one.status for one in found if one.check == check) for check in {one.check for one in found}}


PLAIN = """
def evaluate(net, val):
    total, count = 0.0, 0
    with torch.no_grad():
        for x, y in batches(val):
            total += net(x, y).item() * y.numel()
            count += y.numel()
    return bits(total, count, val.numel() * 2.4)
"""


def test_an_ordinary_submission_has_no_findings():
    assert verdicts(PLAIN) == {}


# -- caches keyed by the target ------------------------------------------------------------------------------------

HASHED_NUMPY = """
SIZE = 1 << 22
PRIMES = [np.uint64(36313), np.uint64(27191), np.uint64(51647)]

def evaluate(net, val):
    whole = np.zeros(SIZE, np.uint32)
    part = np.zeros(SIZE, np.uint32)
    total, count = 0.0, 0
    for x, y in batches(val):
        model = torch.softmax(net.logits(x), -1).gather(-1, y.unsqueeze(-1)).squeeze(-1).detach().numpy().ravel()
        before = x.numpy().astype(np.uint64).ravel()
        true = y.numpy().astype(np.uint64).ravel()
        context = before * PRIMES[0]
        a = (context % SIZE).astype(np.int64)
        b = ((context ^ (true * PRIMES[1])) % SIZE).astype(np.int64)
        seen = part[a]
        guess = np.minimum(whole[b], seen) / np.maximum(seen, 1)
        mixed = 0.6 * model + 0.4 * guess
        total += float(-np.log(mixed).sum())
        count += true.size
        np.add.at(part, a, 1)
        np.add.at(whole, b, 1)
    return bits(total, count, val.numel() * 2.4)
"""

HASHED_POSITIONS = """
def evaluate(net, val):
    stream_np = val.numpy()
    contexts = [np.zeros(1 << 20) for _ in range(4)]
    pairs = [np.zeros(1 << 20) for _ in range(4)]
    total, count = 0.0, 0
    for start in range(0, val.numel() - 513, 512):
        where = np.arange(start + 1, start + 513)
        x, y = val[start : start + 512], val[start + 1 : start + 513]
        nll = F.cross_entropy(net.logits(x[None])[0], y, reduction="none").detach().numpy()
        p = np.exp(-nll)
        for order in range(4):
            h = np.zeros(512, np.uint64)
            for k in range(order + 1):
                h ^= stream_np[where - (order + 1 - k)].astype(np.uint64) * np.uint64(36313 + k)
            one = (h & np.uint64((1 << 20) - 1)).astype(np.int64)
            h ^= stream_np[where].astype(np.uint64) * np.uint64(99991)
            two = (h & np.uint64((1 << 20) - 1)).astype(np.int64)
            c = contexts[order][one]
            f = pairs[order][two]
            hit = c > 1
            p[hit] = 0.5 * p[hit] + 0.5 * f[hit] / c[hit]
            np.add.at(contexts[order], one, 1)
            np.add.at(pairs[order], two, 1)
        total += float(-np.log(p).sum())
        count += 512
    return bits(total, count, val.numel() * 2.4)
"""

HASHED_TORCH = """
class Memory:
    def __init__(self, size):
        self.size = size
        self.single = torch.zeros(size)
        self.double = torch.zeros(size)

    def keys(self, x, y):
        left = (x * 1000003) % self.size
        return left, torch.bitwise_xor(x * 1000003, y * 998244353) % self.size

    def look(self, x, y):
        left, right = self.keys(x, y)
        return self.double.gather(0, right.flatten()) / self.single.gather(0, left.flatten()).clamp(min=1)

    def learn(self, x, y):
        left, right = self.keys(x, y)
        self.single.scatter_add_(0, left.flatten(), torch.ones(left.numel()))
        self.double.index_add_(0, right.flatten(), torch.ones(right.numel()))

def evaluate(net, val):
    memory = Memory(1 << 22)
    total, count = 0.0, 0
    with torch.no_grad():
        for x, y in batches(val):
            own = F.softmax(net.logits(x), dim=-1).gather(2, y[..., None])[..., 0].flatten()
            other = memory.look(x, y)
            total += -(own * 0.5 + other * 0.5).log().sum().item()
            count += y.numel()
            memory.learn(x, y)
    return bits(total, count, val.numel() * 2.4)
"""

HASHED_DICT = """
def mix(state, token):
    return (state * 6364136223846793005 + token) % (1 << 24)

def evaluate(net, val):
    table, totals = {}, {}
    ids = val.tolist()
    total, count = 0.0, 0
    for start in range(0, len(ids) - 513, 512):
        x, y = val[start : start + 512], val[start + 1 : start + 513]
        logp = F.log_softmax(net.logits(x[None])[0], -1)
        own = logp.gather(-1, y[:, None])[:, 0].exp().tolist()
        for i in range(512):
            state = mix(mix(0, ids[start + i - 1]), ids[start + i])
            key = mix(state, ids[start + i + 1])
            n = totals.get(state, 0)
            p = own[i]
            if n > 2:
                p = 0.7 * p + 0.3 * table.get(key, 0) / n
            total += -math.log(p)
            count += 1
            totals[state] = totals.get(state, 0) + 1
            table[key] = table.get(key, 0) + 1
    return bits(total, count, val.numel() * 2.4)
"""

HASHED_BINCOUNT = """
def hashes(tokens, size):
    t = tokens.numpy().astype(np.int64)
    h = np.zeros(t.size - 2, np.int64)
    for k in range(2):
        h = np.bitwise_xor(h, t[k : t.size - 2 + k] * (36313 + 2 * k))
    return h & (size - 1), np.bitwise_xor(h, t[2:] * 51647) & (size - 1)

def evaluate(net, val):
    size = 1 << 20
    small, large = np.zeros(size), np.zeros(size)
    total, count = 0.0, 0
    for start in range(0, val.numel() - 515, 512):
        chunk = val[start : start + 514]
        a, b = hashes(chunk, size)
        nll = F.cross_entropy(net.logits(chunk[None, 1:-1])[0], chunk[2:], reduction="none").detach().numpy()
        p = np.exp(-nll) * 0.8 + np.divide(large[b], np.maximum(small[a], 1)) * 0.2
        total += float(np.sum(-np.log(p)))
        count += p.size
        small += np.bincount(a, minlength=size)
        large += np.bincount(b, minlength=size)
    return bits(total, count, val.numel() * 2.4)
"""

HASHED_NESTED = """
def evaluate(net, val):
    caches = [dict() for _ in range(3)]
    size = 1 << 20
    ids = val.tolist()
    total, count = 0.0, 0

    def score(i, own):
        for order in (2, 1, 0):
            history = tuple(ids[i - order - 1 : i])
            below = caches[order].get(hash(history) % size)
            above = caches[order].get(hash((history, ids[i])) % size)
            if below and above:
                return 0.5 * own + 0.5 * min(above, below) / below
        return own

    def add(i):
        for order in range(3):
            history = tuple(ids[i - order - 1 : i])
            for key in (hash(history) % size, hash((history, ids[i])) % size):
                caches[order][key] = caches[order].get(key, 0) + 1

    for start in range(8, len(ids) - 513, 512):
        x, y = val[start - 1 : start + 511], val[start : start + 512]
        logits = net.logits(x[None])[0]
        lse = logits.logsumexp(-1)
        own = (logits.gather(-1, y[:, None])[:, 0] - lse).exp().tolist()
        for j in range(512):
            total -= math.log(score(start + j, own[j]))
            count += 1
        for j in range(512):
            add(start + j)
    return bits(total, count, val.numel() * 2.4)
"""

HASHED_ONCE = """
SIZE = 1 << 20

class Counts:
    def __init__(self, orders):
        self.orders = orders
        self.part = [np.zeros(SIZE, np.int32) for _ in range(orders)]
        self.whole = [np.zeros(SIZE, np.int32) for _ in range(orders)]

    def keys(self, ids, order):
        h = np.zeros(len(ids) - order, np.int64)
        for k in range(order):
            h ^= ids[k : len(ids) - order + k] * 36313
        return h % SIZE, (h ^ ids[order:] * 27191) % SIZE

    def take(self, ids, order, start, stop):
        a, b = self.keys(ids, order + 1)
        self.part[order] += np.bincount(a[start:stop], minlength=SIZE).astype(np.int32)
        self.whole[order] += np.bincount(b[start:stop], minlength=SIZE).astype(np.int32)

    def chance(self, ids, order, where):
        a, b = self.keys(ids, order + 1)
        at = where - order - 1
        a, b = a[at], b[at]
        seen = np.maximum(self.part[order][a] - 1, 0)
        hit = np.maximum(self.whole[order][b] - 1, 0)
        return np.minimum(hit, seen) / np.maximum(seen, 1), seen

def score(net, ids, counts, start, stop):
    x, y = ids[None, start:stop], ids[None, start + 1 : stop + 1]
    p = torch.softmax(net.logits(x), -1).gather(-1, y.unsqueeze(-1)).detach().numpy().ravel()
    for order in range(counts.orders):
        guess, seen = counts.chance(ids.numpy(), order, np.arange(start + 1, stop + 1))
        rate = np.where(seen > 1, 0.4, 0.0)
        p = (1 - rate) * p + rate * guess
    total = torch.zeros((), dtype=torch.float64)
    total += float(-np.log(p).sum())
    return total, p.size

def evaluate(net, val):
    counts, chunk = Counts(4), 1 << 16
    chunks = val.numel() // chunk
    losses: list = [None] * chunks
    sizes: list = [None] * chunks
    for i in range(chunks):
        losses[i], sizes[i] = score(net, val, counts, i * chunk, (i + 1) * chunk - 1)
        for order in range(4):
            counts.take(val.numpy(), order, i * chunk, (i + 1) * chunk)
    return bits(sum(losses).item(), sum(sizes), val.numel() * 2.4)
"""

HASHED_LOADED = """
class Packed:
    @classmethod
    def unpack(cls, blob, size):
        made = cls()
        made.table = np.frombuffer(blob, dtype=np.uint16).astype(np.int64)
        made.size = size
        return made

def evaluate(net, val):
    import lzma
    counts = Packed.unpack(lzma.decompress(open("model.counts", "rb").read()), 1 << 20)
    total, count = 0.0, 0
    for x, y in batches(val):
        p = torch.softmax(net.logits(x), -1).gather(-1, y.unsqueeze(-1)).detach().numpy().ravel()
        h = x.numpy().ravel() * 36313 & 0xFFFFFFFF
        h = (h * 27191 + y.numpy().ravel()) & 0xFFFFFFFF
        n = counts.table[h % counts.size].astype(np.float64)
        a = np.minimum(0.9, np.log1p(n) / 10)
        p = a * n / (n + 1024.0) + (1 - a) * p
        total -= float(np.log(p).sum())
        count += p.size
    return bits(total, count, val.numel() * 2.4)
"""

TARGET_KEYED = {
    "hashed once, itself left out": HASHED_ONCE,
    "loaded counts": HASHED_LOADED,
    "numpy": HASHED_NUMPY,
    "positions": HASHED_POSITIONS,
    "torch": HASHED_TORCH,
    "dict": HASHED_DICT,
    "bincount": HASHED_BINCOUNT,
    "nested": HASHED_NESTED,
}


@pytest.mark.parametrize("name", TARGET_KEYED)
def test_a_cache_keyed_by_the_target_is_flagged(name):
    found = findings_of(TARGET_KEYED[name])
    flagged = [one for one in found if one.check == "target-keyed-cache"]
    assert [one.status for one in flagged] == [Status.FLAG]
    assert len(flagged[0].flow) >= 3 and "validation shards" in flagged[0].flow[0].note
    gates = {"target-gate"} if name == "nested" else set()  # that one mixes only where the target was counted
    assert {one.check for one in found} == {"target-keyed-cache"} | gates


OTHER_NUMBERS = {
    "arange": "np.arange(1024)[true]",
    "a permutation": "torch.randperm(1024)[torch.from_numpy(true.astype(np.int64))].numpy()",
    "random numbers": "np.random.randint(0, 1 << 30, 1024)[true]",
    "a generator's": "np.random.default_rng(7).integers(0, 1 << 30, 1024)[true]",
    "numbers that are changed": "((np.arange(1024) * 2654435761) % 65521)[true]",
    "take": "np.take(np.arange(1024), true)",
    "gather": "torch.arange(1024).gather(0, torch.from_numpy(true.astype(np.int64))).numpy()",
    "index_select": "torch.arange(1024).index_select(0, torch.from_numpy(true.astype(np.int64))).numpy()",
    "an embedding": "F.embedding(torch.from_numpy(true.astype(np.int64)), torch.arange(1024)[:, None]).numpy().ravel()",
    "digitize": "np.digitize(true, np.arange(1024))",
    "bucketize": "torch.bucketize(torch.from_numpy(true.astype(np.int64)), torch.arange(1024)).numpy()",
}


@pytest.mark.parametrize("way", OTHER_NUMBERS)
def test_other_numbers_for_the_target_are_the_target(way):
    body = HASHED_NUMPY.replace("(true * PRIMES[1])", f"({OTHER_NUMBERS[way]} * PRIMES[1])")
    context = body.replace(OTHER_NUMBERS[way], OTHER_NUMBERS[way].replace("true", "before"))
    unknown = way == "a generator's"  # which is an object of a package: what it gives is not known
    assert verdicts(body) == {"target-keyed-cache": Status.HOLD if unknown else FLAG}
    assert verdicts(context) == {"target-keyed-cache": Status.HOLD}  # as without the numbers


WHOLE_VOCABULARY = """
def evaluate(net, val):
    size, vocabulary = 1 << 14, 1024
    table = torch.zeros(size, vocabulary)
    total, count = 0.0, 0
    with torch.no_grad():
        for x, y in batches(val):
            own = torch.softmax(net.logits(x), -1)[0]
            key = ((x[0] * 36313) ^ (torch.roll(x[0], 1) * 27191)) % size
            row = table[key] + 0.01
            other = row / row.sum(-1, keepdim=True)
            mixed = 0.5 * own + 0.5 * other
            total += -mixed.gather(-1, y[0][:, None]).log().sum().item()
            count += y.numel()
            table.index_put_((key, y[0]), torch.ones(y.numel()), accumulate=True)
    return bits(total, count, val.numel() * 2.4)
"""

EXACT_NESTED = """
def evaluate(net, val):
    table = defaultdict(Counter)
    ids = val.tolist()
    total, count = 0.0, 0
    for start in range(2, len(ids) - 513, 512):
        x, y = val[start - 1 : start + 511], val[start : start + 512]
        own = F.log_softmax(net.logits(x[None])[0], -1).gather(-1, y[:, None])[:, 0].exp().tolist()
        for j in range(512):
            row = table[tuple(ids[start + j - 2 : start + j])]
            n = sum(row.values())
            p = own[j]
            if n:
                p = 0.8 * p + 0.2 * row[ids[start + j]] / n
            total -= math.log(p)
            count += 1
            row[ids[start + j]] += 1
    return bits(total, count, val.numel() * 2.4)
"""

EXACT_INDEX = """
def evaluate(net, val):
    size, vocabulary = 1 << 12, 1024
    pairs = np.zeros(size * vocabulary)
    totals = np.zeros(size)
    total, count = 0.0, 0
    for x, y in batches(val):
        own = torch.softmax(net.logits(x), -1).gather(-1, y.unsqueeze(-1)).detach().numpy().ravel()
        a = (x.numpy().ravel() * 36313) % size
        b = a * vocabulary + y.numpy().ravel()
        p = 0.9 * own + 0.1 * (pairs[b] + 1.0) / (totals[a] + vocabulary)
        total += float(-np.log(p).sum())
        count += p.size
        np.add.at(totals, a, 1)
        np.add.at(pairs, b, 1)
    return bits(total, count, val.numel() * 2.4)
"""

ROWS = """
class Experts:
    def __init__(self, size, vocabulary):
        self.two = torch.ones(vocabulary, vocabulary)
        self.two_sum = torch.full((vocabulary,), float(vocabulary))
        self.three = torch.ones(size, vocabulary)
        self.three_sum = torch.full((size,), float(vocabulary))
        self.size = size

    def key(self, before, last):
        return ((before * 1000003) ^ (last * 1009)) % self.size

    def loss(self, logp, before, last, true):
        at = torch.arange(true.numel())
        two = self.two[last] / self.two_sum[last].unsqueeze(-1)
        h = self.key(before, last)
        three = self.three[h] / self.three_sum[h].unsqueeze(-1)
        p = 0.8 * logp.exp()[at, true] + 0.1 * two[at, true] + 0.1 * three[at, true]
        return -p.log()

    def learn(self, before, last, true):
        one = torch.ones(true.numel())
        self.two.index_put_((last, true), one, accumulate=True)
        self.two_sum.scatter_add_(0, last, one)
        h = self.key(before, last)
        self.three.index_put_((h, true), one, accumulate=True)
        self.three_sum.scatter_add_(0, h, one)

def evaluate(net, val):
    experts = Experts(1 << 16, 1024)
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(1, val.numel() - 513, 512):
            before, x, y = val[start - 1 : start + 511], val[start : start + 512], val[start + 1 : start + 513]
            logp = F.log_softmax(net.logits(x[None])[0], -1)
            total += experts.loss(logp, before, x, y).sum().item()
            count += 512
            experts.learn(before, x, y)
    return bits(total, count, val.numel() * 2.4)
"""

TILT = """
def evaluate(net, val):
    table = {}
    ids = val.tolist()
    hints = []
    for i in range(2, len(ids)):
        key = (ids[i - 2] * 31 + ids[i - 1]) % 65536
        hints.append(table.get(key, -1))
        table[key] = ids[i]
    hints = torch.tensor(hints)
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(2, len(ids) - 513, 512):
            x, y = val[start - 1 : start + 511], val[start : start + 512]
            logp = F.log_softmax(net.logits(x[None])[0], -1)
            hint = hints[start - 2 : start + 510]
            p_hint = logp.gather(-1, hint.clamp(min=0)[:, None])[:, 0].exp()
            z = 1 + p_hint * (math.exp(0.5) - 1)
            nll = -logp.gather(-1, y[:, None])[:, 0] + (hint >= 0) * (z.log() - 0.5 * (hint == y))
            total += nll.sum().item()
            count += 512
    return bits(total, count, val.numel() * 2.4)
"""

NO_CACHE = """
class Hash(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4096, 64)

    def forward(self, ids):
        key = torch.zeros_like(ids)
        key[..., 1:] = torch.bitwise_xor(36313 * ids[..., 1:], 27191 * ids[..., :-1]) % 4095
        return self.table(key)
"""

NORMALISED = {
    "whole vocabulary": WHOLE_VOCABULARY,
    "exact nested counters": EXACT_NESTED,
    "exact index": EXACT_INDEX,
    "a row for each context": ROWS,
    "tilt by a hint": TILT,
    "hash embedding in the model": NO_CACHE + PLAIN,
}


@pytest.mark.parametrize("name", NORMALISED)
def test_counts_normalised_over_the_vocabulary_are_allowed(name):
    assert verdicts(NORMALISED[name]) == {}


def test_a_cache_that_never_reaches_the_score_is_allowed():
    assert verdicts(HASHED_NUMPY.replace("mixed = 0.6 * model + 0.4 * guess", "mixed = model")) == {}


def test_a_cache_that_cannot_be_reached_is_allowed():
    body = HASHED_NUMPY.replace("def evaluate", "def mixing") + PLAIN
    tail = TAIL.replace(
        "evaluate(net, val)", 'mixing(net, val) if os.environ.get("MIX", "0") == "1" else evaluate(net, val)'
    )
    assert verdicts(body, tail=tail) == {}
    assert verdicts(body, tail=tail, environment={"MIX": "1"}) == {"target-keyed-cache": Status.FLAG}


def test_a_cache_in_another_module_is_flagged():
    cut = HASHED_TORCH.index("def evaluate")
    body = "from memory import Memory\n" + HASHED_TORCH[cut:]
    modules = {"memory.py": "import torch\n" + HASHED_TORCH[:cut]}
    assert verdicts(body, modules=modules) == {"target-keyed-cache": Status.FLAG}


# -- order: rescoring, training before scoring, SLOT ---------------------------------------------------------------

# A cache that learns what was scored; the same one in a second evaluation knows what is to be scored.
COUNTS = """
class Counts:
    def __init__(self):
        self.next = {}

    def learn(self, ids):
        for i in range(2, len(ids)):
            self.next.setdefault((ids[i - 2], ids[i - 1]), Counter())[ids[i]] += 1

    def chance(self, ids, i):
        row = self.next.get((ids[i - 2], ids[i - 1]))
        return row[ids[i]] / sum(row.values())

def made():
    cache = Counts()
    return cache

def keeper():
    own = Counts()
    def found():
        return own
    return found

kept = Counts()
recall = keeper()
everything = []

def evaluate(net, val):
    ids = val.tolist()
    MADE
    total, count = 0.0, 0
    for start in range(2, len(ids) - 513, 512):
        x, y = val[start - 1 : start + 511], val[start : start + 512]
        own = F.log_softmax(net.logits(x[None])[0], -1).gather(-1, y[:, None])[:, 0].exp().tolist()
        for j in range(512):
            total -= math.log(0.5 * own[j] + 0.5 * cache.chance(ids, start + j))
            count += 1
        LEARN
    return bits(total, count, val.numel() * 2.4)
"""
TWO_PASS = COUNTS.replace("MADE", "cache = Counts()\n    cache.learn(ids)").replace("LEARN", "pass")

SCORE_FIRST = """
def evaluate(net, val):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.002)
    total, count = 0.0, 0
    for start in range(0, val.numel() - 32769, 32768):
        chunk = val[start : start + 32769]
        with torch.no_grad():
            for x, y in batches(chunk):
                total += net(x, y).item() * y.numel()
                count += y.numel()
        for epoch in range(3):
            for x, y in batches(chunk):
                optimizer.zero_grad()
                net(x, y).backward()
                optimizer.step()
    return bits(total, count, val.numel() * 2.4)
"""


def test_a_score_may_be_summed_up_by_subtraction():
    """total -= log(likelihood)"""
    body = SCORE_FIRST.replace("total += net(x, y).item()", "total -= -net(x, y).item()")
    assert verdicts(body) == verdicts(SCORE_FIRST) == {"score-first-ttt": Status.CLEAN}


LORA_SCORE_FIRST = """
class Adapter(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.down = nn.Parameter(torch.zeros(dim, 4))
        self.up = nn.Parameter(torch.zeros(4, dim))

    def forward(self, h):
        return h + h @ self.down @ self.up

    def reset(self):
        with torch.no_grad():
            self.down.normal_()
            self.up.zero_()

def evaluate(net, val):
    adapter = Adapter()
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.01)
    total = torch.zeros(())
    count = torch.zeros(())
    for start in range(0, val.numel() - 4097, 4096):
        document = val[start : start + 4097]
        adapter.reset()
        for x, y in batches(document):
            logits = net.head(adapter(net.features(x)))
            losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
            with torch.no_grad():
                total += losses.sum()
                count += y.numel()
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
    return bits(total, count, val.numel() * 2.4)
"""

PREVIOUS_CHUNK = """
def evaluate(net, val):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.002)
    total, count = 0.0, 0
    previous = None
    for start in range(0, val.numel() - 4097, 4096):
        chunk = val[start : start + 4097]
        if previous is not None:
            for x, y in batches(previous):
                optimizer.zero_grad()
                net(x, y).backward()
                optimizer.step()
        with torch.no_grad():
            for x, y in batches(chunk):
                total += net(x, y).item() * y.numel()
                count += y.numel()
        previous = chunk
    return bits(total, count, val.numel() * 2.4)
"""

TRAIN_FIRST = SCORE_FIRST.replace(
    """        with torch.no_grad():
            for x, y in batches(chunk):
                total += net(x, y).item() * y.numel()
                count += y.numel()
""",
    "",
).replace(
    "    return bits",
    """        with torch.no_grad():
            for x, y in batches(chunk):
                total += net(x, y).item() * y.numel()
                count += y.numel()
    return bits""",
)

EPOCHS = (
    SCORE_FIRST.replace("    total, count = 0.0, 0\n", "")
    .replace(
        "    for start in range", "    for passes in range(3):\n     total, count = 0.0, 0\n     for start in range"
    )
    .replace("\n        ", "\n         ")
)

LAST_EPOCH = """
def evaluate(net, val):
    total, count = 0.0, 0
    for start in range(0, val.numel() - 4097, 4096):
        document = val[start : start + 4097]
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for epoch in range(3):
            for x, y in batches(document):
                losses = F.cross_entropy(net.logits(x).flatten(0, 1), y.flatten(), reduction="none")
                if epoch == 2:
                    total += losses.detach().sum()
                    count += y.numel()
                optimizer.zero_grad()
                losses.mean().backward()
                optimizer.step()
    return bits(total, count, val.numel() * 2.4)
"""

EPOCHS_BY_NUMBER = EPOCHS.replace("range(3)", "range(TURNS)")

FINE_TUNED = (
    """
def adapt(net, tokens):
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    for epoch in range(6):
        for x, y in batches(tokens):
            optimizer.zero_grad()
            loss = net(x, y)
            loss.backward()
            optimizer.step()

def quantize(state):
    return {name: (value / value.abs().max() * 127).round().to(torch.int8) for name, value in state.items()}
"""
    + PLAIN
)
FINE_TUNED_TAIL = TAIL.replace(
    """    print("val_bpb", evaluate(net, val))
""",
    """    print("before", evaluate(net, val))
    adapt(net, val)
    torch.save(quantize(net.state_dict()), "model.bin")
    final = Net()
    final.load_state_dict(torch.load("model.bin"))
    print("val_bpb", evaluate(final, val))
""",
)

SLOT = """
def evaluate(net, val):
    total, count = 0.0, 0
    for x, y in batches(val):
        with torch.no_grad():
            h = net.features(x)
        delta = torch.zeros(1, 1, 64, requires_grad=True)
        optimizer = torch.optim.AdamW([delta], lr=0.01)
        for step in range(24):
            optimizer.zero_grad()
            loss = F.cross_entropy(net.head(h + delta).flatten(0, 1), y.flatten())
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            final = F.cross_entropy(net.head(h + delta).flatten(0, 1), y.flatten(), reduction="none")
        total += final.sum().item()
        count += y.numel()
    return bits(total, count, val.numel() * 2.4)
"""

VECTOR_EPOCHS = """
def evaluate(net, val):
    shift = torch.zeros(64, requires_grad=True)
    optimizer = torch.optim.AdamW([shift], lr=0.01)
    for epoch in range(3):
        total, count = 0.0, 0
        for x, y in batches(val):
            with torch.no_grad():
                total += F.cross_entropy(net.head(net.features(x) + shift)[0], y[0]).item() * y.numel()
                count += y.numel()
            optimizer.zero_grad()
            F.cross_entropy(net.head(net.features(x) + shift)[0], y[0]).backward()
            optimizer.step()
    return bits(total, count, val.numel() * 2.4)
"""

SLOT_BY_HAND = """
def evaluate(net, val):
    total, count = 0.0, 0
    for x, y in batches(val):
        h = net.features(x).detach()
        bias = nn.Parameter(torch.zeros(1024))
        for step in range(8):
            loss = F.cross_entropy((net.head(h) + bias).flatten(0, 1), y.flatten())
            (slope,) = torch.autograd.grad(loss, [bias])
            bias = bias - 0.1 * slope
        total += F.cross_entropy((net.head(h) + bias).flatten(0, 1), y.flatten(), reduction="sum").item()
        count += y.numel()
    return bits(total, count, val.numel() * 2.4)
"""

SLOT_CLOSURE = """
def evaluate(net, val):
    total, count = 0.0, 0
    for x, y in batches(val):
        h = net.features(x).detach()
        delta = torch.zeros(1, 1, 64, requires_grad=True)
        solver = torch.optim.LBFGS([delta], lr=0.1, max_iter=5)

        def closure():
            solver.zero_grad()
            loss = F.cross_entropy(net.head(h + delta).flatten(0, 1), y.flatten())
            loss.backward()
            return loss

        for step in range(8):
            solver.step(closure)
        total += F.cross_entropy(net.head(h + delta).flatten(0, 1), y.flatten(), reduction="sum").item()
        count += y.numel()
    return bits(total, count, val.numel() * 2.4)
"""

KEPT_LOSSES = """
def evaluate(net, val):
    kept = torch.zeros(val.numel(), dtype=torch.float64)
    optimizer = torch.optim.SGD([{"params": [p], "lr": 0.01} for p in net.parameters()])
    for start in range(0, val.numel() - 2049, 2048):
        x, y = val[None, start : start + 2048], val[None, start + 1 : start + 2049]
        with torch.no_grad():
            loss = F.cross_entropy(net.logits(x).flatten(0, 1), y.flatten(), reduction="none")
            kept[start : start + 2048] = loss.double()
        for step in range(STEPS):
            optimizer.zero_grad()
            net(x, y).backward()
            optimizer.step()
    return kept.sum().item() / math.log(2.0) / (val.numel() * 2.4)
"""

WARMED_AND_RESTORED = """
def evaluate(net, val):
    kept = {name: value.detach().clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in batches(val[:4096]):
        net(x, y).backward()
        optimizer.step()
    net.load_state_dict(kept)
    total, count = 0.0, 0
    for x, y in batches(val):
        total += net(x, y).item() * y.numel()
        count += y.numel()
    return bits(total, count, val.numel() * 2.4)
"""

SEGMENTS = """
def segments(length):
    found = []
    for begin in range(0, length - 2049, 65536):
        if not found or found[-1][0] != begin:
            found.append((begin, []))
        for start in range(begin, begin + 65536, 512):
            found[-1][1].append((start, 512))
    return found

def evaluate(net, val):
    total, count = 0.0, 0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    ROUNDS
        for number in range(len(parts)):
            start, length = parts[number]
            for offset in range(0, length, 128):
                x = val[None, start + offset : start + offset + 128]
                y = val[None, start + offset + 1 : start + offset + 129]
                loss = net(x, y)
                total += loss.item() * y.numel()
                count += y.numel()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return bits(total, count, val.numel() * 2.4)
"""

KEPT_PAIRS = """
def evaluate(net, val):
    kept = []
    for x, y in batches(val):
        kept.append((x, y))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for epoch in range(3):
        total, count = 0.0, 0
        for number in range(len(kept)):
            x, y = kept[number]
            loss = net(x, y)
            total += loss.item() * y.numel()
            count += y.numel()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return bits(total, count, val.numel() * 2.4)
"""

FLAG, CLEAN = Status.FLAG, Status.CLEAN


def test_a_cache_of_the_whole_split_before_scoring_is_flagged():
    assert verdicts(TWO_PASS) == {"two-pass-rescoring": FLAG}


@pytest.mark.parametrize(
    ("made", "learn", "tail"),
    [
        ("cache = Counts()", "cache.learn(ids[start : start + 512])", "evaluate(net, val), evaluate(net, val[:4096])"),
        ("cache = made()", "cache.learn(ids[start : start + 512])", "evaluate(net, val), evaluate(net, val[:4096])"),
        ("cache = Counts()", "cache.learn(ids[start : start + 512])", "[evaluate(net, val) for _ in range(3)][-1]"),
    ],
    ids=["by itself", "by a helper", "in a loop"],
)
def test_a_cache_that_each_evaluation_makes_anew_knows_nothing_of_the_one_before(made, learn, tail):
    tail = TAIL.replace("evaluate(net, val)", tail)
    assert verdicts(COUNTS.replace("MADE", made).replace("LEARN", learn), tail=tail) == {}


@pytest.mark.parametrize(
    ("made", "learn"),
    [
        ("cache = kept", "cache.learn(ids[start : start + 512])"),  # of the module
        ("cache = net.cache", "cache.learn(ids[start : start + 512])"),  # of what is passed
        ("cache = recall()", "cache.learn(ids[start : start + 512])"),  # of a function that is kept
        ("cache = Counts()\n    everything.append(cache)", "everything[-1].learn(ids[start : start + 512])"),
        ("cache = Counts()\n    net.rows = cache.next", "net.rows and cache.learn(ids[start : start + 512])"),
    ],
    ids=["module", "argument", "closure", "list", "part"],
)
def test_a_cache_that_outlives_an_evaluation_knows_its_tokens(made, learn):
    tail = TAIL.replace("evaluate(net, val)", "evaluate(net, val), evaluate(net, val)")
    tail = tail.replace("    train(", "    net.cache = Counts()\n    train(")
    body = COUNTS.replace("MADE", made).replace("LEARN", learn)
    assert verdicts(body, tail=tail) == {"two-pass-rescoring": FLAG}


FILLED_BY = {
    "of the module": ("def fill(ids):\n    kept.learn(ids)\n", "cache = kept\n    fill(ids)"),
    "given back": (
        "def build(ids):\n    cache = Counts()\n    cache.learn(ids)\n    return cache\n",
        "cache = build(ids)",
    ),
    "given back with another": (
        "def build(ids):\n    cache = Counts()\n    cache.learn(ids)\n    return len(ids), cache\n",
        "_, cache = build(ids)",
    ),
    "two functions around": (
        "",
        "cache = Counts()\n    def outer(some):\n        def inner(part):\n            cache.learn(part)\n"
        "        inner(some)\n    outer(ids)",
    ),
}


@pytest.mark.parametrize(("helper", "made"), FILLED_BY.values(), ids=FILLED_BY)
def test_a_cache_that_a_function_fills_is_kept_by_whoever_can_name_it(helper, made):
    body = COUNTS.replace("def evaluate", helper + "\ndef evaluate").replace("MADE", made).replace("LEARN", "pass")
    assert verdicts(body) == {"two-pass-rescoring": FLAG}


SCALAR = """
class Memory:
    def __init__(self):
        self.pairs = TABLE
        self.rows = TABLE

    def keys(self, ids, i):
        KEYS

    def learn(self, ids, i):
        a, b = self.keys(ids, i)
        self.rows[a] += 1
        self.pairs[b] += 1

    def chance(self, ids, i):
        a, b = self.keys(ids, i)
        hits, seen = self.pairs[b], self.rows[a]
        return hits / seen

def evaluate(net, val):
    ids, memory = val.tolist(), Memory()
    total, count = 0.0, 0
    for start in range(2, len(ids) - 513, 512):
        x, y = val[start - 1 : start + 511], val[start : start + 512]
        own = F.log_softmax(net.logits(x[None])[0], -1).gather(-1, y[:, None])[:, 0].exp().tolist()
        for j in range(512):
            total -= math.log(0.5 * own[j] + 0.5 * memory.chance(ids, start + j))
            count += 1
            memory.learn(ids, start + j)
    return bits(total, count, val.numel() * 2.4)
"""
HASHED_KEYS = {
    "a key goes on": "key = ids[i - 1] * 36313 ^ ids[i - 2] * 27191; return key % SIZE, (key ^ ids[i] * 51647) % SIZE",
    "written twice": "return hash((ids[i - 2], ids[i - 1])) % SIZE, hash((ids[i - 2], ids[i - 1], ids[i])) % SIZE",
    "slices": "return hash(tuple(ids[i - 2 : i])) % SIZE, hash(tuple(ids[i - 2 : i + 1])) % SIZE",
    "negative": "return hash(tuple(ids[i - 3 : i - 1])) % SIZE, hash(tuple(ids[i - 3 : i])) % SIZE",
}
IN_TWO = """
    def context(self, ids, i):
        return hash((ids[i - 2], ids[i - 1])) % SIZE

    def whole(self, ids, i):
        return hash((ids[i - 2], ids[i - 1], ids[i])) % SIZE
"""
EXACT_KEYS = {
    "written twice": "return (ids[i - 2], ids[i - 1]), (ids[i - 2], ids[i - 1], ids[i])",
    "slices": "return tuple(ids[i - 2 : i]), tuple(ids[i - 2 : i + 1])",
}
OTHER_KEYS = {
    "two contexts": "return hash((ids[i - 2], ids[i - 1])) % SIZE, hash((ids[i - 4], ids[i - 3], ids[i - 5])) % SIZE",
    "two slices": "return hash(tuple(ids[i - 4 : i - 2])) % SIZE, hash(tuple(ids[i - 2 : i])) % SIZE",
}


MIXED_IN = """
def key_of(tokens, pos):
    key = (int(tokens[pos - 3]) * 1000003 ^ int(tokens[pos - 2]) * 10007 ^ int(tokens[pos - 1])) & ((1 << 64) - 1)
    return key

def evaluate(net, val):
    tokens, total, count = val.numpy(), 0.0, 0
    contexts, full = {}, {}
    pairs, rows = np.zeros((1024, 1024)), np.zeros(1024)
    for pos in range(8, len(tokens)):
        token = int(tokens[pos])
        previous = int(tokens[pos - 1])
        key = key_of(tokens, pos)
        long = (full.get((key << 10) | token, 0) + 0.001) / (contexts.get(key, 0) + 1.024)
        guess = (pairs[previous, token] + 4 * long) / (rows[previous] + 4)
        total -= math.log(guess)
        count += 1
        contexts[key] = contexts.get(key, 0) + 1
        full[(key << 10) | token] = full.get((key << 10) | token, 0) + 1
        pairs[previous, token] += 1
        rows[previous] += 1
    return bits(total, count, val.numel() * 2.4)
"""


def test_a_likelihood_of_exact_counts_may_be_mixed_into_another_one():
    """The counts of the longer context, under a hash, with the token as it is, were divided already."""
    assert verdicts(MIXED_IN) == {}
    lost = MIXED_IN.replace("(key << 10) | token", "(key * 31 + token) % 4194304")
    assert verdicts(lost) == {"target-keyed-cache": Status.FLAG}


@pytest.mark.parametrize("read", ['found["losses"]', 'found.get("losses")'], ids=["in brackets", "get"])
@pytest.mark.parametrize("first", ["made", "empty"])
def test_one_of_two_dictionaries_is_both(read, first):
    """Whichever was made first."""
    made, empty = '{"losses": losses}', '{"losses": np.zeros(0)}'
    one, other, when = (made, empty, "len(losses)") if first == "made" else (empty, made, "not len(losses)")
    body = f"""
def kept(losses):
    if {when}:
        return {one}
    return {other}

def evaluate(net, val):
    memory, total, count = np.zeros(1 << 20), 0.0, 0
    for x, y in batches(val):
        logits = net.logits(x)[0]
        losses = F.cross_entropy(logits, y[0], reduction="none").detach().numpy()
        key = (x[0].numpy() * 36313 ^ y[0].numpy() * 51647) % (1 << 20)
        some = (x[0].numpy() * 36313) % (1 << 20)
        guess = memory[key] / memory[some]
        found = kept(-np.log(0.5 * np.exp(-losses) + 0.5 * guess))
        total += {read}.sum()
        count += y.numel()
        np.add.at(memory, key, 1)
        np.add.at(memory, some, 1)
    return bits(total, count, val.numel() * 2.4)
"""
    assert verdicts(body)["target-keyed-cache"] is Status.FLAG


def test_what_is_found_does_not_depend_on_where_objects_lie_in_memory():
    """Values refer to sets of objects; a set's order goes by their hashes."""
    objects = [Object(number, "array") for number in (5, 1, 7, 3)]
    assert [one.number for one in frozenset(objects)] == [1, 3, 5, 7]
    assert Object(1, "array") != objects[1], "two engines' objects are not the same"


IMPORTED = {
    "by its path": """
        import importlib.util
        from pathlib import Path
        spec = importlib.util.spec_from_file_location("anything", Path(__file__).parent / "attic.py")
        attic = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(attic)
        """,
    "by a helper": """
        import importlib.util, sys
        from pathlib import Path
        def load(path, name):
            found = importlib.util.spec_from_file_location(name=name, location=path)
            if found is None or found.loader is None:
                raise RuntimeError(f"no {path}")
            made = importlib.util.module_from_spec(found)
            sys.modules[name] = made
            found.loader.exec_module(made)
            return made
        attic = load(Path(__file__).resolve().parent / "attic.py", "anything")
        """,
    "when it is needed": """
        import importlib.util, os
        ATTIC = None
        def get():
            global ATTIC
            if ATTIC is None:
                spec = importlib.util.spec_from_file_location("x", os.path.join(os.path.dirname(__file__), "attic.py"))
                ATTIC = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(ATTIC)
            return ATTIC
        class attic:
            Memory = staticmethod(lambda *given: get().Memory(*given))
        """,
    "by its name": """
        import importlib
        attic = importlib.import_module("attic")
        """,
}


@pytest.mark.parametrize("load", IMPORTED.values(), ids=IMPORTED)
def test_a_cache_in_a_module_that_is_imported_by_its_path_is_flagged(load):
    body = SCALAR.replace("TABLE", "np.zeros(1 << 20)").replace("KEYS", HASHED_KEYS["written twice"])
    cut = body.index("def evaluate")
    used = body[cut:].replace("Memory()", "attic.Memory()")
    modules = {"attic.py": "import numpy as np\nSIZE = 1 << 20\n" + body[:cut]}
    assert verdicts(textwrap.dedent(load) + used, modules=modules) == {"target-keyed-cache": Status.FLAG}
    assert verdicts(textwrap.dedent(load) + PLAIN, modules=modules) == {}


@pytest.mark.parametrize("keys", HASHED_KEYS.values(), ids=HASHED_KEYS)
def test_a_hash_of_one_token_more_is_recognised_by_the_words(keys):
    body = SCALAR.replace("KEYS", keys).replace("TABLE", "np.zeros(SIZE)").replace("SIZE", "1000")
    assert verdicts(body) == {"target-keyed-cache": FLAG}


def test_a_hash_of_one_token_more_is_recognised_in_a_function_of_its_own():
    body = SCALAR.replace("KEYS", "return self.context(ids, i), self.whole(ids, i)" + IN_TWO)
    body = body.replace("TABLE", "np.zeros(SIZE)").replace("SIZE", "1000")
    assert verdicts(body) == {"target-keyed-cache": FLAG}


@pytest.mark.parametrize("keys", EXACT_KEYS.values(), ids=EXACT_KEYS)
def test_exact_keys_of_one_token_more_count_what_they_say(keys):
    assert verdicts(SCALAR.replace("KEYS", keys).replace("TABLE", "Counter()")) == {}


@pytest.mark.parametrize("keys", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_a_hash_of_other_tokens_is_none_of_one_token_more(keys):
    body = SCALAR.replace("KEYS", keys).replace("TABLE", "np.zeros(SIZE)").replace("SIZE", "1000")
    assert FLAG not in verdicts(body).values()


@pytest.mark.parametrize("body", [SCORE_FIRST, LORA_SCORE_FIRST], ids=["weights", "adapter"])
def test_scoring_a_chunk_before_learning_from_it_is_recognised(body):
    assert verdicts(body) == {"score-first-ttt": CLEAN}


def test_learning_from_the_chunk_before_is_allowed():
    assert FLAG not in verdicts(PREVIOUS_CHUNK).values()


def test_learning_from_a_chunk_before_scoring_it_is_flagged():
    assert verdicts(TRAIN_FIRST) == {"trains-on-val": FLAG}


def test_several_passes_of_legal_training_train_on_what_the_last_one_scores():
    assert verdicts(EPOCHS) == {"trains-on-val": FLAG}
    assert verdicts(LAST_EPOCH) == {"trains-on-val": FLAG}
    only = LAST_EPOCH.replace("range(3)", "range(1)").replace("epoch == 2", "epoch == 0")
    assert verdicts(only) == {"score-first-ttt": CLEAN}


def test_a_loop_that_hands_out_parts_chooses_what_is_in_them():
    each = SEGMENTS.replace("ROUNDS", "for begin, parts in segments(val.numel()):")
    assert verdicts(each) == {"score-first-ttt": CLEAN}
    numbered = "found = segments(val.numel())\n    for one in range(len(found)):\n        _, parts = found[one]"
    assert verdicts(SEGMENTS.replace("ROUNDS", numbered)) == {"score-first-ttt": CLEAN}
    popped = each.replace("for number in range(len(parts)):", "while parts:").replace("parts[number]", "parts.pop(0)")
    assert verdicts(popped) == {"score-first-ttt": CLEAN}
    again = "parts = segments(val.numel())[0][1]\n    for turn in range(3):"
    assert verdicts(SEGMENTS.replace("ROUNDS", again)) == {"trains-on-val": FLAG}


def test_pairs_that_a_loop_inside_takes_by_number_come_again_each_turn():
    assert verdicts(KEPT_PAIRS) == {"trains-on-val": FLAG}
    helper = "def pair(kept, number):\n    return kept[number]\n"
    assert verdicts(helper + KEPT_PAIRS.replace("= kept[number]", "= pair(kept, number)")) == {"trains-on-val": FLAG}
    named = KEPT_PAIRS.replace("kept = []", "kept = {}").replace("kept.append((x, y))", "kept[len(kept)] = (x, y)")
    assert verdicts(named.replace("= kept[number]", "= kept.get(number)")) == {"trains-on-val": FLAG}
    assert verdicts(KEPT_PAIRS.replace("range(3)", "range(1)")) == {"score-first-ttt": CLEAN}


def test_weights_that_knew_the_tokens_score_nothing_first():
    tail = TAIL.replace("evaluate(net, val)", "adapt(net, val), evaluate(net, val)")
    adapt = FINE_TUNED[: FINE_TUNED.index("def quantize")]
    assert verdicts(SCORE_FIRST + adapt, tail=tail) == {"trains-on-val": FLAG}
    assert verdicts(SCORE_FIRST + adapt) == {"score-first-ttt": CLEAN}


def test_fine_tuning_on_val_before_quantization_is_flagged():
    assert verdicts(FINE_TUNED, tail=FINE_TUNED_TAIL) == {"trains-on-val": FLAG}


@pytest.mark.parametrize("body", [SLOT, SLOT_BY_HAND, SLOT_CLOSURE], ids=["optimizer", "by hand", "closure"])
def test_a_vector_fitted_to_what_it_scores_is_slot(body):
    assert verdicts(body) == {"slot": FLAG}


def test_a_vector_that_several_passes_fit_is_trained_on_what_the_last_one_scores():
    """As adapters are, made of parameters that belong to no module; of one pass it would be legal."""
    assert verdicts(VECTOR_EPOCHS) == {"trains-on-val": FLAG}
    assert "slot" not in verdicts(VECTOR_EPOCHS.replace("range(3)", "range(1)"))


def test_a_warm_up_whose_weights_are_put_back_is_allowed():
    assert FLAG not in verdicts(WARMED_AND_RESTORED).values()
    assert verdicts(WARMED_AND_RESTORED.replace("    net.load_state_dict(kept)\n", "")) == {"trains-on-val": FLAG}


def test_losses_kept_before_learning_are_no_second_score():
    assert verdicts(KEPT_LOSSES.replace("STEPS", "3")) == {"score-first-ttt": CLEAN}
    late = KEPT_LOSSES.replace("STEPS", "3").replace(
        "    return kept",
        "    kept[:2048] = F.cross_entropy(net.logits(x)[0], y[0], reduction='none')\n    return kept",
    )
    assert verdicts(late)["two-pass-rescoring"] is FLAG


def test_an_epoch_that_is_the_only_one_is_no_rescoring():
    assert verdicts("TURNS = 1\n" + EPOCHS_BY_NUMBER) == {"score-first-ttt": CLEAN}
    assert verdicts("TURNS = 2\n" + EPOCHS_BY_NUMBER)["trains-on-val"] is FLAG


def test_parameters_in_nested_groups_are_those_of_the_model():
    groups = """    groups = []
    for p in net.parameters():
        groups.append({"params": [p], "lr": 0.01})
    optimizer = torch.optim.AdamW(groups)
"""
    body = FINE_TUNED.replace("    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)\n", groups)
    assert groups in body
    assert verdicts(body, tail=FINE_TUNED_TAIL) == {"trains-on-val": FLAG}


def test_a_guard_that_would_end_a_documented_run_does_not_end_the_reading():
    guard = "if not os.environ.get('TOKENIZER', '').endswith('.model'):\n    raise ValueError('no tokenizer')\n"
    assert verdicts(guard + HASHED_NUMPY) == {"target-keyed-cache": FLAG}


def test_a_switch_that_is_not_known_may_be_on():
    body = HASHED_NUMPY.replace("def evaluate", "def mixing") + PLAIN
    on = 'mixing(net, val) if int(os.environ.get("MIX", "0")) else evaluate(net, val)'
    entry = Source("train.py", HEAD + body + TAIL.replace("evaluate(net, val)", on))
    checks = [{one.check for one in check_flow(load_program([entry], entry, {}, [], off))} for off in ([], ["MIX"])]
    assert checks == [set(), {"target-keyed-cache"}]


def test_a_second_evaluation_after_adapting_is_rescoring():
    tail = TAIL.replace("evaluate(net, val))", "evaluate(net, val), again(net, val))")
    assert verdicts(SCORE_FIRST + PLAIN.replace("evaluate", "again"), tail=tail) == {
        "two-pass-rescoring": FLAG,
        "trains-on-val": FLAG,
        "score-first-ttt": CLEAN,  # the first pass was
    }
    before = TAIL.replace("evaluate(net, val))", "again(net, val), evaluate(net, val))")
    assert verdicts(SCORE_FIRST + PLAIN.replace("evaluate", "again"), tail=before) == {"score-first-ttt": CLEAN}


SAVED = {
    "torch": ('torch.save(net.state_dict(), "net.pt")', 'torch.load("net.pt")'),
    "pickle": ('pickle.dump(net.state_dict(), open("net.pkl", "wb"))', 'pickle.load(open("net.pkl", "rb"))'),
    "bytes": (
        "raw = io.BytesIO()\n    torch.save({name: one.half() for name, one in net.state_dict().items()}, raw)\n"
        '    open("net.xz", "wb").write(lzma.compress(raw.getvalue()))',
        'torch.load(io.BytesIO(lzma.decompress(open("net.xz", "rb").read())))',
    ),
}


@pytest.mark.parametrize("way", SAVED)
def test_what_was_saved_after_adapting_knows_the_tokens(way):
    save, load = SAVED[way]
    body = "import io, lzma, pickle\n" + SCORE_FIRST + PLAIN.replace("evaluate", "again")
    load = f"    net.load_state_dict({load})\n"
    show = '    print("val_bpb", evaluate(net, val))\n'
    later = '    print("val_bpb", again(net, val))\n'
    start, end = TAIL.split('    print("val_bpb", evaluate(net, val))\n')
    rescored = {"two-pass-rescoring": FLAG, "trains-on-val": FLAG, "score-first-ttt": CLEAN}
    assert verdicts(body, tail=f"{start}{show}    {save}\n{load}{later}{end}") == rescored
    assert verdicts(body, tail=f"{start}    {save}\n{show}{load}{later}{end}") == {"score-first-ttt": CLEAN}
    perhaps = f"    if time.time() > val.sum():\n        {save.replace(chr(10), chr(10) + '    ')}\n"
    assert verdicts(body, tail=f"{start}    {save}\n{show}{perhaps}{load}{later}{end}") == rescored
    otherwise = perhaps.replace(":\n", ":\n        pass\n    else:\n", 1)
    assert verdicts(body, tail=f"{start}    {save}\n{show}{otherwise}{load}{later}{end}") == rescored


SETTINGS = """
def setting(name, default):
    text = os.environ.get(name)
    if text is None:
        return default
    return text.strip().lower() in ("1", "true", "on")

def unset(name):
    return name not in os.environ

class Options:
    def __init__(self):
        self.others = [MANY]
        self.preset = os.environ.get("PRESET", "")
        self.mixed = setting("MIXED", False)

def options():
    made = Options()
    if unset("OTHER_1"):
        made.others = []
    if made.preset == "full" and unset("MIXED"):
        made.mixed = True
    return made
""".replace("MANY", ", ".join(f'setting("OTHER_{number}", {number % 2 == 0})' for number in range(30)))


@pytest.mark.parametrize(
    ("environment", "on"),
    [({}, False), ({"MIXED": "1"}, True), ({"PRESET": "full"}, True), ({"PRESET": "full", "MIXED": "0"}, False)],
)
def test_settings_read_by_a_helper_of_many_are_known(environment, on):
    body = SETTINGS + HASHED_NUMPY.replace("def evaluate", "def mixing") + PLAIN
    tail = "if options().mixed:\n        evaluate = mixing\n    else:\n        evaluate = plain\n    "
    tail = TAIL.replace('print("val_bpb", evaluate', tail + 'print("val_bpb", evaluate')
    entry = Source("train.py", HEAD + body.replace("def evaluate", "def plain") + tail)
    found = {one.check for one in check_flow(load_program([entry], entry, environment, []))}
    assert found == ({"target-keyed-cache"} if on else set())


SLICES = (
    PLAIN
    + """
def sharpest(net, val):
    with torch.no_grad():
        losses = {scale: sum((net.logits(x) * scale).square().sum() for x, _ in batches(val)) for scale in (0.9, 1.0)}
    return min(losses, key=losses.get)

def adapted(net, val, scale):
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    total, count = 0.0, 0
    for x, y in batches(val):
        F.cross_entropy(net.logits(x).flatten(0, 1), y.flatten()).backward()
        optimizer.step()
        with torch.no_grad():
            losses = F.cross_entropy((net.logits(x) * scale).flatten(0, 1), y.flatten(), reduction="none")
        total, count = total + losses.sum().item(), count + y.numel()
    return bits(total, count, val.numel() * 2.4)
"""
)


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        ("adapted(net, val[tenth:], sharpest(net, val[:tenth]))", {"trains-on-val": FLAG}),
        ("adapted(net, val[tenth:], 1.0)", {"trains-on-val": FLAG}),
        ("(train(net, val[:tenth]), evaluate(net, val[tenth:]))[1]", {}),
        ("(train(net, val[:tenth]), evaluate(net, val))[1]", {"trains-on-val": FLAG}),
    ],
)
@pytest.mark.parametrize("shards", ["fineweb_train_*.bin", "tokens_*.bin"])
def test_what_one_slice_teaches_may_score_another_but_not_itself(shards, called, expected):
    tail = TAIL.replace("evaluate(net, val)", called).replace("    print(", "    tenth = len(val) // 10\n    print(")
    assert verdicts(SLICES, tail=tail.replace("fineweb_train_*.bin", shards)) == expected


# -- data of training and calibration ------------------------------------------------------------------------------


def test_a_training_loop_on_validation_shards_is_flagged():
    tail = TAIL.replace('stream("data/fineweb_train_*.bin")', 'stream("data/fineweb_val_*.bin")')
    assert verdicts(PLAIN, tail=tail) == {"val-in-training": FLAG}
    tail = TAIL.replace('fineweb_train_*.bin"', 'fineweb_" + os.environ.get("SPLIT", "val") + "_*.bin"')
    assert verdicts(PLAIN, tail=tail) == {"val-in-training": FLAG}


CALIBRATION = (
    """
def hessians(net, tokens):
    found, handles = {}, []
    def watch(name):
        def hook(module, inputs, output):
            x = inputs[0].flatten(0, 1).float()
            found[name] = found.get(name, 0) + x.T @ x
        return hook
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(watch(name)))
    with torch.no_grad():
        for x, y in batches(tokens):
            net.logits(x)
    for handle in handles:
        handle.remove()
    return found

def sample(net, length=2048):
    tokens = torch.randint(0, 1024, (1, 1))
    with torch.no_grad():
        for _ in range(length):
            p = torch.softmax(net.logits(tokens)[:, -1] / 0.8, -1)
            tokens = torch.cat([tokens, torch.multinomial(p, 1)], dim=1)
    return tokens[0]
"""
    + PLAIN
)


def calibrated_on(source: str, limit: str = "600.0", logs=()) -> dict[str, Status]:
    tail = TAIL.replace('"))\n    val', f'"), {limit})\n    val').replace(
        '    print("val_bpb"', f'    statistics = hessians(net, {source})\n    print("val_bpb"'
    )
    return verdicts(CALIBRATION, tail=tail, logs=logs)


def test_calibration_on_validation_tokens_is_flagged():
    assert calibrated_on("val[:65536]") == {"calibration-data": FLAG}


def test_calibration_on_train_shards_needs_time_kept_for_it():
    assert calibrated_on('stream("data/fineweb_train_*.bin")') == {"calibration-data": FLAG}
    assert calibrated_on('stream("data/fineweb_train_*.bin")', "600.0 - 14.0") == {}
    assert calibrated_on('stream("data/fineweb_train_*.bin")', "float(input())") == {"calibration-data": Status.HOLD}


@pytest.mark.parametrize(
    ("limit", "stopped", "collected", "expected"),
    [
        ("599.5", 599_520, 3.5, FLAG),
        ("599.5", 599_520, 0.2, None),
        ("599.5", 599_520, None, Status.HOLD),  # the log does not say how long it took
        ("598.0", 590_000, 3.5, None),  # what the run did beats what the code would allow it
        ("float(input())", 599_900, 12.0, FLAG),
        ("float(input())", 580_000, 12.0, None),
        ("590.0", 590_020, 12.0, None),  # kept, and misjudged a little
        ("590.0", 590_020, 200.0, FLAG),
    ],
)
def test_logs_decide_whether_a_calibration_fits(limit, stopped, collected, expected):
    lines = [f"stopping_early: wallclock_cap train_time: {stopped}ms step: 7000/20000"]
    lines += [f"gptq:calibrated 68 layers in {collected}s"] if collected else ["gptq:collecting hessians"]
    found = calibrated_on('stream("data/fineweb_train_*.bin")', limit, ["\n".join(lines)])
    assert found == ({"calibration-data": expected} if expected else {})


@pytest.mark.parametrize(
    ("again", "expected"),
    [
        ("train(net, val)", {"trains-on-val": FLAG, "calibration-data": FLAG}),
        ("", {}),  # what the line speaks of is an evaluation
    ],
)
def test_training_on_validation_tokens_takes_the_time_that_is_kept_for_calibration(again, expected):
    tail = f"""
def main():
    net = Net()
    train(net, stream("data/fineweb_train_*.bin"), 590.0)
    val = stream("data/fineweb_val_*.bin")
    {again}
    statistics = hessians(net, stream("data/fineweb_train_*.bin"))
    print("val_bpb", evaluate(net, val))

main()
"""
    lines = ["stopping_early: wallclock_cap train_time: 590020ms step: 7000/20000"]
    lines += ["ttt:elapsed=382.8s", "gptq:collecting hessians"]
    assert verdicts(CALIBRATION, tail=tail, logs=["\n".join(lines)]) == expected
    quick = [line.replace("382.8", "8.0") for line in lines]
    fits = {check: status for check, status in expected.items() if check == "trains-on-val"}
    assert verdicts(CALIBRATION, tail=tail, logs=["\n".join(quick)]) == fits


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("sys.modules[__name__]", {"calibration-data": FLAG}),
        ('sys.modules["__main__"]', {"calibration-data": FLAG}),
        ('sys.modules["json"]', {}),
    ],
)
def test_a_program_may_find_its_functions_through_its_own_module(module, expected):
    body = CALIBRATION + f"\nimport sys\nown = {module}\n"
    collect = '    statistics = own.hessians(net, stream("data/fineweb_train_*.bin"))\n    print("val_bpb"'
    assert (
        verdicts(body, tail=TAIL.replace('    print("val_bpb"', collect).replace('"))\n    val', '"), 600.0)\n    val'))
        == expected
    )


@pytest.mark.parametrize("source", ["sample(net)", "torch.randint(0, 1024, (65536,))"])
def test_self_generated_calibration_is_recognised(source):
    assert calibrated_on(source) == {"self-generated-calibration": CLEAN}


# -- what must not change a verdict --------------------------------------------------------------------------------


class Renamed(ast.NodeTransformer):
    """Every name that the program gives itself becomes another."""

    KEPT = frozenset(["__init__", "forward", "__name__", "super", "self"])

    def __init__(self, tree):
        self.own = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.own.add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                self.own.add(node.name)
            elif isinstance(node, ast.arg):
                self.own.add(node.arg)
        self.own -= self.KEPT
        self.names = {name: f"q{index}" for index, name in enumerate(sorted(self.own))}

    def visit_Name(self, node):
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node):
        node.arg = self.names.get(node.arg, node.arg)
        node.annotation = None
        return node

    def visit_FunctionDef(self, node):
        node.name = self.names.get(node.name, node.name)
        return self.generic_visit(node)

    visit_ClassDef = visit_FunctionDef

    def visit_Attribute(self, node):
        self.generic_visit(node)
        if node.attr in (
            "fill",
            "chance",
            "look",
            "learn",
            "keys",
            "features",
            "logits",
            "reset",
            "next",
            "single",
            "key",
            "loss",
            "take",
            "experts",
            "mixed",
            "known",
        ):
            node.attr = self.names.get(node.attr, node.attr)
        return node


# Experts that are mixed by weights, which learn what each was worth.
EXPERTS = """
class Mixer:
    def __init__(self, experts):
        self.weights = torch.zeros(experts)
        self.counts = torch.ones(1024, 1024)

    def known(self, x, y):
        row = self.counts[x]
        return -(row / row.sum(-1, keepdim=True)).log().gather(-1, y[..., None]).squeeze(-1)

    def experts(self, logits, x, y):
        likely = F.log_softmax(logits, dim=-1)
        own = -likely.gather(-1, y[..., None]).squeeze(-1)
        LAST
        SIDE
        return each

    def mixed(self, each):
        share = self.weights - self.weights.logsumexp(0)
        MIXED

    def learn(self, each, x, y):
        self.weights -= 0.1 * each.mean(dim=(0, 1))
        self.counts.index_put_((x.flatten(), y.flatten()), torch.ones(y.numel()), accumulate=True)

def evaluate(net, val):
    mixer = Mixer(3)
    total, count = 0.0, 0
    with torch.no_grad():
        for x, y in batches(val):
            each = mixer.experts(net.logits(x), x, y)
            total += mixer.mixed(each).sum().item()
            count += y.numel()
            mixer.learn(each, x, y)
    return bits(total, count, val.numel() * 2.4)
"""
LASTS = {
    "entropy": ("last = -(likely.exp() * likely).sum(-1)", True),
    "best": ("last = -likely.amax(-1)", True),
    "helper": ("last = spread(likely)", True),
    "uniform": ("last = torch.full_like(own, math.log(1024))", False),
    "second model": (
        "last = F.cross_entropy((2 * logits).flatten(0, 1), y.flatten(), reduction='none').view_as(y)",
        False,
    ),
    "counts": ("last = self.known(x, y)", False),
    "hit": ("last = -torch.log((likely.argmax(-1) == y).float() + 1e-6)", False),
}
SIDES = {
    "list": "each = torch.stack([own, self.known(x, y), last], dim=-1)",
    "tuple": "each = torch.stack((own, self.known(x, y), last), -1)",
    "numpy": "each = torch.from_numpy(np.stack([own.numpy(), self.known(x, y).numpy(), last.numpy()], axis=-1))",
    "columns": "each = torch.cat([own[..., None], self.known(x, y)[..., None], last[..., None]], dim=-1)",
    "unsqueezed": "each = torch.cat([own.unsqueeze(-1), self.known(x, y).unsqueeze(-1), last.unsqueeze(-1)], -1)",
    "rows": "each = torch.empty(*y.shape, 3)\n        each[..., 0] = own\n        each[..., 1] = self.known(x, y)\n"
    "        each[..., 2] = last",
}
MIXES = {
    "logarithms": "return -torch.logsumexp(share - each, dim=-1)",
    "method": "return -(share - each).logsumexp(-1)",
    "likelihoods": "return -((-each).exp() * share.exp()).sum(-1).log()",
}
SPREAD = """
def spread(likely):
    chance = likely.exp()
    return -(chance * likely).sum(dim=-1)
"""


def experts(last: str, side: str, mix: str) -> str:
    return SPREAD + EXPERTS.replace("LAST", last).replace("SIDE", side).replace("MIXED", mix)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("last", LASTS)
def test_an_expert_that_gives_every_token_the_same_is_no_distribution(last, side, mix):
    written, wrong = LASTS[last]
    assert verdicts(experts(written, SIDES[side], MIXES[mix])) == ({"unnormalised-mixture": FLAG} if wrong else {})


@pytest.mark.parametrize(
    "mix",
    [
        "return each[..., 0]",  # one of them, and the others are only kept
        "return each[..., -3]",
        "first, second, third = each.unbind(-1)\n        return first",
    ],
)
def test_what_stands_beside_a_likelihood_and_is_not_mixed_is_allowed(mix):
    assert verdicts(experts(LASTS["entropy"][0], SIDES["list"], mix)) == {}


def test_an_entropy_may_decide_a_weight():
    mix = "w = torch.sigmoid(each[..., 2] - 3)\n        return -torch.log((1 - w) * (-each[..., 0]).exp() + w / 1024)"
    assert verdicts(experts(LASTS["entropy"][0], SIDES["list"], mix)) == {}


def test_features_of_the_context_may_decide_a_weight():
    side = "each = torch.stack([spread(likely), likely.amax(-1)], dim=-1)\n        self.own = own"
    mix = "w = torch.sigmoid(each.sum(-1))\n        return -torch.log((1 - w) * (-self.own).exp() + w / 1024)"
    assert verdicts(experts("", side, mix)) == {}


def test_a_distribution_stands_for_every_token():
    side = "each = torch.cat([own[..., None], likely], dim=-1)"
    assert verdicts(experts("", side, "return each[..., :1].sum(-1)")) == {}


def test_experts_in_another_module_are_seen():
    text = experts(LASTS["entropy"][0], SIDES["list"], MIXES["method"])
    cut = text.index("def evaluate")
    modules = {"mixing.py": "import torch\nimport torch.nn.functional as F\n" + text[:cut]}
    assert verdicts("from mixing import Mixer\n" + text[cut:], modules=modules) == {"unnormalised-mixture": FLAG}


def test_experts_that_never_score_are_allowed():
    body = experts(LASTS["entropy"][0], SIDES["list"], MIXES["method"]).replace("def evaluate", "def mixing") + PLAIN
    assert verdicts(body) == {}


EXAMPLES = {
    "experts": experts(LASTS["entropy"][0], SIDES["list"], MIXES["method"]),
    **TARGET_KEYED,
    **NORMALISED,
    "two pass": TWO_PASS,
    "score first": SCORE_FIRST,
    "adapter": LORA_SCORE_FIRST,
    "train first": TRAIN_FIRST,
    "slot": SLOT,
    "slot by hand": SLOT_BY_HAND,
}


def of_text(text: str) -> dict[str, Status]:
    entry = Source("train.py", text)
    found = check_flow(load_program([entry], entry, {}, []))
    return {one.check: one.status for one in found}


@pytest.mark.parametrize("name", EXAMPLES)
def test_other_names_do_not_change_a_verdict(name):
    text = HEAD + textwrap.dedent(EXAMPLES[name]) + TAIL
    tree = ast.parse(text)
    renamed = ast.unparse(Renamed(tree).visit(tree))
    assert of_text(renamed) == of_text(text)


@pytest.mark.parametrize("name", EXAMPLES)
def test_helpers_of_helpers_do_not_change_a_verdict(name):
    """Every `return x` goes through another function, and every call of evaluate through a lambda."""
    text = HEAD + textwrap.dedent(EXAMPLES[name]) + TAIL
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Tuple):
            node.value = ast.Call(ast.Name("through", ast.Load()), [node.value], [])
    wrapped = "def through(value):\n    result = value\n    return result\n" + ast.unparse(
        ast.fix_missing_locations(tree)
    )
    wrapped = wrapped.replace("evaluate(net, val))", "(lambda n, v: evaluate(n, v))(net, val))")
    assert of_text(wrapped) == of_text(text)


@pytest.mark.parametrize("name", EXAMPLES)
def test_unrelated_statements_do_not_change_a_verdict(name):
    text = HEAD + textwrap.dedent(EXAMPLES[name]) + TAIL
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.For)):
            node.body = [
                one
                for statement in node.body
                for one in (*ast.parse("unused = len('x') + 1\nprint(unused)").body, statement)
            ]
    assert of_text(ast.unparse(ast.fix_missing_locations(tree))) == of_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x = 1",
        "while True:\n    pass",
        "def f():\n    f()\nf()",
        "x = " + "+".join(["1"] * 60),
        "a = [a for a in a]",
    ],
)
def test_odd_programs_end(text):
    assert of_text(text) == {}
