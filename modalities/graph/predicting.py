"""What a classifier says of the nodes of graphs, as a table and a picture: what `zoo predict NAME graph.npz` writes."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from modalities.graph.models.classifier import GraphClassifier
from modalities.graph.pictures import LARGEST, draw_classes, draw_graphs
from modalities.graph.preprocess import collate
from trainer.files import write_text


def node_table(model: GraphClassifier, files: Sequence[Path], to: Path | None) -> str:
    """Write a row for each node of the graphs in `files` to a table `to` (nodes.csv): the class and its probability, or a probability for each label. The first graph that is
    small enough is drawn beside it. Returns what was written, as text."""
    names = model.config.class_names or tuple(map(str, range(model.config.num_classes)))
    several, counts, drawn = model.config.multi_label, Counter(), ""
    table, picture = (to or Path("nodes.csv")).with_suffix(".csv"), (to or Path("nodes.png")).with_suffix(".png")
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["file", "node", *(names if several else ("class", "probability"))])
    for file in files:
        graph = model.preprocess.transform(file, str(file))
        with torch.inference_mode():
            logits = model.eval()(collate([graph]).to(model.device)).float().cpu()
        shares = logits.sigmoid() if several else logits.softmax(dim=1)
        best, place = shares.max(dim=1)
        said = [[f"{share:.4f}" for share in row] for row in shares.tolist()] if several else [[names[i], f"{share:.4f}"] for i, share in zip(place.tolist(), best.tolist())]
        out.writerows([file.name, node, *row] for node, row in enumerate(said))
        counts.update(names[i] for i in place.tolist())
        if not drawn and graph.num_nodes <= LARGEST:
            title = f"{file.name}: {graph.num_nodes:,} nodes"
            if several:
                draw_graphs([graph], [shares[:, 0].numpy()], [""], picture, title, f"probability of {names[0]}")
            else:
                draw_classes(graph, place.numpy(), names, picture, f"{title}, by the class that the model gives them")
            drawn = f", {picture}"
    write_text(table, text.getvalue())
    words = "" if several else f" ({', '.join(f'{name} {count:,}' for name, count in counts.most_common(8))})"
    return f"{sum(counts.values()):,} nodes{words}: {table}{drawn}"
