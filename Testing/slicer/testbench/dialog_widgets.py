"""Qt's dialogs, answered by `Dialogs` instead of a person."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from .dialogs import Dialogs

_BUTTONS = QtWidgets.QMessageBox


class BoolResult:
    """PythonQt's stand-in for a `bool*`."""

    def __init__(self) -> None:
        self.value = False

    def __bool__(self) -> bool:
        return self.value


def classes(dialogs: Dialogs) -> dict[str, Any]:
    """Replacements for Qt's classes of the same name."""
    made = (_dialog(dialogs), _message_box(dialogs), _file_dialog(dialogs), _input_dialog(dialogs), _menu(dialogs), _services(dialogs))
    return {kind.__name__: kind for kind in made} | {"BoolResult": BoolResult}


def _dialog(dialogs: Dialogs) -> type:
    class QDialog(QtWidgets.QDialog):
        def exec_(self) -> int:
            """The answer to “dialog” is a function of the dialog, which presses its buttons, or the code it ends with."""
            self.show()
            answer = dialogs.ask("dialog", self.windowTitle, subject=self)
            self.hide()
            return self.result() if answer is None else int(answer)

        exec = exec_

    return QDialog


def _message_box(dialogs: Dialogs) -> type:
    def static(kind: str) -> staticmethod:
        def show(parent: Any, title: str, text: str, buttons: Any = _BUTTONS.Ok, default: Any = None) -> Any:
            return _pressed(dialogs, kind, text, buttons)

        return staticmethod(show)

    class QMessageBox(QtWidgets.QMessageBox):
        information = static("info")
        warning = static("warning")
        critical = static("error")
        question = static("question")

        def exec_(self) -> Any:
            kind = {_BUTTONS.Critical: "error", _BUTTONS.Warning: "warning"}.get(self.icon, "info")
            return _pressed(dialogs, kind, self.text, self.standardButtons, self.detailedText)

        exec = exec_

    return QMessageBox


def _pressed(dialogs: Dialogs, kind: str, text: str, buttons: Any, details: str = "") -> Any:
    """A box with a single button is a message; one with several is a question, answered with a button, or True for Yes and OK."""
    if buttons in (_BUTTONS.Ok, _BUTTONS.Close, _BUTTONS.NoButton):
        dialogs.tell(kind, text, details)
        return buttons
    answer = dialogs.ask("question", text, details=details)
    if not isinstance(answer, bool):
        return answer
    choices = (_BUTTONS.Yes, _BUTTONS.Ok) if answer else (_BUTTONS.No, _BUTTONS.Cancel)
    return next(button for button in choices if buttons & button)


def _file_dialog(dialogs: Dialogs) -> type:
    class QFileDialog(QtWidgets.QFileDialog):
        """PythonQt returns the path alone."""

        @staticmethod
        def getOpenFileName(parent: Any = None, caption: str = "", folder: str = "", filters: str = "") -> str:
            return str(dialogs.ask("open file", caption))

        @staticmethod
        def getOpenFileNames(parent: Any = None, caption: str = "", folder: str = "", filters: str = "") -> tuple[str, ...]:
            return tuple(str(path) for path in dialogs.ask("open files", caption))

        @staticmethod
        def getSaveFileName(parent: Any = None, caption: str = "", folder: str = "", filters: str = "") -> str:
            return str(dialogs.ask("save file", caption))

        @staticmethod
        def getExistingDirectory(parent: Any = None, caption: str = "", folder: str = "") -> str:
            return str(dialogs.ask("folder", caption))

    return QFileDialog


def _input_dialog(dialogs: Dialogs) -> type:
    def answered(kind: str, label: str, ok: BoolResult | None) -> str:
        """None stands for Cancel."""
        answer = dialogs.ask(kind, label)
        if ok is not None:
            ok.value = answer is not None
        return "" if answer is None else str(answer)

    class QInputDialog(QtWidgets.QInputDialog):
        @staticmethod
        def getText(parent: Any, title: str, label: str, mode: Any = None, text: str = "", ok: BoolResult | None = None) -> str:
            return answered("text", label, ok)

        @staticmethod
        def getItem(  # noqa: PLR0917
            parent: Any, title: str, label: str, items: Any, current: int = 0, editable: bool = True, ok: BoolResult | None = None
        ) -> str:
            return answered("item", label, ok)

    return QInputDialog


def _menu(dialogs: Dialogs) -> type:
    class QMenu(QtWidgets.QMenu):
        def exec_(self, *place: Any) -> QtGui.QAction | None:
            """The answer to “menu” is the text of the action that is chosen, or None."""
            self.aboutToShow.emit()
            texts = [action.text for action in self.actions()]
            answer = dialogs.ask("menu", ", ".join(texts))
            chosen = None if answer is None else self.actions()[texts.index(answer)]
            if chosen is not None:
                chosen.trigger()
            return chosen

        exec = exec_

    return QMenu


def _services(dialogs: Dialogs) -> type:
    class QDesktopServices(QtGui.QDesktopServices):
        @staticmethod
        def openUrl(url: QtCore.QUrl) -> bool:
            dialogs.tell("open", url.toString())
            return True

    return QDesktopServices
