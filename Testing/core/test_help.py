"""The help of every command is complete, in groups, and ends with examples that the command understands."""

import argparse
import shlex
from collections.abc import Iterator

import pytest

from mass_core.cli import LONG, build_parser
from training.baselines.command import build_parser as baselines
from training.classify.loop import build_parser as classify
from training.curves import build_parser as curves
from training.finetune.command import build_parser as finetune
from training.pretrain.bodies import build_parser as bodies
from training.pretrain.loop import build_parser as pretrain
from training.reproduce.command import build_parser as reproduce
from training.reproduce.measure import build_parser as measure

MOST_TOGETHER = 8
"""Options below the heading that argparse gives those of no group, --help included."""


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its commands and actions."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


TRAINING = (pretrain, finetune, classify, baselines, reproduce, curves, bodies, measure)
TRAINED = ("pretrain", "finetune", "classify", "baselines", "reproduce", "pretrain.bodies")
"""Those of them that draw random numbers; so do some of `mass`."""
PARSERS = {parser.prog: parser for parser in (*parsers(build_parser()), *(build() for build in TRAINING))}


@pytest.mark.parametrize("name", PARSERS)
def test_every_option_is_explained_and_has_its_group(name: str) -> None:
    shown = [action for action in PARSERS[name]._actions if action.help != argparse.SUPPRESS]
    commands = [action for action in shown if isinstance(action, argparse._SubParsersAction)]
    assert [action.dest for action in shown if not action.help and action not in commands] == []
    assert len([action for action in PARSERS[name]._optionals._group_actions if action.help != argparse.SUPPRESS]) <= MOST_TOGETHER
    assert PARSERS[name].format_help().isascii()


@pytest.mark.parametrize("name", PARSERS)
def test_examples_are_understood(name: str) -> None:
    text = PARSERS[name].format_help()
    lines = [line.strip() for line in text.partition("\nexamples:\n")[2].splitlines()]
    assert lines
    for line in lines:
        words = shlex.split(line.partition(" <")[0])
        assert name.split()[-1] in line or name.split()[0] in words[0], f"{line} is no example of {name}"
        if words[0] == "mass" and "--help" not in words:
            assert callable(build_parser().parse_args(words[1:]).run)
        elif words[0] != "mass":
            module = words.index("-m") + 1
            PARSERS[words[module]].parse_args(words[module + 1 :])


def test_a_seed_is_a_whole_number_from_0(capsys: pytest.CaptureFixture[str]) -> None:
    seeded = [name for name, parser in PARSERS.items() if any(action.dest == "seed" for action in parser._actions)]
    drawing = ("adapt", "evaluate", "features", "masks", "prepare")
    assert set(seeded) == {f"mass {name}" for name in drawing} | {f"training.{name}" for name in TRAINED}
    for name in seeded:
        for bad in ("-1", "1.5", "x", "4294967296"):
            with pytest.raises(SystemExit) as ended:
                PARSERS[name].parse_args([f"--seed={bad}"])
            assert ended.value.code == 2 and f"{bad!r} is not a whole number from 0" in capsys.readouterr().err


def test_long_commands_take_their_options_from_a_file() -> None:
    found = {name for name, parser in PARSERS.items() if any(action.dest == "print_config" for action in parser._actions)}
    assert found == {*(f"mass {name}" for name in LONG), *(f"training.{name}" for name in TRAINED if name != "pretrain.bodies")}
