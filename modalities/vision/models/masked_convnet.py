"""timm's ResNet and ConvNeXt over the visible part of an image ("sparse" convolution, Tian et al. 2023, arXiv 2301.03580, section 3.1).

Hidden places stay exactly zero through all layers, and norms do not see them. This is computed by dense layers and
multiplication by the mask, as in the official code, keyu-tian/SparK@a63e386 `pretrain/encoder.py`; the mask is handed on from
layer to layer rather than kept in a global variable, so that blocks can be recomputed. Without a mask the networks are timm's.
Letters: B batch, C channels, f x g the map of the deepest layer.
"""

from timm.models.convnext import ConvNeXt, ConvNeXtBlock, ConvNeXtStage
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from trainer.errors import ModelError


class Visible:
    """Which places of an image are visible, at every resolution: (B, 1, f, g) bool, True = visible, repeated for larger maps."""

    def __init__(self, active: Tensor) -> None:
        self._maps = {tuple(active.shape[2:]): active}
        self._smallest = active

    def like(self, x: Tensor) -> Tensor:
        """The mask for a map (B, C, H, W): (B, 1, H, W) bool. ModelError when H x W is no multiple of f x g."""
        size = tuple(x.shape[2:])
        if size not in self._maps:
            f, g = self._smallest.shape[2:]
            if size[0] % f or size[1] % g:
                raise ModelError(f"A mask of {f} x {g} places does not fit a map of {size[0]} x {size[1]}: sides must be multiples.")
            self._maps[size] = self._smallest.repeat_interleave(size[0] // f, dim=2).repeat_interleave(size[1] // g, dim=3)
        return self._maps[size]

    def keep(self, x: Tensor) -> Tensor:
        """A map (B, C, H, W) with zeros in the hidden places."""
        return x * self.like(x)


def masked_norm(norm: nn.Module, x: Tensor, visible: Visible) -> Tensor:
    """A norm of maps (B, C, H, W) over the visible places only; hidden ones are zero afterwards.

    In training mode a batch norm takes its statistics from the visible places of the batch. Otherwise, and for a norm over
    channels, each place is on its own.
    """
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or not norm.training:
        return visible.keep(norm(x))
    mask = visible.like(x)[:, 0]  # (B, H, W)
    places = x.permute(0, 2, 3, 1)  # (B, H, W, C)
    chosen = places[mask]  # (N, C)
    if len(chosen) < 2:
        raise ModelError(
            f"Only {len(chosen)} place of the batch is visible on the map of {x.shape[2]} x {x.shape[3]}, too few for the statistics of a batch norm. "
            "Use larger batches or images, or a lower mask_ratio."
        )
    # The norm sees one image of N x 1 pixels. Contiguous: where the layout of its input is channels-last and that of the gradient is not,
    # torch 2.11 gives wrong gradients on the CPU.
    seen = norm(chosen.T[None, :, :, None].contiguous())[0, :, :, 0].T  # (N, C)
    return seen.new_zeros(places.shape).index_put((mask,), seen).permute(0, 3, 1, 2)


class _MaskedResidual:
    """Forward pass of both kinds of residual blocks: convolution, norm and activation by turns, and the shortcut before the last activation."""

    def forward(self, x: Tensor, visible: Visible | None = None) -> Tensor:
        if visible is None:
            return super().forward(x)
        shortcut = x
        if self.downsample is not None:
            convolution, norm = self.downsample
            shortcut = masked_norm(norm, convolution(x), visible)
        last = self.layers
        for i in range(1, last + 1):
            x = masked_norm(getattr(self, f"bn{i}"), getattr(self, f"conv{i}")(x), visible)
            x = getattr(self, f"act{i}")(x) if i < last else x
        if self.drop_path is not None:
            x = self.drop_path(x)
        return getattr(self, f"act{last}")(x + shortcut)


class MaskedBasicBlock(_MaskedResidual, BasicBlock):
    """timm's block of ResNet-18 and -34."""

    layers = 2


class MaskedBottleneck(_MaskedResidual, Bottleneck):
    """timm's block of ResNet-50 and above."""

    layers = 3


class MaskedConvNeXtBlock(ConvNeXtBlock):
    """timm's block of ConvNeXt."""

    def forward(self, x: Tensor, visible: Visible | None = None) -> Tensor:
        if visible is None:
            return super().forward(x)
        inside = self.conv_dw(x).permute(0, 2, 3, 1)  # (B, H, W, C); what it adds in hidden places is dropped below
        inside = self.mlp(self.norm(inside)).permute(0, 3, 1, 2) * self.gamma[:, None, None]
        return x + self.drop_path(visible.keep(inside))


class MaskedConvNeXtStage(ConvNeXtStage):
    """timm's stage of ConvNeXt: the map is halved (but not in the first one), then come the blocks."""

    def forward(self, x: Tensor, visible: Visible | None = None) -> Tensor:
        if visible is None:
            return super().forward(x)
        if isinstance(self.downsample, nn.Sequential):
            norm, convolution = self.downsample
            x = visible.keep(convolution(masked_norm(norm, x, visible)))
        for block in self.blocks:
            x = block(x, visible)
        return x


class MaskedResNet(ResNet):
    """timm's plain ResNet, without head."""

    def parts(self) -> list[nn.Module]:
        """The four stages."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def maps(self, x: Tensor, visible: Visible | None = None, stages: int = 4) -> list[Tensor]:
        """Images (B, C, H, W) -> the maps of the first `stages` stages, at a 4th, 8th, 16th and 32nd of the size."""
        x = self.conv1(x if visible is None else visible.keep(x))
        x = self.maxpool(self.act1(self.bn1(x) if visible is None else masked_norm(self.bn1, x, visible)))
        x = x if visible is None else visible.keep(x)
        found = []
        for stage in self.parts()[:stages]:
            for block in stage:
                x = block(x, visible)
            found.append(x)
        return found


class MaskedConvNeXt(ConvNeXt):
    """timm's ConvNeXt, without head and without a norm after the last stage."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(num_classes=0, **arguments)
        self.head = nn.Identity()
        for stage in self.stages:  # timm takes no classes for them; those here differ in nothing but the forward pass
            stage.__class__ = MaskedConvNeXtStage
            for block in stage.blocks:
                block.__class__ = MaskedConvNeXtBlock

    def parts(self) -> list[nn.Module]:
        """The four stages."""
        return list(self.stages)

    def maps(self, x: Tensor, visible: Visible | None = None, stages: int = 4) -> list[Tensor]:
        """Images (B, C, H, W) -> the maps of the first `stages` stages, at a 4th, 8th, 16th and 32nd of the size."""
        patches, norm = self.stem
        x = patches(x if visible is None else visible.keep(x))
        x = norm(x) if visible is None else masked_norm(norm, x, visible)
        found = []
        for stage in self.parts()[:stages]:
            x = stage(x, visible)
            found.append(x)
        return found
