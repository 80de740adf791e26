"""Late chunking for LlamaIndex: a node parser whose nodes carry vectors that know the whole document."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core.node_parser import NodeParser
from llama_index.core.node_parser.node_utils import build_nodes_from_splits
from llama_index.core.schema import BaseNode, Document, MetadataMode, TextNode
from pydantic import Field

from llama_index_zh_retrieval.embeddings import ModelScopeEmbedding
from zh_retrieval.chunking import sentence_spans


class LateChunkNodeParser(NodeParser):
    """Splits documents into sentences joined up to `chunk_size` characters and embeds them in one pass each.

    Use it as the only transformation of an `IngestionPipeline`, or before building an index: nodes that have an
    embedding are not embedded again.
    """

    embed_model: ModelScopeEmbedding = Field(description="A model that pools by mean.")
    chunk_size: int = Field(default=300, gt=0, description="Characters of a chunk.")

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores this class."""
        return "LateChunkNodeParser"

    def _parse_nodes(self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any) -> list[BaseNode]:
        parsed: list[BaseNode] = []
        for node in nodes:
            text = node.get_content(metadata_mode=MetadataMode.NONE)
            spans = sentence_spans(text, self.chunk_size)
            chunks = build_nodes_from_splits([text[start:end] for start, end in spans], node, id_func=self.id_func)
            for chunk, vector, (start, end) in zip(
                chunks, self.embed_model.chunk_vectors(text, spans), spans, strict=True
            ):
                chunk.embedding = vector
                chunk.start_char_idx, chunk.end_char_idx = start, end
            parsed.extend(chunks)
        return parsed

    def _postprocess_parsed_nodes(self, nodes: list[BaseNode], parent_doc_map: dict[str, Document]) -> list[BaseNode]:
        """Keep our places: older LlamaIndex searches for a chunk's text, and finds the first of equal sentences."""
        chunks = [node for node in nodes if isinstance(node, TextNode)]
        places = [(chunk.start_char_idx, chunk.end_char_idx) for chunk in chunks]
        nodes = super()._postprocess_parsed_nodes(nodes, parent_doc_map)
        for chunk, (start, end) in zip(chunks, places, strict=True):
            chunk.start_char_idx, chunk.end_char_idx = start, end
        return nodes

    async def _aparse_nodes(
        self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any
    ) -> list[BaseNode]:
        return await asyncio.to_thread(self._parse_nodes, nodes, show_progress, **kwargs)
