"""What models of pictures of one fixed size share that are no vision transformers of the zoo's own."""

from torch import Tensor

from modalities.common.model import Model
from modalities.vision.preprocess import ImagePreprocess
from trainer.errors import DataError, ModelError
from trainer.objective import Batch


class ImageModel(Model):
    """Reads `image` (B, C, H, W) float, normalised as `preprocess` says, of the `input_size` and `in_chans` of its config."""

    input_key = "image"

    def default_preprocess(self) -> ImagePreprocess | None:
        """ImageNet's statistics for RGB, -1..1 for grey; other channels have no usual ones."""
        return ImagePreprocess.usual(self.config.input_size, self.config.in_chans)

    def input_shape(self) -> tuple[int, ...]:
        return (self.config.in_chans, *self.config.input_size)

    def input(self, batch: Batch) -> Tensor:
        """The images of a batch. DataError when it has none, ModelError when the network cannot take them."""
        if self.input_key not in batch:
            raise DataError(f"{type(self).__name__} reads batch[{self.input_key!r}]; this batch holds: {', '.join(batch) or 'nothing'}.")
        x = batch[self.input_key]
        if tuple(x.shape[1:]) != self.input_shape() or not x.is_floating_point():
            raise ModelError(
                f"The model takes inputs of shape (B, {', '.join(map(str, self.input_shape()))}) (channels, then size), floating point, "
                f"found {tuple(x.shape)} {x.dtype}. Use the model's own `preprocess`, or build the model for this size."
            )
        return x
