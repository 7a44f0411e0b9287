"""Recomputes golden files of TimelyGPT, for signals and for codes."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from modalities.common.golden import Golden, gradients_of, model_of, pick
from modalities.time_series.interop import timelygpt as interop
from modalities.time_series.models.timelygpt import TimelyGPT
from modalities.time_series.models.timelygpt_codes import TimelyGPTCodes
from trainer.errors import CheckpointError


def _timelygpt(golden: Golden) -> dict[str, Tensor]:
    model = model_of(golden, interop, {})
    computed = _codes(golden, model) if isinstance(model, TimelyGPTCodes) else _signal(golden, model)
    return pick(computed, golden.expected) | golden.gradients(gradients_of(computed["output.loss"], model))


def _signal(golden: Golden, model: TimelyGPT) -> dict[str, Tensor]:
    series = golden.input("x")
    states: dict[str, Tensor] = {}
    hooks = [block.register_forward_hook(lambda _, __, said, n=number: states.__setitem__(f"output.block{n}", said)) for number, block in enumerate(model.blocks)]
    tokens, features = model.encode(series)
    for hook in hooks:
        hook.remove()
    prediction = model.predict(features)
    computed = states | {"output.tokens": tokens, "output.pred": prediction, "output.loss": F.mse_loss(prediction[:, :-1], tokens)}
    if "output.pred_chunkwise" in golden.expected:
        size = golden.config.get("_chunk")
        if not isinstance(size, int) or size < 1:
            raise CheckpointError(f"{golden.path} holds output.pred_chunkwise, and its config no _chunk, the tokens of a chunk.")
        for block in model.blocks:
            block.msr.chunk = size
        computed["output.pred_chunkwise"] = model.predict(model.encode(series)[1])
    return computed


def _codes(golden: Golden, model: TimelyGPTCodes) -> dict[str, Tensor]:
    places = model.places(golden.input("codes").long())
    states = model.encode(places, golden.input("t"))
    logits = model.head["head"](states[-1])
    blocks = {f"output.block{number}": state for number, state in enumerate(states[:-1])}
    return blocks | {"output.logits": logits, "output.loss": model.loss(logits, places) / (places < len(model.known)).sum()}


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"time_series/timelygpt": _timelygpt}
