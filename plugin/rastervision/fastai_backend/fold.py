"""Fold batch normalisation into the convolutions before it: the same network, cheaper."""

from __future__ import annotations

import logging

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

log = logging.getLogger(__name__)

#: Greatest deviation of the folded network's output, as a proportion of the greatest output.
_TOLERANCE = 1e-3


@torch.no_grad()
def fold_batch_norms(model: nn.Module, probe: torch.Tensor) -> nn.Module:
    """Scale and shift convolutions as the batch normalisation that follows each would.

    A pair is found by watching `probe` run through the network: the normalisation's input is the
    convolution's very output, each of the two runs once, and nobody else watches them: a U-Net's
    hooks take from the encoder's layers what its decoder needs. Should the folded network's output
    differ from the network's own, the network is left as it was.

    Args:
        model: in evaluation mode, with fp32 weights; it is changed.
        probe: an input of it.

    Returns:
        The model.
    """
    pairs = _pairs(model, probe)
    before = _output(model, probe)
    originals = {name: model.get_submodule(name) for pair in pairs for name in pair}
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(originals[conv], originals[norm])  # type: ignore
        _set(model, conv, fused)
        _set(model, norm, nn.Identity())
    after = _output(model, probe)
    if not torch.allclose(before, after, rtol=0, atol=_TOLERANCE * float(before.abs().max())):
        for name, module in originals.items():
            _set(model, name, module)
        log.info("batch normalisation is not folded: the network's output would change")
    return model


def _output(model: nn.Module, probe: torch.Tensor) -> torch.Tensor:
    """What the network computes of an input; the places of a detector's anchors it only adds."""
    out = model(probe)
    return out[..., :-4] if hasattr(model, "anchors") else out


def _pairs(model: nn.Module, probe: torch.Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the normalisations that alone read their outputs."""
    outputs: dict[int, tuple[str, torch.Tensor, int]] = {}
    calls: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []
    hooks = []

    def after_conv(name: str, output: torch.Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        # Holding the output keeps its id from being used again.
        outputs[id(output)] = (name, output, output._version)

    def before_norm(name: str, value: torch.Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        # An operation in place, such as ReLU, leaves the tensor and raises its version.
        if id(value) in outputs and outputs[id(value)][2] == value._version:
            pairs.append((outputs[id(value)][0], name))

    for name, module in model.named_modules():
        if type(module) is nn.Conv2d:
            hooks.append(
                module.register_forward_hook(lambda _m, _i, out, name=name: after_conv(name, out))
            )
        elif type(module) is nn.BatchNorm2d:
            hooks.append(
                module.register_forward_pre_hook(lambda _m, i, name=name: before_norm(name, i[0]))
            )
    try:
        model(probe)
    finally:
        for hook in hooks:
            hook.remove()
    watched = {name for name, module in model.named_modules() if module._forward_hooks}
    return [
        (conv, norm)
        for conv, norm in pairs
        if calls[conv] == calls[norm] == 1 and watched.isdisjoint((conv, norm))
    ]


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
