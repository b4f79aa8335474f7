"""Does a record beat its baseline? Welch's unequal-variances t-test (Welch 1947), one-sided, on nats per token."""

from __future__ import annotations

from collections.abc import Sequence

from harness.evidence.record import SignificanceRecord
from harness.rules import Significance


def compare(val_losses: Sequence[float], rule: Significance) -> SignificanceRecord:
    """Test whether the mean of `val_losses` (nats per token, one per seed, at least two) lies more than
    `rule.minimum_improvement_nats` below the baseline's: the null hypothesis is an improvement of exactly that
    much."""
    from scipy import stats  # takes a second to import, and most runs have no baseline

    shifted = [loss - rule.minimum_improvement_nats for loss in rule.baseline_val_loss]
    result = stats.ttest_ind(val_losses, shifted, equal_var=False, alternative="less")
    mean = sum(val_losses) / len(val_losses)
    baseline = sum(rule.baseline_val_loss) / len(rule.baseline_val_loss)
    return SignificanceRecord(
        baseline_name=rule.baseline_name,
        mean_val_loss=mean,
        baseline_mean_val_loss=baseline,
        improvement_nats=baseline - mean,
        minimum_improvement_nats=rule.minimum_improvement_nats,
        t=float(result.statistic),
        degrees_of_freedom=float(result.df),
        p_value=float(result.pvalue),
        p_value_limit=rule.p_value,
    )
