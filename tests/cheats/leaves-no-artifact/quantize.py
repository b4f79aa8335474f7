from pathlib import Path

from safetensors.numpy import load_file

tensors = load_file("/in/checkpoint/checkpoint.safetensors")
Path("/out/calibration.bin").write_bytes(b"")  # nothing was used to calibrate
