"""The auto-encoder of circuits that PreRoutGNN begins with (Zhong et al., AAAI 2024, arXiv 2403.00012, section 3.2)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch_geometric.data import Batch

from modalities.common.linear import use_faster
from modalities.common.model import Model
from modalities.graph.circuits import EDGE_FEATURES, PIN_FEATURES, level_encoding, plain_edges, require_circuit
from modalities.graph.models.circuit_layers import GatedStack
from modalities.graph.models.messages import pool_nodes
from modalities.graph.preprocess_circuits import CircuitPreprocess
from trainer.errors import ConfigError


@dataclass(frozen=True)
class CircuitAutoEncoderConfig:
    """Sizes of the encoder, and of the decoder, which is as deep and wide."""

    least_latent: ClassVar[int] = 1
    """Least `latent_dim`."""

    latent_dim: int = 4
    """Numbers that describe a pin."""
    hidden_dim: int = 32
    """Width between the layers."""
    depth: int = 4
    """Layers, at least 2."""
    mlp_dim: int = 64
    """Hidden width of the networks along edges and at nodes."""
    message_dim: int = 12
    """Numbers of each of the four ways in which messages are gathered."""
    frequencies: int = 4
    """Sines and cosines of the level of a pin."""
    max_level: int = 200
    """Levels in half a period of the slowest sine."""
    dropout: float = 0.0
    """Share of the features inside the networks that are set to zero in training."""

    def __post_init__(self) -> None:
        if self.depth < 2:
            raise ConfigError(f"model.depth must be at least 2, found {self.depth}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout must be at least 0 and below 1, found {self.dropout}.")
        self.require_positive("hidden_dim", "mlp_dim", "message_dim", "max_level")
        if self.latent_dim < self.least_latent:
            raise ConfigError(f"model.latent_dim must be at least {self.least_latent}, found {self.latent_dim}.")
        if self.frequencies < 0:
            raise ConfigError(f"model.frequencies must be at least 0, found {self.frequencies}.")

    def require_positive(self, *names: str) -> None:
        """ConfigError when one of these fields is below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be at least 1, found {getattr(self, name)}.")

    @property
    def pin_dim(self) -> int:
        """Width of the features of a pin, its level included."""
        return PIN_FEATURES + 1 + 2 * self.frequencies

    def stack(self, inner: int, outer: int) -> GatedStack:
        """An encoder or a decoder."""
        return GatedStack(inner, outer, self.depth, self.hidden_dim, EDGE_FEATURES, self.mlp_dim, self.message_dim, self.dropout)


class CircuitModel(Model):
    """Input: a PyG `Batch` of circuits (see `modalities.graph.circuits`), as `preprocess` makes it. What has the encoder of circuits."""

    config_class = CircuitAutoEncoderConfig
    input_key = "x"

    def __init__(self, config: CircuitAutoEncoderConfig) -> None:
        super().__init__(config)
        self.encoder = config.stack(config.pin_dim, config.latent_dim) if config.latent_dim else None
        use_faster(self)

    def pins(self, batch: Batch) -> Tensor:
        """Features (N, pin_dim) of the pins: what was measured, and the level. DataError for a batch of something else."""
        encoded = level_encoding(require_circuit(batch)["level"], self.config.frequencies, self.config.max_level)
        return torch.cat([batch["x"], encoded.to(batch["x"].dtype)], dim=1)

    def latent(self, batch: Batch) -> Tensor:
        """What the encoder says of each pin, (N, latent_dim); without an encoder (N, 0)."""
        return batch["x"][:, :0] if self.encoder is None else self.encoder(self.pins(batch), *plain_edges(batch))

    def embed(self, batch: Batch) -> Tensor:
        """One vector per circuit, the mean of its pins, (circuits, D)."""
        return pool_nodes(self.tokens(batch), batch.batch, batch.num_graphs, "mean")

    @property
    def width(self) -> int:
        """Width of a pin's embedding, as `tokens` gives it."""
        return self.config.latent_dim

    def snippet_words(self) -> dict[str, str]:
        return {"numbers": str(self.width)}

    def default_preprocess(self) -> CircuitPreprocess:
        """Places on the die between 0 and 1."""
        return CircuitPreprocess()

    def input_in_words(self) -> str:
        return f"PyG `Batch` of circuits with `x` (pins, {PIN_FEATURES}), `net_index`, `net_attr`, `cell_index`, `cell_attr`, `level`, `timing`"


class CircuitAutoEncoder(CircuitModel):
    """Input as that of `CircuitModel`; `tokens` gives the latent (N, latent_dim), `decode` gives back the pins (N, 10)."""

    system = "graph/circuit-autoencoder"
    parts = {"encoder.": "encoder", "decoder.": "decoder"}

    def __init__(self, config: CircuitAutoEncoderConfig) -> None:
        super().__init__(config)
        self.decoder = config.stack(config.latent_dim, PIN_FEATURES)
        use_faster(self)

    def tokens(self, batch: Batch) -> Tensor:
        """Latent of each pin, (N, latent_dim)."""
        return self.latent(batch)

    def decode(self, batch: Batch, latent: Tensor) -> Tensor:
        """Features (N, 10) of the pins from their latents."""
        return self.decoder(latent, *plain_edges(batch))
