"""Settings are changed by name, mistyped ones are refused, and the schedule is a function of the step."""

import pytest

from mass_core.errors import InputError
from mass_core.schema import changed
from training.pretrain import recipes
from training.pretrain.config import OptimConfig
from training.pretrain.schedule import learning_rate, pose_strength, window_at
from training.runs.state import ema_decay


@pytest.mark.parametrize(
    "setting, path, value",
    [
        ("steps=7", ("steps",), 7),
        ("optim.learning_rate=0.5", ("optim", "learning_rate"), 0.5),
        ("compile=true", ("compile",), True),
        ("episodes.task_slots=3,4", ("episodes", "task_slots"), (3, 4)),
        ("model.channels=8,32,32,32", ("model", "channels"), (8, 32, 32, 32)),
        ("appearance.gamma=1,2.5", ("appearance", "gamma"), (1.0, 2.5)),
        ("preprocess.spacing_zyx=2,1.5,1", ("preprocess", "spacing_zyx"), (2.0, 1.5, 1.0)),
        ("preprocess.interpolation=bspline", ("preprocess", "interpolation"), "bspline"),
    ],
)
def test_a_setting_changes_its_field_only(setting, path, value):
    before, after = recipes.smoke().as_json(), changed(recipes.smoke(), [setting]).as_json()
    for name in path[:-1]:
        before, after = before[name], after[name]
    assert after[path[-1]] == value
    assert {k: v for k, v in after.items() if k != path[-1]} == {k: v for k, v in before.items() if k != path[-1]}


@pytest.mark.parametrize("setting", ["stepz=7", "optim.rate=1", "steps", "steps=many", "compile=maybe", "optim=3", "model.channels=a,b"])
def test_mistyped_settings_are_refused(setting):
    with pytest.raises(InputError):
        changed(recipes.smoke(), [setting])


def test_none_takes_a_value_away_and_nothing_empties_a_list():
    """A spacing of None is chosen from the reference."""
    assert changed(recipes.paper(), ["preprocess.spacing_zyx=none"]).preprocess.spacing_zyx is None
    assert changed(recipes.small(), ["episodes.task_slots="]).episodes.task_slots == ()


@pytest.mark.parametrize(
    "setting, wanted",
    [
        ("preprocess.spacing_zyx=1.5", "3 numbers with commas between them, or none"),
        ("preprocess.spacing_zyx=a,b,c", "3 numbers with commas between them, or none"),
        ("preprocess.window_zyx=1.5,2,3", "3 whole numbers with commas between them"),
        ("preprocess.orientation=LPS", "one of: RAS, none"),
        ("episodes.task_slots=2,x", "whole numbers with commas between them"),
        ("preprocess.overlap=half", "a number"),
        ("steps=none", "a whole number"),
        ("compile=2", "true or false"),
    ],
)
def test_what_a_field_takes_is_told(setting, wanted):
    with pytest.raises(InputError) as error:
        changed(recipes.small(), [setting])
    assert setting in str(error.value) and f"Give {wanted}." in str(error.value)


def test_settings_that_depend_on_one_another_are_applied_together():
    """Neither alone is a network: three stages do not fit two levels."""
    config = changed(recipes.smoke(), ["model.channels=8,32", "model.stages=1"])
    assert config.model.channels == (8, 32) and config.model.stages == 1


def test_unknown_recipe_names_those_there_are():
    with pytest.raises(InputError, match="smoke"):
        recipes.named("tiny")


def test_learning_rate_rises_then_falls_to_zero():
    optim = OptimConfig(learning_rate=1.0, warmup_steps=10, decay_power=0.9)
    rates = [learning_rate(step, 110, optim) for step in range(111)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0 and rates[110] == 0
    assert rates[60] == pytest.approx(0.5**0.9)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_average_forgets_the_start_and_poses_open_up():
    assert ema_decay(0, 0.999) == pytest.approx(0.1) and ema_decay(10**6, 0.999) == 0.999
    assert pose_strength(0, 100) == pytest.approx(0.15) and pose_strength(100, 100) == 1 == pose_strength(500, 100)


def test_views_grow_to_the_window_of_the_recipe():
    config = changed(recipes.smoke(), ["steps=100", "early_window=16", "early_share=0.4"])
    assert [window_at(step, config) for step in (0, 39, 40, 99)] == [16, 16, 32, 32]
    assert window_at(0, recipes.smoke()) == 32
