"""What PreRoutGNN is trained for: arrival times, slews and delays (Zhong et al. 2024, section 3.4)."""

from dataclasses import dataclass

from torch import Tensor
from torch_geometric.data import Batch

from modalities.graph.circuits import CORNERS
from modalities.graph.models.messages import scatter_sum
from modalities.graph.models.preroutgnn import PreRoutGNN, Timing
from modalities.graph.objectives.circuit_reconstruction import over_pins
from trainer.errors import DataError
from trainer.objective import Losses, Objective


@dataclass(frozen=True)
class TimingConfig:
    """How times are learned."""

    teacher: bool = True
    """Each pin starts from the labels of those before it, all at once, as published. Else from what was found for them, level by level."""

    def build(self, model: PreRoutGNN) -> "TimingObjective":
        """The objective around a model."""
        return TimingObjective(model, self)


class TimingObjective(Objective):
    """Loss = sum of the squared errors of arrival times, log-slews, log-delays of nets and delays of cells. Needs the labels of all four."""

    def __init__(self, model: PreRoutGNN, config: TimingConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch) -> Losses:
        lacking = [key for key in ("net_delays", "cell_delays") if key not in batch]
        if lacking:
            raise DataError(f"Training of timing needs labels, and this batch lacks {', '.join(lacking)}. Give net_delay and cell_delay with the circuits.")
        return self.losses(self.model.timing_of(batch, self.config.teacher), batch)

    def losses(self, found: Timing, batch: Batch) -> Losses:
        """Of what was said of a batch. A circuit without cells has no error of their delays."""
        true, valid, labelled = batch["timing"], batch.get("valid"), self._labelled(batch)
        cells = (found.cell_delays.float() - batch["cell_delays"].float()).square()
        parts = {
            "arrival": over_pins(found.pins[:, :CORNERS], true[:, :CORNERS], valid, labelled),
            "slew": over_pins(found.pins[:, CORNERS:], true[:, CORNERS:], valid, labelled),
            "net_delay": over_pins(found.net_delays, batch["net_delays"], valid),
            "cell_delay": cells.sum() / max(cells.numel(), 1),
        }
        return Losses(sum(parts.values()), {name: part.detach() for name, part in parts.items()})

    def _labelled(self, batch: Batch) -> Tensor | None:
        """Which pins (N,) have a time to be compared with, 0 or 1; None: all. With the teacher those before them must have one, too."""
        labelled = batch.get("labelled")
        if labelled is None or not self.config.teacher:
            return labelled
        missing = sum(scatter_sum(1 - labelled[begin], end, len(labelled)) for begin, end in (batch["net_index"], batch["cell_index"]))
        return labelled * (missing == 0)

    def export(self) -> PreRoutGNN:
        return self.model
