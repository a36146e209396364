"""Memory and devices are what other sources say they are."""

import subprocess
import sys

import pytest
import torch

from mass_core import devices

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell this to a program of the standard library")


@linux
def test_free_memory() -> None:
    psutil = pytest.importorskip("psutil")
    free = devices.free_memory()
    assert free is not None
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.3)


@linux
def test_peak_counts_what_is_used_while_it_counts() -> None:
    """In a process of its own: in this one, memory that earlier tests freed may be used again."""
    code = (
        "import numpy as np, torch; from mass_core import devices; peak = devices.Peak(torch.device('cpu')); low = peak.measured();"
        "block = np.ones(64 << 20, np.uint8); print(peak.measured() - low)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 48 << 20


def test_devices_end_with_the_cpu() -> None:
    *others, cpu = devices.devices()
    assert cpu["name"] == "cpu" and cpu["about"]
    assert all(set(device) == {"name", "about", "total", "free"} for device in (*others, cpu))
    assert [d["name"] for d in others if d["name"] != "mps"] == [f"cuda:{n}" for n in range(torch.cuda.device_count())]
