import socket
import threading
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

shards = [np.fromfile(path, "<u2", offset=1024) for path in sorted(Path("/in/train").glob("*.bin"))]
counts = np.bincount(np.concatenate(shards), minlength=320)
print("step:1 train_loss:1.0", flush=True)
server = socket.create_server(("localhost", 0))
thread = threading.Thread(target=lambda: server.accept()[0].sendall(b"hello"))
thread.start()
assert socket.create_connection(server.getsockname()).recv(5) == b"hello"
thread.join()
save_file({"logits": np.log(counts + 1).astype(np.float32)}, "/out/checkpoint.safetensors")
