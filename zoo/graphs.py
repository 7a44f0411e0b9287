"""A model as a graph of operations, for ONNX and for torch.export: any batch size, no Python class of ours needed to run it."""

import copy
import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from modalities.common.exporting import Export, Run, example
from modalities.common.model import Model
from trainer.errors import MissingDependencyError, ModelError, shorten

ONNX_FILE, TORCH_FILE = "model.onnx", "model.pt2"
LARGEST_ONNX = 2**30
"""Bytes of weights that go into the ONNX file itself; more lie beside it, since the format ends at 2 GB."""


class Graph(nn.Module):
    """A model as a function of one tensor: input (B, ...) -> the values of `Model.outputs`, in their order."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.outputs({self.model.input_key: x}).values())


@dataclass(frozen=True)
class Traced:
    """A model traced with any batch size."""

    program: ExportedProgram
    """The graph with the weights that it uses."""
    outputs: list[str]
    """Names of what it gives."""
    left_out: tuple[str, ...]
    """Parts of the model that no output needs, in words."""


def trace(model: Model) -> Traced:
    """The graph of a model. What no output needs (a decoder) is found in a first tracing, and is no part of the second."""
    with _quiet():
        program = _program(Graph(model))
        names = program.graph_signature.inputs_to_parameters
        used = {names[node.name] for node in program.graph.nodes if node.name in names and node.users}
        idle = [name for name, _ in model.named_parameters() if f"model.{name}" not in used]
        program = _program(Graph(_without(model, idle))) if idle else program
    counts = Counter(model.part_of(name) for name in idle)
    outputs = list(model.outputs({model.input_key: example(model, 1)}))
    return Traced(program, outputs, tuple(f"the {part} ({count} tensors), which {', '.join(outputs)} do not need" for part, count in counts.items()))


def torch_export(model: Model) -> Export:
    """For `torch.export.load`: one file with the graph and the weights."""
    traced = trace(model)

    def write(folder: Path) -> None:
        with _quiet():
            torch.export.save(traced.program, folder / TORCH_FILE, extra_files=_facts(model))

    def load(folder: Path) -> Run:
        with _quiet():
            graph = torch.export.load(folder / TORCH_FILE).module()
        return lambda x: dict(zip(traced.outputs, graph(x)))

    usage = f'import torch\n\nmodel = torch.export.load("PLACE/{TORCH_FILE}").module()\n{", ".join(traced.outputs)} = model({model.input_key})  # {_shape(model)}, {model.graph_input}'
    return Export("pytorch", write, load, usage, traced.left_out, ("a .pt2 file can run code when it is opened: open only those that you trust",))


def onnx_export(model: Model) -> Export:
    """For ONNX runtimes: `model.onnx`, with the preprocessing in its metadata. MissingDependencyError without onnx and onnxscript."""
    lacking = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if lacking:
        raise MissingDependencyError(f"Writing ONNX needs {' and '.join(lacking)}, not installed here: pip install 'modality-zoo[onnx]'.")
    traced = trace(model)
    size = sum(tensor.numel() * tensor.element_size() for tensor in traced.program.state_dict.values())

    def write(folder: Path) -> None:
        with _quiet():
            program = torch.onnx.export(
                traced.program, dynamo=True, verbose=False, input_names=[model.input_key], output_names=traced.outputs
            )
            program.model.metadata_props.update(_facts(model))
            program.save(folder / ONNX_FILE, external_data=size > LARGEST_ONNX)

    def load(folder: Path) -> Run:
        run = _runtime(folder / ONNX_FILE)
        return lambda x: {name: torch.from_numpy(value) for name, value in zip(traced.outputs, run(x))}

    usage = (
        f'import onnxruntime\n\nsession = onnxruntime.InferenceSession("PLACE/{ONNX_FILE}")\n'
        f'{", ".join(traced.outputs)} = session.run(None, {{"{model.input_key}": {model.input_key}}})  # float32 {_shape(model)}, {model.graph_input}'
    )
    return Export("onnx", write, load, usage, traced.left_out)


def _program(graph: Graph) -> ExportedProgram:
    """ModelError for a model whose operations depend on the values that it reads."""
    x = example(graph.model, 2)
    try:
        with redirect_stdout(StringIO()):  # torch prints the graph as far as it came
            return torch.export.export(graph, (x,), dynamic_shapes={"x": {0: Dim("batch", min=1)}})
    except Exception as error:  # torch has errors of many kinds for it, most without a common base
        raise ModelError(f"A {type(graph.model).__name__} cannot be written as a graph of operations that do not depend on its input: {shorten(str(error), 200)}") from error


def _without(model: Model, idle: list[str]) -> Model:
    """The model, sharing its weights, without the children of which all parameters are idle."""
    slim = copy.copy(model)
    busy = {name.partition(".")[0] for name, _ in model.named_parameters() if name not in idle}
    gone = {name.partition(".")[0] for name in idle} - busy
    for kind in ("_modules", "_parameters"):
        setattr(slim, kind, {name: None if name in gone else part for name, part in getattr(model, kind).items()})
    return slim


def _runtime(path: Path) -> Any:
    """What runs an ONNX file: onnxruntime where it is installed, else the slow evaluator of onnx itself."""
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {session.get_inputs()[0].name: x.numpy()})
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    return lambda x: evaluator.run(None, {evaluator.input_names[0]: x.numpy()})


def _facts(model: Model) -> dict[str, str]:
    """What lies beside the graph as text: what it is, and how its input was made."""
    facts = {"model": model.name or model.system, "input": _shape(model)}
    return facts | ({"preprocess": json.dumps(model.preprocess.values())} if model.preprocess else {})


def _shape(model: Model) -> str:
    return f"(B, {', '.join(map(str, model.graph_shape() or ()))})"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of torch's exporters about their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, before):
            one.setLevel(level)
