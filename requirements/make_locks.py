"""Write the three hash-checked locks from pyproject.toml (`make locks`; needs `uv` on the PATH).

default.lock  what the public package index offers: torch comes as its CUDA build, with the CUDA libraries (several GB)
cpu.lock      the same versions, with the CPU build of torch and none of the CUDA libraries; `make setup` tries it first
record.lock   for the record image alone: Python 3.12 on x86-64 Linux, and the CUDA build of torch that records run with

The hashes of torch's CPU wheels are in torch-cpu.sha256, because those wheels are not on the public index. compose.yaml
names the sha256 of the locks that images are made from; it is brought up to date, too.
"""

import hashlib
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
CUDA_ONLY = re.compile(r"(nvidia-(?!ml-py==)|cuda-)|triton==")  # nvidia-ml-py is the harness's, and asks for GPUs


def main() -> None:
    resolved = resolve("torch-version.txt", "--universal", "--python-version", "3.11")
    (HERE / "default.lock").write_text(resolved)
    image = ("--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_28")
    (HERE / "record.lock").write_text(resolve("torch-version-record.txt", *image))

    cpu_hashes = [line.split()[0] for line in (HERE / "torch-cpu.sha256").read_text().splitlines() if line]
    entries = re.split(r"\n(?=[a-z])", resolved.strip())
    kept = []
    for entry in entries:
        if CUDA_ONLY.match(entry):
            continue
        if entry.startswith("torch=="):
            # The local version label makes pip say at once that it cannot find it, instead of fetching the CUDA build.
            entry = " \\\n    ".join([entry.split(" ")[0] + "+cpu", *(f"--hash=sha256:{h}" for h in cpu_hashes)])
        kept.append(entry)
    (HERE / "cpu.lock").write_text("\n".join(kept) + "\n")
    pin_locks()


def resolve(torch_version: str, *options: str) -> str:
    command = ["uv", "pip", "compile", "pyproject.toml", "--extra", "submission", "--extra", "test", *options]
    command += ["--generate-hashes", "--no-header", "--quiet", "--no-annotate"]
    command += ["--constraint", str(HERE / torch_version)]
    return subprocess.run(command, cwd=HERE.parent, check=True, capture_output=True, text=True).stdout


def pin_locks() -> None:
    compose = HERE.parent / "compose.yaml"
    text = compose.read_text()
    for name in ("default.lock", "record.lock"):
        digest = hashlib.sha256((HERE / name).read_bytes()).hexdigest()
        text = re.sub(rf"[0-9a-f]{{64}}(?=\}}? # of requirements/{name}$)", digest, text, flags=re.MULTILINE)
    compose.write_text(text)


if __name__ == "__main__":
    main()
