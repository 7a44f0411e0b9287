"""Several processes as one: who does what, and how a module is spread over them.

accelerate finds the device and starts the process group (torchrun, accelerate launch), and wraps a module for DDP.
Full sharding is torch's FSDP2 (`fully_shard`), applied to each block and to the whole, so that parameters, gradients
and optimizer state are split over the processes.
"""

import atexit
import copy
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.utils.checkpoint import checkpoint

from trainer.devices import AUTOCAST
from trainer.errors import ConfigError, ZooError

TIMEOUT = timedelta(hours=2)
"""How long processes wait for one another: longer than any evaluation or save. A rank that dies is noticed by torchrun."""


class Processes:
    """The processes of this run and what they say to one another."""

    def __init__(self) -> None:
        if restarted() and not dist.is_initialized():
            _meet_again()
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # else accelerate would not see the other processes of a CPU run
            mixed_precision="no",  # the recipe decides, whatever the launcher was told; the trainer's own autocast does it
            kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT), DistributedDataParallelKwargs(gradient_as_bucket_view=True)]
        )
        known = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if self.accelerator.distributed_type not in known:
            raise ConfigError(
                f"The launcher set accelerate up for {self.accelerator.distributed_type}. Launch plain processes (torchrun, or accelerate "
                "launch --multi_gpu) and choose full sharding by train.parallel=fsdp."
            )
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        self.main = self.rank == 0
        # words among hosts (stop? which checkpoint?) go over the CPU, so that no one waits for a GPU
        self.words = dist.new_group(backend="gloo", timeout=TIMEOUT) if self.world > 1 else None
        if self.words is not None:
            atexit.register(_leave, self.words)

    def agree(self, number: int) -> int:
        """The largest of the numbers that the ranks give. All ranks must call this."""
        if self.words is None:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self.words)
        return int(value)

    def tell(self, value: Any) -> Any:
        """The main rank's value, on all ranks."""
        if self.words is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.words)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """The values of all ranks, on all ranks."""
        if self.words is None:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self.words)
        return values

    def add(self, values: Tensor) -> Tensor:
        """Sum over the ranks, in place, on the device."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def on_main(self, action: Callable[[], Any]) -> Any:
        """What `action` gives on the main rank, on all ranks; a ZooError of it is raised on all of them."""
        outcome = None
        if self.main:
            try:
                outcome = action(), None
            except ZooError as error:
                outcome = None, error
        value, error = self.tell(outcome)
        if error is not None:
            raise error
        return value

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.words is not None:
            dist.barrier(group=self.words)


def restarted() -> bool:
    """Whether torchrun started this process again after one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _meet_again() -> None:
    """Start the process group of a restart under keys of its own: torchrun's store still holds the dead processes' addresses."""
    store, rank, world = next(dist.rendezvous("env://", timeout=TIMEOUT))
    store = dist.PrefixStore(f"restart-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", store=store, rank=rank, world_size=world, timeout=TIMEOUT)


def _leave(words: dist.ProcessGroup) -> None:
    """Leave the groups that talk over the CPU, `words` among them, while Python still runs.

    Their threads may still hold the tensors of the last message; if they let go of them while Python closes down, the process is aborted although all
    was done. After an uncaught error nothing is left in order, since other processes may wait for this one.
    """
    if dist.is_initialized() and getattr(sys, "last_value", None) is None:
        dist.destroy_process_group(None if dist.get_backend() == "gloo" else words)
        gc.collect()  # what still holds a group, in a circle


def blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network: children of one class, two or more, of the outermost Sequential or ModuleList.

    They are what is sharded, recomputed or compiled one by one. Single layers of torch are no blocks: compiled alone they stay as they are.
    """
    children = list(module.children())
    if isinstance(module, (nn.Sequential, nn.ModuleList)) and len(children) > 1 and len({type(c) for c in children}) == 1:
        if any(True for _ in children[0].children()) and any(True for _ in children[0].parameters()):
            return children
    return [block for child in children for block in blocks(child)]


def recompute(module: nn.Module) -> None:
    """Keep no activations inside blocks; the backward pass computes them again (Chen et al. 2016). Results do not change."""
    found = blocks(module)
    if not found:
        raise ConfigError(f"train.recompute works block by block, and {type(module).__name__} has no repeated blocks. Set it to false.")
    for block in found:
        # the instance's own forward: parameter names stay as they are
        block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Callable, *args: Any, **kwargs: Any) -> Any:
    """Ours, because torch.compile looks into `checkpoint` only from a function that it compiles."""
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def compile_module(module: nn.Module, how: str) -> None:
    """torch.compile in place: the `whole` module, or each of its `blocks` (quicker to compile, nearly as fast)."""
    found = [module] if how == "whole" else blocks(module)
    if not found:
        raise ConfigError(f"train.compile=blocks needs repeated blocks, and {type(module).__name__} has none. Use whole or no.")
    if how == "blocks":  # they share a limit, and each needs graphs of its own where they differ in a number, as in their rate of drop path
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(found))
    for part in found:
        part.compile()


class Spread:
    """An objective spread over the processes: alone, by DDP, or fully sharded."""

    def __init__(self, processes: Processes, how: str, precision: str) -> None:
        self.processes, self.precision = processes, precision
        self.sharded = how == "fsdp" and processes.world > 1
        self.mesh = init_device_mesh(processes.device.type, (processes.world,)) if self.sharded else None
        self._twin: nn.Module | None = None
        self._buffers: dict[str, Tensor] = {}

    def place(self, module: nn.Module) -> None:
        """Move a module to the device and, when sharding, split it (in place)."""
        if self.sharded:
            self._remember(module)
        module.to(self.processes.device)
        if self.sharded:
            # autocast decides the types of operations; here only what travels between processes becomes small
            policy = MixedPrecisionPolicy(param_dtype=AUTOCAST.get(self.precision), reduce_dtype=torch.float32, cast_forward_inputs=False)
            for part in [*blocks(module), module]:
                fully_shard(part, mesh=self.mesh, mp_policy=policy)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module to call in training: itself, or in DDP's wrapper."""
        if self.sharded or self.processes.world == 1:
            return module
        return self.processes.accelerator.prepare_model(module)

    @contextmanager
    def micro_batch(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Around the forward and backward pass of a micro-batch: gradients travel only with the last one."""
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(last)
        with nullcontext() if last or self.sharded or self.processes.world == 1 else model.no_sync():
            yield

    def plain(self, module: nn.Module) -> nn.Module | None:
        """The module whole: itself, or a copy on the CPU gathered from all ranks (None except on the main rank). All ranks must call this."""
        if not self.sharded:
            return module
        state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if not self.processes.main:
            return None
        whole = copy.deepcopy(self._twin).to_empty(device="cpu")
        whole.load_state_dict(state)  # copied: gathered tensors may be views of something larger
        for name, buffer in self._buffers.items():
            owner, _, last = name.rpartition(".")
            setattr(whole.get_submodule(owner), last, buffer.clone())
        return whole.train(module.training)

    def replicate(self, value: Tensor) -> Tensor:
        """A scalar that is equal on all ranks, in the form that an optimizer over this module's parameters takes."""
        return DTensor.from_local(value, self.mesh, [Replicate()], run_check=False) if self.sharded else value

    def _remember(self, module: nn.Module) -> None:
        """Keep the module's form without its tensors, to build whole copies later."""
        if self._twin is None:
            stored = module.state_dict().keys()
            self._buffers = {name: b.detach().cpu().clone() for name, b in module.named_buffers() if name not in stored}
            self._twin = copy.deepcopy(module).to("meta")


def local(value: Tensor) -> Tensor:
    """What of a tensor lies in this process (a view)."""
    return value.to_local() if isinstance(value, DTensor) else value


def full(value: Tensor) -> Tensor:
    """A tensor whole, gathered when it is spread."""
    return value.full_tensor() if isinstance(value, DTensor) else value
