"""Helpers for tests of tasks and models: a finetuned model of the bundled network, and a partly scripted worker."""

from collections.abc import Callable
from typing import Any

from mass_core.worker.client import Client


def make_model(path, people, labels=(1,), names=("liver",)):
    """Fixed-class weights of the bundled network, which look for what one person shows."""
    from dataclasses import replace

    from mass_core.inference.segmenter import Segmenter
    from mass_core.weights.checkpoint import load_model, save_weights

    model = load_model("small", "cpu")
    task = Segmenter(model).encode([people[0]], list(labels))
    colors = ((0.9, 0.5, 0.4), (0.2, 0.4, 0.9), (0.1, 0.8, 0.2))
    shown = tuple(replace(x, name=name, color=color) for x, name, color in zip(task.labels, names, colors, strict=False))
    task = replace(task, labels=shown)
    path.parent.mkdir(parents=True, exist_ok=True)
    network = model.network.with_fixed_classes(task.tokens(range(len(shown))))
    save_weights(path, network, model.recipe, {}, task=task)
    return path


class Helped:
    """Requests to the worker, written down; some methods are answered by the test."""

    def __init__(self, monkeypatch) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Callable] = {}
        original = Client.request

        def request(client, method, params=None, **callbacks):
            self.asked.append((method, params))
            if method in self.answers:
                return self.answers[method](client, params, original, **callbacks)
            return original(client, method, params, **callbacks)

        monkeypatch.setattr(Client, "request", request)

    def methods(self):
        return [method for method, _ in self.asked]

    def params(self, method):
        """Of the latest request of a method."""
        return next(params for known, params in reversed(self.asked) if known == method)
