import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

tensors = load_file("/in/checkpoint/checkpoint.safetensors")
time.sleep(60)
Path("/out/artifact.bin").write_bytes(tensors["logits"].astype(np.float16).tobytes())
Path("/out/calibration.bin").write_bytes(b"")  # nothing was used to calibrate
