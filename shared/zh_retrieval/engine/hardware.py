"""What this machine computes well: devices, CPU features, the dtype that "auto" means.

Devices and dtypes go by their names here ("cuda:0", "bfloat16"): importing torch takes a second, and a CPU that a graph
runs on needs none of it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from zh_retrieval.checks import is_installed
from zh_retrieval.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    import torch

    from zh_retrieval.options import LoadOptions

logger = logging.getLogger(__name__)

CPU_TOKENS = 2_048
"""Token budget of a forward pass on a CPU: what its caches hold."""

_GPU_TOKENS = 32_768
_DEVICE = re.compile(r"(?P<kind>cpu|cuda|mps)(:(?P<index>[0-9]+))?")


def resolve_device(device: str) -> str:
    """Return the device that a name means: "cpu", "mps", or "cuda:N".

    "auto" is CUDA where present, else the CPU (never MPS unasked); "cuda" without a number is torch's current device.

    Raises:
        ConfigError: There is no such name, or the device is not present.
        MissingExtraError: A GPU is asked for, and torch, which computes on it, is not installed.
    """
    if device == "auto":
        device = "cuda" if _has_cuda() else "cpu"
    found = _DEVICE.fullmatch(device)
    if found is None or (found["kind"] != "cuda" and int(found["index"] or 0) > 0):
        raise ConfigError(f"device={device!r} is unknown. Use 'auto', 'cpu', 'cuda', 'cuda:N' (N from 0) or 'mps'.")
    if found["kind"] != "cpu":
        check_torch(f"device={device!r} is computed by torch")
    if found["kind"] == "cuda":
        return _cuda_device(device, found["index"])
    if found["kind"] == "mps":
        import torch

        if not torch.backends.mps.is_available():
            raise ConfigError("device='mps' is not present. Use device='cpu'.")
    return found["kind"]


def _has_cuda() -> bool:
    """Return True if torch can compute on CUDA or ROCm; where no driver is installed, torch is not asked."""
    if "torch" not in sys.modules and not _has_gpu_driver():
        return False
    if not has_torch():
        _say_that_a_gpu_is_idle()
        return False
    import torch

    return torch.cuda.is_available()


def has_torch() -> bool:
    """Return True if torch and transformers, the extra `torch`, are installed."""
    return is_installed("torch") and is_installed("transformers")


def check_torch(what: str) -> None:
    """Raise MissingExtraError, which says `what` needs torch, if it is not installed."""
    if not has_torch():
        raise MissingExtraError(f'{what}. Run: pip install "zh-retrieval[torch]"')


@lru_cache(maxsize=1)
def _say_that_a_gpu_is_idle() -> None:
    logger.warning(
        "This machine has a GPU driver, but torch, which computes on GPUs, is not installed: the CPU computes. "
        'Run: pip install "zh-retrieval[torch]"; or say device="cpu".'
    )


@lru_cache(maxsize=1)
def _has_gpu_driver() -> bool:
    if os.path.exists("/dev/kfd"):  # ROCm
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _cuda_device(name: str, index: str | None) -> str:
    import torch

    if torch.cuda.is_available():
        number = torch.cuda.current_device() if index is None else int(index)
        if number < torch.cuda.device_count():
            return f"cuda:{number}"
    raise ConfigError(
        f"device={name!r} is not present: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
        "devices. Use device='cpu', or install a CUDA build of torch."
    )


def resolve_dtype(dtype: str, device: str) -> str:
    """Return the dtype that a name means on a device that `resolve_device` named.

    "auto" is bfloat16 where the hardware computes in it (CPU with avx512_bf16 or AMX, CUDA capability 8 and later),
    float16 on older CUDA, else float32: bfloat16 without hardware is about 100 times slower than float32.
    """
    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        import torch

        major, _ = torch.cuda.get_device_capability(device)
        return "bfloat16" if major >= 8 else "float16"
    return "bfloat16" if device == "cpu" and cpu_computes_bfloat16() else "float32"


def computed_dtype(options: LoadOptions, device: str) -> str:
    """Return the dtype that a model of these options computes in; beside rounded weights it is float32."""
    return "float32" if options.quantization is not None else resolve_dtype(options.dtype, device)


@lru_cache(maxsize=1)
def cpu_computes_bfloat16() -> bool:
    """Return True if the CPU multiplies bfloat16 matrices in hardware; OpenVINO says so, or torch where it is not."""
    if is_installed("openvino"):
        from zh_retrieval.engine.openvino.inference import capabilities

        return "BF16" in capabilities()
    features = cpu_features()
    return features["avx512_bf16"] or features["amx_bf16"]


def cpu_features() -> dict[str, bool]:
    """Return the CPU features that decide about dtype and int8; False where nobody can tell (Linux says them)."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            line = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        line = ""
    flags = set(line.partition(":")[2].split())
    names = {"avx2": "avx2", "avx512": "avx512f", "avx512_vnni": "avx512_vnni", "avx512_bf16": "avx512_bf16"}
    return {name: flag in flags for name, flag in {**names, "amx_bf16": "amx_bf16"}.items()}


def default_batch_tokens(device: torch.device, dtype: torch.dtype, sizes: Any) -> int:
    """Return the token budget of a forward pass: what the caches of a CPU hold; what fills a GPU and fits into it.

    Args:
        device: Where the weights already are.
        dtype: What the model computes in.
        sizes: Configuration of the transformers body.
    """
    from zh_retrieval.engine.devices import TorchDevice

    free = TorchDevice(device).free_memory()
    if free is None:
        return CPU_TOKENS
    return fitting_tokens(free, _token_bytes(sizes, dtype))


def _token_bytes(sizes: Any, dtype: torch.dtype) -> int:
    """Return about what one token needs in one layer: rows as wide as hidden states, and as the feed-forward."""
    hidden: int = sizes.hidden_size
    intermediate_size: int = getattr(sizes, "intermediate_size", None) or 4 * hidden
    return dtype.itemsize * (8 * hidden + 3 * intermediate_size)


def fitting_tokens(free_bytes: int, token_bytes: int) -> int:
    """Return how many tokens half of the free memory holds, at least what a CPU takes, at most what fills a GPU."""
    return max(CPU_TOKENS, min(_GPU_TOKENS, free_bytes // 2 // token_bytes))
