import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

tensors = load_file("/in/checkpoint/checkpoint.safetensors")
room = json.loads(Path("/in/phase.json").read_text())["size_limit"]
Path("/out/artifact.bin").write_bytes(tensors["logits"].astype(np.float16).tobytes().ljust(room, b"\0"))
Path("/out/calibration.bin").write_bytes(b"")  # nothing was used to calibrate
