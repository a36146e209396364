"""Pictures of widgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6 import QtGui, QtWidgets

_FONTS = ("Noto Sans", "DejaVu Sans", "Segoe UI", "Helvetica Neue", "Arial")
_FOLDERS = ("/usr/share/fonts/truetype/dejavu", "/usr/share/fonts/dejavu", "/usr/share/fonts/TTF")
_SCALE = 2


def use_readable_look(application: QtWidgets.QApplication) -> None:
    """Qt's own style and a font of the system, the same wherever tests run."""
    application.setStyle("Fusion")
    if not QtGui.QFontDatabase.families():
        for file in (file for folder in _FOLDERS for file in sorted(Path(folder).glob("DejaVuSans*.ttf"))):
            QtGui.QFontDatabase.addApplicationFont(str(file))
    family = next((name for name in _FONTS if name in QtGui.QFontDatabase.families()), None)
    if family is not None:
        application.setFont(QtGui.QFont(family, 9))


def save(widget: Any, path: Path, width: int, height: int = 0) -> Path:
    """Save a widget as PNG, at twice the resolution.

    Args:
        widget: shown or not.
        path: ends in .png.
        width: in points.
        height: in points; 0: as high as the widget wants.

    Raises:
        OSError: if it cannot be written.
    """
    application = QtWidgets.QApplication.instance()
    widget.resize(width, height or 10)
    widget.show()
    application.processEvents()
    wanted = widget.layout().totalHeightForWidth(width) if widget.layout() is not None and widget.layout().hasHeightForWidth() else 0
    widget.resize(width, height or max(wanted, widget.sizeHint.height()))
    application.processEvents()
    picture = QtGui.QPixmap(widget.size * _SCALE)
    picture.setDevicePixelRatio(_SCALE)
    widget.render(picture)
    if not picture.save(str(path)):
        raise OSError(f"cannot write {path}")
    return path
