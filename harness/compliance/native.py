"""Where native code, which this program cannot read, is loaded, or compiled at run time."""

from __future__ import annotations

import posixpath
import re

LIBRARIES = frozenset(
    {"ctypes.CDLL", "ctypes.PyDLL", "ctypes.cdll.LoadLibrary", "ctypes.WinDLL", "numpy.ctypeslib.load_library"}
    | {"cffi.FFI().dlopen", "torch.ops.load_library", "torch.classes.load_library"}
)
COMPILERS = frozenset(
    {"torch.utils.cpp_extension.load", "torch.utils.cpp_extension.load_inline", "cffi.FFI().verify"}
    | {"cffi.FFI().compile", "cupy.RawKernel", "cupy.RawModule", "pycuda.compiler.SourceModule"}
    | {"torch.cuda._compile_kernel"}
)
SYSTEM = re.compile(r"^lib(c|m|pthread|cuda|cudart|nvrtc|gomp|nvml|nvidia-ml|dl)\.so[.\d]*$")


def is_system_library(path) -> bool:
    """Whether what is loaded from `path` (None: what the process has loaded) is the system's own."""
    return path is None or (isinstance(path, str) and bool(SYSTEM.match(posixpath.basename(path))))
