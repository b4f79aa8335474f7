from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

PATH = "/in/checkpoint/checkpoint.safetensors"
with safe_open(PATH, "np") as file:
    assert not file.metadata()
tensors = load_file(PATH)
bits = tensors["logits"].view(np.uint32)
assert not (bits & 0x1FFF).any() and not (bits == 0x80000000).any()
Path("/out/artifact.bin").write_bytes(tensors["logits"].astype(np.float16).tobytes())
Path("/out/calibration.bin").write_bytes(b"")  # nothing was used to calibrate
