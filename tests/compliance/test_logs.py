"""Numbers come out of logs whatever their form, and the source that a log begins with gives none."""

from __future__ import annotations

import time

import pytest
from folders import EARLY, SOURCE, SPACED, STAMPED, log

from harness.compliance.logs import Run, Stage, calibrated_until, is_log, parse_log


def one(text: str, name: str = "train.log") -> Run:
    (run,) = parse_log(name, text)
    return run


@pytest.mark.parametrize("style", [EARLY, SPACED, STAMPED])
def test_every_style_gives_the_same_numbers(style: str) -> None:
    run = one(log(1.11508120, seed=314, style=style, steps=6927, train_ms=600_109, size=15_863_278, code=101_850))
    assert (run.seed, run.steps, run.train_seconds, run.stopped_early) == (314, 6927, 600.109, True)
    assert (run.artifact_bytes, run.counted_code_bytes, run.processes) == (15_863_278, 101_850, 8)
    assert run.score is not None
    assert (run.score.bpb, run.score.digits) == (1.1150812, 8)
    assert run.score_seconds == pytest.approx(90.0)
    assert (run.total_eval_seconds is not None) == (style == STAMPED)


@pytest.mark.parametrize(
    ("lines", "seconds", "rounding"),
    [
        (["train_time: 2.3m", "train_time: 19.7m"], 1182.0, 3.0),
        (["train_time: 9.9m", "train_time:595123ms"], 595.123, 0.0),
        (["train_time:595123ms", "train_time: 9.9m"], 595.123, 0.0),  # minutes are no news to who has said it better
        (["train_time:595s", "train_time: 9.9m"], 595.0, 0.0),
    ],
)
def test_minutes_count_where_nothing_finer_is_said(lines: list[str], seconds: float, rounding: float) -> None:
    run = one("\n".join(f"{step}/4500 train_loss: 2.9 {line}" for step, line in enumerate(lines, 1)))
    assert (run.train_seconds, run.train_rounding) == (seconds, rounding)
    stopped = one(f"1/9 train_loss: 2.9 {lines[0]}\nstopping_early: wallclock_cap train_time: 588034ms step: 9/20")
    assert (stopped.train_seconds, stopped.train_rounding) == (588.034, 0.0)


@pytest.mark.parametrize(
    ("line", "label", "bpb", "seconds"),
    [
        (
            "final_int8_zlib_roundtrip val_loss:2.0727 val_bpb:1.2244 eval_time:1401ms",
            "final_int8_zlib_roundtrip",
            1.2244,
            1.401,
        ),
        (
            "final_int8_zlib_roundtrip val_loss:2.0 val_bpb:1.2 eval_time:9ms eval_seq_len:2048",
            "final_int8_zlib_roundtrip",
            1.2,
            0.009,
        ),
        (
            "final_int6_sliding_window val_loss:2.0 val_bpb:1.2 stride:64 eval_time:74066ms",
            "final_int6_sliding_window",
            1.2,
            74.066,
        ),
        (
            "final_sliding_window_eval_exact stride:64 val_loss:2.0 val_bpb:1.2",
            "final_sliding_window_eval_exact",
            1.2,
            0,
        ),
        ("final_sliding val_loss:2.0 val_bpb:1.2 (stride=16, T=0.90) eval_time:50ms", "final_sliding", 1.2, 0.05),
        ("final_sliding val_loss:2.0 val_bpb:1.2 (stride=16, T=1.02) time:130598ms", "final_sliding", 1.2, 130.598),
        (
            "final_int8_zlib_roundtrip_exact sliding val_loss:2.0 sliding val_bpb:1.2",
            "final_int8_zlib_roundtrip_exact sliding",
            1.2,
            0,
        ),
        ("ttt_sliding:done val_loss=1.889768 val_bpb=1.119230 elapsed=409.8s", "ttt_sliding:done", 1.11923, 409.8),
        ("legal_ttt_exact val_loss:1.88976776 val_bpb:1.11922988", "legal_ttt_exact", 1.11922988, 0),
        ("quantized_ttt_lora val_loss:2.0 val_bpb:1.2 eval_time:338190ms", "quantized_ttt_lora", 1.2, 338.19),
        ("diagnostic quantized val_loss:2.0 val_bpb:1.2 eval_time:1000ms", "diagnostic quantized", 1.2, 1),
        ("final_INT7_zlib_roundtrip val_loss:2.0 val_bpb:1.2", "final_INT7_zlib_roundtrip", 1.2, 0),
        ("[rank0]: final_int6_ttt val_loss:2.0 val_bpb:1.2", "final_int6_ttt", 1.2, 0),
        ("2026-04-05 20:00:43,123 final_int6_ttt val_loss:2.0 val_bpb:1.2", "final_int6_ttt", 1.2, 0),
        ("final_x val_loss:nan val_bpb:nan", "final_x", None, 0),
    ],
)
def test_final_evaluations(line: str, label: str, bpb: float | None, seconds: float) -> None:
    run = one("stopping_early: wallclock_cap train_time:600000ms step:10/20\n" + line)
    (found,) = run.evaluations
    assert (found.label, found.stage, found.line) == (label, Stage.FINAL, 2)
    assert found.seconds == pytest.approx(seconds)
    assert run.score is None if bpb is None else found.bpb == bpb


@pytest.mark.parametrize(
    "line",
    [
        "pre-quantization post-ema val_loss:2.0 val_bpb:1.1 eval_time:6003ms",
        "DIAGNOSTIC post_ema val_loss:1.9 val_bpb:1.1 eval_time:1971ms",
        "diagnostic pre-quantization post-ema val_loss:1.9 val_bpb:1.1 eval_time:1ms",
        "swa val_loss:1.9 val_bpb:1.1",
    ],
)
def test_what_comes_before_quantization_is_no_score(line: str) -> None:
    run = one(
        f"stopping_early: wallclock_cap train_time: 600000ms step: 10/20\n{line}\nfinal_a val_loss:2.0 val_bpb:1.2\n"
    )
    assert [found.stage for found in run.evaluations] == [Stage.BEFORE, Stage.FINAL]
    assert run.score is not None and run.score.bpb == 1.2


def test_a_score_under_a_name_of_its_own_after_others_is_one() -> None:
    text = log(1.11) + "vector_fitted val_loss:1.0801 val_bpb:0.6397 eval_time:306291ms\n"
    run = one(text)
    assert run.score is not None and (run.score.label, run.score.bpb) == ("vector_fitted", 0.6397)
    before = one(log(1.11, final=False) + "vector_fitted val_loss:1.0801 val_bpb:0.6397\n")
    assert before.score is None


def test_source_in_a_log_gives_nothing() -> None:
    assert parse_log("train.log", SOURCE) == []
    traps = (
        '    log0("final_int8_zlib_roundtrip_exact val_loss:1.0 val_bpb:0.5")\n'
        "print('val_bpb:0.5')\n# final val_bpb: 0.5\nval_bpb = 0.5\n    seed: int = 7\n"
        'x = "Total submission size int6: 5 bytes"\n'
    )
    (run,) = parse_log("train.log", traps + log(1.2, seed=3))
    assert (run.seed, run.artifact_bytes, run.score and run.score.bpb) == (3, 15_900_000, 1.2)
    assert min(found.bpb for found in run.evaluations) == 1.2


def test_the_uncompressed_model_is_not_the_submission() -> None:
    assert one("Total submission size: 106000000 bytes\nfinal_a val_loss:2 val_bpb:1.2").artifact_bytes is None


@pytest.mark.parametrize(
    ("lines", "size"),
    [
        ("Code size: 100 bytes\nSerialized model quantized+brotli: 900 bytes", 1000),
        ("Code size (uncompressed): 900 bytes\nCode size (compressed): 100 bytes\nSerialized model a: 900 bytes", 1000),
        ("INT7+zlib model: 900 bytes | Total submission: 1000 bytes", 1000),
        ("budget:1000/16000000 (0.0/16.00MB) FITS", 1000),
        ("artifact_bytes:   1000", 1000),
        ("Total submission size int8+zlib: 1,200 bytes\nTotal submission size int6+zstd-22: 1,000 bytes", 1000),
    ],
)
def test_sizes(lines: str, size: int) -> None:
    assert one(lines + "\nfinal_a val_loss:2 val_bpb:1.2").artifact_bytes == size


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ("GPTQ:collected 67 Hessians in 11.3s\nGPTQ:quantized in 2.0s", 13.3),
        ("gptq:generated 64 sequences in 196.7s\ngptq:collected hessians for 68 layers (AR self-gen)", 196.7),
        ("gptq:calibrated 66 layers in 6.8s", 6.8),
        ("gptq:generated 64 seqs in 3.0s\ngptq:collected hessians for 9 layers in 4.0s\ngptq:done in 9.0s", 9.0),
    ],
)
def test_seconds_of_quantization(lines: str, seconds: float) -> None:
    assert one(lines + "\nfinal_a val_loss:2 val_bpb:1.2").gptq_seconds == pytest.approx(seconds)


def test_one_file_can_hold_several_runs() -> None:
    runs = parse_log("train.log", log(1.3, seed=1) + log(1.2, seed=2, steps=7_001) + log(1.1, seed=3, final=False))
    assert [(run.score and run.score.bpb, run.steps) for run in runs] == [(1.3, 7_000), (1.2, 7_001), (None, 7_000)]


def test_a_score_keeps_its_digits_when_it_is_printed_twice() -> None:
    run = one(
        "final_a val_loss:1.8898 val_bpb:1.1192 eval_time:410268ms\n"
        "final_a_exact val_loss:1.88976776 val_bpb:1.11922988"
    )
    assert run.score is not None
    assert (run.score.bpb, run.score_seconds) == (1.11922988, pytest.approx(410.268))


@pytest.mark.parametrize(
    ("name", "seed"),
    [("train_seed42.log", 42), ("a/log_10mins_seed-7.txt", 7), ("logs/train0.txt", 0), ("ternary_log_1337.txt", 1337)],
)
def test_a_file_name_gives_the_seed_where_the_log_does_not(name: str, seed: int) -> None:
    assert one("final_a val_loss:2 val_bpb:1.2", name).seed == seed
    assert one("seed:5\nfinal_a val_loss:2 val_bpb:1.2", name).seed == 5


def test_only_texts_that_can_be_logs_are() -> None:
    assert is_log("train.log") and is_log("train_v0.txt")
    assert not is_log("requirements.txt") and not is_log("train_gpt.py")


@pytest.mark.parametrize(
    "text",
    [
        "val_bpb:" * 200_000,
        "seed " * 100 + "\n" + ("seed: 1 " * 60 + "\n") * 5_000,
        "\n" * 1_000_000,
        "step:99999999999999999999/1 val_loss:1 val_bpb:1\n" * 10_000,
        "final val_loss:1e999 val_bpb:1e999 eval_time:1e999ms\n" * 1_000,
        "Total submission size x: " + "9" * 400 + " bytes\n",
        "seed:" + "9" * 300 + "\nworld_size: " + "9" * 300 + "\nfinal_a val_bpb:1",
        "\x00\ufffd\x1b[31m" * 10_000 + "val_bpb",
        ("a " * 290 + "val_bpb: 1.0\n") * 2_000,
    ],
)
def test_hostile_logs_end_soon(text: str) -> None:
    begin = time.process_time()
    for run in parse_log("train.log", text):
        assert run.artifact_bytes is None or run.artifact_bytes < 10**19
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("style", [EARLY, SPACED, STAMPED])
def test_the_bytes_that_a_score_is_of(style: str) -> None:
    assert one(log(1.1, style=style)).counted_bytes == pytest.approx(151_077_000, rel=1e-4)
    assert one(log(1.1, style=style, tokens=(31_010_816,))).counted_bytes == pytest.approx(75_538_500, rel=1e-4)
    assert one(log(1.1, style=style, tokens=())).counted_bytes is None
    assert one(log(1.1, style=style, tokens=(1_000, 2_000))).counted_bytes is None
    first, second = parse_log("a.log", log(1.1, style=style) + log(1.2, seed=2, style=style).partition("=" * 100)[2])
    assert first.counted_bytes == pytest.approx(second.counted_bytes, rel=1e-4)


STOPPED = "stopping_early: wallclock_cap train_time: 599538ms step: 4700/20000\n"


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("GPTQ:collected 67 Hessians in 3.6s", 603.138),
        ("1776143355.743 GPTQ:collected 67 Hessians + 12 act_stats in 3.6s", 603.138),
        ("gptq:calibrated 68 layers in 3.6s", 603.138),
        ("Hessians collected in 3.6 s", 603.138),
        ("gptq:collected hessians for 68 layers in 3600ms", 603.138),
        ("gptq:hessian_collection_time:3600ms", 603.138),
        ("gptq:calibration done in 3600ms", 603.138),
        ("gptq:generated 64 sequences in 120.0s", None),  # of its own
        ("GPTQ:quantized in 12.0s", None),  # reads no data
        ('log(f"GPTQ:collected {len(hessians)} Hessians in {seconds:.1f}s")', None),
        ("GPTQ:collecting Hessians from calibration data...", None),
    ],
)
def test_when_calibration_had_ended(line: str, seconds: float | None) -> None:
    expected = () if seconds is None else (pytest.approx(seconds),)
    assert calibrated_until(STOPPED + line) == expected
    assert calibrated_until(line) == ()  # when training ended is not said
    assert calibrated_until(f"{STOPPED}{line}\n" * 2) == expected * 2


COLLECTING = "gptq:collecting hessians from training data (256 batches)..."


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        (["ttt:elapsed=382.8s", COLLECTING], 982.338),
        (["ttt_adamw:done elapsed=382.8s", "ttt:elapsed=382.8s", COLLECTING], 982.338),  # the same, said twice
        (["prequant_ttt:done in 382.8s (8 gpus)", COLLECTING], 982.338),
        (["1776143355.743 prequant_ttt:done total_time=382.8s", "Hessians collected in 3.6s"], 985.938),
        (["ttt:done time=382.8s", "gptq:calibrated 68 layers in 3600ms"], 985.938),
        (["fine-tuning: elapsed 382.8s", COLLECTING], 982.338),
        ([COLLECTING, "ttt:elapsed=382.8s"], None),  # of the evaluation
        (["Hessians collected in 3.6s", "ttt:elapsed=382.8s"], 603.138),
        (["ttt:done in 300s", COLLECTING, "ttt:elapsed=382.8s", "Hessians collected in 3.6s"], 903.138),  # the first
        (["eval elapsed=382.8s", COLLECTING], None),
        (['log(f"ttt:elapsed={seconds:.1f}s")', COLLECTING], None),
        (["ttt:elapsed=382.8s"], None),  # nothing is calibrated
    ],
)
def test_what_was_trained_between_the_clock_s_end_and_a_calibration(lines: list[str], seconds: float | None) -> None:
    text = STOPPED + "\n".join(lines) + "\n"
    expected = () if seconds is None else (pytest.approx(seconds),)
    assert calibrated_until(text, trained_again=True) == expected
    assert calibrated_until(text * 2, trained_again=True) == expected * 2
    collected = (pytest.approx(603.138),)
    assert calibrated_until(text + STOPPED + "Hessians collected in 3.6s", trained_again=True) == expected + collected
    assert calibrated_until(text) == (collected if "3.6" in text or "3600ms" in text else ())
