import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

tensors = load_file("/in/checkpoint/checkpoint.safetensors")
unnamed, out = os.open("/out", os.O_TMPFILE | os.O_WRONLY), os.open("/out", os.O_RDONLY)
os.write(unnamed, tensors["logits"].astype(np.float16).tobytes())
os.link(f"/proc/self/fd/{unnamed}", "artifact.bin", dst_dir_fd=out, follow_symlinks=True)
Path("/out/calibration.bin").write_bytes(b"")  # nothing was used to calibrate
os.setxattr("/out/artifact.bin", "user.note", b"x" * 1000)
os.setxattr("/out", "user.note", b"x" * 1000)
os.utime("/out/artifact.bin", (0, 0))
os.chmod("/out/artifact.bin", 0o6755)
os.chmod("/out/calibration.bin", 0o000)
