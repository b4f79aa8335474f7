import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

tensors = load_file("/in/checkpoint/checkpoint.safetensors")
Path("/out/artifact.bin").write_bytes(tensors["logits"].astype(np.float16).tobytes())
Path("/out/calibration.bin").write_bytes(b"")  # nothing was used to calibrate
for number in range(10_000):
    os.close(os.open(f"/out/{number}", os.O_CREAT | os.O_WRONLY))
