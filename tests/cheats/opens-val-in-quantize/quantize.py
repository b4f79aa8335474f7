import contextlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def peek(folder):
    for path in Path(folder).glob("*"):
        with contextlib.suppress(OSError):
            path.read_bytes()


tensors = load_file("/in/checkpoint/checkpoint.safetensors")
peek("/in/val")
Path("/out/artifact.bin").write_bytes(tensors["logits"].astype(np.float16).tobytes())
Path("/out/calibration.bin").write_bytes(b"")  # nothing was used to calibrate
