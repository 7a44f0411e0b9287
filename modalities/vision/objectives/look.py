"""LOOK: supervised pre-training by the nearest neighbours, without a classifier (Feng et al. 2022, arXiv 2110.06014).

No official code is known; this is written from the paper's description. The sample under test is left out of the vote (leave-one-out
k-nearest-neighbours), and only its k nearest decide, so a class may lie in several heaps. The sizes of queue, head and neighbourhood are ours.
Letters: B batch, D width of the projection, Q entries of the memory, K neighbours.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed
from torch.nn import functional as F

from modalities.vision.models.convnet import ConvNet
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch, Losses, Objective

EMPTY = -1
"""Label and index of a place of the memory that holds nothing."""


@dataclass(frozen=True)
class LOOKConfig:
    """The memory and the vote."""

    memory: int = 65536
    """Keys that are remembered with their labels, the newest ones."""
    neighbours: int = 400
    """Nearest keys that vote; fewer while the memory holds fewer."""
    temperature: float = 0.07
    """A neighbour's vote is exp(cosine similarity / temperature)."""
    momentum: float = 0.999
    """Of the slow copy of the network that makes the keys: share of itself that it keeps in a step."""
    hidden: int = 2048
    """Width of the two hidden layers of the projection."""
    width: int = 128
    """Width of what is compared."""

    def __post_init__(self) -> None:
        for name in ("memory", "neighbours", "hidden", "width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if self.neighbours > self.memory:
            raise ConfigError(f"neighbours={self.neighbours} cannot be more than the memory of {self.memory} keys holds.")
        if self.temperature <= 0 or not 0 <= self.momentum < 1:
            raise ConfigError(f"temperature must be above 0 and momentum from 0 up to but not 1, found {self.temperature} and {self.momentum}.")

    def build(self, model: ConvNet) -> "LOOK":
        """The objective around a backbone."""
        return LOOK(model, self)


class LOOK(Objective):
    """Batch: `image` (B, C, H, W), `label` (B,) class ids and the trainer's `sample_index` (B,).

    loss = -log(sum of the votes of neighbours of the same class / sum of all votes). The memory belongs to the state, so a resumed run
    goes on exactly. A sample of whose class nothing is remembered does not count, nor does a sample's own older key.
    """

    def __init__(self, model: ConvNet, config: LOOKConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.projection = nn.Sequential(
            nn.Linear(model.config.embed_dim, config.hidden), nn.ReLU(inplace=True),
            nn.Linear(config.hidden, config.hidden), nn.ReLU(inplace=True), nn.Linear(config.hidden, config.width),
        )  # fmt: skip
        self.teacher = copy.deepcopy(nn.ModuleList([model, self.projection])).requires_grad_(False)
        self.register_buffer("keys", torch.zeros(config.memory, config.width))
        self.register_buffer("labels", torch.full((config.memory,), EMPTY))
        self.register_buffer("owners", torch.full((config.memory,), EMPTY))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, batch: Batch) -> Losses:
        label, index = self._read(batch)
        query = F.normalize(self.projection(self.model.embed(batch)).float(), dim=1)  # (B, D)
        loss, share, counted = self.vote(query, label, index)
        if self.training:
            with torch.no_grad():
                encoder, projection = self.teacher
                key = F.normalize(projection(encoder.embed(batch)).float(), dim=1)
            if not key.is_meta:  # where arithmetic is only counted, nothing is remembered
                self._waiting.append((key, label, index))  # not at once: the backward pass still needs the memory as it is
        return Losses(loss, {"agreement": share.detach()}, count=counted)

    def vote(self, query: Tensor, label: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of unit vectors (B, D), their labels and places in the data (B,): mean loss, mean share of votes for the right class, samples that count."""
        similarity = query @ self.keys.T  # (B, Q)
        allowed = (self.labels != EMPTY) & (self.owners != index[:, None])  # (B, Q)
        same = allowed & (self.labels == label[:, None])
        similarity = similarity.masked_fill(~allowed, -torch.inf)
        with torch.no_grad():  # which ones are near is no matter of gradients
            near = similarity.topk(self.config.neighbours, dim=1).indices  # (B, K)
            chosen = torch.zeros_like(allowed).scatter_(1, near, True) & allowed
            nearest = similarity.masked_fill(~same, -torch.inf).argmax(dim=1, keepdim=True)  # (B, 1)
            chosen |= torch.zeros_like(allowed).scatter_(1, nearest, True) & same  # one of the class always votes
            counts = same.any(dim=1)  # (B,)
        scores = (similarity.masked_fill(~chosen, -torch.inf) / self.config.temperature).where(counts[:, None], 0.0)
        share = (scores.softmax(dim=1) * same).sum(dim=1)  # (B,)
        weight, counted = counts.float(), counts.sum()
        of = counted.clamp(min=1)
        return (-(share + 1e-8).log() * weight).sum() / of, (share * weight).sum() / of, counted

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the slow copy, and take the keys of this step, of all processes, into the memory in place of the oldest."""
        for slow, fast in zip(self.teacher.parameters(), [*self.model.parameters(), *self.projection.parameters()]):
            slow.lerp_(fast, 1 - self.config.momentum)
        if not self._waiting:
            return
        keys, labels, owners = (gathered(torch.cat(parts))[-self.config.memory :] for parts in zip(*self._waiting))
        self._waiting = []
        places = (self.next + torch.arange(len(keys), device=keys.device)) % self.config.memory
        self.keys[places], self.labels[places], self.owners[places] = keys, labels, owners
        self.next.copy_((self.next + len(keys)) % self.config.memory)

    def export(self) -> ConvNet:
        return self.model

    def _read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        image = self.model.input(batch)
        label, index = batch.get("label"), batch.get("sample_index")
        if label is None or label.is_floating_point() or tuple(label.shape) != image.shape[:1]:
            found = "none" if label is None else f"{tuple(label.shape)} {label.dtype}"
            raise DataError(f"LOOK learns from classes: it needs batch['label'] with {image.shape[0]} whole class ids, found {found}.")
        if index is None:
            raise DataError("LOOK leaves a sample's own key out of the vote: it needs batch['sample_index'], which the trainer's batches have.")
        return label.long(), index


def gathered(own: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks; they may have different numbers of them."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return own
    sizes = [torch.zeros((), dtype=torch.long, device=own.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, torch.tensor(len(own), device=own.device))
    most = int(max(sizes))
    padded = torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])])
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes)])
