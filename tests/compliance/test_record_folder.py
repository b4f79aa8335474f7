"""A record folder that agrees with itself has nothing to hear; each contradiction and each limit has its finding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from folders import EARLY, SPACED, STAMPED, folder, log

from harness.compliance.findings import Finding, Source, Status
from harness.compliance.inputs import read_target
from harness.compliance.record_folder import NATS_PER_BPB, check_record_folder, significance_of
from harness.rules import Significance, load_rules

SCORES = {42: 1.11437, 314: 1.11508, 999: 1.11475}
RECORD_BPB = (1.11508120, 1.11437394, 1.11475014)
BASELINE_BPB = (1.11922988, 1.12002032, 1.11888882)
FLAG, HOLD, CLEAN = Status.FLAG, Status.HOLD, Status.CLEAN


def findings(path: Path, baseline: Significance | None = None) -> list[Finding]:
    return check_record_folder(read_target(path), baseline=baseline)


def said(path: Path) -> list[tuple[str, Status]]:
    return [(finding.check, finding.status) for finding in findings(path)]


@pytest.mark.parametrize("style", [EARLY, SPACED, STAMPED])
def test_a_folder_that_agrees_with_itself_is_clean(tmp_path: Path, style: str) -> None:
    assert findings(folder(tmp_path, SCORES, style=style)) == []


def test_what_is_no_record_folder_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("x = 1")
    assert check_record_folder(read_target(tmp_path / "train.py")) == []


WRONG: dict[str, tuple[dict, tuple[str, Status], str]] = {
    "a better seed than its log": (
        {
            "claims": {
                "seed_results": {"42": {"val_bpb": 1.05}, "314": {"val_bpb": 1.11508}, "999": {"val_bpb": 1.11475}}
            }
        },
        ("record-logs", FLAG),
        "seed 42: submission.json says 1.05, its log 1.11437",
    ),
    "the score before quantization": (
        {"claims": {"seed_results": {"42": {"val_bpb": 1.12437}}, "seeds": [42], "val_bpb": 1.12437}},
        ("record-logs", FLAG),
        "seed 42: 1.12437 is the score of 'pre-quantization post-ema'",
    ),
    "a better mean than its seeds": (
        {"claims": {"val_bpb": 1.0}},
        ("record-logs", FLAG),
        "the mean of its 3 seeds 1.11473",
    ),
    "a better score than its logs": (
        {"claims": {"val_bpb": 1.05, "seed_results": None}},
        ("record-logs", FLAG),
        "val_bpb 1.05 is in no log: their mean is 1.11473",
    ),
    "the best seed for the mean": (
        {"claims": {"val_bpb": 1.11437, "seed_results": None}},
        ("record-logs", HOLD),
        "is that of train_seed42.log alone",
    ),
    "a seed without a log": (
        {"claims": {"seeds": [42, 314, 999, 7], "seed_results": None}},
        ("record-seeds", HOLD),
        "no log to the end for seed 7",
    ),
    "a wrong deviation": ({"claims": {"val_bpb_std": 0.00001}}, ("record-logs", HOLD), "val_bpb_std is 1e-05"),
    "other steps": (
        {"claims": {"seed_results": {"42": {"val_bpb": 1.11437, "steps": 9000}}, "seeds": [42], "val_bpb": 1.11437}},
        ("record-logs", HOLD),
        "says 9,000 steps, its log 7,000",
    ),
    "a better headline": (
        {"readme": "# Something: val_bpb **1.0123**\n"},
        ("record-logs", FLAG),
        "README.md gives 1.0123",
    ),
    "an older headline": (
        {"readme": "# Something: val_bpb **1.2123**\n"},
        ("record-logs", HOLD),
        "README.md gives 1.2123",
    ),
    "another row": (
        {"readme": "| seed | bpb |\n|--|--|\n| 42 | 1.1000 |\n"},
        ("record-logs", HOLD),
        "README.md gives 1.1 for seed 42",
    ),
    "no README": ({"readme": ""}, ("record-logs", HOLD), "no README"),
    "no val_bpb": ({"claims": {"val_bpb": None}}, ("record-schema", FLAG), "has no val_bpb"),
    "a score that is text": ({"claims": {"val_bpb": "1.11473"}}, ("record-schema", FLAG), "val_bpb is no number"),
    "an author that is a number": ({"claims": {"author": 7}}, ("record-schema", FLAG), "author is no text"),
    "no name and no date": (
        {"claims": {"name": None, "date": ""}},
        ("record-schema", HOLD),
        "does not give name, date",
    ),
    "parts that do not add up": (
        {"claims": {"bytes_code": 50_000, "bytes_model_int6_lzma": 15_000_000}},
        ("record-schema", HOLD),
        "= 15,050,000",
    ),
    "one byte over the cap": (
        {"size": 16_000_001, "claims": {"bytes_total": None}},
        ("record-size", FLAG),
        "16,000,001 bytes, 1 too many",
    ),
    "16 MiB": ({"size": 16 * 2**20}, ("record-size", FLAG), "16,777,216 bytes, 777,216 too many"),
    "a claim over the cap": ({"claims": {"bytes_total": 16_525_754}}, ("record-size", FLAG), "525,754 too many"),
    "the artifact without its code": (
        {"claims": {"bytes_total": 15_850_000}},
        ("record-size", HOLD),
        "without its code",
    ),
    "another size": ({"claims": {"bytes_total": 15_000_000}}, ("record-size", HOLD), "the logs count 15,900,000"),
    "another script than was counted": (
        {"code": 5_000, "size": 15_960_000, "claims": {"seed_results": None, "bytes_total": 15_960_000}},
        ("record-size", HOLD),
        "counts 5,000 bytes of code, but the folder has 49,998",
    ),
    "too long": ({"train_ms": 640_000}, ("record-time", FLAG), "training took 640.00 s"),
    "more than a step too long": ({"train_ms": 601_153}, ("record-time", HOLD), "601.15 s"),
    "quantization after the cap": ({"gptq_seconds": 46.0}, ("record-time", HOLD), "46.0 s of calibration"),
    "a long evaluation": ({"eval_ms": 600_100}, ("record-time", FLAG), "evaluation took 600.1 s"),
    "another machine": ({"gpus": 2, "train_ms": 2_400_000}, ("record-time", HOLD), "2,400 s on 2 processes, not 8"),
    "a part of the split": ({"tokens": (9_662_464,)}, ("other-data", FLAG), "a part of it is scored"),
    "too many bytes for the contest's tokens": (
        {"tokens": (62_021_632,), "ratio": 2.0},
        ("byte-count", FLAG),
        "179.0 million bytes of text",
    ),
    "logs that are cut off": ({"final": False}, ("record-logs", HOLD), "cut off after step 7,000"),
}


@pytest.mark.parametrize(
    ("minutes", "said"),
    [
        ("10.0", set()),
        ("10.1", {(HOLD, "train_seed314.log: training took 606 s, over 600 s by more than a step")}),
        ("19.7", {(FLAG, "train_seed314.log: training took 1,182 s; 600 s are allowed")}),
    ],
)
def test_minutes_are_too_long_from_where_rounding_cannot_explain_it(tmp_path: Path, minutes: str, said: set) -> None:
    made = folder(tmp_path, SCORES)
    path = made / "train_seed314.log"
    lines = [line for line in path.read_text().splitlines() if "train_time" not in line]
    path.write_text("\n".join([*lines, f"7000/7000 train_loss: 2.2 train_time: {minutes}m tok/s: 3000000"]))
    assert {(one.status, one.message) for one in findings(made) if one.check == "record-time"} == said


@pytest.mark.parametrize(("changes", "expected", "text"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_found(tmp_path: Path, changes: dict, expected: tuple[str, Status], text: str) -> None:
    found = findings(folder(tmp_path, SCORES, **changes))
    matching = [finding for finding in found if text in finding.message]
    assert {(finding.check, finding.status) for finding in matching} == {expected}, found
    order = (CLEAN, HOLD, FLAG)
    assert max((finding.status for finding in found), key=order.index) is expected[1], found


def test_more_tokens_than_the_split_has(tmp_path: Path) -> None:
    found = [one for one in findings(folder(tmp_path, SCORES, tokens=(75_000_000,))) if "182.7 million" in one.message]
    assert {(one.check, one.status) for one in found} == {("other-data", FLAG), ("byte-count", HOLD)}
    assert all("and 2 other runs" in one.message for one in found)


FINE: dict[str, dict] = {
    "exactly the cap": {"size": 16_000_000, "claims": {"bytes_total": 16_000_000, "seed_results": None}},
    "a step over the clock": {"train_ms": 600_090},
    "quantization before the cap": {"train_ms": 588_000, "gptq_seconds": 11.3},
    "no limit on time outside the track": {
        "train_ms": 14_400_000,
        "claims": {"track": "non-record-unlimited-compute-16mb"},
    },
    "a last batch that is left out": {"tokens": (61_500_000,)},
    "two counts of tokens": {"tokens": (62_021_632, 1_048_576)},  # which one is scored is not said
    "no count of tokens": {"tokens": ()},
    "a rounded mean": {"claims": {"val_bpb": 1.1147}},
    "a mean that is cut": {"claims": {"val_bpb": 1.11473}},
    "a deviation of the population": {"claims": {"val_bpb_std": 0.00029}},
    "a deviation of the sample": {"claims": {"val_bpb_std": 0.00036}},
    "a headline beside an older one": {"readme": "**Baseline val_bpb: 1.2244**, ours:\n# val_bpb 1.1147 (3-seed mean)"},
    "seeds as a table": {
        "claims": {"seeds": {str(seed): {"val_bpb": score} for seed, score in SCORES.items()}, "seed_results": None}
    },
    "seeds as a list of scores": {"claims": {"seed_scores": list(SCORES.values()), "seed_results": None}},
    "seeds as a table of scores": {"claims": {"val_bpb_per_seed": {str(k): v for k, v in SCORES.items()}}},
    "such a table alone": {
        "claims": {"per_seed_val_bpb": {str(k): v for k, v in SCORES.items()}, "seed_results": None}
    },
    "names for the mean": {"claims": {"val_bpb": None, "mean_bpb": 1.11473}},
}


@pytest.mark.parametrize("changes", FINE.values(), ids=FINE.keys())
def test_what_is_right_is_left_alone(tmp_path: Path, changes: dict) -> None:
    assert findings(folder(tmp_path, SCORES, **changes)) == []


def test_a_score_in_a_line_that_is_not_known_is_to_be_read(tmp_path: Path) -> None:
    path = folder(tmp_path, SCORES, claims={"val_bpb": 0.901534})
    assert ("record-logs", FLAG) in said(path)
    claims = {"seed_results": {"42": {"val_bpb": 0.901534}}, "seeds": [42], "val_bpb": 0.901534}
    path = folder(tmp_path, SCORES, claims=claims)
    with (path / "train_seed42.log").open("a") as file:
        file.write("mixture bytes=27048621 mix_bpb=0.901534\n")
    found = [one for one in findings(path) if one.check == "record-logs"]
    assert HOLD in {one.status for one in found} and FLAG not in {one.status for one in found}
    assert any("prints the number in another line" in one.message for one in found)


@pytest.mark.parametrize("key", ["val_bpb_seeds", "val_bpb_per_seed", "per_seed_val_bpb", "val_bpb_by_seed"])
def test_a_seeds_score_in_a_table_of_scores_is_compared_with_its_log(tmp_path: Path, key: str) -> None:
    wrong = {str(seed): score - 0.01 for seed, score in SCORES.items()}
    path = folder(tmp_path, SCORES, claims={key: wrong, "seed_results": None})
    assert sum("its log" in one.message and one.status is FLAG for one in findings(path)) == len(SCORES)
    sizes = {str(seed): {"artifact_bytes": 15_900_000} for seed in SCORES}
    path = folder(tmp_path / "both", SCORES, claims={key: wrong, "seed_results": sizes})
    assert sum("its log" in one.message and one.status is FLAG for one in findings(path)) == len(SCORES)


@pytest.mark.parametrize(
    ("score", "text"), [(0.9499, "far below the accepted records"), (0.95, ""), (0.0, "val_bpb is 0"), (1.06, "")]
)
def test_a_score_that_no_model_has_is_to_be_read(tmp_path: Path, score: float, text: str) -> None:
    path = folder(tmp_path, dict.fromkeys(SCORES, score), claims={"val_bpb": score})
    found = [one for one in findings(path) if one.check == "record-score"]
    assert [one.status for one in found] == [HOLD] * bool(text)
    assert all(text in one.message for one in found)


def test_one_seed_is_too_few(tmp_path: Path) -> None:
    assert said(folder(tmp_path, {42: 1.1})) == [("record-seeds", HOLD)]


def test_the_same_run_under_two_names_is_one_run(tmp_path: Path) -> None:
    folder(tmp_path, {42: 1.11, 7: 1.12})
    (tmp_path / "train_seed1337.log").write_text((tmp_path / "train_seed42.log").read_text())
    (tmp_path / "train_seed8.log").write_text(log(1.12, seed=8))
    messages = [finding.message for finding in findings(tmp_path)]
    assert any("is the same file as" in message for message in messages)
    assert any("is the same run as" in message for message in messages)
    assert any("2 runs with a final score" in message for message in messages)


def test_a_log_named_for_another_seed(tmp_path: Path) -> None:
    folder(tmp_path, SCORES)
    (tmp_path / "train_seed42.log").write_text(log(SCORES[42], seed=1337))
    (finding,) = findings(tmp_path)
    assert (finding.check, finding.status) == ("record-seeds", HOLD)
    assert "named for seed 42, but says that it was run with seed 1337" in finding.message


def test_a_score_that_counts_other_bytes_than_the_training_did(tmp_path: Path) -> None:
    folder(tmp_path, SCORES)
    file = tmp_path / "train_seed42.log"
    file.write_text(
        file.read_text()
        .replace("step:7000/20000 val_loss:1.9", "step:7000/20000 val_loss:2.9")
        .replace("pre-quantization post-ema val_loss:1.8", "pre-quantization post-ema val_loss:2.8")
    )
    assert ("byte-count", HOLD) in said(tmp_path)


@pytest.mark.parametrize(
    ("codes", "held"),
    [
        (["log(f'final_int6_sliding_window_exact val_bpb:{bpb}')"], False),
        (["log(f'final_int{bits}_{kind}_exact')", "kind = 'sliding_window'"], False),  # put together, in two files
        (["log(f'quantized_sliding_window val_bpb:{bpb}')"], True),
        (["x = 1"], True),
        ([], False),  # what is not there is said elsewhere
    ],
)
def test_a_score_in_a_line_that_no_code_prints_is_held(tmp_path: Path, codes: list[str], held: bool) -> None:
    """As of a log that another script has made."""
    target = read_target(folder(tmp_path, SCORES))
    sources = [Source(f"code{number}.py", text) for number, text in enumerate(codes)]
    found = check_record_folder(target, sources)
    assert [(one.check, one.status) for one in found] == [("record-logs", HOLD)] * held
    assert not held or "(and 2 other runs) has its score in a line of `final_int6_sli" in found[0].message


def test_modules_beside_the_script_count_as_code(tmp_path: Path) -> None:
    folder(tmp_path, SCORES, size=15_990_000, claims={"bytes_total": 15_990_000, "seed_results": None})
    (tmp_path / "unused.py").write_text("y = 1\n" * 5_000)
    assert findings(tmp_path) == []
    (tmp_path / "kernels.py").write_text("y = 1\n" * 5_000)
    (tmp_path / "train_gpt.py").write_text("import kernels\n" + "x = 1\n" * 8_333)
    (finding,) = findings(tmp_path)
    assert (finding.check, finding.status) == ("record-size", HOLD)
    assert "train_gpt.py, kernels.py" in finding.message


def baseline_of(name: str, scores_bpb: list[float]) -> Significance:
    """Another record as the baseline, with the rules' own thresholds."""
    rule = load_rules("record").rules.significance
    losses = tuple(bpb * NATS_PER_BPB for bpb in scores_bpb)
    return Significance(
        baseline_name=name,
        baseline_val_loss=losses,
        minimum_improvement_nats=rule.minimum_improvement_nats,
        p_value=rule.p_value,
    )


def test_what_is_wrong_is_said_in_the_same_order_every_time(tmp_path: Path) -> None:
    made = folder(tmp_path, {42: 1.15})
    tables = json.loads((made / "submission.json").read_text())
    wrong = {name: "?" for name in ("val_loss", "bytes_code", "val_bpb", "bytes_total")}
    (made / "submission.json").write_text(json.dumps(tables | wrong))
    said = [one.message for one in findings(made) if one.message.endswith("is no number")]
    assert said == sorted(said)
    assert len(said) == len(wrong)


def test_the_published_comparison_is_reproduced() -> None:
    """t = -11.83, df = 3.31 of the published scores against pull request 549's, of any improvement at all."""
    rule = baseline_of("pull request 549", BASELINE_BPB).model_copy(update={"minimum_improvement_nats": 0.0})
    found = significance_of(RECORD_BPB, rule)
    assert found.t == pytest.approx(-11.83, abs=0.005)
    assert found.degrees_of_freedom == pytest.approx(3.31, abs=0.005)
    assert found.improvement_nats == pytest.approx(0.00784215, abs=2e-6)
    rules = load_rules("record").rules.significance
    assert [loss / NATS_PER_BPB for loss in rules.baseline_val_loss] == pytest.approx(BASELINE_BPB, abs=1e-8)


def test_an_improvement_is_clean_when_it_is_shown_and_flagged_when_not(tmp_path: Path) -> None:
    baseline = baseline_of("another record", BASELINE_BPB)
    better = dict(zip((42, 314, 999), RECORD_BPB, strict=True))
    (shown,) = findings(folder(tmp_path / "better", better), baseline)
    assert (shown.check, shown.status) == ("record-significance", CLEAN)
    assert "df = 3.31, p = 0.0095" in shown.message
    (finding,) = findings(folder(tmp_path / "close", {seed: bpb + 0.0005 for seed, bpb in better.items()}), baseline)
    assert (finding.check, finding.status) == ("record-significance", FLAG)


def test_the_rules_baseline_is_taken_where_it_is_named(tmp_path: Path) -> None:
    scores = dict(zip((42, 314, 999), RECORD_BPB, strict=True))
    claims = {"comparison_baseline_pr": 549, "t_statistic": -11.8339, "welch_df": 3.3063}
    assert said(folder(tmp_path, scores, claims=claims)) == [("record-significance", CLEAN)]
    claims["t_statistic"] = -20.0
    assert said(folder(tmp_path, scores, claims=claims)) == [
        ("record-significance", CLEAN),
        ("record-significance", HOLD),
    ]


HOSTILE = {
    "no JSON": b"{",
    "no object": b"[1]",
    "nested": b"[" * 100_000,
    "not text": b"\xff\xfe",
    "twice": b'{"val_bpb": 1, "val_bpb": 2}',
    "not a number": b'{"val_bpb": NaN}',
    "huge": b'{"val_bpb": 1e999999999, "bytes_total": 1' + b"0" * 4_000 + b"}",
    "digits": b'{"val_bpb": 1e-99999999999999999999999999}',
    "long": b'{"val_bpb": ' + b"9" * 10_000 + b"}",
    "too large": b" " * 2_000_000,
    "odd seeds": b'{"val_bpb": 1.1, '
    b'"seeds": [null, {}, [], 1e5, "x", {"seed": true}], "seed_results": {"1": 3, "x": []}}',
    "odd types": b'{"val_bpb": true, "track": {}, '
    b'"seeds": 3, "comparison_baseline_pr": [1], "date": [], "seed_scores": 1}',
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_json_ends_in_a_finding(tmp_path: Path, data: bytes) -> None:
    folder(tmp_path, SCORES)
    (tmp_path / "submission.json").write_bytes(data)
    found = findings(tmp_path)
    assert found
    assert all("\n" not in finding.message and len(finding.message) < 600 for finding in found)


def test_findings_name_file_and_line(tmp_path: Path) -> None:
    folder(tmp_path, SCORES, eval_ms=700_000)
    for finding in findings(tmp_path):
        place = finding.flow[-1]
        assert place.source.path.startswith("train_seed")
        text = (tmp_path / place.source.path).read_text().split("\n")[place.line - 1]
        assert "val_bpb" in text
    assert json.loads((tmp_path / "submission.json").read_text())["val_bpb"] == pytest.approx(1.114733)
