"""What is measured on graphs, by training, at the end of a run, by `zoo evaluate` and by the demo."""

from collections.abc import Sequence

from modalities.common.evaluation import TEST, FrozenFeatures, HeldOut, MeanAUC, ReportedEvaluator
from modalities.graph.objectives.graphmae import GraphMAEObjectiveConfig
from modalities.graph.sampling import OneGraph
from modalities.graph.sources import GraphSource
from trainer.errors import DataError

CLASSIFICATION = "graph-classification"
NODES = "node-classification"
FEATURES = "graph-ml"


def supervised(test: GraphSource | OneGraph, valid: GraphSource | OneGraph | None = None) -> list[ReportedEvaluator]:
    """Accuracy and cross-entropy of a classifier; of one with several labels the loss and the mean area under the ROC curve. Also on the part for choosing, where there is one."""
    task, found = NODES if isinstance(test, OneGraph) else CLASSIFICATION, []
    for source, split in ((test, TEST), (valid, "valid")):
        if source is None:
            continue
        if test.multi_label:
            found += [HeldOut(source, task, "binary cross-entropy", split=split), MeanAUC(source, task, split)]
        else:
            found.append(HeldOut(source, task, "cross-entropy", ("accuracy",), split=split))
    return found


def probed(train: GraphSource | OneGraph, test: GraphSource | OneGraph, kinds: Sequence[str] = ("probe", "knn")) -> FrozenFeatures:
    """Linear probe and 5-NN on frozen features of labelled graphs or nodes. DataError for several yes-or-no labels each, to which neither belongs."""
    if test.multi_label:
        raise DataError(f"{test.name} has {len(test.classes)} yes-or-no label(s) each; a linear probe and 5-NN of frozen features name classes. Train a head on them: zoo finetune MODEL --data.path SET --head probe.")
    return FrozenFeatures(train, test, NODES if isinstance(test, OneGraph) else CLASSIFICATION, kinds)


def loss_in_words(config: GraphMAEObjectiveConfig) -> str:
    """What GraphMAE's loss is."""
    what = f"scaled cosine error (exponent {config.alpha:g})" if config.loss == "sce" else "mean squared error"
    return f"{what} of node features, {100 * config.mask_rate:g} % hidden"
