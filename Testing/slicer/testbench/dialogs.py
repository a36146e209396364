"""Dialogs a module would show to the user: recorded, and answered by the test."""

from __future__ import annotations

import inspect
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any


class Dialogs:
    """Every message and question, in order.

    Kinds of messages: info, warning, error, message; open (an address, in the browser).
    Kinds of questions: question, open file, open files, folder, save file, text, item, menu, dialog. They must have got an answer with
    `answer` before they are asked: a question that a test does not expect is a failure.
    """

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []
        self.details: list[str] = []
        """The detailed text of each, or an empty string."""
        self._answers: dict[str, deque] = defaultdict(deque)

    def answer(self, kind: str, *answers: Any) -> None:
        """Answer the next questions of a kind, one after the other; a function gets the text (of a dialog: the dialog) and answers."""
        self._answers[kind].extend(answers)

    def tell(self, kind: str, text: str, details: str = "") -> None:
        """Show something that wants no answer."""
        self.shown.append((kind, str(text)))
        self.details.append(str(details))

    def ask(self, kind: str, text: str, subject: Any = None, details: str = "") -> Any:
        """Show a question and answer it.

        Args:
            kind: see above.
            text: what the user reads.
            subject: given to an answer that is a function instead of the text.
            details: what “Show details” would open.

        Raises:
            AssertionError: if the test gave no answer.
        """
        self.tell(kind, text, details)
        if not self._answers[kind]:
            raise AssertionError(f"the testbench was asked without an answer: {kind} {text!r}; give one with answer({kind!r}, ...)")
        found = self._answers[kind].popleft()
        return found(text if subject is None else subject) if callable(found) else found

    def unused(self) -> dict[str, int]:
        """Number of unused answers of each kind."""
        return {kind: len(answers) for kind, answers in self._answers.items() if answers}

    def util_functions(self, util: Any) -> dict[str, Callable]:
        """Replacements for the functions of slicer.util that show something."""
        tellers = {
            "infoDisplay": "info",
            "warningDisplay": "warning",
            "errorDisplay": "error",
            "messageBox": "message",
            "delayDisplay": "info",
        }
        askers = ("confirmOkCancelDisplay", "confirmYesNoDisplay", "confirmRetryCloseDisplay")
        found = {name: _replacement(getattr(util, name), self._teller(kind)) for name, kind in tellers.items()}
        found |= {name: _replacement(getattr(util, name), self._asker) for name in askers}
        return found

    def _teller(self, kind: str) -> Callable:
        return lambda text, **details: self.tell(kind, text, details.get("detailedText", ""))

    def _asker(self, text: str, **details: Any) -> bool:
        return bool(self.ask("question", text, details=details.get("detailedText", "")))


def _replacement(real: Callable, stand_in: Callable) -> Callable:
    """Takes what the real function takes, and no more."""
    signature = inspect.signature(real)

    def function(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named).arguments
        extra = bound.pop("kwargs", {})
        text = bound.pop("text", None) or bound.pop("message", "")
        return stand_in(text, **bound, **extra)

    return function
