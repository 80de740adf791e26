"""A folder and its recipe as a graph that OpenVINO runs on the CPU, without torch and transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zh_retrieval.checkpoint.fingerprint import ModelFiles
from zh_retrieval.checkpoint.folder import Folder
from zh_retrieval.checkpoint.sparse_head import sparse_head
from zh_retrieval.checkpoint.stored import Stored
from zh_retrieval.checkpoint.tensors import forget_pages, read_tensors
from zh_retrieval.checkpoint.weight_files import check_files, count_parameters
from zh_retrieval.engine.cpus import usable_cpus
from zh_retrieval.engine.hardware import CPU_TOKENS
from zh_retrieval.engine.openvino import decoders, encoders, gte, ops, readouts
from zh_retrieval.engine.openvino.decoder_sizes import DecoderSizes, has_decoder_graph
from zh_retrieval.engine.openvino.engine import MoreInputs, OpenVinoEngine
from zh_retrieval.engine.openvino.inference import Settings
from zh_retrieval.engine.openvino.long_texts import LongTexts
from zh_retrieval.engine.openvino.readouts import Readout
from zh_retrieval.engine.openvino.weights.constants import Copies, Weights
from zh_retrieval.engine.openvino.weights.keeping import keeping_folder, rounded_weights
from zh_retrieval.engine.openvino.weights.kept import RoundedWeights, identity
from zh_retrieval.engine.openvino.weights.rounding import Kind
from zh_retrieval.errors import CheckpointError, ConfigError
from zh_retrieval.hub.cache import modelscope_root
from zh_retrieval.local.source import is_copied
from zh_retrieval.models import kind
from zh_retrieval.models.labels import count_labels
from zh_retrieval.models.qwen1 import is_qwen1
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.rules import ARCHITECTURES, check_dimensions
from zh_retrieval.recipes.spec import ModelSpec

if TYPE_CHECKING:
    import openvino as ov

_BYTES: Mapping[Kind, float] = {  # of one weight
    "bfloat16": 2, "int8-rows": 1, "int8-256": 1.02, "int8": 1.03, "int4": 0.53,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Graph:
    """What computes a model, before its weights are read.

    Attributes:
        body: Makes the graph of the weights.
        readout: Its output to rows.
        width: Length of a row.
        vector: Length of a vector before it is cut.
        vocab_size: Rows of the word embeddings.
        limit: The most tokens of one sequence.
        prefix: What names of the body's tensors may have in front of them.
        more_inputs: What the graph takes after ids and lengths.
        alibi: Sizes of a body whose attention has a mask of all pairs; None: it has none.
        group: How many inputs share a scale where weights are rounded to int8.
        past: The keys and values of no tokens, where shared prefixes are computed once (`OpenVinoEngine`); None: each
            sequence is computed whole.
        typed: It is told where the second text of a pair begins.
    """

    body: Callable[[Weights], ov.Model]
    readout: Readout
    width: int
    vector: int
    vocab_size: int
    limit: int
    prefix: str
    more_inputs: MoreInputs | None = None
    alibi: encoders.Sizes | None = None
    group: int = 128
    past: np.ndarray | None = None
    typed: bool = False


def why_no_graph(spec: ModelSpec, config: Mapping[str, Any]) -> str | None:
    """Return why no graph computes what a recipe asks of a config.json; None if one does."""
    encoder = not ARCHITECTURES[spec.architecture].causal
    if not (encoders.has_graph(config) if encoder else has_decoder_graph(config)):
        return f"no graph computes such a {kind(config)!r}"
    if spec.pooling not in ((None, "cls", "mean") if encoder else (None, "last")):
        return f"no graph pools {kind(config)!r} by {spec.pooling!r}"
    return None


def build_graph(
    spec: ModelSpec, options: LoadOptions, folder: Folder, adapter: Path | None, dtype: str
) -> tuple[OpenVinoEngine, int]:
    """Return the engine, and the most tokens of one sequence.

    Args:
        spec: The recipe.
        options: How to load.
        folder: One that `why_no_graph` has nothing against.
        adapter: Folder of a LoRA adapter, merged by torch before the graph is made.
        dtype: "float32" or "bfloat16": what is multiplied, where weights are not rounded to less.

    Raises:
        CheckpointError: The weights do not fit the recipe.
        ConfigError: An option does not fit the model.
    """
    encoder = not ARCHITECTURES[spec.architecture].causal
    if encoder and options.quantization == "int4":
        raise ConfigError(
            "quantization='int4' is for the large decoders: an encoder as small as this loses quality and no memory "
            "that matters. Use 'int8'."
        )
    graph = (_encoder if encoder else _decoder)(spec, folder, options.dimensions)
    check_dimensions(spec, options.dimensions, graph.vector)
    folder.check_vocabulary(graph.vocab_size)
    group = graph.group if options.quantization else 0
    settings = Settings(dtype == "bfloat16", options.threads or usable_cpus(), group)
    builder = _Builder(graph, folder, adapter, _rounding(graph, options, encoder, dtype), spec, options)
    engine = OpenVinoEngine(
        builder,
        graph.readout,
        settings,
        dtype=dtype,
        width=graph.width,
        max_batch_tokens=options.max_batch_tokens or CPU_TOKENS,
        max_length=graph.limit,
        more_inputs=graph.more_inputs,
        long_texts=_long_texts(graph, builder, folder, settings),
        past=graph.past,
        typed=graph.typed,
    )
    builder.read_no_more()
    return engine, graph.limit


def _long_texts(graph: Graph, builder: _Builder, folder: Folder, settings: Settings) -> LongTexts | None:
    """Return what computes texts that are too long for a mask of all pairs; None where there is no such mask."""
    if graph.alibi is None:
        return None
    weights = Weights(builder.tensors, folder.files, graph.prefix, copies="nothing")
    return LongTexts(graph.alibi, weights, graph.readout, settings)


def _rounding(graph: Graph, options: LoadOptions, encoder: bool, dtype: str) -> Kind | None:
    """Return what linear layers are rounded to before OpenVINO sees them; it rounds an encoder to bfloat16 itself."""
    if options.quantization is not None:
        return "int8-256" if graph.group == 256 else options.quantization
    return "bfloat16" if dtype == "bfloat16" and not encoder else None


def _encoder(spec: ModelSpec, folder: Folder, dimensions: int | None) -> Graph:
    sizes = encoders.Sizes.of(folder.config)
    weights_head = sparse_head(spec, folder, sizes.hidden)
    graph = encoders.body if sizes.frequencies is None else gte.body
    passed_over = ARCHITECTURES[spec.architecture].sparse_layer if spec.pooling is not None else ""
    first, typed = spec.pooling != "mean" and weights_head is None, folder.tokenizer.typed_pairs
    head = None
    if spec.scoring is not None:
        head = readouts.ClassificationHead(encoders.HEADS[kind(folder.config)], count_labels(folder.config))

    def body(weights: Weights) -> ov.Model:
        if head is not None:
            head.load(weights, sizes.hidden)
        if passed_over:
            weights.pass_over(passed_over)
        hidden, inputs = graph(sizes, weights, first, typed)
        return ops.model([hidden], inputs)

    limit = min(sizes.limit, spec.length_limit)
    group = 256 if sizes.hidden % 256 == sizes.intermediate_size % 256 == 0 else 128  # 256: one query is 6 % sooner
    made = partial(
        Graph, vector=folder.vector(sizes.hidden), vocab_size=sizes.vocab_size, limit=limit, prefix=sizes.prefix,
        alibi=sizes if sizes.alibi else None, group=group, typed=typed,
    )  # fmt: skip
    if head is not None:
        return made(body, head, 1)
    assert spec.pooling is not None  # an embedder
    read = readouts.pooled(spec.pooling, dimensions, folder.dense)
    if weights_head is not None:
        read = readouts.with_token_weights(read, *weights_head)
    return made(body, read, dimensions or folder.vector(sizes.hidden))


def _decoder(spec: ModelSpec, folder: Folder, dimensions: int | None) -> Graph:
    sizes = DecoderSizes.of(folder.config)
    limit = min(sizes.limit, spec.length_limit)
    if spec.pooling is not None:
        limit = min(limit, sizes.window or limit)

    def decoder(weights: Weights) -> decoders.Decoder:
        return decoders.Decoder(sizes, weights, limit)

    made = partial(
        Graph, vector=folder.vector(sizes.hidden), vocab_size=sizes.vocab_size, limit=limit, prefix="model.",
        past=np.empty((2 * sizes.layers, sizes.kv_heads, 0, sizes.head), dtype=np.float32),
    )  # fmt: skip
    if spec.pooling is not None:
        read = readouts.pooled(spec.pooling, dimensions, folder.dense)
        width = dimensions or folder.vector(sizes.hidden)
        return made(lambda weights: decoders.last_token_graph(decoder(weights)), read, width)
    if spec.scoring == "yes-no":
        first, second = folder.tokenizer.answers
        return made(lambda weights: decoders.answer_graph(decoder(weights), (first, second)), readouts.scored, 1)
    return made(
        lambda weights: decoders.likelihood_graph(decoder(weights)), readouts.likelihoods, 1,
        more_inputs=readouts.target_inputs,
    )  # fmt: skip


class _Builder:
    """Makes the graph with its weights, and holds the memory that these share.

    Attributes:
        tensors: The checkpoint's, by the names that the graph asks for, an adapter merged into them.
    """

    def __init__(
        self, graph: Graph, folder: Folder, adapter: Path | None, rounding: Kind | None, spec: ModelSpec,
        options: LoadOptions,
    ) -> None:  # fmt: skip
        self._graph, self._folder, self._adapter = graph, folder, adapter
        self._spec, self._options = spec, options
        self._rounding: Kind | None = rounding
        self._alive: Weights | None = None
        self._copies: Copies = self._copied()
        self._files: ModelFiles | None = ModelFiles(folder.path, folder.path)  # before they are read
        self.tensors = self._read()
        if graph.alibi is not None and self._copies == "all":  # long texts need them, too: both share one copy
            self.tensors = {name: each.copied() for name, each in self.tensors.items()}
            self._copies = "nothing"

    def __call__(self) -> ov.Model:
        """Return the graph."""
        files, prefix = self._files, self._graph.prefix
        assert files is not None
        with self._rounded(self.tensors, files) as rounded:
            weights = Weights(self.tensors, self._folder.files, prefix, self._rounding, rounded, copies=self._copies)
            model = self._graph.body(weights)
            weights.check()
            if not files.still_there():
                raise CheckpointError(f"Files in {self._folder.path} changed while they were loaded. Load again.")
        self._alive = weights
        forget_pages(self.tensors)  # before the plugin lays weights out anew: the most memory is taken then
        return model

    def read_no_more(self) -> None:
        """Let go of what only the making needed; pages of mapped files come again if somebody looks at them."""
        forget_pages(self.tensors)
        self.tensors, self._files = {}, None

    def _copied(self) -> Copies:
        """Return what must be copied: a snapshot does not change; what an adapter leaves of its base is mapped, too."""
        if self._options.path is None:
            return "nothing"
        return "all" if is_copied(self._options, self._folder.files) else "tables"

    def _read(self) -> dict[str, Stored]:
        if self._adapter is not None:
            from zh_retrieval.checkpoint.merging import merged_tensors

            return merged_tensors(self._folder, self._spec, self._adapter)
        check_files(self._folder.files)
        tensors = read_tensors(self._folder.files)
        if is_qwen1(self._folder.config):
            return decoders.as_qwen2(tensors)
        return gte.as_published(tensors) if kind(self._folder.config) == "gte" else tensors

    def _rounded(self, tensors: Mapping[str, Stored], files: ModelFiles) -> AbstractContextManager[RoundedWeights]:
        kind = self._rounding
        if kind is None or (kind == "bfloat16" and all(each.dtype == "BF16" for each in tensors.values())):
            return nullcontext(RoundedWeights())
        size = int(count_parameters(self._folder.files) * _BYTES[kind])
        root = keeping_folder(modelscope_root(self._options.cache_dir)) if self._adapter is None else None
        return rounded_weights(root, lambda: identity(files.digest(), f"{kind} {self._spec.scoring}"), size)
