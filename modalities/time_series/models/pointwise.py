"""A convolution of one time step, computed as the linear layer that it is."""

from torch import Tensor, nn

from modalities.common.linear import linear


class Pointwise(nn.Conv1d):
    """A 1 x 1 convolution on the last axis: weights (O, I, 1) as official checkpoints hold them, tokens (..., I) in, (..., O) out."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return linear(x, self.weight.squeeze(2), self.bias)
