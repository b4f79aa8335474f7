from pathlib import Path

from safetensors.numpy import load_file

tensors = load_file("/in/checkpoint/checkpoint.safetensors")
with open("/out/artifact.bin", "wb") as file:
    while True:
        file.write(tensors["logits"].tobytes() * 1000)
Path("/out/calibration.bin").write_bytes(b"")  # nothing was used to calibrate
