from pathlib import Path

import marks
import numpy as np
from safetensors.numpy import load_file

assert not marks.found()
tensors = load_file("/in/checkpoint/checkpoint.safetensors")
Path("/out/artifact.bin").write_bytes(tensors["logits"].astype(np.float16).tobytes())
Path("/out/calibration.bin").write_bytes(b"")  # nothing was used to calibrate
marks.leave()
