"""Query and document pairs to scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zh_retrieval.base import Pair, Reranker
from zh_retrieval.errors import InputError
from zh_retrieval.local.call import Call, distinct, snapshot
from zh_retrieval.local.session import Session, check_instruction
from zh_retrieval.options import Overflow
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.sequence import Tokens
from zh_retrieval.tokenization.cuts import PairCuts
from zh_retrieval.tokenization.judgement import judged_texts, judgement_pair
from zh_retrieval.tokenization.pairs import Context, PairSequences, context, cross_encoder_pair, query_likelihood_pair
from zh_retrieval.tokenization.tokenizer import TextTokenizer
from zh_retrieval.tokenization.unknown import UnknownTexts
from zh_retrieval.validation import check_text


class LocalReranker(Session, Reranker):
    """A reranking model in this process."""

    def score(
        self, pairs: Sequence[Pair], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        call = self._scoring(snapshot(pairs), instruction)
        self._run(call, show_progress)
        return call.scores()

    async def ascore(
        self, pairs: Sequence[Pair], *, instruction: str | None = None, show_progress: bool = False
    ) -> np.ndarray:
        call = await self._amake(self._scoring, pairs, instruction)
        await self._arun(call, show_progress)
        return call.scores()

    def token_counts(self, pairs: Sequence[Pair]) -> list[int]:
        return self._scoring(snapshot(pairs)).lengths()

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
    for index, pair in enumerate(pairs):
        if isinstance(pair, (str, bytes)) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(f"pairs[{index}] is {type(pair).__name__}, expected (query, document).")
        check_text(pair[0], f"pairs[{index}] query")
        check_text(pair[1], f"pairs[{index}] document")


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
        self._cuts = PairCuts(overflow, max_length, self.used)
        self._unknown = UnknownTexts(tokenizer, "pairs")
        self._shapes: dict[int, tuple[list[int], list[int]]] = {}  # window -> places of pairs, sequences of each
        self._scores = np.empty(len(pairs), dtype=np.float32)

    def prepare(self, low: int, high: int) -> list[Tokens]:
        sequences, places = self._sequences(low, high)
        for index, place in enumerate(places, low):
            self._cuts.note(index, sequences[place])
            self.used.tokens += sum(len(tokens.ids) for tokens in sequences[place].tokens)
        self._unknown.add(sequences[place].unknown for place in places)
        self._shapes[low] = places, [len(pair.tokens) for pair in sequences]
        return [tokens for pair in sequences for tokens in pair.tokens]

    def lengths(self) -> list[int]:
        """Return the tokens of each pair, uncut."""
        sequences, places = self._sequences(0, self.count)
        return [sequences[place].length for place in places]

    def _sequences(self, low: int, high: int) -> tuple[list[PairSequences], list[int]]:
        """Return the sequences of the different pairs of a slice, and the place among them of each pair."""
        pairs, places = distinct([(query, document) for query, document in self._pairs[low:high]])
        build = {
            "classification": self._cross_encoder,
            "query-likelihood": self._likelihood,
            "yes-no": self._judgement,
        }[str(self._spec.scoring)]
        return build(pairs, _firsts(places, low)), places

    def _unique_ids(self, texts: list[str]) -> list[list[int]]:
        unique, places = distinct(texts)
        ids = self._tokenizer.ids(unique)
        return [ids[place] for place in places]

    def _query_ids(self, pairs: Sequence[Pair]) -> list[list[int]]:
        return self._unique_ids([self._spec.format_query(query, self._instruction) for query, _ in pairs])

    def _cross_encoder(self, pairs: Sequence[Pair], _: list[int]) -> list[PairSequences]:
        documents = self._unique_ids([self._spec.format_document(document) for _, document in pairs])
        return [
            cross_encoder_pair(query, document, self._tokenizer, self._max_length, self._windows)
            for query, document in zip(self._query_ids(pairs), documents, strict=True)
        ]

    def _judgement(self, pairs: Sequence[Pair], indices: list[int]) -> list[PairSequences]:
        prompts = judged_texts(pairs, self._spec, self._instruction, self._tokenizer)
        return [
            judgement_pair(prompt, self._tokenizer, index, self._max_length, self._windows)
            for prompt, index in zip(prompts, indices, strict=True)
        ]

    def _likelihood(self, pairs: Sequence[Pair], indices: list[int]) -> list[PairSequences]:
        start = self._spec.document_template.index("{text}")
        contexts: dict[str, Context] = {}
        sequences = []
        for (_, document), query, index in zip(pairs, self._query_ids(pairs), indices, strict=True):
            if document not in contexts:
                text = self._spec.format_document(document)
                contexts[document] = context(text, start, start + len(document), self._tokenizer)
            sequences.append(
                query_likelihood_pair(
                    query, contexts[document], index, self._tokenizer, self._max_length, self._windows
                )
            )
        return sequences

    def finish(self, low: int, high: int, rows: np.ndarray) -> None:
        places, sizes = self._shapes.pop(low)
        best = np.maximum.reduceat(rows[:, 0], np.cumsum([0, *sizes[:-1]]))
        self._scores[low:high] = best[places]

    def size(self, index: int) -> int:
        query, document = self._pairs[index]
        size = len(query) + len(document) + self._tokenizer.frame_length
        return size if self._windows else min(size, self._max_length)

    def scores(self) -> np.ndarray:
        self._cuts.report(self.count)
        self._unknown.report(self.count)
        return self._scores
