"""Steps that must not be taken: non-finite gradients, and loss spikes. Decided on the device, read once per log line."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.errors import ConfigError, TrainingError
from trainer.parallel import Spread, local


@dataclass(frozen=True)
class GuardConfig:
    """What to do about losses and gradients that are not as they should be."""

    max_skipped: int = 10
    """Stop after so many steps in a row with a NaN or infinite loss or gradient. Each of them is skipped: it changes no weight.
    (With fp16, 16 more are allowed, since its loss scale is found by trying.)"""
    spike_sigma: float = 6.0
    """A loss or gradient norm above its mean of the last steps by so many standard deviations is a spike: counted and logged."""
    spike_window: int = 128
    """How many of the last steps that mean and deviation are taken from; with fewer than that, no spike is called. 0: off."""
    skip_spikes: bool = False
    """Skip spikes like non-finite steps (they do not count for max_skipped)."""

    def __post_init__(self) -> None:
        if self.max_skipped < 1 or self.spike_window < 0 or self.spike_sigma <= 0:
            raise ConfigError(
                "train.guard: max_skipped must be at least 1, spike_window 0 or more and spike_sigma above 0, "
                f"found {self.max_skipped}, {self.spike_window} and {self.spike_sigma}."
            )


class Guard:
    """Judges each step from its loss and gradient norm, both on the device and equal on all ranks."""

    def __init__(self, config: GuardConfig, device: torch.device, fp16: bool) -> None:
        self.config = config
        self.allowed = config.max_skipped + (16 if fp16 else 0)
        self.state = {
            "recent": torch.zeros(max(config.spike_window, 1), 2, device=device),  # loss, norm of the last finite steps
            "seen": torch.zeros((), dtype=torch.int64, device=device),  # finite steps so far
            "bad": torch.zeros(2, device=device),  # loss, norm of the last bad step
            # skipped and spikes since the last log line, bad steps in a row, skipped in all, spikes in all
            "counts": torch.zeros(5, dtype=torch.int64, device=device),
        }
        self._flags = torch.tensor([1, 2, 0, 1, 2], device=device)  # which of (bad, skipped, spike) each count adds up
        self._kept_counts = torch.tensor([1, 1, 0, 1, 1], device=device)  # those that a good step does not set back
        self.buffers: Callable[[], list[Tensor]] = list
        self.kept: list[Tensor] = []

    def watch(self, module: nn.Module) -> None:
        """Let skipped steps leave no trace in the buffers of `module` either: a forward pass on a bad batch spoils running statistics."""
        stored = module.state_dict().keys()  # other buffers are constants
        names = [name for name, _ in module.named_buffers() if name in stored]
        self.buffers = lambda: [module.get_buffer(name) for name in names]  # by name: a module may put a new tensor there

    def begin(self) -> None:
        """To be called before the forward pass of a step."""
        self.kept = [buffer.detach().clone() for buffer in self.buffers()]

    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether the step with this loss and gradient norm may be taken, a bool scalar on the device."""
        s, row = self.state, torch.stack([loss.float(), norm.float()])
        finite = torch.isfinite(row).all()
        spike = torch.zeros_like(finite)
        if self.config.spike_window:
            limit = self._limit()
            spike = (row > limit).any() & finite
            place = (s["seen"] % self.config.spike_window)[None]
            old = s["recent"].index_select(0, place)
            # of a spike no more than the limit enters the window: one does not hide the next, and a lasting change becomes the new level
            s["recent"].index_copy_(0, place, torch.where(finite, torch.minimum(row, limit)[None], old))
            s["seen"] += finite
        ok = finite & ~spike if self.config.skip_spikes else finite
        s["bad"] = torch.where(finite, s["bad"], row)
        more = torch.stack([~finite, ~ok, spike]).long().index_select(0, self._flags)
        s["counts"] = s["counts"] * (self._kept_counts | more) + more
        return ok

    def _limit(self) -> Tensor:
        """What loss and norm may be, (2,): infinite until the window is full, and where it holds nothing but zeros."""
        deviation, mean = torch.std_mean(self.state["recent"], dim=0)
        # a deviation of nearly nothing (a constant loss) must not turn rounding into spikes
        spread = torch.maximum(deviation, 1e-3 * mean.abs())
        known = (self.state["seen"] >= self.config.spike_window) & (spread > 0)
        return torch.where(known, mean + self.config.spike_sigma * spread, torch.inf)

    def skip(self, ok: Tensor, optimizer: Optimizer, spread: Spread) -> None:
        """Let the optimizer's next step change nothing unless `ok`, without asking the device.

        Fused optimizers take the flag themselves, as they do from a gradient scaler. Others get a gradient of zero, so
        no bad number reaches the weights; their momentum and decay go on for that step. Buffers are put back.
        """
        for buffer, kept in zip(self.buffers(), self.kept):
            buffer.copy_(torch.where(ok, buffer, kept))
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.grad_scale, optimizer.found_inf = None, spread.replicate((~ok).float())
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    local(parameter.grad).masked_fill_(~ok, 0.0)

    def read(self, step: int, lr: float, samples_of: Callable[[int], str]) -> dict[str, float]:
        """`skipped` and `spikes` since the last read, when there were any.

        `step` and `lr` are those of the last step judged. Raises TrainingError when it ends too many bad ones in a row;
        `samples_of(step)` says which samples it had.
        """
        skipped, spikes, in_a_row, _, _ = self.state["counts"].tolist()
        self.state["counts"][:2] = 0
        if in_a_row >= self.allowed:
            loss, norm = self.state["bad"].tolist()
            raise TrainingError(
                f"The loss or the gradient was NaN or infinite in {in_a_row} steps in a row, the last at step {step}: "
                f"loss {loss:.4g}, gradient norm {norm:.4g}, learning rate {lr:.3g}, {samples_of(step)}. "
                "None of these steps changed the weights; the last checkpoint is good. "
                "Lower train.optim.base_lr (or lr), set train.optim.clip_norm, use bf16 or fp32 instead of fp16, or look at these samples for NaN and extreme values."
            )
        return {name: value for name, value in (("skipped", skipped), ("spikes", spikes)) if value}

    def totals(self) -> dict[str, int]:
        """Steps skipped and spikes seen in the whole run."""
        counts = self.state["counts"].tolist()
        return {"skipped": counts[3], "spikes": counts[4]}

    def state_dict(self) -> dict[str, Any]:
        """For an exact resume."""
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Another window starts empty."""
        for name, value in state.items():
            if value.shape == self.state[name].shape:
                self.state[name] = value.to(self.state[name].device)
