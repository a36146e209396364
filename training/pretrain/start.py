"""Initial state of a run: the network, its average and its optimiser."""

import copy

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from mass_core.errors import InputError
from mass_core.model import build_model
from mass_core.weights.checkpoint import load_model

from ..optimisers.lamb import Lamb
from ..optimisers.muon import Muon
from ..runs.precision import check_depth, scaler
from .config import OptimConfig, RunConfig
from .recompute import keep_less
from .state import State


def start(config: RunConfig, device: torch.device, init: str | None) -> State:
    """Random weights of the run's seed, or those of `init`.

    Raises:
        InputError: if `init` is of another network, or gradients would be wrong.
    """
    check_depth((config.early_window, config.preprocess.window_zyx[0]), config.model, config.precision, device)
    torch.manual_seed(config.seed)
    network = build_model(config.model).to(device).train()
    if init:
        model = load_model(init, str(device))
        if model.config != config.model:
            raise InputError(f"The weights {init} are of another network than the recipe's.", "Choose the recipe they were made with.")
        network.load_state_dict(model.network.state_dict())
    if config.channels_last:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # the stubs know 4D formats only
    average = copy.deepcopy(network).requires_grad_(False).eval()
    keep_less(network, config.recompute)
    return State(network, average, optimiser_of(network, config.optim), scaler=scaler(config.precision, device))


def optimiser_of(network: nn.Module, optim: OptimConfig) -> Optimizer:
    """The optimiser of the settings, for all parameters."""
    if optim.muon_ratio:
        return Muon(network, lr=optim.learning_rate, weight_decay=optim.weight_decay, ratio=optim.muon_ratio)
    parameters = list(network.parameters())
    if optim.optimiser == "lamb":
        return Lamb(parameters, lr=optim.learning_rate, weight_decay=optim.weight_decay)
    return AdamW(parameters, lr=optim.learning_rate, weight_decay=optim.weight_decay, fused=parameters[0].is_cuda)
