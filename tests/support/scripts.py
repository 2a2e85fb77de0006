"""Scripts that lie in no package, as modules."""

import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


@functools.cache
def capacity() -> Any:
    """deploy/capacity.py."""
    spec = importlib.util.spec_from_file_location("capacity", _ROOT / "deploy" / "capacity.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["capacity"] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module
