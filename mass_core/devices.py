"""Free and used memory, and the devices PyTorch can compute on; PyTorch is loaded only when needed."""

import contextlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DeviceError, InputError, listing

if TYPE_CHECKING:
    import torch

DEVICES = "auto, cpu, cuda, cuda:N or mps"
"""Names a user may give."""


@dataclass(frozen=True, kw_only=True)
class DeviceUse:
    """Switches of inference on a GPU. What is off costs time and changes results by rounding at most: to compare, and where a GPU or its
    driver fails at something. Without a GPU, attention alone is concerned."""

    channels_last: bool = True
    """The channels of a voxel lie side by side in memory, on GPUs with bfloat16."""
    batches: bool = True
    """As many windows at a time as memory takes; off: one."""
    pinned_upload: bool = True
    """A scan is sent through two buffers of pinned memory by turns, one is filled while the other is on its way; off: as it lies."""
    gpu_blending: bool = True
    """Windows are cut and blended on the GPU; off: on the CPU."""
    run_ahead: bool = True
    """Windows are blended while the GPU computes the next ones; off: it waits meanwhile."""
    fused_attention: bool = True
    """Attention by one kernel that keeps no scores; off: product, softmax, product."""

    @classmethod
    def without(cls, names: Iterable[str]) -> "DeviceUse":
        """All but the switches of these names, written with dashes.

        Raises:
            InputError: if one does not exist.
        """
        off = {name.replace("-", "_"): False for name in names}
        if unknown := sorted(off.keys() - {field.name for field in fields(cls)}):
            raise InputError(f"There is no GPU optimisation called {listing(unknown)}.", f"Known are {', '.join(cls.names())}.")
        return cls(**off)

    @classmethod
    def names(cls) -> list[str]:
        """Of all switches, with dashes."""
        return [field.name.replace("_", "-") for field in fields(cls)]


def free_memory() -> int | None:
    """Bytes of main memory a program could still get; None: not known on this system."""
    return _windows_memory() if sys.platform == "win32" else _linux_size("/proc/meminfo", "MemAvailable:")


class Peak:
    """The most memory used since this was made: on a CUDA device that of PyTorch there, else that of this process.

    Only Linux lets a process begin anew to count its main memory; elsewhere it counts from the start of the process.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            with contextlib.suppress(OSError):  # forbidden in some containers: the peak then counts from the start
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def measured(self) -> int | None:
        """Bytes; None: not known on this system."""
        if self._device.type == "cuda":
            import torch

            return int(torch.cuda.max_memory_allocated(self._device))
        return _process_peak()


def devices() -> list[dict[str, Any]]:
    """Devices PyTorch can compute on, the fastest first: name, about, and bytes in total and free where known.

    Querying the free memory of a CUDA device occupies some of it, so only the first one, which `auto` takes, is queried.
    """
    import torch

    found: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        free = torch.cuda.mem_get_info(index)[0] if index == 0 else None
        found.append({"name": f"cuda:{index}", "about": facts.name, "total": facts.total_memory, "free": free})
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        found.append({"name": "mps", "about": "Apple GPU", "total": total, "free": total - torch.mps.driver_allocated_memory()})
    return [*found, {"name": "cpu", "about": f"{os.cpu_count()} cores", "total": None, "free": free_memory()}]


def built_for() -> str | None:
    """The kind of GPU the installed PyTorch is built for, with the version of its libraries; None: it is for processors only."""
    import torch

    kinds = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip, "Metal": "" if torch.backends.mps.is_built() else None}
    return next((f"{kind} {version}".strip() for kind, version in kinds.items() if version is not None), None)


def choose_device(name: str = "auto") -> "torch.device":
    """The device called `name`: auto, cpu, cuda, cuda:N or mps; auto takes the fastest there is.

    Under torchrun auto takes one CUDA device for each process, by turns if there are fewer.

    Raises:
        DeviceError: if it is absent.
    """
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto" and cuda and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"There is no kind of device called {name!r}.", "Choose auto, cpu, cuda, cuda:N or mps.") from error
    absent = f"{name} was requested, but"
    if device.type == "cuda" and not cuda:
        raise DeviceError(f"{absent} PyTorch finds no CUDA device.", "Choose the device auto or cpu, or install a CUDA build of PyTorch.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"{absent} there are {torch.cuda.device_count()} CUDA devices, counted from 0.", "Choose another.")
    if device.type == "mps" and not mps:
        raise DeviceError(f"{absent} PyTorch finds no Apple GPU.", "Choose the device auto or cpu.")
    return device


def check_compiler(what: str, device: "torch.device") -> None:
    """Refuse to compile for a device PyTorch's compiler makes no fast programs for.

    Raises:
        DeviceError: if it is not a CUDA device, or Triton is missing.
    """
    triton = find_spec("triton") is not None
    if device.type != "cuda" or not triton:
        raise DeviceError(
            f"Compiling {what} needs a CUDA device and Triton; the device is {device}, Triton is {'' if triton else 'not '}installed.",
            "Leave out --compile.",
        )


def not_compiled(what: str, error: RuntimeError) -> DeviceError:
    """The error to raise for one of PyTorch's compiler."""
    return DeviceError(f"{what} could not be compiled: {' '.join(str(error).splitlines()[:2])}", "Leave out --compile.")


def has_bfloat16(device: "torch.device") -> bool:
    """True if a CUDA device computes in bfloat16: NVIDIA's from Ampere on. Older ones only emulate it, slower than float32."""
    import torch

    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def prefers_channels_last(device: "torch.device") -> bool:
    """True if a device convolves faster where the channels of a voxel lie side by side: tensor cores do."""
    return device.type == "cuda" and has_bfloat16(device)


def _process_peak() -> int | None:
    if sys.platform == "win32":
        return None
    if (peak := _linux_size("/proc/self/status", "VmHWM:")) is not None:
        return peak
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _linux_size(file: str, name: str) -> int | None:
    """Bytes that a file of the kernel states under a name; None: it does not."""
    try:
        lines = Path(file).read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))
    except (OSError, ValueError, StopIteration):
        return None


def _windows_memory() -> int | None:
    """Free main memory by GlobalMemoryStatusEx (learn.microsoft.com, MEMORYSTATUSEX)."""
    import ctypes

    sizes = ("total", "free", "total_page", "free_page", "total_virtual", "free_virtual", "extended")

    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong), *((name, ctypes.c_ulonglong) for name in sizes)]

    status = Status(length=ctypes.sizeof(Status))
    kernel: Any = getattr(ctypes, "windll").kernel32  # noqa: B009 - exists on Windows only
    return int(status.free) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else None
