"""Logs show how a run was started: what they list and print beats defaults, unless they are ambiguous."""

from __future__ import annotations

from textwrap import dedent

import pytest

from harness.compliance.code import About, Clock, check_code
from harness.compliance.evidence import (
    GAP,
    LogLines,
    contradicted,
    listed_settings,
    origins_of,
    printed_settings,
    switched_off,
    switched_on,
)
from harness.compliance.findings import Source, Status
from harness.compliance.inputs import Run
from harness.compliance.program import load_program

SCRIPT = """
import os

class Args:
    cache_on = bool(int(os.environ.get("CACHE_ON", "0")))
    rounds = int(os.environ.get("ROUNDS", 5))
    seconds = float(os.environ.get("SECONDS", 600))
    rate = float(os.environ.get("RATE", 0.3))

def with_cache(args):
    print(f"cache_eval:start rounds={args.rounds}")

def main():
    args = Args()
    print(f"model_params:{args.rounds} of all{f' with_bias={args.rate}' if os.environ.get('BIAS') else ''}")
    if args.cache_on:
        print(f"final_with_cache val_bpb:{args.rounds:.4f}")
    if os.environ.get("SECOND", "0") == "1":
        with_cache(args)
    if os.environ.get("TIMED") == "1":
        print("cache_on")
    if os.environ.get("QUIET") == "1":
        print("model_params:1 of all, and nothing else")

main()
"""


def program(text: str = SCRIPT, **environment: str):
    source = Source("train_gpt.py", dedent(text))
    return load_program([source], source, environment, [])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("final_with_cache val_bpb:0.9000", {"CACHE_ON"}),
        ("[rank0]: final_with_cache val_bpb:0.9000", {"CACHE_ON"}),
        ("2026-03-20 10:00:00 final_with_cache val_bpb:0.9000", {"CACHE_ON"}),
        ("cache_eval:start rounds=5", {"SECOND"}),  # of a function that nothing else calls
        ("model_params:1 of all, and nothing else", set()),  # other code prints such a line too
        ('        print(f"final_with_cache val_bpb:{args.rounds:.4f}")', set()),  # the source, as many logs begin with
        ("some final_with_cache val_bpb:0.9000", set()),
        ("model_params:3 of all with_bias=0.3", {"BIAS"}),
        ("print(f\"of all{f' with_bias={args.rate}'}", set()),
        ("cache_on: False", set()),  # a word that is printed is not told from a part of others
        ("", set()),
    ],
)
def test_a_printed_line_contradicts_what_keeps_its_code_from_running(line: str, expected: set[str]) -> None:
    one = program()
    assert contradicted(one, LogLines(["step:1/2\n" + line]), origins_of(one)) == expected


EVALUATIONS = """
import os
cached = bool(int(os.environ.get("CACHED", "0")))
smoke_test = bool(int(os.environ.get("SMOKE_TEST", "0")))

def timed(label, function):
    value = function()
    print(f"{label} val_loss:{value:.8f} val_bpb:{value:.8f}")

timed("plain_exact", len)
if smoke_test:
    print("smoke_test:complete, nothing was scored")
if cached:
    table = {"with_keys": 1}
    timed("with_cache_exact", max)
    timed("plain", min)
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("with_cache_exact val_loss:1.0 val_bpb:0.9", {"CACHED"}),
        ("with_cache_exact: True", set()),  # a setting
        ("with_cache_exactly val_bpb:0.9", set()),
        ("with_keys val_bpb:0.9", set()),  # nothing prints that
        ("plain_exact val_bpb:0.9", set()),
        ("plain val_bpb:0.9", set()),  # a word that may be anything
        ("smoke_test:complete, nothing was scored", set()),  # before the run that is reported
    ],
)
def test_the_name_of_an_evaluation_shows_that_it_ran(line: str, expected: set[str]) -> None:
    one = program(EVALUATIONS)
    lines, origins = LogLines(["plain_exact val_loss:1 val_bpb:1\n" + line]), origins_of(one)
    assert contradicted(one, lines, origins) == switched_on(one, lines, origins) == expected


def test_a_name_that_two_evaluations_have_shows_nothing() -> None:
    one = program(EVALUATIONS + "\nif os.environ.get('TWICE') == '1':\n    timed('with_cache_exact', sum)\n")
    lines = LogLines(["with_cache_exact val_loss:1.0 val_bpb:0.9"])
    assert switched_on(one, lines, origins_of(one)) == frozenset()


def test_nothing_is_contradicted_where_the_code_runs() -> None:
    one = program(CACHE_ON="1")
    assert contradicted(one, LogLines(["final_with_cache val_bpb:0.9000"]), origins_of(one)) == frozenset()


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("  cache_on: True\n  rounds: 1\n", {"CACHE_ON": "1", "ROUNDS": "1"}),
        ("rounds: 7 rate: 0.5", {"ROUNDS": "7"}),  # a rate changes nothing of what is checked
        ("cache_on:False seconds:600.000", {}),  # as they are
        ("cache_on:True seconds:300.000", {"CACHE_ON": "1", "SECONDS": "300"}),
        ("rounds=1\nrounds=0", {}),  # two runs, or no setting at all
        ("bounds: 1, args.rounds: 1, roundsman: 1", {}),
        ("rounds: seven", {}),
    ],
)
def test_listed_settings_are_read_where_they_agree(log: str, expected: dict[str, str]) -> None:
    one = program()
    others, known = listed_settings(one, LogLines([log]), origins_of(one))
    assert others == expected and known >= others.keys()


ON_BY_DEFAULT = """
import os

class Args:
    adapt = bool(int(os.environ.get("ADAPT", "1")))
    learn = os.environ.get("LEARN", "1") == "1"
    epochs = int(os.environ.get("EPOCHS", "3"))
    smoke = bool(int(os.environ.get("SMOKE_TEST", "1")))

def main():
    args = Args()
    BEFORE
    if TEST:
        BEHIND
        log("adaptation of the model")
    log("evaluated by", console=False)
    log(f"final_score val_bpb:{args.epochs}")
    log("the end of it all")

main()
"""
BEFORE = 'log("quantized to six bits")'
BEHIND = 'log(f"adaptation:start epochs={args.epochs}")'


def switching(test: str = "args.adapt", before: str = BEFORE, behind: str = BEHIND) -> str:
    return ON_BY_DEFAULT.replace("TEST:", f"{test}:").replace("BEFORE", before).replace("BEHIND", behind)


AROUND = "quantized to six bits\nfinal_score val_bpb:1.2\n"


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (AROUND, {"ADAPT"}),
        (AROUND + "adaptation:start epochs=3\n", set()),  # the log is short
        (AROUND + "adaptation of the model\n", set()),
        ("final_score val_bpb:1.2\n", set()),  # begins too late
        ("quantized to six bits\n", set()),  # ends too early
        ("quantized to six bits\nthe end of it all", set()),  # leaves something out
        ("", set()),
    ],
)
def test_a_switch_whose_lines_are_missing_from_a_whole_log_was_off(log: str, expected: set[str]) -> None:
    one = program(switching())
    assert switched_off(one, LogLines([log]), origins_of(one)) == expected


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        (switching(), {"ADAPT": "1"}),  # documented: the log may be of another run
        (switching("args.adapt and args.learn"), {}),  # which of them was off is not known
        (switching("args.epochs"), {}),  # a number of turns is no switch
        (switching("args.smoke"), {}),
        (switching("not args.adapt"), {}),
        (switching(before=f"if args.learn: {BEFORE}"), {}),  # whether it was printed is not known
        (switching(before=BEFORE.replace("log", "print")), {}),  # the log may be without prints
        (switching().replace('log(f"final', 'print(f"final'), {}),
        (switching() + 'class Other:\n    adapt = bool(int(os.environ.get("OTHER", "1")))\n', {}),
        (switching().replace('"ADAPT", "1"', '"ADAPT", os.environ.get("OTHER", "1")'), {}),
        (switching(behind="if args.learn: " + BEHIND).replace("adaptation of the model", "short"), {}),
    ],
    ids=[
        "documented",
        "two",
        "number",
        "trial",
        "else",
        "before may be missing",
        "other way",
        "other way after",
        "two of that name",
        "two variables",
        "behind may be missing",
    ],
)
def test_a_line_that_may_be_missing_otherwise_shows_no_switch(text: str, environment: dict[str, str]) -> None:
    one = program(text, **environment)
    assert switched_off(one, LogLines([AROUND]), origins_of(one)) == frozenset()


PRINTED = """
import os

class Args:
    adapt = bool(int(os.environ.get("ADAPT", "1")))
    epochs = int(os.environ.get("EPOCHS", "3"))

def main(args):
    print(f"ttt:{args.adapt} ttt_lr:{args.rate} lora_rank:{args.epochs}")
    print(f"{args.cased} is what is cased of {args.few} of them all")
    print(f"evaluation with cache={args.cache} and ttt={args.adapt}")
    print(f"told:{args.few}")
    print(f"improvements: gated trigram cached={args.cached}, scaled={args.scaled:d} of {not args.turned}\\nmore")

main(Args())
"""


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("ttt:False ttt_lr:0.1 lora_rank:8", {"adapt": "False"}),
        ("ttt:True ttt_lr:0.1 lora_rank:8\nttt:True ttt_lr:0.2 lora_rank:8", {"adapt": "True"}),
        ("ttt:True ttt_lr:0.1 lora_rank:8\nttt:False ttt_lr:0.2 lora_rank:8", {}),  # two runs
        ("ttt:0 ttt_lr:0.1 lora_rank:8", {}),
        ("ttt:False ttt_lr:0.1", {}),  # another print's
        ('print(f"ttt:{args.adapt} ttt_lr:{args.rate} lora_rank:{args.epochs}")', {}),
        ("True is what is cased of True of them all", {}),
        ("evaluation with cache=True and ttt=False", {"cache": "True", "adapt": "False"}),
        ("evaluation with cache=True and ttt=False at last", {"cache": "True", "adapt": "False"}),
        ("told:True", {}),  # too little to know it by
        ("improvements: gated trigram cached=True, scaled=True of True", {"cached": "True", "scaled": "True"}),
        ("improvements: gated trigram cached=True, scaled=1 of True and so on", {"cached": "True"}),
    ],
)
def test_a_switch_is_read_where_a_print_puts_it(log: str, expected: dict[str, str]) -> None:
    assert printed_settings(program(PRINTED), LogLines([log])) == expected


def test_a_printed_switch_is_a_setting_of_the_run() -> None:
    one = program(PRINTED)
    lines = LogLines(["ttt:False ttt_lr:0.1 lora_rank:8"])
    assert listed_settings(one, lines, origins_of(one)) == ({"ADAPT": "0"}, {"ADAPT"})


TRAINS_ON_VAL = """
import glob, os
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

EPOCHS = int(os.environ.get("ADAPT_EPOCHS", "0"))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1024, 64)

    def forward(self, x, y):
        return F.cross_entropy(self.embedding(x) @ self.embedding.weight.T, y)

def tokens(pattern):
    return torch.cat([torch.from_numpy(np.fromfile(one, "<u2", offset=1024)) for one in glob.glob(pattern)]).long()

def learn(net, data):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for start in range(0, data.numel() - 65, 64):
        optimizer.zero_grad()
        net(data[start : start + 64], data[start + 1 : start + 65]).backward()
        optimizer.step()

def main():
    net, val = Net(), tokens("data/fineweb_val_*.bin")
    learn(net, tokens("data/fineweb_train_*.bin"))
    if os.environ.get("ADAPT") == "1":
        print(f"adaptation of {len(val)} tokens")
        adapt(net, val)
    total = 0.0
    with torch.no_grad():
        for start in range(0, val.numel() - 65, 64):
            total += net(val[start : start + 64], val[start + 1 : start + 65]).item()
    print("val_bpb", total / 0.6931471805599453)

def adapt(net, val):
    if EPOCHS > 0:
        print(f"adapting to the split for {EPOCHS} epochs")
        for _ in range(EPOCHS):
            learn(net, val)

main()
"""


@pytest.mark.parametrize(
    ("logs", "found"),
    [
        ([], False),
        (["val_bpb 1.2"], False),
        (["adaptation of 9 tokens\nval_bpb 1.2"], False),
        (["adaptation of 9 tokens\nadapting to the split for 3 epochs\nval_bpb 0.9"], True),
        (["adaptation of 9 tokens\nEPOCHS: 3\n"], True),
        (["adaptation of 9 tokens\nadapting to the split for 3 epochs\nEPOCHS: 0"], False),  # it says both
    ],
)
def test_what_a_log_shows_decides_what_is_judged(logs: list[str], found: bool) -> None:
    entry = Source("train_gpt.py", TRAINS_ON_VAL)
    checks = {finding.check for finding in check_code([entry], Run(entry), About(Clock.REFEREE, logs=logs))}
    assert ("trains-on-val" in checks) is found


@pytest.mark.parametrize(
    ("default", "logs", "found"),
    [
        ("1", [], True),
        ("1", ["data is loaded\nval_bpb 0.9"], True),
        ("1", ["data is loaded\nscoring begins\nval_bpb 0.9"], False),
        ("1", ["data is loaded\nadaptation of 9 tokens\nscoring begins\nval_bpb 0.9"], True),
        ("1", ["ADAPT: True\ndata is loaded\nscoring begins\nval_bpb 0.9"], True),  # it says both
        ("0", ["data is loaded\nscoring begins\nval_bpb 0.9"], False),
    ],
)
def test_what_a_whole_log_lacks_was_not_done(default: str, logs: list[str], found: bool) -> None:
    text = TRAINS_ON_VAL.replace('os.environ.get("ADAPT") == "1"', "ADAPT")
    text = text.replace("EPOCHS =", f'ADAPT = bool(int(os.environ.get("ADAPT", "{default}")))\nEPOCHS =')
    text = text.replace('"ADAPT_EPOCHS", "0"', '"ADAPT_EPOCHS", "3"')
    text = text.replace("    if ADAPT:", '    print("data is loaded")\n    if ADAPT:')
    text = text.replace("    total = 0.0", '    print("scoring begins")\n    total = 0.0')
    entry = Source("train_gpt.py", text)
    checks = {finding.check for finding in check_code([entry], Run(entry), About(Clock.REFEREE, logs=logs))}
    assert ("trains-on-val" in checks) is found


LEGAL_OR_NOT = (
    TRAINS_ON_VAL.replace(
        """    if os.environ.get("ADAPT") == "1":
        print(f"adaptation of {len(val)} tokens")
        adapt(net, val)
""",
        """    args = Args()
    if args.adapt and not args.legal:
        print(f"adapting first: {len(val)} tokens")
        adapt(net, val)
    if args.adapt and args.legal:
        print(f"legal adaptation of {len(val)} tokens")
        print("val_bpb", score_first(net, val) / 0.6931471805599453)
        return
    else:
        print(f"plain evaluation of {len(val)} tokens")
""",
    )
    .replace('"ADAPT_EPOCHS", "0"', '"ADAPT_EPOCHS", "2"')
    .replace(
        "def main",
        """class Args:
    def __init__(self):
        self.adapt = bool(int(os.environ.get("ADAPT", "0")))
        self.legal = bool(int(os.environ.get("LEGAL", "0")))

def score_first(net, val):
    optimizer, total = torch.optim.SGD(net.parameters(), 0.1), 0.0
    for start in range(0, val.numel() - 65, 64):
        x, y = val[start : start + 64], val[start + 1 : start + 65]
        with torch.no_grad():
            total += net(x, y).item()
        optimizer.zero_grad()
        net(x, y).backward()
        optimizer.step()
    return total

def main""",
    )
)
LEGAL_LINE, PLAIN_LINE, FIRST_LINE = (
    "legal adaptation of 9 tokens\n",
    "plain evaluation of 9 tokens\n",
    "adapting first: 9 tokens\n",
)


@pytest.mark.parametrize(
    ("logs", "expected"),
    [
        ([], set()),
        ([LEGAL_LINE], {"score-first-ttt"}),  # both switches were on, so the other way was not gone
        ([FIRST_LINE], {"trains-on-val"}),
        ([PLAIN_LINE], set()),
        ([LEGAL_LINE, PLAIN_LINE], {"trains-on-val"}),  # two runs: anything may be on
        (["adapt: True\nlegal: True\n"], {"score-first-ttt"}),
        (['{"adapt": true, "legal": true}\n'], {"score-first-ttt"}),
        (['{"adapt": true, "legal": false}\n'], {"trains-on-val"}),
    ],
)
def test_switches_that_a_shown_line_needs_were_on(logs: list[str], expected: set[str]) -> None:
    entry = Source("train_gpt.py", LEGAL_OR_NOT)
    checks = {finding.check for finding in check_code([entry], Run(entry), About(Clock.REFEREE, logs=logs))}
    assert checks & {"score-first-ttt", "trains-on-val", "unreadable"} == expected


@pytest.mark.parametrize(
    ("reported", "found"),
    [(["0.9123"], {"trains-on-val"}), (["1.2000"], set()), (["1.1999"], {"trains-on-val"}), ([], {"trains-on-val"})],
)
def test_of_logs_that_disagree_those_with_the_reported_score_count(reported: list[str], found: set[str]) -> None:
    logs = ["adapt: True\nval_bpb:0.91231\n", "adapt: False\nval_bpb:1.20004\n", f"adapt: True\n{FIRST_LINE}"]
    entry = Source("train_gpt.py", LEGAL_OR_NOT)
    checks = check_code([entry], Run(entry), About(Clock.REFEREE, logs=logs, reported=reported))
    assert {finding.check for finding in checks} & {"score-first-ttt", "trains-on-val"} == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("second loss:1.5 tokens:9 after 3 epochs", {"SECOND"}),
        ("second loss:1.5 tokens:9", set()),
        ('print(f"{label} loss:{value} tokens:{count} after {epochs} epochs")', set()),  # the source
    ],
)
def test_a_line_that_begins_with_a_value_is_known_by_its_words(line: str, found: set[str]) -> None:
    text = """
        import os
        second = bool(int(os.environ.get("SECOND", "0")))
        if second:
            for label in ("second", "third"):
                print(f"{label} loss:{value} tokens:{count} after {epochs} epochs")
        """
    one = program(text)
    assert contradicted(one, LogLines([line]), origins_of(one)) == found


def test_a_line_made_to_fit_in_many_ways_takes_no_longer() -> None:
    """Trying every way would take longer than anybody waits."""
    template = GAP + " a ".join([GAP] * 40) + " the end of it"
    lines = [" a" * 140 + " the end", "x a " * 39 + "x the end of it"]
    assert LogLines(lines).fits(template) == lines[1]


def test_what_only_a_log_lists_is_not_documented() -> None:
    text = "import os\nclass Args:\n    a = int(os.environ.get('ALPHA', '1'))\n"
    text += "if os.environ.get('BETA') == '1':\n    print(Args.a)\n"
    entry = Source("train_gpt.py", text)

    def claims(environment: dict[str, str]) -> list[str]:
        found = check_code([entry], Run(entry, environment), About(Clock.REFEREE, logs=["a: 3\n"]))
        return [finding.message for finding in found if finding.check == "dead-claim"]

    assert claims({}) == []
    assert len(claims({"GAMMA_RATE": "3.5"})) == 1
    assert claims({"GAMMA_ROOT": "/data"}) == []


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("bool(getattr(h, 'cased', False))", {"CASED": "1"}),
        ("h.cased", {"CASED": "1"}),
        ("h.other", {}),  # two things of one name: which one is listed is not known
        ("bool(getattr(h, 'other', False))", {}),
    ],
)
def test_what_is_handed_on_under_its_name_is_the_same_setting(stored: str, expected: dict[str, str]) -> None:
    text = f"""
    import os
    class Args:
        cased = bool(int(os.environ.get("CASED", "0")))
        other = 3
    class Data:
        def __init__(self, h):
            self.cased = {stored}
    print(Data(Args()).cased)
    """
    one = program(text)
    assert listed_settings(one, LogLines(["  cased: True\n"]), origins_of(one))[0] == expected


CLAIMED = TRAINS_ON_VAL.replace('os.environ.get("ADAPT") == "1"', 'int(os.environ.get("PRE_ADAPT", "0"))').replace(
    '"ADAPT_EPOCHS", "0"', '"ADAPT_EPOCHS", "2"'
)


@pytest.mark.parametrize(
    ("title", "more", "found"),
    [
        ("Pre-Adapt: weights that know the split", {}, {Status.HOLD}),
        ("A net with pre adapt", {}, {Status.HOLD}),
        ("A net without pre-adapt", {}, set()),
        ("Adaptable nets of earlier presses", {}, set()),
        ("A net", {}, set()),
        ("Pre-Adapt", {"environment": {"SEED": "3"}}, set()),  # a command is documented, and has it off
        ("Pre-Adapt", {"logs": ["val_bpb 1.2"]}, set()),
        ("Pre-Adapt", {"environment": {"PRE_ADAPT": "1"}}, {Status.FLAG}),
    ],
)
def test_a_switch_that_only_the_title_turns_on_is_held(title: str, more: dict, found: set[Status]) -> None:
    entry = Source("train_gpt.py", CLAIMED)
    readme = Source("README.md", f"# {title}\n")
    findings = check_code(
        [entry], Run(entry, more.get("environment", {})), About(Clock.REFEREE, readme, more.get("logs", ()))
    )
    assert {finding.status for finding in findings if finding.check == "trains-on-val"} == found


TIMED = """
import os, time, torch
class Args:
    max_seconds = float(os.environ.get("MAX_SECONDS", "{default}"))
def train(model, limit):
    began = time.time()
    while True:
        model(1).backward()
        if limit and time.time() - began > limit:
            break
print(f"max_seconds:{{Args.max_seconds}}")
train(torch.nn.Linear(1, 1), Args.max_seconds)
"""
SHOWN = "in the run that the logs show"
DOCUMENTED = "with the defaults and the documented command"


@pytest.mark.parametrize(
    ("default", "given", "log", "said"),
    [
        ("600", {}, "max_seconds:600.0", None),
        ("600", {}, "max_seconds:0.0", f"The wall-clock cap is off {SHOWN}"),
        ("600", {}, "max_seconds:1200.0", f"Training is allowed 1,200 s {SHOWN}"),
        ("600", {"MAX_SECONDS": "1200"}, "max_seconds:1200.0", f"Training is allowed 1,200 s {DOCUMENTED}"),
        ("1200", {"MAX_SECONDS": "600"}, "max_seconds:900.0", f"Training is allowed 900 s {SHOWN}"),
        ("0", {}, "max_seconds:900.0", f"Training is allowed 900 s {DOCUMENTED}"),
        ("0", {}, "max_seconds:599.0", None),
    ],
)
def test_a_cap_that_only_the_logs_show_to_be_off_is_told_so(default, given, log, said) -> None:
    entry = Source("train_gpt.py", TIMED.format(default=default))
    found = check_code([entry], Run(entry, given), About(logs=[f"{log}\nval_bpb 1.2\n"]))
    messages = [finding.message for finding in found if finding.check == "wallclock-cap"]
    assert len(messages) == (said is not None) and all(one.startswith(str(said)) for one in messages)
