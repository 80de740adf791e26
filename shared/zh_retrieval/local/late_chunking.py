"""Late chunking: one pass over a long document, one vector for each of its spans.

Source of the method: Günther et al. 2024, "Late Chunking: Contextual Chunk Embeddings Using Long-Context Models".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zh_retrieval.local.call import Call, Size
from zh_retrieval.sequence import Tokens
from zh_retrieval.tokenization.late_chunks import Span, best_window, check_spans, macro_windows, spans_of_tokens
from zh_retrieval.tokenization.tokenizer import TextTokenizer
from zh_retrieval.tokenization.unknown import UnknownTexts
from zh_retrieval.validation import check_text


class Chunking(Call):
    """The spans of one document: each is read in the macro-window that holds it best."""

    def __init__(
        self,
        document: str,
        spans: Sequence[Span],
        tokenizer: TextTokenizer,
        template: str,
        max_length: int,
        dimension: int,
    ) -> None:
        """Check everything, before any compute.

        Raises:
            InputError: The document is no valid text, or a span does not lie in it.
        """
        super().__init__()
        check_text(document, "document")
        spans = check_spans(document, spans)
        self.count = 1 if spans else 0
        self._document = document
        self._tokenizer = tokenizer
        self._room = max_length - tokenizer.frame_length
        start = template.index("{text}")
        self._ids, offsets = tokenizer.ids_with_offsets(template.replace("{text}", document))
        self._ranges = spans_of_tokens(
            [(low + start, high + start) for low, high in spans], (start, start + len(document)), offsets
        )
        self._unknown = UnknownTexts(tokenizer, "documents", template.replace("{text}", ""))
        self._unknown.note([self._ids], [0])
        self._order: list[list[int]] = []
        self._vectors = np.empty((len(spans), dimension), dtype=np.float32)

    def prepare(self, low: int, high: int) -> list[Tokens]:
        """Return one sequence for each macro-window that some span is read in."""
        windows = macro_windows(len(self._ids), self._room)
        self._order = [[] for _ in windows]
        for index, span in enumerate(self._ranges):
            self._order[best_window(span, windows)].append(index)
        tokens = []
        for window, indices in zip(windows, self._order, strict=True):
            if indices:
                framed = self._tokenizer.frame(self._ids[slice(*window)], self._room + self._tokenizer.frame_length)
                spans = tuple(self._place(self._ranges[index], window, len(framed)) for index in indices)
                tokens.append(Tokens(framed, spans=spans))
                self.used.tokens += len(framed)
        return tokens

    def _place(self, span: Span, window: Span, length: int) -> Span:
        """Return where in the framed window a span of tokens lies; a document without tokens is read as a whole."""
        if span[0] == span[1]:
            return 0, length
        shift = len(self._tokenizer.prefix) - window[0]
        return max(span[0], window[0]) + shift, min(span[1], window[1]) + shift

    def finish(self, low: int, high: int, rows: np.ndarray) -> None:
        """Put each row at its span."""
        self._vectors[[index for indices in self._order for index in indices]] = rows

    def size(self, index: int) -> Size:
        """Return the tokens of the document, which is tokenized already."""
        return Size(len(self._ids), len(self._ids), 0)

    def vectors(self) -> np.ndarray:
        """Return float32 (S, D), row i for spans[i]."""
        self._unknown.report(1)
        return self._vectors
