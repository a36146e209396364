"""Test of the connection to another computer."""

from dataclasses import dataclass
from typing import Any

from ..errors import HostError
from ..worker.transport import LocalClient
from .ssh import SshTransport

_GB = 1e9
_PATIENCE_S = 180.0
"""The first import of PyTorch is slow."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Worker and devices of another computer."""

    host: str
    worker: dict[str, Any]
    """The worker's answer to `hello` (docs/formats.md)."""

    @classmethod
    def of(cls, host: str, worker: dict[str, Any]) -> "Connection":
        """Greeting of a worker there.

        Raises:
            HostError: if it cannot compute, or says less than a worker of this version.
        """
        torch, devices = worker.get("torch", {}), worker.get("devices", [])
        if not torch or not ("error" in torch or torch.keys() >= {"version", "built_for"}):
            raise HostError(
                f"An older build of mass {worker.get('mass_version', '')} is installed on {host}; it does not report its PyTorch build.",
                "Install the same version there as here.",
            )
        if "error" in torch or not devices:
            reason = torch.get("error", "it finds no device")
            raise HostError(f"PyTorch cannot be used on {host}: {reason}.", "Install it there again.")
        return cls(host=host, worker=worker)

    @property
    def device(self) -> dict[str, Any]:
        """The device that would be taken."""
        return dict(self.worker["devices"][0])

    @property
    def has_gpu(self) -> bool:
        """True if that is a GPU."""
        return bool(self.device["name"] != "cpu")

    def text(self) -> str:
        """One sentence."""
        about, free = self.device["about"], self.device["free"]
        room = "" if free is None else f", {free / _GB:.1f} GB free"
        what = f"{about}{room}" if self.has_gpu else f"no GPU, {about}{room}, so runs take long; {self._without_gpu()}"
        return f"{self.host} answers with mass {self.worker['mass_version']}: {what}."

    def _without_gpu(self) -> str:
        """The reason PyTorch finds no GPU, and what to do."""
        torch = self.worker["torch"]
        if torch["built_for"] is None:
            return f"its PyTorch {torch['version']} is CPU-only; if it has a GPU, install the build for it there (pytorch.org)"
        return f"its PyTorch is built for {torch['built_for']} but finds no GPU; if it has one, check nvidia-smi or rocm-smi there"


def connect(name: str, *, command: str | None = None) -> Connection:
    """Start a worker on another computer and return what it offers. No file is sent.

    Args:
        name: what stands behind ssh in a terminal.
        command: that starts `mass` there; None: what is kept about that computer.

    Raises:
        MassError: saying what is missing, and the cure.
    """
    client = LocalClient(transport=lambda: SshTransport(name, command=command))
    try:
        return Connection.of(name, client.ask("hello", {"version": 1}, timeout_s=_PATIENCE_S)["result"])
    finally:
        client.close()
