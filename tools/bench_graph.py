"""A step of GraphMAE (GIN), loading included, against the same model written plainly with PyG's layers and its loader: `python -m tools.bench_graph`.

A step is: the next batch, its mask, forward, backward, Adam; in single precision, on the built-in molecule-like graphs. Both sides are interleaved in
one process, so that a slow moment of the machine hits both. Prints the median of the paired ratios (theirs / ours; above 1 is faster).
"""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINConv

from modalities.graph.data import UnlabelledGraphs
from modalities.graph.models.graphmae import GraphMAE, GraphMAEConfig
from modalities.graph.objectives.graphmae import GraphMAEObjectiveConfig
from trainer.data import batches


class Plain(nn.Module):
    """GraphMAE with GIN as one would write it with PyG: batch norm, PReLU, scaled cosine error."""

    def __init__(self, inner: int, width: int, depth: int, mask_rate: float, alpha: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList([GINConv(_mlp(inner if i == 0 else width, width, width)) for i in range(depth)])
        self.norms = nn.ModuleList([nn.Sequential(nn.BatchNorm1d(width), nn.PReLU()) for _ in range(depth)])
        self.token = nn.Parameter(torch.zeros(1, inner))
        self.bridge = nn.Linear(width, width, bias=False)
        self.decoder = GINConv(_mlp(width, width, inner))
        self.mask_rate, self.alpha = mask_rate, alpha

    def forward(self, batch: Batch) -> Tensor:
        hidden = torch.randperm(batch.num_nodes)[: int(self.mask_rate * batch.num_nodes)]
        x = batch.x.clone()
        x[hidden] = self.token
        for layer, norm in zip(self.layers, self.norms):
            x = norm(layer(x, batch.edge_index))
        code = self.bridge(x)
        code = code.clone()
        code[hidden] = 0
        out = self.decoder(code, batch.edge_index)
        return (1 - F.cosine_similarity(out[hidden], batch.x[hidden], dim=-1)).pow(self.alpha).mean()


def _mlp(inner: int, hidden: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inner, hidden), nn.BatchNorm1d(hidden), nn.PReLU(), nn.Linear(hidden, outer))


def main(width: int = 512, depth: int = 3, batch_size: int = 32, steps: int = 5, repeats: int = 15) -> float:
    """Measure and print; returns the median ratio.

    Args:
        width: Of the embeddings.
        depth: Layers.
        batch_size: Graphs per step.
        steps: In each measurement.
        repeats: Paired measurements, after two that do not count.
    """
    torch.manual_seed(0)
    config = GraphMAEConfig(in_dim=6, embed_dim=width, depth=depth)
    source = UnlabelledGraphs("molecules").build(UnlabelledGraphs("molecules").preprocess(config))
    objective = GraphMAEObjectiveConfig(mask_rate=0.5, alpha=1.0).build(GraphMAE(config))
    plain = Plain(6, width, depth, 0.5, 1.0)
    count = (repeats + 2) * steps
    loader = DataLoader([source[i] for i in range(len(source))], batch_size=batch_size, shuffle=True)
    ours = _stepper(objective, lambda batch: objective(batch).loss, batches(source, batch_size, 0, 0, count, workers=0))
    theirs = _stepper(plain, plain, _endless(loader))
    pairs = [(_seconds(ours, steps), _seconds(theirs, steps)) for _ in range(repeats + 2)][2:]
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"GraphMAE, GIN {depth} x {width}, batches of {batch_size} graphs, {torch.get_num_threads()} threads")
    for name, column in zip(("ours", "plain PyG"), zip(*pairs)):
        print(f"{name:<10} {1000 * statistics.median(column) / steps:7.2f} ms per step")
    print(f"ratio {ratio:.2f} (median of {len(pairs)}; {min(b / a for a, b in pairs):.2f} to {max(b / a for a, b in pairs):.2f})")
    return ratio


def _stepper(module: nn.Module, loss: Callable[[Batch], Tensor], data: Iterator[Batch]) -> Callable[[], None]:
    """One step of training: the next batch, its loss, the gradients, the update."""
    optimizer = torch.optim.Adam(module.train().parameters(), 1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(next(data)).backward()
        optimizer.step()

    return step


def _endless(loader: DataLoader) -> Iterator[Batch]:
    while True:
        yield from loader


def _seconds(step: Callable[[], None], steps: int) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - began


if __name__ == "__main__":
    tyro.cli(main, prog="python -m tools.bench_graph", use_underscores=True)
