"""Of several scores that a program prints, the logs tell which one is claimed; the token checks judge that one."""

from __future__ import annotations

import ast
import textwrap

import pytest
from folders import folder
from test_flow import HASHED_NUMPY, HEAD, PLAIN, SLOT_BY_HAND, TAIL
from test_target_gate import BYTES

from harness.compliance.check import check_target
from harness.compliance.code import About, Clock, check_code
from harness.compliance.evidence import GAP
from harness.compliance.findings import Source, Status
from harness.compliance.flow_values import Print
from harness.compliance.inputs import Run, read_target
from harness.compliance.record_folder import Claims, Number, SeedClaim, claims_of
from harness.compliance.reported import PRINTS_AT_MOST, reported

ONE_SUM, OTHER_SUM = ast.Constant(1), ast.Constant(2)
TOKEN_CHECKS = {"target-keyed-cache", "trains-on-val", "two-pass-rescoring", "score-first-ttt", "slot", "target-gate"}


def prints(*texts: str, sums: object = ONE_SUM) -> list[Print]:
    """Prints whose every value was made of one accumulator; none of them was followed if it is None."""
    known = set() if sums is None else {sums}
    return [Print(ast.JoinedStr([]), None, one, [set(known) for _ in range(one.count(GAP))]) for one in texts]


def claims(score: str | None, *seeds: str) -> Claims:
    given = tuple(SeedClaim(number, Number.of(one)) for number, one in enumerate(seeds))
    return Claims("submission.json", Number.of(score) if score else None, seeds=given)


PLAIN_TEXT = f"final val_loss:{GAP} val_bpb:{GAP} time:{GAP}ms"
LINE = "final val_loss:1.8906 val_bpb:1.1190 time:419ms"


EXACT = LINE.replace("1.1190", "1.11900566")


@pytest.mark.parametrize(
    ("text", "logs", "claimed", "found"),
    [
        (PLAIN_TEXT, [LINE], ["1.1190"], True),
        (PLAIN_TEXT, [LINE], ["1.119"], True),
        (PLAIN_TEXT, [EXACT], ["1.1190"], True),
        (PLAIN_TEXT, [EXACT], ["1.11900566"], True),
        (PLAIN_TEXT, [EXACT], ["1.11900588"], False),
        (PLAIN_TEXT, [LINE], ["1.11900566"], False),  # rounded: others look like that too
        (PLAIN_TEXT, [LINE], ["1.1290"], False),
        (PLAIN_TEXT, [LINE], ["1.1"], False),  # too many scores are that
        (PLAIN_TEXT, [LINE], [None], False),
        (PLAIN_TEXT, [], ["1.1190"], False),
        (PLAIN_TEXT, [f"[rank0]: {LINE}"], ["1.1190"], True),
        (PLAIN_TEXT, [f"1776144156.999 {LINE}"], ["1.1190"], True),
        (PLAIN_TEXT, [f"print(f'{LINE}')"], ["1.1190"], False),
        (PLAIN_TEXT, [LINE, LINE.replace("1.1190", "1.1290")], ["1.1240"], True),  # the mean of two runs
        (PLAIN_TEXT, [LINE, LINE.replace("1.1190", "1.1290")], ["1.12400"], True),
        (PLAIN_TEXT, [LINE, LINE.replace("1.1190", "1.1290")], ["1.12400000"], False),
        (PLAIN_TEXT, [LINE, LINE.replace("1.1190", "1.1290")], ["1.1260"], False),
        (PLAIN_TEXT, [LINE, LINE.replace("1.1190", "1.1290")], ["1.1190"], True),  # one of two
        (PLAIN_TEXT, [LINE, LINE.replace("1.1190", "1.1290")], ["1.2", "1.1190", "1.1290"], True),  # of the seeds
        (PLAIN_TEXT, [LINE, LINE.replace("1.1190", "1.1290")], ["1.1190", "1.1190", "1.1250"], False),  # of one only
        (PLAIN_TEXT, [LINE], ["1.1190", "1.1190"], True),
        (PLAIN_TEXT, [LINE.replace("1.1190", "1.3000") + "\n" + LINE], ["1.1190"], True),
        (PLAIN_TEXT, [LINE + "\n" + LINE.replace("1.1190", "1.3000")], ["1.1190"], False),  # passed on the way
        (f"{GAP} val_bpb:{GAP}", ["anything val_bpb:1.1190"], ["1.1190"], True),
        (f"\nnow\nval_bpb:{GAP}\n", ["now", "val_bpb:1.1190"], ["1.1190"], True),
        (f"{GAP} {GAP}", ["bpb 1.1190"], ["1.1190"], False),  # no words to tell it by
        (f"bits per byte {GAP}", ["bits per byte 1.1190 or so"], ["1.1190"], True),
        (f"loss {GAP}", ["loss 1.1190"], ["1.1190"], False),  # nobody claims a loss as a score
        (PLAIN_TEXT, [LINE], ["1.11900"], False),
        (PLAIN_TEXT, [LINE], ["1.2", "1.1190"], True),  # of the only seed
    ],
)
def test_a_claim_is_found_in_the_line_that_a_text_makes(text, logs, claimed, found) -> None:
    every = prints(text)
    told = reported(every, logs, claims(*claimed))
    assert (told is not None) == found
    if told is not None:
        assert told.prints == tuple(every)
        assert told.sums == {ONE_SUM}


def test_a_claim_may_be_in_several_lines() -> None:
    every = prints(PLAIN_TEXT) + prints(f"again val_bpb:{GAP}", sums=OTHER_SUM) + prints(f"other val_bpb:{GAP}")
    told = reported(every, [f"{LINE}\nagain val_bpb:1.11903\nother val_bpb:1.2"], claims("1.1190"))
    assert told is not None
    assert told.sums == {ONE_SUM, OTHER_SUM}
    assert told.prints == tuple(every[:2])


def test_a_claim_that_was_not_followed_tells_nothing() -> None:
    every = prints(PLAIN_TEXT) + prints(f"again val_bpb:{GAP}", sums=None)
    assert reported(every, [f"{LINE}\nagain val_bpb:1.1190"], claims("1.1190")) is None


SCORE = """
def score(net, tokens):
    total, count = 0.0, 0
    for start in range(0, tokens.numel() - 513, 512):
        x, y = tokens[start : start + 512], tokens[start + 1 : start + 513]
        with torch.no_grad():
            total += F.cross_entropy(net(x), y).item()
        count += 1
    return total / count / math.log(2.0)
"""
AND_LEARN = """count += 1
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
"""
SCORE_AND_LEARN = SCORE.replace("score(net, tokens)", "score_and_learn(net, tokens, optimizer)")
SCORE_AND_LEARN = SCORE_AND_LEARN.replace("count += 1\n", AND_LEARN)
SCRIPT = """
import glob, math
import numpy as np
import torch
import torch.nn.functional as F

def stream(pattern):
    return torch.cat([torch.from_numpy(np.fromfile(one, dtype="<u2").astype(np.int64)) for one in glob.glob(pattern)])
"""
SCRIPT += (
    SCORE
    + SCORE_AND_LEARN
    + """
def learn(net, tokens, optimizer):
    for epoch in range(3):
        for start in range(0, tokens.numel() - 513, 512):
            F.cross_entropy(net(tokens[start : start + 512]), tokens[start + 1 : start + 513]).backward()
            optimizer.step()

def timed(label, function, *arguments):
    bpb = function(*arguments)
    print(f"{label} val_bpb:{bpb:.8f}")

def main():
    net = torch.nn.Sequential(torch.nn.Embedding(1024, 64), torch.nn.Linear(64, 1024))
    optimizer = torch.optim.AdamW(net.parameters())
    for step in range(100):
        tokens = stream("data/fineweb_train_*.bin")
        F.cross_entropy(net(tokens[:-1]), tokens[1:]).backward()
        optimizer.step()
    val = stream("data/fineweb_val_*.bin")
"""
)
FIRST = '    bpb = score(net, val)\n    print(f"plain val_bpb:{bpb:.4f}")\n'
THEN_LEARNED = (
    '    learn(net, val, optimizer)\n    bpb = score(net, val)\n    print(f"after learning val_bpb:{bpb:.4f}")\n'
)
THEN_LEGAL = '    bpb = score_and_learn(net, val, optimizer)\n    print(f"legal val_bpb:{bpb:.4f}")\n'
THEN_AGAIN = '    bpb = score(net, val)\n    print(f"again val_bpb:{bpb:.4f}")\n'
LABELLED = '    timed("plain", score, net, val)\n    timed("legal", score_and_learn, net, val, optimizer)\n'
IN_TURNS = """    for turn in range(2):
        bpb = score(net, val)
        print(f"turn {turn} val_bpb:{bpb:.4f}")
        learn(net, val, optimizer)
"""

LINES = "plain val_bpb:1.2000\nlegal val_bpb:1.1900\nafter learning val_bpb:0.9000\nagain val_bpb:1.1800\n"


@pytest.mark.parametrize(
    ("what", "claimed", "flagged", "held", "recognised"),
    [
        (FIRST + THEN_LEARNED, None, {"trains-on-val"}, set(), set()),
        (FIRST + THEN_LEARNED, "0.9000", {"trains-on-val"}, set(), set()),
        (FIRST + THEN_LEARNED, "1.2000", set(), {"trains-on-val"}, set()),  # by the same function, and earlier
        (FIRST + THEN_LEARNED, "1.5000", {"trains-on-val"}, set(), set()),  # in no log
        (FIRST + THEN_LEGAL, None, set(), set(), {"score-first-ttt"}),
        (FIRST + THEN_LEGAL, "1.1900", set(), set(), {"score-first-ttt"}),
        (FIRST + THEN_LEGAL, "1.2000", set(), set(), set()),
        (THEN_LEGAL + THEN_AGAIN, "1.1800", {"two-pass-rescoring", "trains-on-val"}, set(), {"score-first-ttt"}),
        (THEN_LEGAL + THEN_AGAIN, "1.1900", set(), {"two-pass-rescoring", "trains-on-val"}, {"score-first-ttt"}),
        (LABELLED, "1.2000", set(), set(), set()),
        (LABELLED, "1.1900", set(), set(), {"score-first-ttt"}),
        (IN_TURNS, "1.2000", {"trains-on-val"}, set(), set()),  # the next turn scores before it prints
    ],
)
def test_what_is_judged_is_the_score_that_is_claimed(what, claimed, flagged, held, recognised) -> None:
    entry = Source("train_gpt.py", SCRIPT + what + "\nmain()\n")
    logs = [LINES + "turn 0 val_bpb:1.3000\nturn 1 val_bpb:1.2000\n" if what is IN_TURNS else LINES]
    found = check_code([entry], Run(entry), About(Clock.REFEREE, logs=logs, claims=claims(claimed)))
    by_status = {
        status: {one.check for one in found if one.status is status and one.check in TOKEN_CHECKS} for status in Status
    }
    assert by_status[Status.FLAG] == flagged
    assert by_status[Status.HOLD] == held
    assert by_status[Status.CLEAN] == recognised
    for one in found:
        if one.check in held:
            assert "by the logs" in one.message
            assert "val_bpb" in one.flow[-1].text


LEARNED_BEFORE_EACH_PRINT = """    bpb = score(net, val)
    for turn in range(2):
        print(f"turn {turn} val_bpb:{bpb:.4f}")
        learn(net, val, optimizer)
        bpb = score(net, val)
"""
SAID_TWICE = """    first = score(net, val)
    print(f"plain val_bpb:{first:.4f}")
    learn(net, val, optimizer)
    second = score(net, val)
    print(f"after learning val_bpb:{second:.4f}")
    print(f"final val_bpb:{first:.4f}")
"""


@pytest.mark.parametrize(
    ("what", "lines", "flagged"),
    [
        # what is printed in a turn was scored in the one before
        (LEARNED_BEFORE_EACH_PRINT, "turn 0 val_bpb:1.2000\nturn 1 val_bpb:1.1000\n", {"trains-on-val"}),
        (
            LEARNED_BEFORE_EACH_PRINT.replace("for turn in range(2):", "turn = -1\n    while (turn := turn + 1) < 2:"),
            "turn 0 val_bpb:1.2000\nturn 1 val_bpb:1.1000\n",
            {"trains-on-val"},
        ),
        # the claim stands before and after: which of both is claimed is not known
        (SAID_TWICE, "plain val_bpb:1.1000\nafter learning val_bpb:0.9\nfinal val_bpb:1.1000\n", {"trains-on-val"}),
        (SAID_TWICE, "plain val_bpb:1.1000\nafter learning val_bpb:0.9\n", set()),
    ],
)
def test_what_is_scored_after_the_claim_was_printed_is_not_it(what, lines, flagged) -> None:
    assert flags_of(SCRIPT + what, lines, "1.1000") == flagged


def flags_of(text: str, log: str, claimed: str, status: Status = Status.FLAG) -> set[str]:
    entry = Source("train_gpt.py", text + "\nmain()\n")
    found = check_code([entry], Run(entry), About(Clock.REFEREE, logs=[log], claims=claims(claimed)))
    return {one.check for one in found if one.status is status and one.check in TOKEN_CHECKS}


def test_text_that_looks_like_a_gap_is_no_gap() -> None:
    text = SCRIPT + FIRST.replace("plain val", "plain\\0 val") + THEN_LEARNED
    assert flags_of(text, "plain val_bpb:1.2000\nafter learning val_bpb:0.9\n", "1.2000") == set()
    assert flags_of(text, "plain val_bpb:1.2000\nafter learning val_bpb:0.9\n", "0.9000") == {"trains-on-val"}


def test_of_too_many_texts_none_is_looked_for() -> None:
    every = prints(*(f"{number} val_bpb:{GAP}" for number in range(PRINTS_AT_MOST + 1)))
    assert reported(every, ["3 val_bpb:1.1190"], claims("1.1190")) is None
    assert reported(every[:-1], ["3 val_bpb:1.1190"], claims("1.1190")) is not None


TWO_SUMS = """
def score_twice_and_learn(net, tokens, optimizer):
    total, margin, count = 0.0, 0.0, 0
    for start in range(0, tokens.numel() - 513, 512):
        x, y = tokens[start : start + 512], tokens[start + 1 : start + 513]
        with torch.no_grad():
            loss = F.cross_entropy(net(x), y).item()
            total += loss
            margin += loss
        count += 1
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    print(f"margin bpb:{margin / count / math.log(2.0):.4f}")
    return total / count / math.log(2.0)

def main():"""


@pytest.mark.parametrize("claimed", ["1.1900", "1.3000"])
def test_of_two_sums_over_a_chunk_the_claimed_one_was_scored_first(claimed) -> None:
    text = SCRIPT.replace("def main():", TWO_SUMS.lstrip("\n"))
    text += THEN_LEGAL.replace("score_and_learn", "score_twice_and_learn")
    assert flags_of(text, "margin bpb:1.3000\nlegal val_bpb:1.1900\n", claimed, Status.CLEAN) == {"score-first-ttt"}


def test_a_claim_that_no_score_was_made_for_changes_nothing() -> None:
    """The sum behind it becomes no bits per byte, so that it is no score as far as the program can tell."""
    sums = """
def losses(net, tokens):
    total = 0.0
    for start in range(0, tokens.numel() - 513, 512):
        total += F.cross_entropy(net(tokens[start : start + 512]), tokens[start + 1 : start + 513]).item()
    return total

def main():"""
    text = SCRIPT.replace("def main():", sums.lstrip("\n"))
    text += '    total = losses(net, val)\n    print(f"sum bpb:{total:.4f}")\n' + THEN_LEARNED
    assert flags_of(text, "sum bpb:1.1900\nafter learning val_bpb:0.9\n", "1.1900") == {"trains-on-val"}


UNCLAIMED = {
    "target-keyed-cache": HASHED_NUMPY,
    "slot": SLOT_BY_HAND,
    "target-gate": BYTES.replace("SURE", "").replace("AFTER", "sure[i] = chance"),
}


@pytest.mark.parametrize("check", UNCLAIMED)
@pytest.mark.parametrize("claimed", ["1.2000", "0.9000", "1.5000"])
def test_every_check_of_scores_goes_by_the_claim(check, claimed) -> None:
    text = HEAD + textwrap.dedent(UNCLAIMED[check]).replace("def evaluate", "def other") + PLAIN
    text += TAIL.replace(
        'print("val_bpb", evaluate(net, val))',
        """bpb = evaluate(net, val)
    print(f"plain val_bpb:{bpb:.4f}")
    bpb = other(net, val)
    print(f"other val_bpb:{bpb:.4f}")""",
    )
    log = "plain val_bpb:1.2000\nother val_bpb:0.9000\n"
    assert flags_of(text, log, claimed) == (set() if claimed == "1.2000" else {check})
    assert flags_of(text, log, claimed, Status.HOLD) == ({check} if claimed == "1.2000" else set())


def test_of_a_folder_the_score_of_its_submission_json_is_claimed(tmp_path) -> None:
    made = folder(tmp_path / "mine", {1: 1.2, 2: 1.2102}, claims={"val_bpb": 1.2051})
    (made / "train_gpt.py").write_text(textwrap.dedent(SCRIPT) + FIRST + THEN_LEARNED + "\nmain()\n")
    for seed, bpb in ((1, 1.2), (2, 1.2102)):
        with (made / f"train_seed{seed}.log").open("a") as log:
            log.write(f"plain val_bpb:{bpb:.4f}\nafter learning val_bpb:0.9\n")
    target = read_target(made)
    assert claims_of(target).bpb == 1.2051
    statuses = {one.status for one in check_target(target).findings if one.check == "trains-on-val"}
    assert statuses == {Status.HOLD}


def test_a_folder_that_claims_nothing_that_can_be_read_claims_no_score(tmp_path) -> None:
    made = folder(tmp_path / "mine", {1: 1.2}, claims={"val_bpb": "pending", "seed_results": None})
    assert claims_of(read_target(made)).bpb is None
    (made / "submission.json").write_text("{")
    assert claims_of(read_target(made)) is None
    assert claims_of(read_target(made / "train_gpt.py")) is None


@pytest.mark.parametrize("trains", [True, False])
def test_an_evaluation_that_adapts_needs_no_clock_of_600_seconds(trains) -> None:
    """As of weights that another run has trained; whoever trains on train shards needs one."""
    text = SCRIPT + THEN_LEGAL + "\nmain()\n"
    if not trains:
        start, end = text.index("    for step in range(100):"), text.index("    val = stream(")
        text = text[:start] + '    net.load_state_dict(torch.load("weights.pt"))\n' + text[end:]
    entry = Source("train_gpt.py", text)
    found = {one.check for one in check_code([entry], Run(entry)) if one.check in ("wallclock-cap", "score-first-ttt")}
    assert found == {"score-first-ttt", *(["wallclock-cap"] if trains else [])}
