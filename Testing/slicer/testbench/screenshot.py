"""Pictures of widgets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PySide6 import QtGui, QtWidgets

_FONTS = ("Noto Sans", "DejaVu Sans", "Segoe UI", "Helvetica Neue", "Arial")
_FOLDERS = ("/usr/share/fonts/truetype/dejavu", "/usr/share/fonts/dejavu", "/usr/share/fonts/TTF")
_SCALE = 2
_DARK = {"Window": "#353535", "Base": "#232323", "AlternateBase": "#2e2e2e", "Button": "#353535", "Highlight": "#2a82da"}


def use_readable_look(application: QtWidgets.QApplication) -> None:
    """Qt's own style and a font of the system, the same wherever tests run."""
    application.setStyle("Fusion")
    if not QtGui.QFontDatabase.families():
        for file in (file for folder in _FOLDERS for file in sorted(Path(folder).glob("DejaVuSans*.ttf"))):
            QtGui.QFontDatabase.addApplicationFont(str(file))
    family = next((name for name in _FONTS if name in QtGui.QFontDatabase.families()), None)
    if family is not None:
        application.setFont(QtGui.QFont(family, 9))


@contextmanager
def look(*, dark: bool = False, font: float = 1.0) -> Iterator[None]:
    """Another theme, or letters of another size, for what is shown meanwhile."""
    application = QtWidgets.QApplication.instance()
    palette_before, font_before = application.palette(), application.font()
    larger = QtGui.QFont(font_before)
    larger.setPointSizeF(font_before.pointSizeF() * font)
    application.setFont(larger)
    if dark:
        application.setPalette(_dark())
    try:
        yield
    finally:
        application.setPalette(palette_before)
        application.setFont(font_before)


def _dark() -> QtGui.QPalette:
    """White on dark grey, as Slicer's dark theme."""
    palette, roles = QtGui.QPalette(), QtGui.QPalette.ColorRole
    for name, color in _DARK.items():
        palette.setColor(getattr(roles, name), QtGui.QColor(color))
    for role in (roles.WindowText, roles.Text, roles.ButtonText, roles.HighlightedText):
        palette.setColor(role, QtGui.QColor("white"))
        palette.setColor(QtGui.QPalette.Disabled, role, QtGui.QColor("#7f7f7f"))
    return palette


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
