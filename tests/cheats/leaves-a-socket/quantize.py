import socket
from pathlib import Path

from safetensors.numpy import load_file

tensors = load_file("/in/checkpoint/checkpoint.safetensors")
socket.socket(socket.AF_UNIX).bind("/out/artifact.bin")
Path("/out/calibration.bin").write_bytes(b"")  # nothing was used to calibrate
