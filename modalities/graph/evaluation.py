"""What is measured on graphs, by training, at the end of a run, by `zoo evaluate` and by the demo."""

from modalities.common.evaluation import FrozenFeatures, HeldOut, MeanAUC, ReportedEvaluator
from modalities.graph.objectives.graphmae import GraphMAEObjectiveConfig
from modalities.graph.sources import GraphSource

CLASSIFICATION = "graph-classification"
FEATURES = "graph-ml"


def supervised(test: GraphSource, multi_label: bool) -> list[ReportedEvaluator]:
    """Accuracy and cross-entropy of a classifier; of one with several labels the loss and the mean area under the ROC curve."""
    if multi_label:
        return [HeldOut(test, CLASSIFICATION, "binary cross-entropy"), MeanAUC(test, CLASSIFICATION)]
    return [HeldOut(test, CLASSIFICATION, "cross-entropy", shares=("accuracy",))]


def probed(train: GraphSource, test: GraphSource) -> FrozenFeatures:
    """Linear probe and 5-NN on frozen features of labelled graphs."""
    return FrozenFeatures(train, test, CLASSIFICATION)


def loss_in_words(config: GraphMAEObjectiveConfig) -> str:
    """What GraphMAE's loss is."""
    what = f"scaled cosine error (exponent {config.alpha:g})" if config.loss == "sce" else "mean squared error"
    return f"{what} of node features, {100 * config.mask_rate:g} % hidden"
