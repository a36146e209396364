"""Other computers this user works on: how the worker is started there, and that scans may be sent there."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

from ..errors import DeviceError, InputError
from ..files import write_json
from ..weights.store import home, make_folder

_ASKING_S = 20.0
_WINDOWS = os.name == "nt"

Environment = Mapping[str, str] | None
"""Of ssh; None: this process's. A program that brings libraries of its own along, as 3D Slicer does, gives the one it was started in."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """Settings stored for a computer, by its ssh name."""

    name: str
    command: str = "mass"
    """That starts this program there, as its shell reads it."""
    agreed: str = ""
    """User, address and day for which the user agreed that files are sent; empty: not yet."""

    def may_receive(self, environment: Environment = None) -> bool:
        """True if the user agreed to send files to the computer this name resolves to now."""
        return self.agreed.partition(" on ")[0] == address(self.name, environment)


def ssh(environment: Environment = None) -> list[str]:
    """The ssh program, with the options in `MASS_SSH`, if that is set: "ssh -F my_config".

    Raises:
        DeviceError: if it is not there.
    """
    words = _words(os.environ.get("MASS_SSH", "")) or ["ssh"]
    program = shutil.which(words[0], path=_search_path(os.environ if environment is None else environment))
    if program is None:
        raise DeviceError(
            f"{words[0]} is not installed on this computer.",
            "Install OpenSSH: an optional feature of Windows, the package openssh-client on Linux.",
        )
    return [program, *words[1:]]


def _words(command: str) -> list[str]:
    """A command line as words; on Windows a backslash is part of a path, and quotes hold a path with blanks together."""
    return [word.strip('"') for word in shlex.split(command, posix=False)] if _WINDOWS else shlex.split(command)


def _search_path(environment: Mapping[str, str]) -> str | None:
    """Folders to look for ssh in. On Windows also where the system puts it: a program started before that does not know."""
    if not _WINDOWS:
        return environment.get("PATH")
    known = {name.upper(): value for name, value in environment.items()}  # "Path" as a rule
    return known.get("PATH", "") + ";" + known.get("SYSTEMROOT", r"C:\Windows") + r"\System32\OpenSSH"


def checked(name: str) -> str:
    """A name that ssh takes for a computer.

    Raises:
        InputError: if it would take it for something else.
    """
    if not name or name.startswith("-") or any(letter.isspace() or not letter.isprintable() for letter in name):
        raise InputError(f"{name!r} is not a valid computer name.", "Give what follows ssh in a terminal, such as gpu01 or me@gpu01.")
    return name


def address(name: str, environment: Environment = None) -> str:
    """User, address and port that ssh makes of a name, by its configuration; nothing is connected.

    Raises:
        DeviceError: if ssh is not there.
        InputError: if the name or the configuration cannot be used.
    """
    try:
        answer = subprocess.run(
            [*ssh(environment), "-G", "--", checked(name)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASKING_S,
            env=environment,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"The program ssh does not answer: {error}.", "See whether ssh -V works in a terminal.") from error
    fields = dict(line.partition(" ")[::2] for line in answer.stdout.decode("utf-8", "replace").splitlines())
    if "hostname" not in fields:
        reason = answer.stderr.decode("utf-8", "replace").strip()
        raise InputError(f"ssh cannot use the name {name}: {reason}", "See whether ssh with this name works in a terminal.")
    port = fields.get("port", "22")
    return f"{fields.get('user', '')}@{fields['hostname']}" + (f":{port}" if port != "22" else "")


def known() -> dict[str, Host]:
    """The computers that something is kept about.

    Raises:
        InputError: if the file is damaged.
    """
    try:
        values = json.loads(_file().read_text(encoding="utf-8"))
        return {name: Host(**about) for name, about in values.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{_file()} cannot be read: {error}.", "Delete it; you will be asked again.") from error


def host(name: str) -> Host:
    """The settings stored for a computer.

    Raises:
        InputError: if the name cannot be used, or the file is damaged.
    """
    return known().get(checked(name)) or Host(name=name)


def agree(name: str, environment: Environment = None) -> Host:
    """Keep that the user agreed that files are sent there."""
    return _keep(replace(host(name), agreed=f"{address(name, environment)} on {date.today().isoformat()}"))


def withdraw(name: str) -> Host:
    """Keep that the user agrees no longer."""
    return _keep(replace(host(name), agreed=""))


def start_by(name: str, command: str) -> Host:
    """Keep how the program is started there."""
    return _keep(replace(host(name), command=command))


def question(name: str, environment: Environment = None) -> str:
    """The question the user agrees to."""
    return (
        f"Scans, masks and weights will be sent over ssh to {name} ({address(name, environment)}), "
        "kept there in a private temporary folder, and deleted when the run ends. "
        "Only agree if these patients' data may go to that computer."
    )


def _file() -> Path:
    return home() / "hosts.json"


def _keep(host: Host) -> Host:
    make_folder(home())
    values = {name: asdict(one) for name, one in {**known(), host.name: host}.items()}
    write_json(_file(), values)
    return host
