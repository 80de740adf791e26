"""The CPU's engine: graphs for OpenVINO, made op by op from the checked tensors of a folder.

Importing OpenVINO imports its model converter, which counts its users: it writes a client id into their home folder, or
fails where there is none. Nobody here converts models, so it finds its counter absent, as if that were not installed.
"""

from __future__ import annotations

import sys
from typing import Any

_COUNTER: Any = "openvino_telemetry"
_before: Any = sys.modules.get(_COUNTER, _COUNTER)
sys.modules[_COUNTER] = None  # type: ignore[assignment]
try:
    import openvino as openvino
finally:
    if _before is _COUNTER:
        del sys.modules[_COUNTER]
    else:
        sys.modules[_COUNTER] = _before
