"""Record folders made up for tests, in the forms that the contest's have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

SOURCE = """import os
def main():
    log0(f"step:{step}/{args.iterations} val_loss:{val_loss:.4f} val_bpb:{val_bpb:.4f} train_time:{ms:.0f}ms")
    log0(f"final_int8_zlib_roundtrip_exact val_loss:{q_loss:.8f} val_bpb:{q_bpb:.8f}")
    log0(f"Total submission size int8+zlib: {size + code_bytes} bytes")
    print("seed:", args.seed)
"""
RATIO = 1.6884  # nats per bit-per-byte
EARLY, SPACED, STAMPED = "early", "spaced", "stamped"


def log(
    bpb: float,
    *,
    seed: int = 1,
    style: str = EARLY,
    train_ms: int = 600_040,
    steps: int = 7_000,
    size: int = 15_900_000,
    code: int = 50_000,
    eval_ms: int = 90_000,
    gptq_seconds: float = 0.0,
    gpus: int = 8,
    final: bool = True,
    tokens: tuple[int, ...] = (62_021_632,),
    ratio: float = RATIO,
) -> str:
    """A log with its source before it, as one of three kinds of script writes it. bpb: the final score."""
    loss, pre = bpb * ratio, bpb + 0.02
    between = "" if style == EARLY else " "
    step = "step:" if style == EARLY else ""
    lines = [
        f"{step}0/20000 val_loss:{between}{4.1 * ratio:.4f} val_bpb:{between}4.1000",
        f"{step}1000/20000 train_loss:{between}2.2 train_time:{between}80000ms",
        f"{step}{steps}/20000 val_loss:{between}{pre * ratio:.4f} val_bpb:{between}{pre:.4f} train_time:{train_ms}ms",
        f"stopping_early: wallclock_cap train_time:{between}{train_ms}ms step:{between}{steps}/20000",
        "peak memory allocated: 10184 MiB reserved: 10200 MiB",
        f"pre-quantization post-ema val_loss:{(bpb + 0.01) * ratio:.8f} val_bpb:{bpb + 0.01:.8f} eval_time:6000ms",
        "Serialized model: 106000000 bytes",
        f"Code size: {code} bytes",
        f"Total submission size: {106_000_000 + code} bytes",
    ]
    if gptq_seconds:
        lines.append(f"GPTQ:collected 68 Hessians in {gptq_seconds}s")
    lines += [
        f"Serialized model int6+lzma: {size - code} bytes",
        f"Total submission size int6+lzma: {size} bytes",
    ]
    if final:
        exact = f"val_loss:{loss:.8f} val_bpb:{bpb:.8f}"
        rounded = f"val_loss:{loss:.4f} val_bpb:{bpb:.4f}"
        worse = f"val_loss:{(bpb + 0.02) * ratio:.8f} val_bpb:{bpb + 0.02:.8f}"
        lines += {
            EARLY: [
                f"final_int6_roundtrip_exact {worse}",
                f"final_int6_sliding_window {rounded} stride:64 eval_time:{eval_ms}ms",
                f"final_int6_sliding_window_exact {exact}",
                f"final_int8_zlib_roundtrip_exact {exact}",
            ],
            SPACED: [f"quantized {worse} eval_time:8000ms", f"quantized_sliding_window {exact} eval_time:{eval_ms}ms"],
            STAMPED: [f"quantized_ttt_phased {exact} eval_time:{eval_ms}ms", f"total_eval_time:{eval_ms / 1000:.1f}s"],
        }[style]
    if style == STAMPED:
        lines = [f"1776143355.743 {line}" for line in lines]
    head = [SOURCE, "=" * 100, f"seed:{seed}", f"world_size:{gpus} grad_accum_steps:1"]
    of_tokens = "val_loader:shards pattern=./data/fineweb_val_*.bin tokens:{}" if style == EARLY else "val_tokens: {}"
    head += [of_tokens.format(count) for count in tokens]
    return "\n".join([*head, *lines]) + "\n"


def folder(
    path: Path, scores: Mapping[int, float], *, claims: Mapping | None = None, readme: str | None = None, **changes
) -> Path:
    """A record folder with a log per seed that agrees with itself; `claims` replaces keys of submission.json, None
    removes one; `changes` go to every log."""
    path.mkdir(parents=True, exist_ok=True)
    mean = sum(scores.values()) / len(scores)
    tables: dict = {
        "author": "A",
        "github_id": "a",
        "name": "Something",
        "date": "2026-04-01",
        "track": "10min_16mb",
        "val_bpb": round(mean, 6),
        "seeds": list(scores),
        "seed_results": {
            str(seed): {"val_bpb": round(score, 5), "artifact_bytes": 15_900_000} for seed, score in scores.items()
        },
        "bytes_total": 15_900_000,
    }
    tables |= claims or {}
    (path / "submission.json").write_text(
        json.dumps({key: value for key, value in tables.items() if value is not None})
    )
    for seed, score in scores.items():
        (path / f"train_seed{seed}.log").write_text(log(score, seed=seed, **changes))
    rows = "".join(f"| {seed} | 7,000 | **{score:.5f}** | 15,900,000 |\n" for seed, score in scores.items())
    text = f"# Something (val_bpb: {mean:.4f})\n\n| Seed | Steps | BPB | Bytes |\n|---|---|---|---|\n{rows}"
    (path / "README.md").write_text(text if readme is None else readme)
    (path / "train_gpt.py").write_text("x = 1\n" * 8_333)
    return path
