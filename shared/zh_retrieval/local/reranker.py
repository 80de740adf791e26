"""Query and document pairs to scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zh_retrieval.base import Pair, Reranker
from zh_retrieval.errors import InputError
from zh_retrieval.local.call import Call, Size
from zh_retrieval.local.inputs import distinct, frozen
from zh_retrieval.local.session import Session, check_instruction
from zh_retrieval.options import Overflow
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.sequence import Tokens
from zh_retrieval.tokenization.beginnings import Beginning, furthest, reach, shortened
from zh_retrieval.tokenization.cuts import PairCuts
from zh_retrieval.tokenization.judgement import judged_texts, judgement_pair
from zh_retrieval.tokenization.pairs import Context, PairSequences, context, cross_encoder_pair, query_likelihood_pair
from zh_retrieval.tokenization.tokenizer import TextTokenizer
from zh_retrieval.tokenization.unknown import UnknownTexts
from zh_retrieval.validation import UnscorableQueryError, check_pairs


class LocalReranker(Session, Reranker):
    """A reranking model in this process."""

    def score(
        self, pairs: Sequence[Pair], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        call = self._scoring(frozen(pairs), instruction)
        self._run(call, show_progress)
        return call.scores()

    async def ascore(
        self, pairs: Sequence[Pair], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        call = await self._amake(self._scoring, pairs, instruction)
        await self._arun(call, show_progress)
        return call.scores()

    def token_counts(self, pairs: Sequence[Pair]) -> list[int]:
        return self._scoring(frozen(pairs)).lengths()

    def _scoring(self, pairs: Sequence[Pair], instruction: str | None = None) -> _Scoring:
        check_instruction(self.spec, instruction)
        _check_pairs(pairs)
        return _Scoring(pairs, self.spec, instruction, self._model.tokenizer, self.max_length, self._overflow)


def _firsts(places: list[int], low: int) -> list[int]:
    """Return for each distinct pair the index of the first input that it came from."""
    firsts: dict[int, int] = {}
    for index, place in enumerate(places, low):
        firsts.setdefault(place, index)
    return list(firsts.values())


def _check_pairs(pairs: Sequence[Pair]) -> None:
    if isinstance(pairs, (str, bytes)) or not isinstance(pairs, Sequence):
        raise InputError(f"pairs is {type(pairs).__name__}, expected a list of (query, document).")
    check_pairs(pairs)


class _Scoring(Call):
    def __init__(
        self,
        pairs: Sequence[Pair],
        spec: ModelSpec,
        instruction: str | None,
        tokenizer: TextTokenizer,
        max_length: int,
        overflow: Overflow,
    ) -> None:
        super().__init__()
        self.count = len(pairs)
        self._pairs = pairs
        self._spec = spec
        self._instruction = instruction
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._windows = overflow == "window"
        self._around = len(instruction or "")
        # Of a document in a prompt the end is needed, too.
        reads = 2 * reach(max_length) if spec.scoring == "classification" else 2 * furthest(max_length)
        self._reads = None if self._windows else reads  # characters of a pair
        self._cuts = PairCuts(overflow, max_length, self.used)
        self._unknown = UnknownTexts(tokenizer, "pairs")
        self._shapes: dict[int, tuple[list[int], list[int]]] = {}  # window -> places of pairs, sequences of each
        self._scores = np.empty(len(pairs), dtype=np.float32)

    def prepare(self, low: int, high: int) -> list[Tokens]:
        sequences, places = self._sequences(low, high, cut=not self._windows)
        for index, place in enumerate(places, low):
            self._cuts.note(index, sequences[place])
            self.used.tokens += sum(len(tokens.ids) for tokens in sequences[place].tokens)
        self._unknown.add(sequences[place].unknown for place in places)
        self._shapes[low] = places, [len(pair.tokens) for pair in sequences]
        return [tokens for pair in sequences for tokens in pair.tokens]

    def lengths(self) -> list[int]:
        """Return the tokens of each pair, uncut."""
        sequences, places = self._sequences(0, self.count, cut=False)
        return [sequences[place].length for place in places]

    def _sequences(self, low: int, high: int, cut: bool) -> tuple[list[PairSequences], list[int]]:
        """Return the sequences of the different pairs of a slice, and the place among them of each pair.

        `cut`: what is longer than a sequence is not tokenized to its end, where that changes nothing but counts.
        """
        pairs, places = distinct([(query, document) for query, document in self._pairs[low:high]])
        if self._spec.scoring == "classification":
            return self._cross_encoder(pairs, _firsts(places, low), cut), places
        indices = _firsts(places, low)
        self._check_queries(pairs, indices)
        documents = [shortened(document, self._max_length) if cut else document for _, document in pairs]
        whole = [len(document) == len(pair[1]) for document, pair in zip(documents, pairs, strict=True)]
        pairs = [(query, document) for (query, _), document in zip(pairs, documents, strict=True)]
        build = self._likelihood if self._spec.scoring == "query-likelihood" else self._judgement
        return build(pairs, indices, whole), places

    def _check_queries(self, pairs: Sequence[Pair], indices: list[int]) -> None:
        """Raise UnscorableQueryError for a query so long that no prompt holds it, before it is tokenized."""
        for (query, _), index in zip(pairs, indices, strict=True):
            if len(query) + self._around > furthest(self._max_length):
                raise UnscorableQueryError(
                    f"pairs[{index}] has a query and an instruction of {len(query) + self._around} characters, which "
                    f"leave no room for a document within {self._max_length} tokens. Shorten them."
                )

    def _cross_encoder(self, pairs: Sequence[Pair], indices: list[int], cut: bool) -> list[PairSequences]:
        queries = self._tokenized([self._spec.format_query(query, self._instruction) for query, _ in pairs], cut)
        documents = self._tokenized([self._spec.format_document(document) for _, document in pairs], cut)
        return [
            cross_encoder_pair(
                query.ids, document.ids, self._tokenizer, self._max_length, self._windows,
                index, whole=query.whole and document.whole,
            )
            for query, document, index in zip(queries, documents, indices, strict=True)
        ]  # fmt: skip

    def _tokenized(self, texts: list[str], cut: bool) -> list[Beginning]:
        unique, places = distinct(texts)
        if cut:
            found = self._tokenizer.beginnings(unique, self._max_length)
        else:
            found = [Beginning(ids, True) for ids in self._tokenizer.ids(unique)]
        return [found[place] for place in places]

    def _judgement(self, pairs: Sequence[Pair], indices: list[int], whole: list[bool]) -> list[PairSequences]:
        prompts = judged_texts(pairs, self._spec, self._instruction, self._tokenizer)
        return [
            judgement_pair(prompt, self._tokenizer, index, self._max_length, self._windows, whole=all_of_it)
            for prompt, index, all_of_it in zip(prompts, indices, whole, strict=True)
        ]

    def _likelihood(self, pairs: Sequence[Pair], indices: list[int], whole: list[bool]) -> list[PairSequences]:
        start = self._spec.document_template.index("{text}")
        queries = self._tokenized([self._spec.format_query(query, self._instruction) for query, _ in pairs], cut=False)
        contexts: dict[str, Context] = {}
        sequences = []
        for (_, document), query, index, all_of_it in zip(pairs, queries, indices, whole, strict=True):
            if document not in contexts:
                text = self._spec.format_document(document)
                contexts[document] = context(text, start, start + len(document), self._tokenizer)
            sequences.append(
                query_likelihood_pair(
                    query.ids, contexts[document], index, self._tokenizer, self._max_length, self._windows,
                    whole=all_of_it,
                )
            )  # fmt: skip
        return sequences

    def finish(self, low: int, high: int, rows: np.ndarray) -> None:
        places, sizes = self._shapes.pop(low)
        best = np.maximum.reduceat(rows[:, 0], np.cumsum([0, *sizes[:-1]]))
        self._scores[low:high] = best[places]

    def size(self, index: int) -> Size:
        query, document = self._pairs[index]
        characters = len(query) + len(document) + self._around
        tokens = len(query) + len(document) + self._tokenizer.frame_length
        read = characters if self._reads is None else min(characters, self._reads)
        return Size(tokens if self._windows else min(tokens, self._max_length), characters, read)

    def scores(self) -> np.ndarray:
        self._cuts.report(self.count)
        self._unknown.report(self.count)
        return self._scores
