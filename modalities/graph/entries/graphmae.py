"""GraphMAE and the bare encoder, and their sizes."""

from typing import Any

from modalities.registry import ModelEntry, SystemEntry

PAPER = "Hou, Liu, Cen, Dong, Yang, Wang, Tang: GraphMAE: Self-Supervised Masked Graph Autoencoders, 2022, arXiv 2205.10803"
CITATION = """@inproceedings{hou2022graphmae,
  title     = {{GraphMAE}: Self-Supervised Masked Graph Autoencoders},
  author    = {Hou, Zhenyu and Liu, Xiao and Cen, Yukuo and Dong, Yuxiao and Yang, Hongxia and Wang, Chunjie and Tang, Jie},
  booktitle = {Proceedings of the 28th ACM SIGKDD Conference on Knowledge Discovery and Data Mining},
  year      = {2022}
}"""
EXPORTS = {"official": "modalities.graph.exporting:official_export"}
SNIPPET = """batch = model.preprocess(["graph.npz"])  # files, or torch_geometric Data
features = model.embed(batch)  # (1, {width})
tokens = model.tokens(batch)  # one row for each node"""

SYSTEMS = {
    "graph/graphmae": SystemEntry(
        target="modalities.graph.models.graphmae:GraphMAE",
        title="masked graph auto-encoder",
        what="A graph network that was trained, without labels, to give back the features of nodes that were hidden from it. What it made of the hidden nodes is "
        "hidden once more before a small graph network decodes it, so that it has to come from their neighbours. The encoder is then used for features or fine-tuned.",
        paper=PAPER,
        citation=CITATION,
        limits="Features are learned from the graphs of the training set only and carry their biases. It predicts node features: where nodes have none but "
        "their degree, there is little to learn. Graphs with other node features need another model.",
        pipeline_tag="graph-ml",
        tags=("masked-graph-modeling", "graphmae", "gnn"),
        picture="Graphs whose hidden nodes are coloured by the error of their reconstruction",
        snippet=SNIPPET,
        tasks={"classification": "graph/classifier"},
        exports=EXPORTS,
    ),
    "graph/classifier": SystemEntry(
        target="modalities.graph.models.classifier:GraphClassifier",
        title="graph classifier, fine-tuned from a pre-trained encoder",
        what="A graph network with a linear head on the pooled embedding of its nodes (or on each node) that was trained on labelled graphs.",
        paper=PAPER,
        citation=CITATION,
        limits="It knows only the classes that it was trained on and gives one of them for any graph. Its accuracy holds for graphs that look like its training set, "
        "with the same node features.",
        pipeline_tag="graph-ml",
        tags=("gnn",),
        picture="Test graphs with their label and the prediction",
        snippet='logits = model(model.preprocess(["graph.npz"]))  # (graphs, {classes}), or one that names nodes: (nodes, {classes})\nprint(logits.argmax(dim=1), model.config.class_names)',
        headless={
            "what": "A graph network without head, which gives features, or starts a fine-tuning.",
            "limits": "Graphs with other node features need another model.",
            "snippet": 'features = model.embed(model.preprocess(["graph.npz"]))  # (1, {width})',
        },
        tasks={"classification": "graph/classifier"},
        exports=EXPORTS,
    ),
}

RECIPES = {f"graph/graphmae-{name}": f"modalities.graph.recipes.graphmae:graphmae_{name.replace('-', '_')}" for name in ("tiny-molecules", "cora", "pubmed", "mutag", "proteins", "nci1")}


def _graphmae(size: str, parameters: int, summary: str, **fields: Any) -> ModelEntry:
    return ModelEntry(f"graph/graphmae-{size}", "graph/graphmae", summary, parameters, fields)

_GAT = dict(encoder="gat", decoder="gat", norm="none", dropout=0.2, attn_dropout=0.1)

MODELS = [
    _graphmae("tiny-molecules", 22_225, "GraphMAE of our own size for the built-in molecule-like graphs, GIN 2 x 64", in_dim=6, embed_dim=64, depth=2),
    _graphmae("mutag", 12_793, "GraphMAE as published for MUTAG, GIN 5 x 32", in_dim=7, embed_dim=32, depth=5, dropout=0.2, pool="sum"),
    _graphmae("proteins", 1_848_845, "GraphMAE as published for PROTEINS, GIN 3 x 512", in_dim=3, embed_dim=512, depth=3, dropout=0.2, pool="max"),
    _graphmae("nci1", 1_356_367, "GraphMAE as published for NCI1, GIN 2 x 512", in_dim=37, embed_dim=512, depth=2, dropout=0.2),
    _graphmae("cora", 2_000_486, "GraphMAE as published for Cora, GAT 2 x 512 with 4 heads", in_dim=1433, embed_dim=512, depth=2, **_GAT),
    _graphmae("pubmed", 3_129_298, "GraphMAE as published for PubMed, GAT 2 x 1024 with 4 heads", in_dim=500, embed_dim=1024, depth=2, **_GAT),
]
