"""The loss of a token, shared out among its bytes and mixed there, is seen however it is written; what is mixed for
whole tokens, or only added up, passes."""

from __future__ import annotations

import pytest
from test_flow import PLAIN, TAIL, findings_of, verdicts

from harness.compliance.findings import Status

FLAG = {"unnormalised-mixture": Status.FLAG}

# Bytes predicted by counts of what came behind the byte before. SHARE gives each byte its part of the token's loss.
COUNTED = """
SPELLED = [bytes([i % 256]) * (1 + i % 3) for i in range(1024)]

class Counts:
    def __init__(self):
        self.seen, self.before = {}, -1

    def next(self, byte):
        row = self.seen.setdefault(self.before, {})
        n = sum(row.values())
        sure = max(row.values(), default=0) / max(n, 1)
        chance = row[byte] / (n + len(row)) if byte in row else 1 / 256
        row[byte] = row.get(byte, 0) + 1
        self.before = byte
        return chance, 0.05 if sure > 0.9 else 0.9
"""
WINDOWS = """
def evaluate(net, val):
    came, losses = [], []
    with torch.no_grad():
        for x, y in batches(val):
            losses.append(F.cross_entropy(net.logits(x)[0], y[0], reduction="none"))
            came.append(y[0])
    losses, targets = torch.cat(losses), torch.cat(came)
"""
LOOP = """
    total, size, counts = 0.0, 0, Counts()
    for loss, token in zip(losses.tolist(), targets.tolist()):
        spelled = SPELLED[token]
        SHARE
        for byte in spelled:
            chance, weight = counts.next(byte)
            MIX
            size += 1
    return total / size / math.log(2)
"""
SHARES = {
    "divided": "share = -loss / len(spelled)",
    "times": "share = loss * (-1 / len(spelled))",
    "times the other": "share = (-1 / len(spelled)) * loss",
    "listed": "shares = [-loss / len(spelled) for _ in spelled]\n        share = shares[0]",
    "divided by numpy": "share = np.divide(-loss, len(spelled))",
    "helper": "share = -each_byte(loss, spelled)",
    "with a space": "size_here = len(spelled) + (1 if token in (5, 6) else 0)\n        share = -loss / size_here",
}
MIXES = {
    "math": "total -= math.log(weight * math.exp(share) + (1 - weight) * chance)",
    "numpy": "total += -np.log(weight * np.exp(share) + (1 - weight) * chance)",
    "base two": "total -= math.log(weight * 2 ** (share / math.log(2)) + (1 - weight) * chance)",
    "logarithms": "total -= np.logaddexp(math.log(weight) + share, math.log(1 - weight) + math.log(chance))",
    "by hand": "a, b = math.log(weight) + share, math.log(1 - weight) + math.log(chance)\n"
    "            total -= max(a, b) + math.log1p(math.exp(-abs(a - b)))",
    "torch": "both = torch.tensor([math.log(weight) + share, math.log(1 - weight) + math.log(chance)])\n"
    "            total -= both.logsumexp(0).item()",
}
HELPER = "\ndef each_byte(loss, spelled):\n    return loss / len(spelled)\n"


def looped(share: str, mix: str) -> str:
    return COUNTED + HELPER + WINDOWS + LOOP.replace("SHARE", share).replace("MIX", mix)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("share", SHARES)
def test_shares_of_a_token_are_no_distribution_over_bytes(share, mix):
    assert verdicts(looped(SHARES[share], MIXES[mix])) == FLAG


@pytest.mark.parametrize(
    "share",
    [
        "share = math.exp(-loss) ** (1 / len(spelled))",
        "share = pow(math.exp(-loss), 1 / len(spelled))",
        "share = torch.tensor(-loss).exp().pow(1 / len(spelled)).item()",
    ],
)
def test_a_root_of_a_tokens_likelihood_is_none_either(share):
    mix = "total -= math.log(weight * share + (1 - weight) * chance)"
    assert verdicts(looped(share, mix)) == FLAG


ARRAYS = """
    sizes = SIZES
    own = np.repeat(-losses.numpy() / sizes, sizes)
    text = b"".join(SPELLED[token] for token in targets.tolist())
    counts = Counts()
    pairs = [counts.next(byte) for byte in text]
    other, weight = np.array([one for one, _ in pairs]), np.array([one for _, one in pairs])
    mixed = weight * np.exp(own) + (1 - weight) * other
    return float(-np.log2(np.maximum(mixed, 1e-300)).sum() / len(text))
"""
TENSORS = """
    sizes = SIZES
    own = torch.repeat_interleave(losses.div(sizes), sizes)
    text = b"".join(SPELLED[token] for token in targets.tolist())
    counts = Counts()
    pairs = [counts.next(byte) for byte in text]
    other, weight = torch.tensor([one for one, _ in pairs]), torch.tensor([one for _, one in pairs])
    mixed = weight * own.neg().exp() + (1 - weight) * other
    return -mixed.log().sum().item() / math.log(2) / len(text)
"""


@pytest.mark.parametrize(
    "body",
    [
        ARRAYS.replace("SIZES", "np.array([len(SPELLED[token]) for token in targets.tolist()])"),
        ARRAYS.replace("SIZES", "np.array([len(one) for one in SPELLED])[targets.numpy()]"),
        TENSORS.replace("SIZES", "torch.tensor([len(one) for one in SPELLED])[targets]"),
    ],
)
def test_shares_in_arrays_are_seen(body):
    assert verdicts(COUNTED + WINDOWS + body) == FLAG


def test_what_ranks_send_each_other_is_followed():
    gather = """
    import torch.distributed as dist
    parts = [torch.zeros_like(losses) for _ in range(8)]
    dist.all_gather(parts, losses)
    losses = torch.cat(parts)
    every = [None] * 8
    dist.all_gather_object(every, targets)
    targets = torch.cat(every)
"""
    body = LOOP.replace("SHARE", SHARES["divided"]).replace("MIX", MIXES["math"])
    assert verdicts(COUNTED + WINDOWS + gather + body) == FLAG


def test_what_ranks_gather_on_the_first_is_followed():
    gather = """
    import torch.distributed as dist
    parts = [torch.zeros_like(losses) for _ in range(8)]
    dist.gather(losses, gather_list=parts, dst=0)
    losses = torch.cat(parts)
"""
    body = LOOP.replace("SHARE", SHARES["divided"]).replace("MIX", MIXES["math"])
    assert verdicts(COUNTED + WINDOWS + gather + body) == FLAG


def test_a_mixer_that_is_called_twice_is_judged_as_if_called_once():
    """What the first call saw of its tokens is no secret in the second."""
    body = COUNTED + WINDOWS.replace("def evaluate", "def scored").replace("    losses, targets = ", "    return ")
    body += "\ndef mixed(losses, targets):" + LOOP.replace("SHARE", SHARES["divided"]).replace("MIX", MIXES["math"])
    body += """
def evaluate(net, val):
    losses, targets = scored(net, val)
    if torch.cuda.device_count() > 1:
        return mixed(losses, targets)
    return mixed(losses[:10000], targets[:10000])
"""
    assert verdicts(body) == FLAG


LISTED = """
def mixed(losses, targets):
    text = b"".join(SPELLED[token] for token in targets.tolist())
    tables, sure, other, before = [dict() for _ in range(3)], np.empty(len(text)), np.empty(len(text)), b""
    for i in range(len(text)):
        byte, best, n, known, chance = text[i], 0, 256, False, 1 / 256
        for order in range(2, -1, -1):
            row = tables[order].get(before[-order:] if order else b"")
            if row is None:
                continue
            if not known:
                best, n, known = row[1], row[0], True
            count = row[2].get(byte, 0)
            if count > 0:
                chance = count / (row[0] + len(row[2]))
                break
        other[i] = math.log(chance)
        sure[i] = best / n if known else 1 / 256
        for order in range(3):
            row = tables[order].get(before[-order:] if order else b"")
            if row is None:
                tables[order][before[-order:] if order else b""] = [1, 1, {byte: 1}]
            else:
                row[0] += 1
                more = row[2].get(byte, 0) + 1
                row[2][byte] = more
                if more > row[1]:
                    row[1] = more
        before = (before + bytes([byte]))[-2:]
    sizes = np.array([len(one) for one in SPELLED])[targets.numpy()]
    own = np.repeat(-losses.numpy() / sizes, sizes)
    weight = np.where(sure > 0.9, 0.05, 0.9)
    return float(-np.log2(weight * np.exp(own) + (1 - weight) * np.exp(other)).sum() / len(text))

def evaluate(net, val):
    losses, targets = scored(net, val)
    if torch.distributed.is_initialized():
        rank = torch.distributed.get_rank()
        return mixed(losses[rank::8], targets[rank::8])
    return mixed(losses, targets)
"""


def test_what_tables_in_tables_saw_in_one_call_is_no_secret_in_the_next():
    """The weights look at counts of earlier bytes alone, which is allowed; that they are the shares' is not."""
    body = COUNTED + WINDOWS.replace("def evaluate", "def scored").replace("    losses, targets = ", "    return ")
    assert verdicts(body + LISTED) == FLAG


def test_where_it_happens_is_shown():
    found = findings_of(looped(SHARES["divided"], MIXES["math"]))
    notes = [place.note for place in found[0].flow]
    assert notes[-3:] == [
        "what a token costs is shared out among its bytes",
        "and each byte's share is made a likelihood, which knows no other byte that could have come",
        "and added to the score",
    ]
    assert "shared out among its bytes" in found[0].message


@pytest.mark.parametrize(
    "body",
    [
        looped("share = -loss / len(spelled)", "total -= share"),  # the token's own loss again
        looped(  # mixed for the whole token
            "likely = 1.0", "likely *= chance\n            total -= math.log(0.9 * math.exp(-loss) + 0.1 * likely)"
        ),
        looped("share = -loss", MIXES["math"].replace("weight", "0.9")),
        looped("print(math.exp(loss / len(spelled)))", "pass").replace("size += 1", "size += 1\n        total += loss"),
        looped("worth = len(spelled) / 3", "total += (loss * worth) / worth"),
        looped("share = -loss - len(spelled) / 8", MIXES["math"]),
        looped("share = loss / len(spelled)", "total += math.sqrt(share ** 2)"),
        looped("even = len(spelled) ** 2", "total += loss / even * even"),
    ],
)
def test_other_uses_of_a_loss_and_of_bytes_pass(body):
    assert "unnormalised-mixture" not in verdicts(body)


def test_shares_that_never_score_pass():
    body = looped(SHARES["divided"], MIXES["math"]).replace("def evaluate", "def estimate") + PLAIN
    assert verdicts(body) == {}
    tail = TAIL.replace('print("val_bpb"', 'print(estimate(net, val))\n    print("val_bpb"')
    assert verdicts(body, tail=tail) == FLAG
