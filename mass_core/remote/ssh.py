"""A worker on another computer, started by ssh: no port is opened there, and no password is ever requested."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import MassError
from ..worker import protocol
from ..worker.transport import PumpedTransport, SubprocessTransport
from . import hosts
from .reasons import why
from .shipping import Shipping

_CONNECT_S = 15
"""Time the other computer may take to answer."""
_OPTIONS = {
    "BatchMode": "yes",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "3",
    # What a user's configuration may ask for in a terminal, and nothing here needs.
    "RequestTTY": "no",
    "RemoteCommand": "none",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "LogLevel": "INFO",  # what it says is read for the reason of a failure
    # A connection that others share may be used, but this one is never theirs: it would go on when the worker has ended.
    "ControlMaster": "no",
}
_WINDOWS_OPTIONS = {"ControlPath": "none"}
"""OpenSSH of Windows cannot share connections, and fails where a configuration from elsewhere requires it."""
QUIET = {"SSH_ASKPASS_REQUIRE": "never"}
"""Environment of ssh: no window asks for a password. BatchMode forbids it to this ssh, but not to that of a jump host."""


class ChildProcess(PumpedTransport, Protocol):
    """A process in which ssh runs. `write`, `close_input` and `post` may be called on any thread."""

    def post(self, action: Callable[[], None]) -> None:
        """Do something at the next `pump`, on the thread of the callbacks."""


class SshTransport:
    """A worker on another computer (`client.Transport`). Files that requests name travel there and back; the requests stay the same.

    Nothing is sent but to computers for which the user agreed: `mass remote HOST --agree`.

    Args:
        name: what stands behind ssh in a terminal.
        command: that starts `mass` there; None: what is kept about that computer, else mass.
        connect_s: how long it may take to answer.
        environment: of ssh; see `hosts.Environment`.
        process: makes what runs a command; None: `subprocess` does.

    Raises:
        InputError: if the name cannot be used.
    """

    def __init__(
        self,
        name: str,
        *,
        command: str | None = None,
        connect_s: int = _CONNECT_S,
        environment: hosts.Environment = None,
        process: Callable[[list[str]], ChildProcess] | None = None,
    ) -> None:
        self.host = hosts.host(name)
        self._command = f"{command or self.host.command} worker --remote"
        self._connect_s = connect_s
        self._environment = environment
        quiet = {**(os.environ if environment is None else environment), **QUIET}
        self._new_process = process or (lambda command: SubprocessTransport(command, environment=quiet))
        self._inner: ChildProcess | None = None
        self._words = protocol.TextLines()
        self.reason: MassError | None = None
        """Reason the worker ended; None: it runs, or was ended from here."""
        self.shipping = Shipping(name, may_send=lambda: hosts.host(name).may_receive(environment), deliver=self._deliver)

    @property
    def pid(self) -> int | None:
        """Number of the ssh process; None: not started."""
        return None if self._inner is None else self._inner.pid

    def start(self, on_output: Callable[[bytes], None], on_errors: Callable[[str], None], on_end: Callable[[int], None]) -> None:
        """See `client.Transport`."""
        inner = self._new_process([*hosts.ssh(self._environment), "-T", *self._options(), "--", self.host.name, self._command])
        self._on_output = on_output

        def output(data: bytes) -> None:
            for line in self.shipping.feed(data):
                on_output(line)

        def errors(text: str) -> None:
            self._words.feed(text)
            on_errors(text)

        def end(code: int) -> None:
            tail = "\n".join([*self._words.tail, self._words.rest()])
            self.reason = why(self.host.name, code, tail, answered=self.shipping.answered, command=self._command)
            self.shipping.close()
            on_end(code)

        inner.start(output, errors, end)
        self._inner = inner
        threading.Thread(target=self._send, args=(inner,), daemon=True).start()

    def _options(self) -> list[str]:
        """Options of ssh, which go before those of the user's configuration."""
        values = {**_OPTIONS, **(_WINDOWS_OPTIONS if sys.platform == "win32" else {}), "ConnectTimeout": self._connect_s}
        return [word for name, value in values.items() for word in ("-o", f"{name}={value}")]

    def write(self, data: bytes) -> None:
        """See `client.Transport`."""
        self.shipping.ask(data)

    def close_input(self) -> None:
        """See `client.Transport`."""
        self.shipping.close()

    def kill(self) -> None:
        """See `client.Transport`; the other computer notices that the connection is closed."""
        self.shipping.close()
        if self._inner is not None:
            self._inner.kill()

    def running(self) -> bool:
        """See `client.Transport`."""
        return self._inner is not None and self._inner.running()

    def pump(self, timeout_s: float = 0.0) -> None:
        """Hand on what has come; wait up to `timeout_s` for the first."""
        if self._inner is not None:
            self._inner.pump(timeout_s)

    def _send(self, inner: ChildProcess) -> None:
        """Write what is to be sent, on a thread of its own, so that a slow connection blocks nothing else."""
        for data in self.shipping.outgoing():
            inner.write(data)
        inner.close_input()

    def _deliver(self, message: dict[str, Any]) -> None:
        """Pass a message from this computer to the client, as if it came from the worker."""
        line = protocol.to_line(message)
        if self._inner is not None:
            self._inner.post(lambda: self._on_output(line))
