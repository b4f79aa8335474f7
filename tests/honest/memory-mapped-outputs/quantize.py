from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

tensors = load_file("/in/checkpoint/checkpoint.safetensors")
artifact = np.memmap("/out/artifact.bin", np.float16, "w+", shape=(500_000,))
artifact[:320] = tensors["logits"]
artifact.flush()
Path("/out/calibration.bin").write_bytes(b"")  # nothing was used to calibrate
