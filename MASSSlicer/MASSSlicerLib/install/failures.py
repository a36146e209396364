"""Cause and cure of a failed installation, from pip's output."""

from __future__ import annotations

import re

from slicer.i18n import tr as _

from mass_core.errors import MassError

LAST_LINES = 8


_KNOWN = (
    (
        r"no space left|errno 28\b|errno 122\b|disk quota|not enough space|winerror 112\b",
        _("The disk is full."),
        _("Free some gigabytes where Slicer is installed and for temporary files, then install again."),
    ),
    (
        r"winerror 206\b|filename or extension is too long|file name too long|long path support",
        _("A path of the package is longer than Windows allows."),
        _("Enable long paths in Windows, or install Slicer in a short folder such as C:\\Slicer, then install again."),
    ),
    (
        r"winerror 32\b|being used by another process|winerror 5\b",
        _("Files of the package are in use or write-protected."),
        _("Restart Slicer and press Install… at once; if that does not help, install Slicer in a folder you can write to."),
    ),
    (
        r"permission denied|errno 13\b|read-only file system|errno 30\b",
        _("The folder of Slicer's packages is not writable."),
        _("Install Slicer in a folder of your own, or ask your administrator."),
    ),
    (
        r"certificate_verify_failed|sslerror|sslcertverification",
        _("The connection to the package server is not trusted, often because of an institution's firewall."),
        _("Ask your network administrator for the certificate file and set the environment variable PIP_CERT to its path."),
    ),
    (
        r"proxyerror|cannot connect to proxy|407 proxy",
        _("The proxy blocks the download."),
        _("Set HTTPS_PROXY to http://user:password@host:port before Slicer starts, or install from a folder of wheels."),
    ),
    (
        r"max retries exceeded|newconnectionerror|connecttimeout|read timed out|name resolution|getaddrinfo|network is unreachable"
        r"|connection (reset|refused|aborted)",
        _("The package server cannot be reached."),
        _("Check the network. Behind a proxy, set HTTPS_PROXY before Slicer starts; without a network, install from a folder of wheels."),
    ),
    (
        r"unicode(de|en)codeerror|codec can't",
        _("A path contains characters that an installer cannot read."),
        _("Install Slicer in a folder without accents or other special characters, such as C:\\Slicer, then install again."),
    ),
    (
        r"no matching distribution found|could not find a version that satisfies",
        _("No build of the package fits this computer and Slicer's Python."),
        _("Update Slicer; for an offline installation, check that the folder has wheels for this Python."),
    ),
    (
        r"no record file|uninstall-no-record|cannot uninstall",
        _("An older copy of the package cannot be removed: its records are missing."),
        _("Restart Slicer and press Install… again; it then removes the folder itself."),
    ),
    (
        r"\bkilled\b|memoryerror|exit status -?9\b",
        _("The installation ran out of memory."),
        _("Close other programs and install again."),
    ),
    (
        r"pythonslicer executable not found",
        _("PythonSlicer, the program that runs Python for Slicer, was not found."),
        _("Reinstall Slicer."),
    ),
)
"""Pattern, cause, cure; the first that fits counts, so causes come before their consequences."""


def explained(error: Exception, lines: list[str]) -> MassError:
    """The error to show.

    Args:
        error: what the installer raised.
        lines: what it printed.
    """
    output = "\n".join([*lines, str(error)])
    for pattern, cause, cure in _KNOWN:
        if re.search(pattern, output, re.IGNORECASE):
            return MassError(cause, cure)
    last = "\n".join([line for line in lines if line.strip()][-LAST_LINES:]) or str(error)
    return MassError(
        _("The packages could not be installed:\n{reason}").format(reason=last),
        _("Restart Slicer and try again; if it fails again, see the log."),
    )
