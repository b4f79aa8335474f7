"""Print the docstrings of every module that is compiled into Python or lies beside it as an extension, as JSON.

`harness.data.prose` runs this file as a program of its own (`python -I -S`), because such modules have no source to
read: they must be imported, and the process that does so should have nothing else loaded.

stdout: {module: [docstring, ...]}, both in sorted order of names.
"""

import importlib
import importlib.machinery
import json
import os
import sys
import types

# Modules that exist to test or to illustrate the C API.
UNWANTED = ("_test", "_xx", "xx", "_ctypes_test")


def module_names():
    """Names of the built-in modules and of the extension modules of the standard library."""
    names = set(sys.builtin_module_names)
    for folder in filter(os.path.isdir, sys.path):  # under -I -S: the standard library and its lib-dynload, no more
        for file in os.listdir(folder):
            if file.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
                names.add(file.split(".")[0])
    return sorted(name for name in names if not name.startswith(UNWANTED))


def is_documented(member):
    """Whether a member's docstring is its own, and not that of its type, as a constant's is."""
    return callable(member) or isinstance(member, (types.GetSetDescriptorType, types.MemberDescriptorType))


def docstrings(module):
    """Docstrings of a module, its functions and its classes with their members; each object once."""
    found, seen, queue = [], set(), [module]
    while queue:
        thing = queue.pop(0)
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        doc = getattr(thing, "__doc__", None)
        if isinstance(doc, str):
            found.append(doc)
        if isinstance(thing, (types.ModuleType, type)):
            queue += [member for _, member in sorted(vars(thing).items()) if is_documented(member)]
    return found


def main():
    """Write the JSON."""
    documents = {}
    for name in module_names():
        try:
            documents[name] = docstrings(importlib.import_module(name))
        except ImportError:  # an extension whose shared library this machine lacks
            continue
    sys.stdout.write(json.dumps(documents))


if __name__ == "__main__":
    main()
