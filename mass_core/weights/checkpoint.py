"""Weights: our safetensors files, the released `.pth` checkpoints, and pretrained image encoders of others (`other_encoders`). Strict both
ways; nothing in a file is ever executed.

Ours hold the tensors under our names and one JSON header entry `mass` with format version, network and preprocessing configuration,
provenance and licence, and the classes of a fixed-class network (docs/formats.md).
"""

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from ..config import ModelConfig, Recipe, Shape, from_dict, to_dict
from ..devices import DeviceUse, choose_device, prefers_channels_last
from ..encoding.task import Task
from ..errors import InputError, WeightsError
from ..files import write_bytes
from ..model import MASS, build_model
from .fit import Checkpoint, check_fit
from .other_encoders import adopt, adopt_monai
from .published import recognised
from .released_finetuned import released_task, released_tokens
from .released_keys import our_key
from .store import locate, refuse_classifier

FORMAT = 1
_AGAIN = "Download or convert the weights again; `mass weights verify` checks whether a file is complete."
_AVERAGED = ("ema_model", "ema_state_dict")
_PLAIN = ("model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")
_HOLDERS = (None, "network_weights", "net", "state_dict", *_PLAIN)
"""Entries under which checkpoints of others hold their tensors; None: they hold nothing else."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A network ready to use, and everything that belongs to it."""

    network: MASS
    """In evaluation mode, float32, on `device`."""
    config: ModelConfig
    recipe: Recipe
    """Preprocessing the weights were trained with."""
    provenance: dict[str, Any]
    licence: str
    name: str
    fingerprint: str
    """SHA-256 over names and values of the tensors: the same network has the same one in every file format."""
    device: torch.device
    use: DeviceUse = DeviceUse()
    """Of the device by inference."""
    task: Task | None = None
    """Classes of a fixed-class network; None: references define the task."""


def load_model(
    weights: str | Path,
    device: str = "auto",
    *,
    ema: bool | None = None,
    network: Sequence[str] = (),
    use: DeviceUse = DeviceUse(),  # noqa: B008 - frozen
) -> Model:
    """Read weights and build their network, ready to use: in evaluation mode, its parameters frozen.

    To train it on, call `model.network.requires_grad_(True).train()`.

    Args:
        weights: a `.safetensors` of ours, a released `.pth`, or the name of bundled or downloaded weights (`small`).
        device: see `choose_device`.
        ema: which weights of a released checkpoint: averaged, not averaged, or (None) averaged if there are any.
        network: of a checkpoint of one of MONAI's networks, its name and then its arguments as `name=value`; it becomes the encoder.
        use: switches of inference on a GPU.

    Raises:
        WeightsError: if the file is missing, damaged, unsafe or of another network.
        InputError: if a library is missing that the network needs.
        DeviceError: if the device is absent.
    """
    path = locate(weights)
    chosen = choose_device(device)
    checkpoint = read_checkpoint(path, ema=ema, network=network)
    with torch.device("meta"):
        built = build_model(checkpoint.config)
    fill(built, checkpoint.tensors, path)
    own = fingerprint(built)
    if use.channels_last and prefers_channels_last(chosen):
        built.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # the stubs know 4D formats only
    return Model(
        network=built.to(chosen).eval().requires_grad_(False),
        config=checkpoint.config,
        recipe=checkpoint.recipe,
        provenance=checkpoint.provenance,
        licence=checkpoint.licence,
        name=path.stem,
        fingerprint=own,
        device=chosen,
        use=use,
        task=checkpoint.task and replace(checkpoint.task, fingerprint=own, weights=path.stem),
    )


def read_checkpoint(path: Path, *, ema: bool | None = None, network: Sequence[str] = ()) -> Checkpoint:
    """Read a file of any format, tensors under our names; see `load_model`.

    Raises:
        WeightsError: if it cannot be read safely and completely.
        InputError: if a library is missing that the network needs.
    """
    if path.suffix == ".safetensors":
        if network:
            raise WeightsError(f"{path} already names its network.", "Leave the name of the network out.")
        return _read_ours(path)
    values = _unpickled(path)
    return _adopted(values, path, network) or _read_released(values, path, ema)


def _adopted(values: dict[str, Any], path: Path, network: Sequence[str]) -> Checkpoint | None:
    """The network with the encoder of a checkpoint of others; None: the checkpoint is none of those."""
    for holder in _HOLDERS:
        state = values if holder is None else values.get(holder)
        if not isinstance(state, Mapping):
            continue
        tensors = {_plain_key(key): value for key, value in state.items() if isinstance(value, Tensor)}
        if network and tensors:
            return adopt_monai(network, tensors, path)
        if encoder := recognised(holder, tensors):
            return adopt(encoder, tensors, path)
    if network:
        raise WeightsError(f"{path} holds no weights; its entries are {', '.join(map(str, list(values)[:8])) or 'none'}.", _AGAIN)
    return None


def save_weights(
    path: str | Path,
    network: torch.nn.Module,
    recipe: Recipe,
    provenance: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    licence: str = "",
    task: Task | None = None,
) -> None:
    """Write a weights file of ours; it appears complete or not at all.

    Args:
        path: ends in `.safetensors`.
        network: a `MASS`.
        recipe: preprocessing the network was trained with.
        provenance: where the weights come from: recipe, data, steps, commit.
        dtype: of the stored numbers; float16 halves the file.
        licence: of the weights.
        task: what a fixed-class network segments; its tokens are the network's own.
    """
    assert isinstance(network, MASS)
    header = {
        "format": FORMAT,
        "model": to_dict(network.config),
        "preprocess": to_dict(recipe),
        "provenance": dict(provenance),
        "licence": licence,
    }
    if task is not None:
        header["task"] = task.header()
    tensors = {name: value.detach().to("cpu", _kind(value, dtype)).contiguous() for name, value in network.state_dict().items()}
    write_bytes(Path(path), safetensors_bytes(tensors, {"mass": json.dumps(header)}))


def fingerprint(network: torch.nn.Module) -> str:
    """SHA-256 over the names and float32 values of all tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def fill(network: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put tensors in the place of a network's own, strictly.

    Raises:
        WeightsError: naming what is missing, unexpected or of another shape.
    """
    check_fit(network.state_dict(), tensors, path, "the network", "Choose weights of a MASS network.")
    # copies, so that the file behind memory-mapped tensors may change afterwards
    network.load_state_dict({name: value.to(_kind(value, torch.float32), copy=True) for name, value in tensors.items()}, assign=True)


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file.

    Raises:
        WeightsError: if it is damaged or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file: {error}.", _AGAIN) from error


def read_header(path: Path, text: str, newest: int, cure: str) -> dict[str, Any]:
    """The JSON header of a safetensors file of ours.

    Args:
        path: of the file.
        text: the header.
        newest: format version this program reads up to.
        cure: what to do about a damaged file.

    Raises:
        WeightsError: if it is damaged, or of a newer version.
    """
    try:
        header: dict[str, Any] = json.loads(text)
        version = int(header["format"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"The header of {path} is incomplete: {error}.", cure) from error
    if version > newest:
        raise WeightsError(f"{path} has format version {version}, this program reads up to {newest}.", "Update MASSSlicer.")
    return header


def _kind(value: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Stored type of a tensor for a given precision; integers keep theirs."""
    return dtype if value.is_floating_point() else value.dtype


def _read_ours(path: Path) -> Checkpoint:
    metadata, tensors = read_tensors(path)
    refuse_classifier(path, metadata)
    if "mass" not in metadata:
        raise WeightsError(f"{path} holds tensors but does not name a MASS network.", "Choose weights written by MASSSlicer.")
    header = read_header(path, metadata["mass"], FORMAT, _AGAIN)
    try:
        config, recipe = from_dict(ModelConfig, header["model"]), from_dict(Recipe, header["preprocess"])
        task = _stored_task(header.get("task"), config, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"The header of {path} is incomplete: {error}.", _AGAIN) from error
    except InputError as error:
        raise WeightsError(f"{path}: {error.message}", error.cure) from error
    return Checkpoint(
        tensors=tensors, config=config, recipe=recipe, provenance=header.get("provenance", {}), licence=header.get("licence", ""), task=task
    )


def _stored_task(header: dict[str, Any] | None, config: ModelConfig, tensors: Mapping[str, Tensor]) -> Task | None:
    """Classes of a fixed-class network, with their tokens from the class-token buffers."""
    if header is None:
        if config.task_encoding:
            return None
        raise KeyError("task")
    stages = [tensors[f"class_tokens{stage}"].float() for stage in range(config.stages)]
    return Task.of_header(header, list(zip(*stages, strict=True)))


def _read_released(values: dict[str, Any], path: Path, ema: bool | None) -> Checkpoint:
    kind, state = _state(values, path, ema)
    tensors = {our_key(_plain_key(key)): value for key, value in state.items() if isinstance(value, Tensor)}
    tensors = {key: value[0, 0] if key.endswith(".position") and value.ndim == 5 else value for key, value in tensors.items()}
    config = _released_network(tensors, path)
    if not config.task_rows:
        fused = config.channels[::-1][: config.stages]
        tensors |= {f"class_tokens{stage}": torch.zeros(0, config.queries + 1, c) for stage, c in enumerate(fused)}
    settings = values["config"] if isinstance(values.get("config"), dict) else {}
    _require_known_variant(settings.get("model"), path)
    recipe, task = _released_recipe(settings, path), None
    if stored := released_tokens(values, path, averaged=kind in _AVERAGED):
        tensors = {name: value for name, value in tensors.items() if not name.startswith(("task_encoders.", "class_tokens"))}
        tensors |= {f"class_tokens{stage}": own for stage, own in enumerate(stored)}
        config, task = replace(config, task_encoding=False, task_rows=len(stored[0])), released_task(stored, recipe)
    provenance = {"file": path.name, "weights": kind, "epoch": values.get("epoch")}
    return Checkpoint(tensors=tensors, config=config, recipe=recipe, provenance=provenance, licence="MIT", task=task)


def _unpickled(path: Path) -> dict[str, Any]:
    """The dictionary in a `.pth`, of tensors and plain values only.

    Raises:
        WeightsError: if the file is damaged, holds something else, or could run code.
    """
    torch.serialization.add_safe_globals(_numpy_numbers())
    with open(path, "rb") as file:
        begin = file.read(32)
    if begin[:2] != b"PK" and begin[:1] != b"\x80":
        raise WeightsError(f"{path} is not a weights file; it begins with {begin!r}.", _AGAIN)
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        reason = str(error)
        if isinstance(error, pickle.UnpicklingError) and ("GLOBAL" in reason or "Unsupported" in reason):
            raise WeightsError(
                f"{path} holds more than tensors and plain values, so it could run code when opened, and was not read.",
                "Get the weights from a source you trust, as plain tensors.",
            ) from error
        raise WeightsError(f"{path} is damaged or not a weights file: {reason.partition('. ')[0] or 'it ends early'}.", _AGAIN) from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path} holds a {type(values).__name__}, not a checkpoint.", _AGAIN)
    return values


def _numpy_numbers() -> list[Any]:
    """Types that a NumPy number in a checkpoint (a best Dice, say) is made of; it can hold nothing but bytes."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)}
    return [np.dtype, *kinds, *((scalar, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core"))]


def _require_known_variant(model: Any, path: Path) -> None:
    """Refuse the variants the released code could also train, of which no weights were released.

    Raises:
        WeightsError: naming the setting.
    """
    known: dict[str, set[Any]] = {
        "scale": {2},
        "kernel_size": {3},
        "num_block": {2},
        "block": {"BasicBlock"},
        "norm": {"in"},
        "pool": {True},
    }
    for name, allowed in known.items():
        value = model.get(name) if isinstance(model, dict) else None
        values = set(value) if isinstance(value, (list, tuple)) else {value}
        if value is not None and not values <= allowed:
            raise WeightsError(f"{path} is of a network with {name} {value}, which this version does not support.", "Choose other weights.")


def _state(values: dict[str, Any], path: Path, ema: bool | None) -> tuple[str, dict[str, Any]]:
    """The requested state dict, and its name in the file."""
    averaged = next((key for key in _AVERAGED if isinstance(values.get(key), dict)), None)
    plain = next((key for key in _PLAIN if isinstance(values.get(key), dict)), None)
    if ema and averaged is None:
        raise WeightsError(f"{path} holds no averaged (EMA) weights.", "Leave out --ema.")
    if averaged and ema is not False:
        return averaged, values[averaged]
    if plain:
        return plain, values[plain]
    if not any(isinstance(value, Tensor) for value in values.values()):
        raise WeightsError(f"{path} holds no weights; its entries are {', '.join(map(str, list(values)[:8])) or 'none'}.", _AGAIN)
    return "bare", values


def _plain_key(key: str) -> str:
    """A key without what wrappers of the network put before it."""
    while key.startswith(_PREFIXES):
        key = key.split(".", 1)[1]
    return key


def _released_network(tensors: Mapping[str, Tensor], path: Path) -> ModelConfig:
    """The network's shape, read off its tensors."""
    try:
        levels = sum(key.startswith("encoder.levels.") and key.endswith(".0.conv1.weight") for key in tensors)
        stem = tensors["encoder.stem.weight"]
        deeper = [tensors[f"encoder.levels.{n}.0.conv1.weight"].shape[0] for n in range(levels)]
        stages = sum(key.startswith("task_encoders.") and key.endswith(".queries") for key in tensors)
        rows = tensors.get("class_tokens0")
        return ModelConfig(
            in_channels=stem.shape[1],
            channels=(stem.shape[0], *deeper),
            stages=stages,
            queries=tensors["task_encoders.0.queries"].shape[0],
            task_rows=0 if rows is None else rows.shape[0],
            position_size=tensors["task_encoders.0.position"].shape[0],
        )
    except KeyError as error:
        raise WeightsError(f"{path} holds weights of another network: there is no {error}.", "Choose weights of a MASS network.") from error


def _released_recipe(settings: Mapping[str, Any], path: Path) -> Recipe:
    """Window and overlap as the checkpoint's configuration says; everything else is the same in all released weights."""
    evaluation = settings.get("evaluation")
    evaluation = evaluation if isinstance(evaluation, Mapping) else {}
    recipe = Recipe()
    try:
        window = _shape(evaluation.get("window_size", recipe.window_zyx))
        return replace(recipe, window_zyx=window, overlap=float(evaluation.get("overlap", recipe.overlap)))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"The configuration in {path} has evaluation settings {dict(evaluation)}.", _AGAIN) from error


def _shape(size: Any) -> Shape:
    z, y, x = (size,) * 3 if isinstance(size, int) else tuple(int(n) for n in size)
    return z, y, x
