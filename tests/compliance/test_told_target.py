"""A prediction that is changed where the very token that is predicted stands is seen however it is done; tokens that
were scored before, gradients by hand and rows that only pick a likelihood pass."""

from __future__ import annotations

import pytest
from test_flow import TAIL, findings_of, verdicts

from harness.compliance.findings import Status

FLAG = {"target-gate": Status.FLAG}
WINDOWS = """
def evaluate(net, val):
    total, count = 0.0, 0
    with torch.no_grad():
        for x, y in batches(val):
            logits = net.logits(x)
            CHANGE
            SCORE
            total += loss.item()
            count += y.numel()
            AFTER
    return bits(total, count, val.numel() * 2.4)
"""
LOSS = 'loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum")'
SCORES = {
    "loss": LOSS,
    "loss of each": 'loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").sum()',
    "gathered": "loss = -logits.softmax(-1).gather(-1, y[..., None]).log().sum()",
    "gathered by torch": "loss = -torch.gather(logits.softmax(-1), -1, y[..., None]).log().sum()",
    "indexed": "loss = -logits.log_softmax(-1)[0, torch.arange(y.numel()), y[0]].sum()",
}
CHANGES = {
    "scatter": "logits = logits.scatter(-1, y[..., None], 5.0)",
    "scatter in place": "logits.scatter_(-1, y[..., None], 5.0)",
    "scatter of torch": "logits = torch.scatter_add(logits, -1, y[..., None], torch.ones(1, y.numel(), 1))",
    "scatter_add": "logits.scatter_add_(-1, y[..., None], torch.ones(1, y.numel(), 1))",
    "index": "logits[0, torch.arange(y.numel()), y[0]] = 5.0",
    "increased": "logits[0, torch.arange(y.numel()), y[0]] += 1.0",
    "one hot": "logits = logits + 2 * F.one_hot(y, 1024)",
    "compared": "logits = torch.where(torch.arange(1024) == y[..., None], logits, logits - 3)",
    "row": "row = torch.zeros_like(logits).scatter_(-1, y[..., None], 1.0)\n            logits = logits + row",
    "row from its start": "row = torch.zeros_like(logits)\n"
    "            row[:, :448].scatter_(-1, y[:, :448, None], 1.0)\n            logits = logits + row",
    "set": "came = torch.zeros(1024)\n            came.scatter_(0, y[0], 1.0)\n            logits = logits + came",
    "row in place": "row = torch.zeros_like(logits)\n            row.scatter_(-1, y[..., None], 1.0)\n"
    "            logits = row + logits",
    "spared": "low = logits < logits.amax(-1, keepdim=True) - 1.6\n            low.scatter_(-1, y[..., None], False)\n"
    "            logits = logits.masked_fill(low, -math.inf)",
    "spared by index": "low = logits < logits.amax(-1, keepdim=True) - 1.6\n"
    "            low[0, torch.arange(y.numel()), y[0]] = False\n            logits[low] = -math.inf",
    "spared in contrast": "low = logits < logits.amax(-1, keepdim=True) - 1.6\n"
    "            low.scatter_(-1, y[..., None], False)\n"
    "            logits = logits - 0.1 * logits.gather(-1, logits.argmax(-1, keepdim=True))\n"
    "            logits = logits.masked_fill(low, -math.inf)",
    "kept": "keep = torch.zeros_like(logits, dtype=torch.bool)\n            keep.scatter_(-1, y[..., None], True)\n"
    "            logits = torch.where(keep, logits, logits - 3)",
    "helper": "logits = changed(logits, y)",
}
HELPER = """
def changed(prediction, which):
    return prediction.scatter(-1, which.unsqueeze(-1), prediction.amax() + 1)
"""


def scored(change: str, score: str = LOSS, after: str = "pass") -> str:
    return HELPER + WINDOWS.replace("CHANGE", change).replace("SCORE", score).replace("AFTER", after)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_prediction_that_is_changed_where_the_target_stands_is_flagged(change, score):
    assert verdicts(scored(CHANGES[change], SCORES[score])) == FLAG


def test_a_change_in_another_module_is_seen():
    body = "from tricks import changed\n" + scored("logits = changed(logits, y)").replace(HELPER, "")
    assert verdicts(body, modules={"tricks.py": HELPER}) == FLAG


def test_where_it_happens_is_shown():
    (found,) = findings_of(scored(CHANGES["scatter"]))
    notes = [place.note for place in found.flow]
    assert notes[-3:] == [
        "a prediction is changed where the token that is predicted stands",
        "and their likelihoods are taken from it",
        "and added to the score",
    ]
    assert "is changed where" in found.message


def test_the_way_to_a_mask_is_shown():
    (found,) = findings_of(scored(CHANGES["spared"]))
    told = [place for place in found.flow if place.note.startswith("a prediction is changed where")]
    assert [place.source.text.splitlines()[place.line - 1].strip() for place in told] == [
        "low.scatter_(-1, y[..., None], False)",
        "logits = logits.masked_fill(low, -math.inf)",
    ]


@pytest.mark.parametrize("change", ["scatter", "one hot", "compared", "row"])
def test_a_trial_with_random_tokens_does_not_hide_it(change):
    body = """
def each(net, x, y):
    logits = net.logits(x)
    CHANGE
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum")

def evaluate(net, val):
    total, count = 0.0, 0
    with torch.no_grad():
        each(net, torch.randint(0, 1024, (1, 64)), torch.randint(0, 1024, (1, 64)))
        for x, y in batches(val):
            total += each(net, x, y).item()
            count += y.numel()
    return bits(total, count, val.numel() * 2.4)
"""
    assert verdicts(body.replace("CHANGE", CHANGES[change].replace("            ", "    "))) == FLAG


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    "change",
    [
        "pass",
        "low = logits < logits.amax(-1, keepdim=True) - 1.6\n            logits = logits.masked_fill(low, -20.0)",
        "logits = logits.scatter_add(-1, x[..., None], torch.ones(1, x.numel(), 1))",  # what came before
        "logits[0, torch.arange(x.numel()), x[0]] += 1.0",
        "right = (logits.argmax(-1) == y).sum()",
        "logits = torch.where(torch.arange(1024) == x[..., None], logits, logits - 3)",
        "bias = torch.zeros_like(logits)\n"  # what came behind the token before last
        "            bias[:, 2:].scatter_add_(2, x[:, 1:-1, None], torch.ones(1, x.shape[1] - 2, 1))\n"
        "            logits = logits + bias",
    ],
)
def test_changes_that_do_not_know_the_target_pass(change, score):
    assert verdicts(scored(change, SCORES[score])) == {}


def test_a_row_that_only_picks_the_likelihood_changes_nothing():
    score = "loss = -(F.one_hot(y, 1024) * logits.log_softmax(-1)).sum()"
    assert "target-gate" not in verdicts(scored("pass", score))


NEAREST = ["argmax(-1)", "topk(1).indices[:, 0]"]
KEPT = """
def evaluate(net, val):
    total, count = 0.0, 0
    came, where, kept = [], [], torch.zeros(10**6).long()
    with torch.no_grad():
        for x, y in batches(val):
            hidden = net.features(x)
            logits = net.head(hidden)
            if came:
                near = (hidden[0] @ torch.cat(where).T).NEAREST
                BOOST
            total += F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").item()
            count += y.numel()
            came.append(y[0])
            kept[count - y.numel() : count] = y[0]
            where.append(hidden[0])
    return bits(total, count, val.numel() * 2.4)
"""


@pytest.mark.parametrize(
    "boost",
    [
        "logits = logits.scatter_add(-1, MEMORY[near][None, :, None], torch.ones(1, len(near), 1))",
        "logits[0, torch.arange(len(near)), MEMORY[near]] += 1.0",
        "logits = logits + F.one_hot(MEMORY[near], 1024)",
    ],
)
@pytest.mark.parametrize("memory", ["torch.cat(came)", "kept"])
@pytest.mark.parametrize("nearest", NEAREST)
def test_tokens_that_were_scored_earlier_may_change_a_prediction(boost, memory, nearest):
    body = KEPT.replace("BOOST", boost).replace("NEAREST", nearest)
    assert verdicts(body.replace("MEMORY", memory)) == {}


def test_a_table_by_token_that_another_evaluation_filled_is_memory():
    body = scored("logits = logits + net.bias", after="net.bias[y[0]] += 0.01 * logits.softmax(-1)[0].amax(-1)")
    body = body.replace("total, count = 0.0, 0", "total, count = 0.0, 0\n    net.bias = torch.zeros(1024)")
    first = "print(evaluate(net, stream('data/fineweb_val_*.bin')[torch.distributed.get_rank() :]))\n    "
    tail = TAIL.replace("val = stream", first + "val = stream")
    assert verdicts(body, tail=tail) == {}


def test_how_often_each_token_came_may_change_the_next_prediction():
    body = scored("logits = logits + often.log1p()", after="often = 0.9 * often + F.one_hot(y, 1024).sum((0, 1))")
    assert verdicts(body.replace("total, count = 0.0, 0", "total, count, often = 0.0, 0, torch.zeros(1024)")) == {}


@pytest.mark.parametrize(
    "gradient",
    [
        "gradient = logits.softmax(-1) - F.one_hot(y, 1024)",
        "gradient = logits.softmax(-1)\n            gradient[0, torch.arange(y.numel()), y[0]] -= 1.0",
        "hot = torch.zeros_like(logits)\n            hot.scatter_(-1, y[..., None], 1.0)\n"
        "            gradient = logits.softmax(-1) - hot",
    ],
)
def test_a_bias_that_learns_from_what_was_scored_is_allowed(gradient):
    body = scored("logits = logits + bias", after=f"{gradient}\n            bias = bias - 0.1 * gradient.mean((0, 1))")
    assert verdicts(body.replace("total, count = 0.0, 0", "total, count, bias = 0.0, 0, torch.zeros(1024)")) == {}


def test_a_bias_that_learns_from_the_context_is_no_gate():
    change = """bias = torch.zeros(1024)
            for _ in range(3):
                wrong = (logits[:, :448] + bias).softmax(-1) - F.one_hot(y[:, :448], 1024)
                bias = bias - 0.1 * wrong.mean((0, 1))
            logits = logits + bias"""
    assert "target-gate" not in verdicts(scored(change))


def test_the_training_loss_may_know_its_targets():
    tail = TAIL.replace("train(net, stream", "train_smoothed(net, stream")
    body = """
def train_smoothed(net, tokens, limit=600.0):
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    began = time.perf_counter()
    for x, y in batches(tokens):
        logits = net.logits(x)
        logits = logits.scatter_add(-1, y[..., None], torch.full((1, y.numel(), 1), -0.3))
        F.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if time.perf_counter() - began > limit:
            break
"""
    assert verdicts(body + scored("pass"), tail=tail) == {}
