"""The table of layouts that are read: one small checkpoint of each system in each layout, written as its owner writes it.

A new system adds its cases here and is put through all tests of `test_layouts.py`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from modalities.common.golden import Golden
from modalities.graph.interop import graphmae
from modalities.graph.interop import preroutgnn as circuits
from modalities.graph.interop import pretrain_gnns as molecules
from modalities.graph.models.circuit_autoencoder import CircuitAutoEncoder, CircuitAutoEncoderConfig, CircuitModel
from modalities.graph.models.classifier import GraphClassifier, GraphClassifierConfig
from modalities.graph.models.encoder import GraphEncoder, GraphEncoderConfig
from modalities.graph.models.graphmae import GraphMAE, GraphMAEConfig
from modalities.graph.models.preroutgnn import PreRoutGNN, PreRoutGNNConfig
from modalities.time_series.interop import from_transformers
from modalities.time_series.models.from_transformers import FORECASTERS
from modalities.time_series.models.sspt import SSPT, SSPTConfig
from modalities.vision.interop import mae as interop
from modalities.vision.interop.poa import to_official
from modalities.vision.interop.spark import UNUSED, to_backbone
from modalities.vision.models.convnet import ConvNet, ConvNetConfig
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.models.poa_vit import POAViT
from modalities.vision.models.vit import ViTClassifier, ViTClassifierConfig
from tests.modalities.vision.references import randomise, timm_vit, transformers_mae

GOLDEN = Path(__file__).parents[1] / "golden"

State = dict[str, Tensor]
Checkpoint = tuple[State, dict[str, Any] | None]
"""Tensors and config.json (None: the layout has none)."""


@dataclass(frozen=True)
class Case:
    """A checkpoint in some layout and what its load report must say."""

    name: str
    make: Callable[[], Checkpoint]
    system: str
    layout: str
    words: str
    joined: int = 0
    """Tensors of the model that are made of several of the file."""
    resized: tuple[str, ...] = ("pos_embed", "patch_embed.proj.weight")
    """Tensors of the model that another input size and other channels change. Of a model that becomes no classifier: none."""
    telling: str = "patch_embed"
    """Part of the name of a tensor by which the size of the network is known."""
    narrowed: dict[str, Any] = field(default_factory=dict)
    """What else must be asked for so that a picture alone will do."""


def golden(name: str, keep: Callable[[str], bool] = lambda name: True) -> Callable[[], Checkpoint]:
    def make() -> Checkpoint:
        file = Golden.read(GOLDEN / name)
        return {name: tensor for name, tensor in file.state.items() if keep(name)}, dict(file.config)

    return make


def encoder_of_the_release() -> Checkpoint:
    """As mae_pretrain_vit_*.pth: no decoder, and no word about the network; only published widths can be read so."""
    state = {name: tensor for name, tensor in randomise(MAE(MAEConfig(input_size=32, embed_dim=192, num_heads=3, depth=2, decoder_depth=1))).state_dict().items()}
    return {name: tensor for name, tensor in state.items() if not name.startswith(("decoder_", "mask_token"))}, None


def probe() -> Checkpoint:
    model = ViTClassifier(ViTClassifierConfig(input_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, num_classes=5, pool="token", head="probe"))
    return dict(randomise(model).state_dict()), {"num_heads": 3}


def hub_spelling() -> Checkpoint:
    state, config = interop.to_transformers(randomise(MAE(MAEConfig(input_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2))))
    return state, config


def fifth_spelling() -> Checkpoint:
    model = transformers_mae()
    state = {name.replace("decoder.decoder_layers", "decoder.decoder_encoder.layer"): tensor for name, tensor in hub_spelling()[0].items()}
    return state, model.config.to_dict()


def memory_spelling() -> Checkpoint:
    model = transformers_mae()
    return dict(model.state_dict()), model.config.to_dict()


def of_timm(pool: str) -> Callable[[], Checkpoint]:
    def make() -> Checkpoint:
        arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
        config = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "global_pool": pool, "model_args": arguments, "pretrained_cfg": {"mean": [0.5] * 3}}
        return dict(timm_vit(global_pool=pool).state_dict()), config

    return make


def teacher_of_poa() -> Checkpoint:
    """As a training run saves it, without a word about the network but what no tensor shows."""
    state, config = golden("vision/poa.safetensors")()
    return {f"teacher.{name}": tensor for name, tensor in state.items()}, {"head_dim": config["head_dim"]}


def part_of_poa() -> Checkpoint:
    fields = dict(input_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, num_classes=0, pool="token", layer_scale=1e-5)
    return to_official(randomise(POAViT(ViTClassifierConfig(**fields)))), {"head_dim": 8}


def series_golden(name: str) -> Callable[[], Checkpoint]:
    """A golden file of time series, its counters whole numbers again, without what the authors' model makes and never uses."""

    def make() -> Checkpoint:
        state, config = golden(f"time_series/{name}.safetensors", lambda name: not name.startswith(("conv_upsampling.", "revin_layer.")))()
        return {name: tensor.long() if name.endswith("num_batches_tracked") else tensor for name, tensor in state.items()}, config

    return make


def of_transformers(kind: str, **arguments: Any) -> Callable[[], Checkpoint]:
    """A forecaster of transformers with that library's code."""

    def make() -> Checkpoint:
        model = next(model for model in FORECASTERS if kind in model.config_class.family)
        return from_transformers.to_transformers(randomise(model(model.config_class(kind, {"context_length": 16, "patch_length": 4, **arguments}))))

    return make


def sspt() -> Checkpoint:
    model = randomise(SSPT(SSPTConfig(in_chans=3, days=8, embed_dim=8, num_heads=2, extractor_layers=2, predictor_layers=2, num_stocks=5, num_sectors=2, average_price=1)))
    return dict(model.state_dict()), {"num_heads": 2}


def released_gnn() -> Checkpoint:
    """As the authors of pretrain-gnns release it: the network alone, without any config."""
    state = golden("graph/pretrain_gnns.safetensors", lambda name: name.startswith("gnn."))()[0]
    return {name.removeprefix("gnn."): tensor for name, tensor in state.items()}, None


def of_molecules(**fields: Any) -> Callable[[], Checkpoint]:
    """As the authors of pretrain-gnns release or save it: a network with other layers than GIN, or a predictor with learned pooling."""

    def make() -> Checkpoint:
        kind, config = (GraphClassifier, GraphClassifierConfig) if "num_classes" in fields else (GraphEncoder, GraphEncoderConfig)
        model = randomise(kind(config(encoder="molecule", in_dim=2, embed_dim=6, depth=3, activation="relu", **fields)))
        return molecules.to_official(model), molecules.official_config(model)

    return make


def of_graphmae(whole: bool, **fields: Any) -> Callable[[], Checkpoint]:
    """GraphMAE as a run of the official code saves it, or its encoder alone."""

    def make() -> Checkpoint:
        model = randomise(GraphMAE(GraphMAEConfig(in_dim=5, embed_dim=8, num_heads=2, **fields)))
        return {name: tensor for name, tensor in model.state_dict().items() if whole or name.startswith("encoder.")}, graphmae.official_config(model)

    return make


def of_circuits(model: type[CircuitModel], config: type[CircuitAutoEncoderConfig]) -> Callable[[], Checkpoint]:
    """The encoder of circuits with its decoder, or with the timing network."""

    def make() -> Checkpoint:
        made = randomise(model(config(latent_dim=3, hidden_dim=6, mlp_dim=5, message_dim=2, frequencies=2)))
        return circuits.to_official(made), None

    return make


def spark_golden(name: str) -> Callable[[], Checkpoint]:
    return golden(f"vision/{name}.safetensors", lambda name: name not in UNUSED)


def backbone(block: str, layout: str) -> Callable[[], Checkpoint]:
    """A backbone alone, as the authors of SparK release it: without any config."""

    def make() -> Checkpoint:
        return to_backbone(randomise(ConvNet(ConvNetConfig(block=block, **SMALL_CONVNET))), layout), None

    return make


def convnet_of_timm(architecture: str, **arguments: Any) -> Callable[[], Checkpoint]:
    def make() -> Checkpoint:
        model = randomise(timm.create_model(architecture, num_classes=5, **arguments))
        cfg = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 64, 64]}
        return dict(model.state_dict()), {"architecture": architecture, "num_classes": 5, "model_args": arguments, "pretrained_cfg": cfg}

    return make


SEVERAL = dict(telling="input_adapters.rgb.proj", resized=("input_adapters.rgb.pos_emb", "input_adapters.rgb.proj.weight"), narrowed={"in_domains": ("rgb",)})
SMALL_CONVNET = dict(input_size=64, depths=(1, 2, 1, 1), widths=(4, 6, 8, 10))
CASES = [
    Case("MAE, official with decoder", golden("vision/mae_official.safetensors"), "vision/mae", "official", "encoder complete 30/30; decoder complete 32/32"),
    Case("MAE, official encoder", encoder_of_the_release, "vision/mae-vit", "official", "encoder complete 30/30"),
    Case("MAE, official fine-tuned", golden("vision/mae_finetune.safetensors"), "vision/mae-vit", "official",
         "encoder complete 28/28; norm of the mean complete 2/2; classification head complete 2/2"),
    Case("MAE, official probe", probe, "vision/mae-vit", "official", "encoder complete 30/30; classification head complete 5/5"),
    Case("MAE, transformers of the goldens", golden("vision/mae_transformers.safetensors"), "vision/mae", "transformers",
         "encoder complete 30/30; decoder complete 20/20", joined=6),
    Case("MAE, transformers on the Hub", hub_spelling, "vision/mae", "transformers", "encoder complete 30/30; decoder complete 20/20", joined=6),
    Case("MAE, as transformers 5 writes it", fifth_spelling, "vision/mae", "transformers-5", "encoder complete 30/30; decoder complete 20/20", joined=6),
    Case("MAE, transformers in memory", memory_spelling, "vision/mae", "transformers-memory", "encoder complete 30/30; decoder complete 20/20", joined=6),
    Case("ViT, timm avg", of_timm("avg"), "vision/mae-vit", "timm", "encoder complete 28/28; norm of the mean complete 2/2; classification head complete 2/2"),
    Case("POA, official", golden("vision/poa.safetensors"), "vision/poa", "official", "encoder complete 48/48; mask token complete 1/1; heads complete 16/16"),
    Case("POA, teacher of a run", teacher_of_poa, "vision/poa", "official", "encoder complete 48/48; mask token complete 1/1; heads complete 16/16"),
    Case("POA, a part of it", part_of_poa, "vision/poa-vit", "official", "encoder complete 34/34"),
    Case("VideoMAE, official", golden("video/videomae_official.safetensors"), "video/videomae", "official", "decoder complete 19/19; encoder complete 30/30", resized=("patch_embed.proj.weight",)),
    Case("VideoMAE, official fine-tuned", golden("video/videomae_finetune.safetensors"), "video/videomae-vit", "official",
         "encoder complete 28/28; norm of the mean complete 2/2; classification head complete 2/2", resized=("patch_embed.proj.weight",)),
    Case("VideoMAE, transformers", golden("video/videomae_transformers.safetensors"), "video/videomae", "transformers",
         "decoder complete 19/19; encoder complete 30/30", joined=3, resized=("patch_embed.proj.weight",)),
    Case("VideoMAE, transformers fine-tuned", golden("video/videomae_transformers_cls.safetensors"), "video/videomae-vit", "transformers",
         "encoder complete 28/28; norm of the mean complete 2/2; classification head complete 2/2", joined=2, resized=("patch_embed.proj.weight",)),
    Case("InternVideo-Next, official", golden("video/internvideo_next_encoder.safetensors"), "video/internvideo-next", "official",
         "encoder complete 32/32; attention pooling complete 14/14", resized=("pos_embed", "patch_embed.proj.weight", "patch_embed.norm_before.weight")),
    Case("MultiMAE, official", golden("vision/multimae.safetensors"), "vision/multimae", "official",
         "encoder complete 25/25; inputs complete 10/10; outputs complete 148/148", **SEVERAL),
    Case("MultiMAE, official fine-tuned", golden("vision/multimae_cls.safetensors"), "vision/multivit", "official",
         "encoder complete 25/25; inputs complete 3/3; norm of the pooled tokens complete 2/2; classification head complete 2/2", **SEVERAL),
    Case("pretrain-gnns", golden("graph/pretrain_gnns.safetensors", lambda name: name.startswith(("gnn.", "graph_pred"))), "graph/classifier", "official",
         "encoder complete 24/24; classification head complete 2/2", resized=(), telling="x_embedding2"),
    Case("pretrain-gnns, released", released_gnn, "graph/encoder", "official", "encoder complete 24/24", resized=(), telling="x_embedding2"),
    Case("pretrain-gnns, GCN", of_molecules(bond_layer="gcn"), "graph/encoder", "official", "encoder complete 29/29", resized=(), telling="x_embedding2"),
    Case("pretrain-gnns, GAT", of_molecules(bond_layer="gat", num_heads=2), "graph/encoder", "official", "encoder complete 35/35", resized=(), telling="x_embedding2"),
    Case("pretrain-gnns, GraphSAGE with set2set", of_molecules(bond_layer="graphsage", num_classes=3, multi_label=True, pool="set2set", pool_steps=2), "graph/classifier", "official",
         "encoder complete 29/29; pooling complete 4/4; classification head complete 2/2", resized=(), telling="x_embedding2"),
    Case("pretrain-gnns, attention", of_molecules(num_classes=3, multi_label=True, pool="attention", jk="concat"), "graph/classifier", "official",
         "encoder complete 35/35; pooling complete 2/2; classification head complete 2/2", resized=(), telling="x_embedding2"),
    Case("GraphMAE for molecules", golden("graph/graphmae_chem.safetensors", lambda name: "dec_token" not in name), "graph/graphmae-molecules", "official",
         "encoder complete 24/24; decoder complete 8/8", resized=(), telling="x_embedding2"),
    Case("GraphMAE", golden("graph/graphmae_gin.safetensors"), "graph/graphmae", "official", "decoder complete 13/13; encoder complete 34/34", resized=(), telling="encoder_to_decoder"),
    Case("GraphMAE, GAT to GIN", of_graphmae(True, encoder="gat", depth=3, residual=True, concat_hidden=True), "graph/graphmae", "official",
         "decoder complete 13/13; encoder complete 31/31", resized=(), telling="encoder_to_decoder"),
    Case("GraphMAE, dot product to MLP", of_graphmae(True, encoder="dotgat", norm="layernorm", activation="elu", decoder="mlp"), "graph/graphmae", "official",
         "decoder complete 7/7; encoder complete 6/6", resized=(), telling="encoder_to_decoder"),
    Case("GraphMAE, encoder of GCN", of_graphmae(False, encoder="gcn", norm="none"), "graph/encoder", "official", "encoder complete 6/6", resized=(), telling="gcn_layers.0.fc"),
    Case("GraphMAE, encoder of GIN", of_graphmae(False, encoder="gin"), "graph/encoder", "official", "encoder complete 34/34", resized=(), telling="layers.0.apply_func.mlp.linears.0"),
    Case("GraphMAE, encoder of GAT", of_graphmae(False, encoder="gat"), "graph/encoder", "official", "encoder complete 20/20", resized=(), telling="gat_layers.0.fc"),
    Case("Auto-encoder of PreRoutGNN", of_circuits(CircuitAutoEncoder, CircuitAutoEncoderConfig), "graph/circuit-autoencoder", "official", "encoder complete 64/64; decoder complete 64/64",
         resized=(), telling="encoder.layer0.MLP_msg.layers.0"),
    Case("PreRoutGNN", of_circuits(PreRoutGNN, PreRoutGNNConfig), "graph/preroutgnn", "official", "encoder complete 64/64; timing network complete 150/150", resized=(), telling="encoder.layer0.MLP_msg.layers.0"),
    Case("ViT, timm token", of_timm("token"), "vision/mae-vit", "timm", "encoder complete 30/30; classification head complete 2/2"),
    Case("SparK, ResNet", spark_golden("spark_resnet"), "vision/spark", "official", "encoder complete 102/102; decoder complete 104/104",
         resized=("backbone.conv1.weight",), telling="bn1"),
    Case("SparK, ConvNeXt", spark_golden("spark_convnext"), "vision/spark", "official", "encoder complete 61/61; decoder complete 92/92",
         resized=("backbone.stem.0.weight",), telling="norm"),
    Case("SparK, backbone of ResNet", backbone("basic", "timm"), "vision/convnet", "official", "encoder complete 90/90", resized=("backbone.conv1.weight",), telling="bn1"),
    Case("SparK, backbone of ConvNeXt", backbone("convnext", "official"), "vision/convnet", "official", "encoder complete 61/61",
         resized=("backbone.stem.0.weight",), telling="norm"),
    Case("ResNet, timm", convnet_of_timm("resnet50", layers=[1, 2, 1, 1], channels=[2, 2, 4, 4]), "vision/convnet-classifier", "timm",
         "encoder complete 120/120; classification head complete 2/2", resized=("backbone.conv1.weight",), telling="bn1"),
    Case("ConvNeXt, timm", convnet_of_timm("convnext_tiny", depths=[1, 2, 1, 1], dims=[4, 6, 8, 10]), "vision/convnet-classifier", "timm",
         "encoder complete 61/61; norm of the mean complete 2/2; classification head complete 2/2", resized=("backbone.stem.0.weight",), telling="norm"),
    Case("TimelyGPT, signals", series_golden("timelygpt_cts"), "time_series/timelygpt", "official", "model complete 59/59; tokens complete 6/6; head complete 2/2", resized=(), telling="ln_f"),
    Case("TimelyGPT, codes", series_golden("timelygpt_ists"), "time_series/timelygpt-codes", "official", "model complete 57/57; table of codes complete 1/1; head complete 2/2", resized=(), telling="ln_f"),
    Case("PatchTST, transformers", of_transformers("patchtst", patch_stride=4, d_model=8, ffn_dim=8, num_hidden_layers=2, num_input_channels=2), "time_series/patch-forecaster",
         "transformers", "model complete 49/49", resized=(), telling="head.projection"),
    Case("TimesFM, transformers", of_transformers("timesfm2_5", hidden_size=16, intermediate_size=16, head_dim=8, num_attention_heads=2, num_key_value_heads=2,
         num_hidden_layers=2, horizon_length=8, output_quantile_len=8), "time_series/timesfm", "transformers", "model complete 38/38", resized=(), telling="input_ff_layer"),
    Case("SSPT, official", sspt, "time_series/sspt", "official",
         "feature extractor complete 27/27; predictor complete 24/24; head complete 2/2; pre-training heads complete 6/6", resized=(), telling="feature_extractor.embedding"),
    Case("CE-SSL with updates", series_golden("ce_ssl"), "time_series/ce-ssl", "official", "encoder complete 86/86; classification head complete 6/6", resized=(), telling="encoder_layers.0.bn1"),
    Case("GPHT, official", golden("time_series/gpht.safetensors"), "time_series/gpht", "official", "stages complete 63/63", resized=(), telling="encoder.norm"),
    Case("Chronos-Bolt, official", golden("time_series/chronos_bolt.safetensors"), "time_series/chronos-bolt", "official",
         "special tokens complete 1/1; patch embedding complete 6/6; encoder complete 14/14; decoder complete 15/15; forecast head complete 6/6",
         joined=2, resized=(), telling="encoder.final_layer_norm"),
    Case("Time-MoE, official", golden("time_series/time_moe.safetensors"), "time_series/time-moe", "official",
         "embedding complete 2/2; layers complete 43/43; heads complete 3/3", joined=10, resized=(), telling="model.norm"),
    Case("TTM, official", golden("time_series/ttm.safetensors"), "time_series/ttm", "official", "backbone complete 98/98; decoder complete 34/34; head complete 2/2",
         resized=(), telling="encoder.patcher"),
    Case("TTM R3, official", golden("time_series/ttm_r3.safetensors"), "time_series/ttm", "official",
         "backbone complete 44/44; decoder complete 18/18; head complete 2/2; quantile head complete 8/8", resized=(), telling="head.base_forecast_block"),
    Case("Chronos-2, official", golden("time_series/chronos2.safetensors"), "time_series/chronos-2", "official",
         "special tokens complete 1/1; patch embedding complete 6/6; encoder complete 19/19; forecast head complete 6/6", joined=4, resized=(),
         telling="encoder.final_layer_norm"),
    Case("FlowState, official", golden("time_series/flowstate.safetensors"), "time_series/flowstate", "official",
         "embedding complete 2/2; encoder complete 24/24; decoder complete 2/2", resized=(), telling="model.embed"),
]  # fmt: skip
"""Every layout of every system."""

OWN = {"time_series/gpd", "video/internvideo-next-classifier", "vision/ssld", "vision/mae-segmenter", "vision/multivit-segmenter", "vision/convnet-segmenter"}
"""Systems of which nobody else has checkpoints that the zoo reads."""

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def write(folder: Path, state: State, config: dict[str, Any] | None) -> Path:
    """A folder as it would be downloaded."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def damaged(state: State, name: str, how: str) -> State | None:
    """The state with one tensor missing, renamed, transposed in shape, or one too many. None: a transposed one would have the same shape."""
    changed = dict(state)
    tensor = changed.pop(name)
    if how == "renamed":
        changed[f"{name}_old"] = tensor
    elif how == "extra":
        changed[name] = tensor
        changed[f"{name}.extra"] = torch.zeros(3)
    elif how == "transposed":
        turned = tensor.movedim(-1, 0) if tensor.ndim else tensor[None]
        turned = turned[None] if turned.ndim == 1 else turned  # a vector becomes a row
        if turned.shape == tensor.shape:
            return None
        changed[name] = turned
    return changed
