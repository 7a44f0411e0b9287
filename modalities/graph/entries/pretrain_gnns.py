"""Encoders for molecules and any other graphs, and how they are pre-trained: Hu et al., GraphMAE for molecules, GAE, DGI, GraphCL."""

from modalities.graph.entries.graphmae import CITATION as GRAPHMAE_CITATION
from modalities.graph.entries.graphmae import PAPER as GRAPHMAE_PAPER
from modalities.graph.entries.graphmae import EXPORTS, SNIPPET
from modalities.registry import ModelEntry, SystemEntry

PAPER = "Hu, Liu, Gomes, Zitnik, Liang, Pande, Leskovec: Strategies for Pre-training Graph Neural Networks, 2020, arXiv 1905.12265"
CITATION = """@inproceedings{hu2020strategies,
  title     = {Strategies for Pre-training Graph Neural Networks},
  author    = {Hu, Weihua and Liu, Bowen and Gomes, Joseph and Zitnik, Marinka and Liang, Percy and Pande, Vijay and Leskovec, Jure},
  booktitle = {International Conference on Learning Representations},
  year      = {2020}
}"""
RELEASED = (
    "github.com/snap-stanford/pretrain-gnns holds `chem/model_gin/{masking,contextpred,edgepred,infomax,supervised,...}.pth`: "
    "`zoo convert masking.pth --from official --to FOLDER`.",
)

SYSTEMS = {
    "graph/encoder": SystemEntry(
        target="modalities.graph.models.encoder:GraphEncoder",
        title="graph encoder",
        what="A graph network that gives every node an embedding and pools those of a graph, pre-trained without labels: by hidden attributes, by whether nodes are "
        "joined, by the context of a node, or by what belongs together.",
        paper=PAPER,
        citation=CITATION,
        limits="Features are learned from the graphs of the training set only and carry their biases. Graphs with other node features need another model.",
        pipeline_tag="graph-ml",
        tags=("gnn", "graph-pretraining"),
        snippet=SNIPPET,
        tasks={"classification": "graph/classifier"},
        exports=EXPORTS,
    ),
    "graph/graphmae-molecules": SystemEntry(
        target="modalities.graph.models.graphmae_molecules:GraphMAEMolecules",
        title="masked graph auto-encoder for molecules",
        what="The graph network for molecules of Hu et al. with bond features, trained without labels to name atoms that were hidden from it, decoded by one more layer.",
        paper=GRAPHMAE_PAPER,
        citation=GRAPHMAE_CITATION,
        limits="It knows the atoms and bonds of its training set; it sees which atoms are joined and how, not where they are in space.",
        pipeline_tag="graph-ml",
        tags=("masked-graph-modeling", "graphmae", "molecules", "gnn"),
        snippet=SNIPPET,
        tasks={"classification": "graph/classifier"},
        exports=EXPORTS,
    ),
}

_PUBLISHED = dict(encoder="molecule", in_dim=2, embed_dim=300, depth=5, activation="relu")
_TINY = dict(encoder="molecule", in_dim=2, embed_dim=64, depth=3, activation="relu")
_WAYS = {
    "masking": ("hidden atoms named", {}),
    "contextpred": ("the surroundings of an atom told from others", {}),
    "edgepred": ("atoms that are joined told from others", {}),
    "infomax": ("atoms told from those of other molecules", {}),
    "graphcl": ("two changed views of a molecule told from those of others", {
        "paper": "You, Chen, Sui, Chen, Wang, Shen: Graph Contrastive Learning with Augmentations, 2020, arXiv 2010.13902",
        "citation": """@inproceedings{you2020graphcl,
  title     = {Graph Contrastive Learning with Augmentations},
  author    = {You, Yuning and Chen, Tianlong and Sui, Yongduo and Chen, Ting and Wang, Zhangyang and Shen, Yang},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020}
}""",
    }),
}  # fmt: skip
"""Way of training -> (what it does, what of the system's words reads otherwise)."""

RECIPES = {
    f"graph/{size}-{way}": f"modalities.graph.recipes.pretrain_gnns:{size}_{way}" for size in ("tiny", "molecules") for way in (*_WAYS, "graphmae")
}


def _models() -> list[ModelEntry]:
    """Every way of training in both sizes."""
    found = []
    for size, parameters, with_decoder, fields in (("tiny", 59_712, 88_056, _TINY), ("molecules", 1_857_900, 2_202_720, _PUBLISHED)):
        where = "our own size for the built-in molecule-like graphs, GIN 3 x 64" if size == "tiny" else "the published size, GIN 5 x 300"
        for way, (what, words) in _WAYS.items():
            official = RELEASED if size == "molecules" and way != "graphcl" else ()
            found.append(ModelEntry(f"graph/{size}-{way}", "graph/encoder", f"Molecules, {what}; {where}", parameters, fields, None, official, words))
        found.append(ModelEntry(f"graph/{size}-graphmae", "graph/graphmae-molecules", f"GraphMAE for molecules; {where}", with_decoder, fields))
    return found


MODELS = _models()
