"""Encoders by name in sizes from tiny to large, the other networks for molecules of Hu et al., VGAE and Deep Graph Infomax."""

from typing import Any

from modalities.registry import ModelEntry


def _citation(key: str, title: str, author: str, booktitle: str, year: int) -> str:
    return f"@inproceedings{{{key},\n  title     = {{{title}}},\n  author    = {{{author}}},\n  booktitle = {{{booktitle}}},\n  year      = {{{year}}}\n}}"


_ICLR, _NEURIPS = "International Conference on Learning Representations", "Advances in Neural Information Processing Systems"
WORDS = {
    "gin": {
        "paper": "Xu, Hu, Leskovec, Jegelka: How Powerful are Graph Neural Networks?, 2019, arXiv 1810.00826",
        "citation": _citation("xu2019powerful", "How Powerful are Graph Neural Networks?", "Xu, Keyulu and Hu, Weihua and Leskovec, Jure and Jegelka, Stefanie", _ICLR, 2019),
    },
    "gat": {
        "paper": "Velickovic, Cucurull, Casanova, Romero, Lio, Bengio: Graph Attention Networks, 2018, arXiv 1710.10903",
        "citation": _citation(
            "velickovic2018graph", "Graph Attention Networks",
            "Velickovic, Petar and Cucurull, Guillem and Casanova, Arantxa and Romero, Adriana and Lio, Pietro and Bengio, Yoshua", _ICLR, 2018,
        ),
    },
    "gcn": {
        "paper": "Kipf, Welling: Semi-Supervised Classification with Graph Convolutional Networks, 2017, arXiv 1609.02907",
        "citation": _citation("kipf2017semi", "Semi-Supervised Classification with Graph Convolutional Networks", "Kipf, Thomas N. and Welling, Max", _ICLR, 2017),
    },
    "sage": {
        "paper": "Hamilton, Ying, Leskovec: Inductive Representation Learning on Large Graphs, 2017, arXiv 1706.02216",
        "citation": _citation("hamilton2017inductive", "Inductive Representation Learning on Large Graphs", "Hamilton, William L. and Ying, Rex and Leskovec, Jure", _NEURIPS, 2017),
    },
    "pna": {
        "paper": "Corso, Cavalleri, Beaini, Lio, Velickovic: Principal Neighbourhood Aggregation for Graph Nets, 2020, arXiv 2004.05718",
        "citation": _citation(
            "corso2020principal", "Principal Neighbourhood Aggregation for Graph Nets",
            "Corso, Gabriele and Cavalleri, Luca and Beaini, Dominique and Lio, Pietro and Velickovic, Petar", _NEURIPS, 2020,
        ),
    },
    "gps": {
        "paper": "Rampasek, Galkin, Dwivedi, Luu, Wolf, Beaini: Recipe for a General, Powerful, Scalable Graph Transformer, 2022, arXiv 2205.12454",
        "citation": _citation(
            "rampasek2022recipe", "Recipe for a General, Powerful, Scalable Graph Transformer",
            "Rampasek, Ladislav and Galkin, Mikhail and Dwivedi, Vijay Prakash and Luu, Anh Tuan and Wolf, Guy and Beaini, Dominique", _NEURIPS, 2022,
        ),
    },
    "vgae": {
        "paper": "Kipf, Welling: Variational Graph Auto-Encoders, 2016, arXiv 1611.07308",
        "citation": _citation("kipf2016variational", "Variational Graph Auto-Encoders", "Kipf, Thomas N. and Welling, Max", "NIPS Workshop on Bayesian Deep Learning", 2016),
    },
    "dgi": {
        "paper": "Velickovic, Fedus, Hamilton, Lio, Bengio, Hjelm: Deep Graph Infomax, 2019, arXiv 1809.10341",
        "citation": _citation(
            "velickovic2019deep", "Deep Graph Infomax",
            "Velickovic, Petar and Fedus, William and Hamilton, William L. and Lio, Pietro and Bengio, Yoshua and Hjelm, R Devon", _ICLR, 2019,
        ),
    },
}  # fmt: skip
"""Encoder or way of training -> what of the system's words reads otherwise."""

SIZES: dict[str, dict[str, Any]] = {"tiny": dict(embed_dim=64, depth=2), "base": dict(embed_dim=256, depth=5, num_heads=8), "large": dict(embed_dim=512, depth=8, num_heads=8)}
_WALK, _LAPLACIAN = dict(encoder="gps", activation="relu", positions="random_walk", position_dim=20), dict(encoder="gps", activation="relu", positions="laplacian", position_dim=8)
ENCODERS: dict[str, tuple[str, dict[str, Any], tuple[int, int, int]]] = {
    "gin": ("GIN", {}, (14_084, 601_610, 3_964_944)),
    "gat": ("GAT", dict(encoder="gat"), (5_762, 272_645, 1_863_688)),
    "gcn": ("GCN", dict(encoder="gcn"), (5_506, 270_085, 1_855_496)),
    "sage": ("GraphSAGE", dict(encoder="sage"), (10_626, 536_325, 3_698_696)),
    "pna": ("PNA", dict(encoder="pna"), (84_050, 4_319_765, 29_749_272)),
    "gps": ("GraphGPS with 20 steps of random walks", _WALK, (85_032, 3_300_648, 21_042_216)),
    "gps-laplacian": ("GraphGPS with 8 Laplacian eigenvectors", _LAPLACIAN, (84_816, 3_299_856, 21_040_656)),
}
"""Name -> (in words, fields, parameters in each size)."""
MOLECULES = {"gcn": 504_900, "gat": 977_400, "graphsage": 504_900}
"""Layer of a network for molecules in the published size -> parameters."""
RELEASED = (
    "github.com/snap-stanford/pretrain-gnns holds `chem/model_architecture/{layer}_{{contextpred,supervised,supervised_contextpred}}.pth`. With "
    '`{{"gnn_type": "{layer}"}}` in arguments.json: `zoo convert {layer}_contextpred.pth --from official --config arguments.json --to FOLDER`.'
)
_ATOMS = dict(encoder="molecule", in_dim=2, activation="relu")
_CORA = dict(encoder="gcn", in_dim=1433, norm="none")

RECIPES = {f"graph/{size}-{way}": f"modalities.graph.recipes.encoders:{size}_{way}" for size in ("tiny", "cora") for way in ("vgae", "dgi")}


def _models() -> list[ModelEntry]:
    found = []
    for name, (what, fields, parameters) in ENCODERS.items():
        for (size, sizes), count in zip(SIZES.items(), parameters):
            summary = f"{what}, {sizes['depth']} layers of {sizes['embed_dim']}, for any objective; set in_dim to the width of the node features"
            found.append(ModelEntry(f"graph/{name}-{size}", "graph/encoder", summary, count, {**fields, **sizes}, words=WORDS[name.partition("-")[0]]))
    for layer, count in MOLECULES.items():
        fields = {**_ATOMS, "embed_dim": 300, "depth": 5, "bond_layer": layer, **({"num_heads": 2} if layer == "gat" else {})}
        summary, official = f"Molecules, layers of the kind {layer}; the published size, 5 x 300", RELEASED.format(layer=layer)
        found.append(ModelEntry(f"graph/molecules-{layer}", "graph/encoder", summary, count, fields, None, (official,)))
    tiny = {**_ATOMS, "embed_dim": 64, "depth": 3}
    return [
        *found,
        ModelEntry("graph/tiny-vgae", "graph/encoder", "VGAE for the built-in molecule-like graphs, GIN 3 x 64", 59_712, tiny, words=WORDS["vgae"]),
        ModelEntry("graph/tiny-dgi", "graph/encoder", "Deep Graph Infomax for the built-in molecule-like graphs, GIN 3 x 64", 59_712, tiny, words=WORDS["dgi"]),
        ModelEntry("graph/cora-vgae", "graph/encoder", "VGAE for Cora: GCN 2 x 32, then linear layers to codes of 16 (in the paper GCN 32, then GCN 16)", 46_944,
                   {**_CORA, "embed_dim": 32, "depth": 2, "activation": "relu"}, words=WORDS["vgae"]),
        ModelEntry("graph/cora-dgi", "graph/encoder", "Deep Graph Infomax as published for Cora, GCN 1 x 512", 734_209, {**_CORA, "embed_dim": 512, "depth": 1}, words=WORDS["dgi"]),
    ]  # fmt: skip


MODELS = _models()
