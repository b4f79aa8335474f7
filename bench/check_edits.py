"""What `harness check` says of the contest's own baseline when a few lines of it are edited so that it reports another
score: other bytes, another loss, a part of the split.

    git clone https://github.com/openai/parameter-golf contest
    .venv/bin/python bench/check_edits.py contest

Of every edit: the findings that it adds, and their verdict. The last line counts what is seen (FLAG or HOLD)."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.compliance.code import About, check_code
from harness.compliance.findings import Source, Status
from harness.compliance.inputs import Run

RESULT = Path(__file__).parent / "results" / "check_edits.json"
BASELINE = Path("records/track_10min_16mb/2026-03-17_NaiveBaseline/train_gpt.py")

MEASURED = 'len(piece.encode("utf-8"))'
TABLE = f"        base_bytes_np[token_id] = {MEASURED}\n"
ONE = "            base_bytes_np[token_id] = 1\n"
TOKENS = "base_bytes_lut[tgt_ids].to(dtype=torch.int16)"
SPACE = "(has_leading_space_lut[tgt_ids] & ~is_boundary_token_lut[prev_ids])"
SPACES = f"            token_bytes += {SPACE}.to(dtype=torch.int16)\n"
COUNTED = "            val_byte_count += token_bytes.to(torch.float64).sum()\n"
GIVEN = "torch.tensor(base_bytes_np, dtype=torch.int16, device=device)"
LOSS = "val_loss_sum += batch_loss.to(torch.float64)"
TOKEN_COUNT = "            batch_token_count = float(y.numel())\n"
KEPT = "return tokens[: usable + 1]"
BYTES: dict[str, list[tuple[str, str]]] = {
    "twice as many for a piece": [(MEASURED, f"2 * {MEASURED}")],
    "5 % more for a piece": [(TABLE, f"        base_bytes_np[token_id] = 1.05 * {MEASURED}\n")],
    "one more for a piece": [(MEASURED, f"{MEASURED} + 1")],
    "one more, in a line of its own": [(TABLE, f"{TABLE}        base_bytes_np[token_id] += 1\n")],
    "one more for all, behind the loop": [(TABLE, f"{TABLE}    base_bytes_np += 1\n")],
    "two at least": [(MEASURED, f"max({MEASURED}, 2)")],
    "two at least, by maximum": [(TABLE, f"{TABLE}    base_bytes_np = np.maximum(base_bytes_np, 2)\n")],
    "two at least, by clip": [(TABLE, f"{TABLE}    base_bytes_np = base_bytes_np.clip(2, 99)\n")],
    "of a piece and a letter": [(MEASURED, MEASURED.replace("piece", '(piece + "x")'))],
    "of a piece twice": [(MEASURED, MEASURED.replace("piece", "(piece * 2)"))],
    "in UTF-16": [(MEASURED, MEASURED.replace("utf-8", "utf-16"))],
    "in UTF-32": [(MEASURED, MEASURED.replace("utf-8", "utf-32-le"))],
    "of what repr shows": [(MEASURED, MEASURED.replace("piece", "repr(piece)"))],
    "in hexadecimal": [(MEASURED, 'len(piece.encode("utf-8").hex())')],
    "one for tokens without text": [
        ("np.zeros((table_size,), dtype=np.int16)", "np.ones((table_size,), dtype=np.int16)")
    ],
    "the mark of a space": [("            piece = piece[1:]\n", "")],
    "10 % more when the table is given back": [(GIVEN, GIVEN.replace("base_bytes_np", "base_bytes_np * 1.1"))],
    "one more when the table is given back": [(GIVEN, GIVEN.replace("base_bytes_np", "base_bytes_np + 1"))],
    "three for a byte": [(ONE, ONE.replace("= 1", "= 3"))],
    "two for a byte, as a sum": [(ONE, ONE.replace("= 1", "= 1 + 1"))],
    "a byte by its name": [(f"{ONE}            continue\n", "            pass\n")],
    "one more for a token": [(TOKENS, f"{TOKENS} + 1")],
    "one more for a token, in a line of its own": [(SPACES, f"{SPACES}            token_bytes += 1\n")],
    "two at least for a token": [(TOKENS, "base_bytes_lut[tgt_ids].clamp(min=2)")],
    "two at least for a token, by clamp_min": [(TOKENS, "base_bytes_lut[tgt_ids].clamp_min(2)")],
    "2 % more for the sum": [(COUNTED, COUNTED.replace(".sum()", ".sum() * 1.02"))],
    "twice the sum": [(COUNTED, COUNTED.replace(".sum()", ".sum() * 2"))],
    "a space twice": [(SPACES, SPACES + SPACES)],
    "a space behind boundaries, too": [(SPACE, "has_leading_space_lut[tgt_ids]")],
    "a space or a token before": [(SPACE, SPACE.replace("&", "|"))],
    "a space for each token": [(SPACE, "torch.ones_like(tgt_ids)")],
    "a space only behind boundaries": [(SPACE, SPACE.replace("~", ""))],
    "every piece begins with a space": [
        ("            has_leading_space_np[token_id] = True\n", "            pass\n"),
        ("np.zeros((table_size,), dtype=np.bool_)", "np.ones((table_size,), dtype=np.bool_)"),
    ],
    "the number of tokens, too": [(COUNTED, f"{COUNTED}            val_byte_count += y.numel()\n")],
    "a thousand, too": [(COUNTED, f"{COUNTED}            val_byte_count += 1000\n")],
    "of the token before, too": [(COUNTED, f"{COUNTED}            val_byte_count += base_bytes_lut[prev_ids].sum()\n")],
    "of the token before": [(TOKENS, TOKENS.replace("tgt_ids", "prev_ids"))],
}
SCORES: dict[str, list[tuple[str, str]]] = {
    "a loss of at most three": [(LOSS, f"{LOSS}.clamp(max=3.0)")],
    "0.02 less for each window": [(LOSS, f"{LOSS} - 0.02")],
    "windows with a high loss left out": [
        (TOKEN_COUNT, f"{TOKEN_COUNT}            if batch_loss > 4:\n                continue\n")
    ],
    "a logarithm of another base": [("math.log(2.0)", "math.log(2.1)")],
    "a power of the ratio": [
        ("float(bits_per_token * tokens_per_byte)", "float(bits_per_token * tokens_per_byte**0.9)")
    ],
    "a score of at most 1.05": [
        ("float(bits_per_token * tokens_per_byte)", "min(1.05, float(bits_per_token * tokens_per_byte))")
    ],
    "the loss of every other window": [(LOSS, f"{LOSS} * (batch_seq_start % 2)")],
    "fewer tokens as weight of the loss": [(TOKEN_COUNT, TOKEN_COUNT.replace("y.numel()", "y.numel() - 64"))],
}
SPLITS: dict[str, list[tuple[str, str]]] = {
    "the first million tokens": [(KEPT, "return tokens[:1_000_001]")],
    "the first half": [(KEPT, "return tokens[: usable // 2 + 1]")],
    "every other batch": [
        ("range(seq_start, seq_end, local_batch_seqs)", "range(seq_start, seq_end, 2 * local_batch_seqs)")
    ],
    "a hundred windows": [(COUNTED, f"{COUNTED}            if batch_seq_start > 100:\n                break\n")],
}


def edited(text: str, edits: list[tuple[str, str]]) -> str:
    for old, new in edits:
        if old not in text:
            raise SystemExit(f"{BASELINE} has no {old.strip()!r}")
        text = text.replace(old, new, 1)
    return text


def findings(text: str) -> dict[str, Status]:
    """The worst verdict of each check that is not CLEAN."""
    source = Source(BASELINE.name, text)
    found: dict[str, Status] = {}
    for one in check_code([source], Run(source, {"WORLD_SIZE": "8"}), About(scores=True)):
        if one.status is not Status.CLEAN and found.get(one.check) is not Status.FLAG:
            found[one.check] = one.status
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contest", type=Path)
    path = parser.parse_args().contest / BASELINE
    text = path.read_text(encoding="utf-8")
    before = findings(text)
    table = Table("of", "edit", "said")
    rows = []
    for kind, edits in (("bytes", BYTES), ("score", SCORES), ("split", SPLITS)):
        for name, pairs in edits.items():
            found = findings(edited(text, pairs)).items() - before.items()
            said = {check: status.name for check, status in sorted(found)}
            rows.append({"of": kind, "edit": name, "said": said})
            table.add_row(kind, name, ", ".join(f"{check} {status}" for check, status in said.items()) or "nothing")
    of = Counter(row["of"] for row in rows)
    seen = Counter(row["of"] for row in rows if row["said"])
    counts = {kind: {"edits": of[kind], "seen": seen[kind]} for kind in of}
    RESULT.write_text(json.dumps({"counts": counts, "edits": rows}, indent=2) + "\n")
    console = Console()
    console.print(table)
    console.print(", ".join(f"{kind}: {one['seen']} of {one['edits']} seen" for kind, one in counts.items()))


if __name__ == "__main__":
    main()
