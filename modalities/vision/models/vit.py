"""The ViT classifier with which MAE is fine-tuned or probed (He et al. 2021, section 4 and appendix A).

Computes what facebookresearch/mae@efb2a80 `models_vit.py:VisionTransformer` computes, which is timm's
`VisionTransformer` with `global_pool` "avg" or "token".
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from modalities.common.positions import resize_positions
from modalities.common.vit import ViTConfig, ViTEncoder
from modalities.vision.preprocess import ImagePreprocess
from trainer.errors import ConfigError, DataError, ModelError
from trainer.objective import Batch


@dataclass(frozen=True)
class ViTClassifierConfig(ViTConfig):
    """A ViT encoder, the way to pool its tokens, and a linear head."""

    num_classes: int = 1000
    """Outputs of the head. 0: no head, the logits are the features."""
    pool: Literal["avg", "token"] = "avg"
    """avg: mean of the patch tokens (without class token) of the last block, then `fc_norm`, as the official
    repository fine-tunes. token: `norm`, then the class token."""
    head: Literal["linear", "probe"] = "linear"
    """linear: the whole network trains. probe: only a linear layer behind a batch norm trains, on frozen features."""
    class_names: tuple[str, ...] = ()
    """What the outputs stand for, in order; empty when unknown."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes < 0:
            raise ConfigError(f"num_classes must be 0 (no head) or more, found {self.num_classes}.")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ConfigError(f"class_names has {len(self.class_names)} names for num_classes={self.num_classes}. Give one per class, or none.")
        if self.pool == "token" and not self.class_token:
            raise ConfigError("pool='token' needs class_token=True. Use pool='avg' for an encoder without class token.")
        if self.head == "probe" and self.num_classes < 1:
            raise ConfigError("head='probe' needs num_classes of at least 1, found 0.")


class ViTClassifier(ViTEncoder):
    """Input `image` (B, C, H, W) float, normalised as `preprocess` says; `forward` gives logits (B, num_classes).

    `tokens` come after `norm` with pool "token" and straight from the last block with pool "avg". The position
    table trains here, unlike in pre-training. With head "probe" everything but the last linear layer is frozen
    and stays in evaluation mode.
    """

    system = "vision/mae-vit"
    config_class = ViTClassifierConfig
    input_key = "image"

    def default_preprocess(self) -> ImagePreprocess | None:
        """ImageNet's statistics for RGB, -1..1 for grey; other channels have no usual ones."""
        return ImagePreprocess.usual(self.config.input_size, self.config.in_chans)

    def __init__(self, config: ViTClassifierConfig) -> None:
        super().__init__(config)
        width, classes = config.embed_dim, config.num_classes
        if config.pool == "avg":
            self.norm = nn.Identity()
            self.fc_norm = nn.LayerNorm(width, eps=config.norm_eps)
        if classes == 0:
            self.head = nn.Identity()
            linear = None
        elif config.head == "probe":
            linear = nn.Linear(width, classes)
            self.head = nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), linear)
        else:
            self.head = linear = nn.Linear(width, classes)
        if linear is not None:
            nn.init.trunc_normal_(linear.weight, std=0.01 if config.head == "probe" else 2e-5)
            nn.init.zeros_(linear.bias)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(config.head != "probe" or name.startswith("head."))

    def embed(self, batch: Batch) -> Tensor:
        """The vector that the head sees, (B, D), `fc_norm` or `norm` applied."""
        tokens = self.tokens(batch)  # (B, P+L, D)
        if self.config.pool == "token":
            return tokens[:, 0]
        return self.fc_norm(tokens[:, self.prefix :].mean(dim=1))

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_classes)."""
        features = self.embed(batch)
        if self.training and self.config.head == "probe" and features.shape[0] < 2:
            raise DataError("A linear probe normalises over the batch, so a training batch needs at least 2 samples, found 1.")
        return self.head(features)

    def no_weight_decay(self) -> set[str]:
        return {"cls_token", "pos_embed"}

    def train(self, mode: bool = True) -> "ViTClassifier":
        """Training mode; the frozen trunk of a probe stays in evaluation mode."""
        super().train(mode)
        if self.config.head == "probe":
            for name, child in self.named_children():
                child.train(mode and name == "head")
        return self

    @classmethod
    def from_encoder(cls, encoder: ViTEncoder, num_classes: int, pool: Literal["avg", "token"] = "avg", **changes: Any) -> "ViTClassifier":
        """A classifier on the weights of an encoder; the head and, with pool "avg", `fc_norm` start fresh.

        `changes` are further config fields (head, drop_path, class_names, input_size, ...). For another
        input_size the position table is resized (bicubic). The preprocessing is taken over, for the new size.
        Raises ModelError when a weight of the trunk is missing or has another shape.
        """
        shared = {name: getattr(encoder.config, name) for name in ViTConfig.__dataclass_fields__}
        config = cls.config_class(**{**shared, "num_classes": num_classes, "pool": pool, **changes})
        model = cls(config)
        own = model.state_dict()
        fresh = {name for name in own if name.startswith(("head.", "fc_norm."))}
        state = {name: tensor for name, tensor in encoder.state_dict().items() if name in own and not name.startswith("head.")}
        state["pos_embed"] = resize_positions(state["pos_embed"], encoder.config.grid, config.grid, model.prefix)
        wrong = sorted(n for n in own if n not in fresh and (n not in state or state[n].shape != own[n].shape))
        if wrong:
            raise ModelError(
                f"{type(encoder).__name__} does not give the trunk of this classifier: {', '.join(wrong[:8])} missing or of another shape. "
                "Keep the encoder's widths and patch size, and use pool='avg' for an encoder that was fine-tuned with it."
            )
        model.load_state_dict(state, strict=False)
        model.preprocess = encoder.preprocess
        if model.preprocess is not None and config.input_size != encoder.config.input_size:
            usual = type(model.preprocess).default(config.input_size, config.in_chans)
            model.preprocess = replace(model.preprocess, size=config.input_size, crop_pct=usual.crop_pct)
        return model.to(next(encoder.parameters()).device)
