"""Error messages for an ssh process that ended: the cause and what to do."""

import re

from ..errors import DeviceError, HostError, MassError

ENOUGH = 2
"""Scans in a row for which another computer could not be reached; the rest would fail for the same reason."""
ENDED = "The worker's process ended"
"""Message of the other end when its worker ended by itself."""
_CLOSED = r"^client_loop: send disconnect|^Connection to \S+ closed"
"""Last line of ssh where the other end closed the connection; the lines before give the reason."""
_SSH_FAILED = 255
"""Exit code of ssh where it, not the program it ran, failed."""

_LINE = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "The host key of {host} has changed: it was reinstalled, or another computer is impersonating it.",
        "Ask who runs {host}; if it was reinstalled, run ssh-keygen -R with its address, then ssh {host} in a terminal.",
    ),
    (
        "Host key verification failed|No .* host key is known",
        "The host key of {host} is not known on this computer yet.",
        "Run ssh {host} once in a terminal, compare the key with what its administrator says, and answer yes.",
    ),
    (
        r"Permission denied \(|Too many authentication failures|sign_and_send_pubkey",
        "{host} refused the key of this computer, and passwords are not supported here.",
        "Copy your key there with ssh-copy-id {host}; add a key with a passphrase to ssh-agent first, with ssh-add.",
    ),
    (
        "Could not resolve hostname",
        "There is no computer called {host} that ssh can find.",
        "Check the spelling; a name of your own needs an entry in ~/.ssh/config.",
    ),
    (
        "timed out|No route to host|Host is down|Network is unreachable",
        "{host} does not answer: it is asleep, switched off, or out of reach.",
        "Wake it up, or join its network (VPN), and try again.",
    ),
    ("Connection refused", "{host} is reachable, but no ssh server answers there.", "Have its ssh server started, and check the port."),
    (
        "Bad owner or permissions|Bad configuration option|no argument after keyword",
        "ssh cannot use its settings: {said}",
        "Correct ~/.ssh/config.",
    ),
)
"""Words of ssh, what they mean, what to do; before the other end has answered."""


def why(host: str, code: int, tail: str, *, answered: bool, command: str) -> MassError:
    """The error for a worker on another computer that has exited.

    Args:
        host: its name.
        code: exit code of ssh, which is that of the worker if the line held.
        tail: the last lines on standard error.
        answered: whether the worker had answered.
        command: that should have started it.
    """
    lines = [line for line in tail.strip().splitlines() if not re.search(_CLOSED, line)]
    said = lines[-1].rstrip(".") + "." if lines else ""
    if code == _SSH_FAILED and not answered:
        for words, message, cure in _LINE:
            if re.search(words, tail):
                return HostError(message.format(host=host, said=said), cure.format(host=host))
        return HostError(f"ssh could not reach {host}. {said}".strip(), f"See whether ssh {host} works in a terminal.")
    ended = ENDED in tail
    if code == _SSH_FAILED and not ended:
        message = f"The connection to {host} was lost. {said}".strip()
        return HostError(message, "Try again; the run there has ended and left nothing behind.")
    if not answered:
        return _not_started(host, code, tail, said, command)
    return DeviceError(
        f"The worker on {host} ended unexpectedly{'' if ended else f' (exit code {code})'}. {said}".strip(),
        "Try again; it will be restarted. If it happens again, memory may have run out there.",
    )


def _not_started(host: str, code: int, tail: str, said: str, command: str) -> HostError:
    """The line held, but no worker of this kind began."""
    if error := re.search(r"^error: (.+)\n +(.+)", tail, re.MULTILINE):  # as `mass` prints errors
        return HostError(f"On {host}: {error[1]}", error[2])
    if re.search(r"unrecognized arguments|invalid choice", tail):
        return HostError(f"On {host} an older version of mass is installed.", "Install the same version there as here.")
    if code in (126, 127) or re.search(r"not found|not recognized|No module named|No such file", tail):
        return HostError(
            f"mass could not be started on {host} by the command {command!r}. {said}".strip(),
            f"Install it there; if it is there, say where: mass remote {host} --command '~/mass/bin/mass'; in 3D Slicer: Advanced, "
            "Command there.",
        )
    message = f"mass did not start on {host} (exit code {code}). {said}".strip()
    return HostError(message, f"Try this in a terminal: ssh {host} {command}")
