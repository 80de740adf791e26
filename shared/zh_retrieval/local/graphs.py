"""A folder and its recipe as a graph that OpenVINO runs on the CPU, without torch and transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zh_retrieval.checkpoint.folder import Folder
from zh_retrieval.checkpoint.tensors import Stored, read_tensors
from zh_retrieval.checkpoint.weight_files import check_files, count_parameters
from zh_retrieval.engine.cpus import usable_cpus
from zh_retrieval.engine.hardware import CPU_TOKENS
from zh_retrieval.engine.openvino import decoders, encoders, ops, readouts
from zh_retrieval.engine.openvino.decoder_sizes import DecoderSizes, has_decoder_graph
from zh_retrieval.engine.openvino.engine import MoreInputs, OpenVinoEngine, Settings
from zh_retrieval.engine.openvino.kept import RoundedWeights, identity, keeping_folder, rounded_weights
from zh_retrieval.engine.openvino.long_texts import LongTexts
from zh_retrieval.engine.openvino.readouts import Readout
from zh_retrieval.engine.openvino.rounding import Kind
from zh_retrieval.engine.openvino.weights import Weights
from zh_retrieval.errors import ConfigError
from zh_retrieval.hub.cache import modelscope_root
from zh_retrieval.models import kind
from zh_retrieval.models.labels import check_one_label
from zh_retrieval.models.qwen1 import is_qwen1
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.rules import check_dimensions
from zh_retrieval.recipes.spec import ModelSpec

if TYPE_CHECKING:
    import openvino as ov

_COPIED = 2_000_000_000  # bytes of weights that are copied: a file that somebody writes again takes its maps along
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
        hidden: Size of a hidden state.
        words: Rows of the word embeddings.
        limit: The most tokens of one sequence.
        prefix: What names of the body's tensors may have in front of them.
        more_inputs: What the graph takes after ids and lengths.
        alibi: Sizes of a body whose attention has a mask of all pairs; None: it has none.
        group: How many inputs share a scale where weights are rounded to int8.
    """

    body: Callable[[Weights], ov.Model]
    readout: Readout
    width: int
    hidden: int
    words: int
    limit: int
    prefix: str
    more_inputs: MoreInputs | None = None
    alibi: encoders.Sizes | None = None
    group: int = 128


def why_no_graph(spec: ModelSpec, config: Mapping[str, Any]) -> str | None:
    """Return why no graph computes what a recipe asks of a config.json; None if one does."""
    encoder = spec.architecture in encoders.FAMILIES
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
    encoder = spec.architecture in encoders.FAMILIES
    if encoder and options.quantization == "int4":
        raise ConfigError(
            "quantization='int4' is for the large decoders: an encoder as small as this loses quality and no memory "
            "that matters. Use 'int8'."
        )
    graph = (_encoder if encoder else _decoder)(spec, folder, options.dimensions)
    check_dimensions(spec, options.dimensions, graph.hidden)
    folder.check_vocabulary(graph.words)
    settings = Settings(
        dtype == "bfloat16", options.threads or usable_cpus(), graph.group if options.quantization else 0
    )
    builder = _Builder(graph, folder, adapter, _rounding(graph, options, encoder, dtype), spec, options)
    engine = OpenVinoEngine(
        builder,
        graph.readout,
        settings,
        dtype=dtype,
        width=graph.width,
        max_batch_tokens=options.max_batch_tokens or CPU_TOKENS,
        more_inputs=graph.more_inputs,
        elsewhere=_long_texts(graph, builder, folder, settings),
    )
    return engine, graph.limit


def _long_texts(graph: Graph, builder: _Builder, folder: Folder, settings: Settings) -> LongTexts | None:
    """Return what computes texts that are too long for a mask of all pairs; None where there is no such mask."""
    if graph.alibi is None:
        return None
    return LongTexts(graph.alibi, Weights(builder.tensors(), folder.files, graph.prefix), graph.readout, settings)


def _rounding(graph: Graph, options: LoadOptions, encoder: bool, dtype: str) -> Kind | None:
    """Return what linear layers are rounded to before OpenVINO sees them; it rounds an encoder to bfloat16 itself."""
    if options.quantization is not None:
        return "int8-256" if graph.group == 256 else options.quantization
    return "bfloat16" if dtype == "bfloat16" and not encoder else None


def _encoder(spec: ModelSpec, folder: Folder, dimensions: int | None) -> Graph:
    sizes = encoders.Sizes.of(folder.config)
    first = spec.pooling != "mean"
    head = readouts.ClassificationHead()

    def body(weights: Weights) -> ov.Model:
        if spec.scoring is not None:
            head.load(weights, sizes.hidden)
        hidden, inputs = encoders.body(sizes, weights, first)
        return ops.model([hidden], inputs)

    limit = min(sizes.limit, spec.length_limit)
    group = 256 if sizes.hidden % 256 == sizes.wide % 256 == 0 else 128  # one query is 6 % sooner by the wider
    made = partial(
        Graph, hidden=sizes.hidden, words=sizes.words, limit=limit, prefix=sizes.prefix,
        alibi=sizes if sizes.alibi else None, group=group,
    )  # fmt: skip
    if spec.pooling is not None:
        return made(body, readouts.pooled(spec.pooling, dimensions), dimensions or sizes.hidden)
    check_one_label(folder.config)
    return made(body, head, 1)


def _decoder(spec: ModelSpec, folder: Folder, dimensions: int | None) -> Graph:
    sizes = DecoderSizes.of(folder.config)
    limit = min(sizes.limit, spec.length_limit)
    if spec.pooling is not None:
        limit = min(limit, sizes.window or limit)

    def decoder(weights: Weights) -> decoders.Decoder:
        return decoders.Decoder(sizes, weights, limit)

    made = partial(Graph, hidden=sizes.hidden, words=sizes.words, limit=limit, prefix="model.")
    if spec.pooling is not None:
        read, width = readouts.pooled(spec.pooling, dimensions), dimensions or sizes.hidden
        return made(lambda weights: decoders.last_token_graph(decoder(weights)), read, width)
    if spec.scoring == "yes-no":
        first, second = folder.tokenizer.answers
        return made(lambda weights: decoders.answer_graph(decoder(weights), (first, second)), readouts.scored, 1)
    return made(
        lambda weights: decoders.likelihood_graph(decoder(weights)), readouts.likelihoods, 1,
        more_inputs=readouts.target_inputs,
    )  # fmt: skip


class _Builder:
    """Makes the graph with its weights, and holds the memory that these share."""

    def __init__(
        self, graph: Graph, folder: Folder, adapter: Path | None, rounding: Kind | None, spec: ModelSpec,
        options: LoadOptions,
    ) -> None:  # fmt: skip
        self._graph, self._folder, self._adapter = graph, folder, adapter
        self._spec, self._options = spec, options
        self._rounding: Kind | None = rounding
        self._alive: Weights | None = None

    def __call__(self) -> ov.Model:
        tensors = self.tensors()
        with self._rounded(tensors) as rounded:
            files, copies = self._folder.files, self._size() < _COPIED
            weights = Weights(tensors, files, self._graph.prefix, self._rounding, rounded, copies=copies)
            model = self._graph.body(weights)
            weights.check()
        self._alive = weights
        return model

    def tensors(self) -> dict[str, Stored]:
        """Return the checkpoint's tensors by the names that the graph asks for, an adapter merged into them."""
        if self._adapter is not None:
            from zh_retrieval.checkpoint.merging import merged_tensors

            return merged_tensors(self._folder, self._spec, self._adapter)
        check_files(self._folder.files)
        tensors = read_tensors(self._folder.files)
        return decoders.as_qwen2(tensors) if is_qwen1(self._folder.config) else tensors

    def _rounded(self, tensors: Mapping[str, Stored]) -> AbstractContextManager[RoundedWeights]:
        kind = self._rounding
        if kind is None or (kind == "bfloat16" and all(each.dtype == "BF16" for each in tensors.values())):
            return nullcontext(RoundedWeights())
        size = int(count_parameters(self._folder.files) * _BYTES[kind])
        root = keeping_folder(modelscope_root(self._options.cache_dir)) if self._adapter is None else None
        return rounded_weights(root, identity(self._folder.files, f"{kind} {self._spec.scoring}"), size)

    def _size(self) -> int:
        return sum(file.stat().st_size for file in self._folder.files)
