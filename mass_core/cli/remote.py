"""mass remote: computers to work on over ssh (docs/remote.md)."""

import argparse
import sys
from typing import Any

from ..command_help import examples
from ..errors import InputError


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "remote",
        help="test the ssh connection to another computer, for commands with --on",
        description="Reports what the other computer offers, or what is missing and what to do. No scan is sent.",
        **examples("mass remote gpu01 --agree", "mass remote gpu01 --command '~/mass/bin/mass'"),
    )
    parser.add_argument(
        "host",
        nargs="?",
        metavar="HOST",
        help="ssh name of the computer: what follows ssh in a terminal (default: list the known computers)",
    )
    parser.add_argument("--command", metavar="C", help="command that starts mass there, remembered: '~/mass/bin/mass'")
    agreement = parser.add_mutually_exclusive_group()
    agreement.add_argument("--agree", action="store_true", help="consent to sending scans there, now and later")
    agreement.add_argument("--withdraw", action="store_true", help="withdraw that consent")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Store the settings given, test the connection, print the result."""
    from ..remote import hosts
    from ..remote.connection import connect

    if arguments.host is None:
        if arguments.command or arguments.agree or arguments.withdraw:
            raise InputError("No computer was given.", "Add its ssh name: mass remote HOST.")
        return _list(arguments)
    if arguments.withdraw:
        hosts.withdraw(arguments.host)
        arguments.terminal.result(f"Scans are no longer sent to {arguments.host}.", host=arguments.host, agreed="")
        return 0
    if arguments.command is not None:
        hosts.start_by(arguments.host, arguments.command)
    found = connect(arguments.host)
    if arguments.agree:
        hosts.agree(arguments.host)
    agreed = hosts.host(arguments.host).may_receive()
    state = "Scans may be sent there." if agreed else f"Scans may not be sent there yet: mass remote {arguments.host} --agree"
    arguments.terminal.result(f"{found.text()} {state}", host=found.host, agreed=agreed, worker=found.worker)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    """List the known computers."""
    from ..remote import hosts

    for host in hosts.known().values():
        state = f"scans may go to {host.agreed}" if host.agreed else "scans may not be sent there"
        arguments.terminal.result(
            f"{host.name}: {state}; started by {host.command}", host=host.name, agreed=host.agreed, command=host.command
        )
    if not hosts.known():
        arguments.terminal.log("No other computer has been tried yet: mass remote HOST")
    return 0


def add_on(parser: argparse.ArgumentParser) -> None:
    """--on, --agree: run a command on another computer."""
    group = parser.add_argument_group("another computer", "over ssh; see docs/remote.md")
    group.add_argument("--on", metavar="HOST", help="run on this computer, given by its ssh name: what follows ssh in a terminal")
    group.add_argument("--agree", action="store_true", help="consent to sending scans there, remembered")


def check_agreed(arguments: argparse.Namespace) -> None:
    """Ensure that the user agrees before the first scan is sent: by --agree, or at a terminal.

    Raises:
        InputError: if not.
    """
    from ..remote import hosts
    from ..remote.shipping import not_agreed

    if arguments.agree:
        hosts.agree(arguments.on)
    if hosts.host(arguments.on).may_receive():
        return
    if arguments.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise not_agreed(arguments.on)
    arguments.terminal.log(hosts.question(arguments.on))
    if input("Send them? [y/N] ").strip().lower() not in ("y", "yes"):
        raise not_agreed(arguments.on)
    hosts.agree(arguments.on)
