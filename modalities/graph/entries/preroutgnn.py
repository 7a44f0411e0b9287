"""PreRoutGNN: the auto-encoder of circuits and the timing network."""

from modalities.registry import ModelEntry, SystemEntry

PAPER = "Zhong, Ye, Tang, Kai, Yuan, Hao, Yan: PreRoutGNN for Timing Prediction with Order Preserving Partition: Global Circuit Pre-training, Local Delay Learning and Attentional Cell Modeling, 2024, arXiv 2403.00012"
CITATION = """@inproceedings{zhong2024preroutgnn,
  title     = {{PreRoutGNN} for Timing Prediction with Order Preserving Partition: Global Circuit Pre-training, Local Delay Learning and Attentional Cell Modeling},
  author    = {Zhong, Ruizhe and Ye, Junjie and Tang, Zhentao and Kai, Shixiong and Yuan, Mingxuan and Hao, Jianye and Yan, Junchi},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2024}
}"""
EXPORTS = {"official": "modalities.graph.exporting:circuit_export"}
SNIPPET = """batch = model.preprocess(["circuit.npz"])  # files, or dicts of arrays
features = model.embed(batch)  # (1, {numbers})
tokens = model.tokens(batch)  # one row for each pin"""

SYSTEMS = {
    "graph/circuit-autoencoder": SystemEntry(
        target="modalities.graph.models.circuit_autoencoder:CircuitAutoEncoder",
        title="auto-encoder of circuits",
        what="A graph network that describes each pin of a placed circuit by a few numbers, from which another gives back the pin's place and capacitances. "
        "It is trained without times; the timing network then gets its latents, and their mean, as what it knows of the whole circuit.",
        paper=PAPER,
        citation=CITATION,
        limits="It describes circuits of the technology and cell library that it was trained on. Circuits whose wires and cell arcs form a cycle have no levels and are refused.",
        pipeline_tag="graph-ml",
        tags=("eda", "static-timing-analysis", "preroutgnn", "gnn"),
        snippet=SNIPPET,
        exports=EXPORTS,
    ),
    "graph/preroutgnn": SystemEntry(
        target="modalities.graph.models.preroutgnn:PreRoutGNN",
        title="timing of placed circuits before routing",
        what="A graph network that predicts, for a circuit that is placed and not yet routed, when signals arrive at each pin, how steep they are, and the delay of "
        "each wire and of each arc through a cell. Times are carried from level to level; what a cell adds is read from its lookup tables by attention.",
        paper=PAPER,
        citation=CITATION,
        picture="Predicted over true arrival times and slacks of circuits, found level by level; and how slacks are spread",
        limits="Times hold for the technology, cell library and corners of its training set, and for lookup tables of 7 x 7 points. It does not replace a timing "
        "engine for sign-off. Errors add up along paths that are longer than those of the training set.",
        pipeline_tag="graph-ml",
        tags=("eda", "static-timing-analysis", "preroutgnn", "gnn"),
        snippet=SNIPPET + "\ntiming = model.timing_of(batch)  # arrival times and log-slews of pins, delays of wires and cells",
        exports=EXPORTS,
    ),
}

RECIPES = {
    "graph/circuit-autoencoder-tiny": "modalities.graph.recipes.preroutgnn:circuit_autoencoder_tiny",
    "graph/preroutgnn-tiny": "modalities.graph.recipes.preroutgnn:preroutgnn_tiny",
}

SMALL = dict(hidden_dim=16, depth=3, mlp_dim=32)
MODELS = [
    ModelEntry("graph/circuit-autoencoder-base", "graph/circuit-autoencoder", "Auto-encoder of circuits as published, 4 layers of 32", 253_846),
    ModelEntry("graph/circuit-autoencoder-tiny", "graph/circuit-autoencoder", "Auto-encoder of circuits, 3 layers of 16", 60_084, SMALL),
    ModelEntry("graph/preroutgnn-base", "graph/preroutgnn", "PreRoutGNN as published", 1_220_293),
    ModelEntry("graph/preroutgnn-tiny", "graph/preroutgnn", "PreRoutGNN with narrow layers", 137_636, {**SMALL, "gcn_dim": 16, "net_dim": 32, "cell_dim": 32}),
]
