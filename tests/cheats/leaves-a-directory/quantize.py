from pathlib import Path

from safetensors.numpy import load_file

tensors = load_file("/in/checkpoint/checkpoint.safetensors")
Path("/out/artifact.bin").mkdir()
Path("/out/artifact.bin/part").write_bytes(tensors["logits"].tobytes())
Path("/out/calibration.bin").write_bytes(b"")  # nothing was used to calibrate
