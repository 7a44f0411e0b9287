"""`zoo feasibility`: which graphs to pre-train on, measured before any training, as a table and pictures."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from scipy.sparse import csr_array
from torch_geometric.data import Data

from modalities.common.folders import train_and_test
from modalities.common.run import command
from modalities.graph.checks import check_graph, clean_edges
from modalities.graph.data import read_table
from modalities.graph.feasibility import Feasibility, FeasibilityConfig, bases_of, measure, ranked, steps_of
from modalities.graph.generated import BUILT_IN, GeneratedConfig
from modalities.graph.generated import graphs as generated_graphs
from modalities.graph.pictures import save
from trainer.errors import ConfigError, DataError, UnknownNameError, did_you_mean
from trainer.files import write_json
from trainer.logs import clock

log = logging.getLogger("zoo")

FEW = 10
"""Graphs of a set below which there is a warning."""
HOPS, LARGEST_NEIGHBOURHOOD = 2, 1000
"""Of one large graph: neighbourhoods of so many steps are taken, and those with more nodes left out, as in W2PGNN."""
Results = dict[str, dict[str, Feasibility]]
"""Downstream set -> pre-training choice -> how feasible, the most feasible first."""


def choose(
    pre: tyro.conf.Positional[str], down: tyro.conf.Positional[str], /, to: Path = Path("runs/feasibility"), graphs: int = 100,
    config: tyro.conf.OmitArgPrefixes[FeasibilityConfig] = FeasibilityConfig(),
) -> Results:  # fmt: skip
    """Measure how feasible pre-training on some graphs is for others (W2PGNN): the higher the score, at most 0, the better.

    Prints a table, and writes feasibility.json, heat_map.png (scores) and graphons.png (what was fitted). Nothing is trained; only edges count.

    Args:
        pre: Sets of graphs to choose from: names of built-in sets, folders or files, with commas between them. A + joins sets into one choice: trees+blocks.
        down: Sets of graphs to pre-train for, with commas between them.
        to: Folder for the table and the pictures.
        graphs: So many graphs of each set count, at most, drawn at random; of a set that is one graph, neighbourhoods of so many nodes.
        config: How it is measured.
    """
    if graphs < 1:
        raise ConfigError(f"--graphs is how many graphs of each set count, at least 1, found {graphs}.")
    choices, wanted = {choice: divided(choice, "+") for choice in divided(pre, ",")}, divided(down, ",")
    sets = {name: graphs_of(name, graphs, config.seed) for name in dict.fromkeys([*wanted, *(name for names in choices.values() for name in names)])}
    for name, found in sets.items():
        if len(found) < FEW:
            log.warning("%s: %d graph(s) only, so its graphon, and each score with it, hangs much on chance.", name, len(found))
    steps = {name: steps_of(sets[name], name, config) for name in wanted}
    results: Results = {}
    began, pairs = time.monotonic(), len(choices) * len(wanted)
    bases = {choice: bases_of({name: sets[name] for name in names}, config) for choice, names in choices.items()}
    for name in wanted:
        found = {}
        for choice in choices:
            found[choice] = measure(bases[choice], steps[name], config)
            log.info("%s for %s: %.4f (%d of %d, %s)", choice, name, found[choice].score, len(results) * len(choices) + len(found), pairs, clock(time.monotonic() - began))
        results[name] = ranked(found)
        print(table(name, results[name]), flush=True)
    rows = {name: {choice: summary(one) for choice, one in found.items()} for name, found in results.items()}
    to.mkdir(parents=True, exist_ok=True)
    write_json(to / "feasibility.json", {"command": command(), "downstream": rows})
    print(draw_scores(results, to / "heat_map.png"), draw_graphons(results, to / "graphons.png"), sep="\n")
    return results


def divided(names: str, mark: str) -> list[str]:
    """The names in a text, each once; a path that exists is one name, whatever marks are in it. ConfigError for an empty name."""
    parts = [names] if Path(names).exists() else [part.strip() for part in names.split(mark)]
    if not all(parts):
        raise ConfigError(f"Expected names of sets of graphs with {mark!r} between them, found {names!r}.")
    return list(dict.fromkeys(parts))


def graphs_of(name: str, count: int, seed: int = 0) -> list[Data]:
    """At most `count` graphs of a built-in set, a folder (its `train`, where there is one) or a file, drawn at random."""
    if name in BUILT_IN:
        return list(generated_graphs(name, "train", GeneratedConfig(samples=count))[0])
    if not Path(name).exists():
        raise UnknownNameError(f"{name!r} is no built-in set of graphs ({', '.join(BUILT_IN)}), and no such folder or file exists.{did_you_mean(name, BUILT_IN)}")
    graphs = read_table(train_and_test(name, BUILT_IN, "graphs")[0]).graphs
    if len(graphs) == 1:
        return neighbourhoods(graphs[0], count, name, seed)
    drawn = np.random.default_rng(seed).permutation(len(graphs))[:count]
    return [graphs[index] for index in sorted(drawn.tolist())]


def neighbourhoods(graph: Data, count: int, name: str, seed: int = 0) -> list[Data]:
    """The graph itself when it is small, else neighbourhoods of at most `count` of its nodes, drawn at random. DataError when all are too large."""
    nodes = check_graph(graph, name).num_nodes
    if nodes <= count:
        return [graph]
    ends = clean_edges(graph, nodes, undirected=True)[0].numpy()
    joined = csr_array((np.ones(ends.shape[1], np.int8), (ends[0], ends[1])), (nodes, nodes))
    found = []
    for node in np.random.default_rng(seed).permutation(nodes)[:count].tolist():
        near = np.array([node])
        for _ in range(HOPS):
            near = np.union1d(near, joined[near].indices) if len(near) <= LARGEST_NEIGHBOURHOOD else near
        if len(near) <= LARGEST_NEIGHBOURHOOD:
            found.append(Data(edge_index=torch.from_numpy(np.stack(joined[near][:, near].nonzero()).astype(np.int64)), num_nodes=len(near)))
    if not found:
        raise DataError(f"{name}: within {HOPS} steps of each of {count} nodes there are more than {LARGEST_NEIGHBOURHOOD:,} others. Cut it into smaller graphs, in files of their own.")
    return found


def summary(found: Feasibility) -> dict[str, object]:
    """A result as JSON: score, kind of groups, distance of each kind, shares of each group."""
    shares = {kind: dict(zip(found.bases.names[kind], map(float, one.alpha))) for kind, one in found.combinations.items()}
    return {"score": found.score, "kind": found.kind, "distances": {kind: one.distance for kind, one in found.combinations.items()}, "shares": shares}


def table(down: str, found: Mapping[str, Feasibility]) -> str:
    """The choices for a downstream set, the most feasible first, as lines."""
    width = max(len(down) + 4, *(len(choice) + 2 for choice in found))
    lines = [f"{'for ' + down:<{width}}{'score':>9}  {'groups':<10}distance by kind of groups; shares"]
    for choice, one in found.items():
        distances = ", ".join(f"{kind} {combination.distance:.4f}" for kind, combination in one.combinations.items())
        largest = sorted(zip(one.best.alpha, one.bases.names[one.kind]), reverse=True)[:3]
        shares = ", ".join(f"{name} {share:.2f}" for share, name in largest)
        lines.append(f"{choice:<{width}}{one.score:9.4f}  {one.kind:<10}{distances}; {shares}")
    return "\n".join(lines)


def draw_scores(results: Results, path: Path) -> Path:
    """Scores as a heat map: a row for each choice, a column for each downstream set; the best of each column is bold."""
    columns = [*results]
    rows = [*next(iter(results.values()))]
    scores = np.array([[results[column][row].score for column in columns] for row in rows])
    figure = Figure(figsize=(3.2 + 1.3 * len(columns), 1.6 + 0.55 * len(rows)), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(scores, cmap="viridis", aspect="auto")
    middle = (scores.min() + scores.max()) / 2
    for (row, column), score in np.ndenumerate(scores):
        best = score == scores[:, column].max()
        axis.text(column, row, f"{score:.3f}", ha="center", va="center", color="white" if score < middle else "black", weight="bold" if best else "normal", fontsize=9)
    axis.set_xticks(range(len(columns)), [label(name) for name in columns])
    axis.set_yticks(range(len(rows)), [label(name) for name in rows])
    axis.set_xlabel("downstream")
    axis.set_ylabel("pre-training")
    figure.colorbar(image, ax=axis, label="feasibility")
    figure.suptitle("Feasibility of pre-training (bold: best choice)", fontsize=11)
    return save(figure, path)


def draw_graphons(results: Results, path: Path) -> Path:
    """The graphons of the downstream sets in the first row; then a row for each choice with its bases, and the shares of the best combination for the first downstream set."""
    down, found = next(iter(results.items()))
    rows: list[tuple[str, Sequence[tuple[np.ndarray, str]]]] = [("downstream", [(next(iter(one.values())).downstream, label(name)) for name, one in results.items()])]
    for choice, one in found.items():
        cells = [
            (basis, f"{kind}: {name}\nshare {share:.2f}" if len(one.bases.names[kind]) > 1 else f"{kind}: {name}")
            for kind, combination in one.combinations.items() for name, basis, share in zip(one.bases.names[kind], one.bases.steps[kind], combination.alpha)
        ]  # fmt: skip
        rows.append((label(choice), [*cells, (one.best.graphon, f"nearest to {label(down)}\ndistance {one.best.distance:.3f}")]))
    columns = max(len(cells) for _, cells in rows)
    figure = Figure(figsize=(1.75 * columns + 1.2, 1.95 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    highest = max(float(graphon.max()) for _, cells in rows for graphon, _ in cells)
    image = None
    for line, (title, cells) in zip(axes, rows):
        for axis in line[len(cells) :]:
            axis.axis("off")
        for axis, (graphon, caption) in zip(line, cells):
            image = axis.imshow(graphon, cmap="magma", vmin=0, vmax=highest)
            axis.set_title(caption, fontsize=7)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(title, fontsize=9)
    figure.colorbar(image, ax=axes, label="probability of an edge", shrink=0.6)
    figure.suptitle("Fitted graphons, nodes of high degree first", fontsize=11)
    return save(figure, path)


def label(name: str) -> str:
    """A set's name as it is written in pictures: of a path, its last part."""
    return Path(name).name if Path(name).exists() else name
