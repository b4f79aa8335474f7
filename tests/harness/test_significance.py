"""The published statistics come out of the same test that decides about a record."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from harness.rules import Significance, load_rules
from harness.significance import compare

NATS_PER_BPB_UNIT = 1.68845364  # of the record's val split
BASELINE_BPB = (1.11922988, 1.12002032, 1.11888882)
RECORD_VAL_LOSS = (1.88276292, 1.88156874, 1.88220393)
RULE = load_rules("record").rules.significance


def test_the_published_comparison_in_bpb_is_reproduced() -> None:
    """t = -11.83 with 3.31 degrees of freedom, without a minimum improvement."""
    rule = RULE.model_copy(update={"baseline_val_loss": BASELINE_BPB, "minimum_improvement_nats": 0.0})
    found = compare([loss / NATS_PER_BPB_UNIT for loss in RECORD_VAL_LOSS], rule)
    assert found.t == pytest.approx(-11.83, abs=0.005)
    assert found.degrees_of_freedom == pytest.approx(3.31, abs=0.005)
    direct = stats.ttest_ind(
        [loss / NATS_PER_BPB_UNIT for loss in RECORD_VAL_LOSS], BASELINE_BPB, equal_var=False, alternative="less"
    )
    assert (found.t, found.p_value) == (float(direct.statistic), float(direct.pvalue))


def test_the_rule_s_baseline_is_the_published_one() -> None:
    assert RULE.baseline_val_loss == pytest.approx([bpb * NATS_PER_BPB_UNIT for bpb in BASELINE_BPB], abs=1e-8)


def test_the_published_record_beats_its_baseline_by_the_rules() -> None:
    found = compare(RECORD_VAL_LOSS, RULE)
    assert found.p_value < 0.01 == found.p_value_limit
    assert found.improvement_nats == pytest.approx(0.0078, abs=0.0001)
    assert found.minimum_improvement_nats == 0.005
    assert found.baseline_name == RULE.baseline_name


def test_the_minimum_improvement_is_part_of_the_null_hypothesis() -> None:
    barely = [loss - 0.004 for loss in RULE.baseline_val_loss]
    found = compare(barely, RULE)
    assert found.improvement_nats == pytest.approx(0.004)
    assert found.p_value > 0.5, "an improvement of less than the minimum is no evidence for more"
    assert compare(RULE.baseline_val_loss, RULE).t > 0


def test_exactly_the_minimum_is_a_coin_toss() -> None:
    found = compare([loss - 0.005 for loss in RULE.baseline_val_loss], RULE)
    assert found.t == pytest.approx(0, abs=1e-6)
    assert found.p_value == pytest.approx(0.5)


def test_it_is_welch_s_formula() -> None:
    rule = Significance(
        baseline_name="b", baseline_val_loss=(2.0, 2.2, 2.1, 1.9), minimum_improvement_nats=0.1, p_value=0.05
    )
    ours = [1.5, 1.7, 1.55]
    found = compare(ours, rule)
    theirs = [loss - 0.1 for loss in rule.baseline_val_loss]

    def squared_error(values: list[float]) -> float:
        mean = sum(values) / len(values)
        return sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)

    first, second = squared_error(ours), squared_error(theirs)
    assert found.t == pytest.approx((sum(ours) / 3 - sum(theirs) / 4) / math.sqrt(first + second))
    assert found.degrees_of_freedom == pytest.approx((first + second) ** 2 / (first**2 / 2 + second**2 / 3))
    assert found.mean_val_loss == pytest.approx(sum(ours) / 3)
    assert found.baseline_mean_val_loss == pytest.approx(2.05)
