from pathlib import Path

import conftest  # noqa: F401
import sitecustomize  # noqa: F401

from harness.scoring.scorer import Scorer

Path("/in/artifact/artifact.bin").read_bytes()
print("val_bpb:", Scorer().run())
