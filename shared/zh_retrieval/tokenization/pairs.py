"""Query and document ids to the sequences of a reranker: framing, cutting, windows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter

from zh_retrieval.sequence import Tokens
from zh_retrieval.tokenization.tokenizer import TextTokenizer
from zh_retrieval.validation import UnscorableQueryError


@dataclass(frozen=True, slots=True)
class PairSequences:
    """The sequences of one pair (more than one only with windows) and what of the pair is not in them.

    Attributes:
        tokens: The sequences; the best of their scores is the pair's.
        length: Tokens of the whole pair, uncut, special tokens and prompt included; at least so many if not `whole`.
        query_cut: Query tokens that no sequence holds.
        document_cut: Document tokens that no sequence holds.
        unknown: Whether query or document are mostly unknown to the vocabulary.
        whole: Query and document were tokenized to their ends.
    """

    tokens: tuple[Tokens, ...]
    length: int
    query_cut: int
    document_cut: int
    unknown: bool
    whole: bool = True


def cross_encoder_pair(
    query: list[int],
    document: list[int],
    tokenizer: TextTokenizer,
    max_length: int,
    windows: bool,
    index: int = 0,
    *,
    whole: bool = True,
) -> PairSequences:
    """Return `<s> query </s></s> document </s>`, as FlagEmbedding's reranker builds it, or the same in BERT's words.

    A pair that fits is never cut. Of one that does not, the query is cut to three quarters of `max_length`, then the
    document to what is left, or laid under windows. (FlagEmbedding cuts such a query even where the pair would fit.)
    Not `whole`: of one of them only the first tokens are given, `max_length` of them or more.

    Raises:
        UnscorableQueryError: The query is empty, or alone leaves no room for the document: such a score says nothing.
    """
    special = tokenizer.frame_length + len(tokenizer.separator)
    _check_query(query, max_length - special - len(query), index, max_length, bool(document), whole=whole)
    length = special + len(query) + len(document)
    kept = query if length <= max_length else query[: max(0, min(max_length * 3 // 4, max_length - special - 1))]
    room = max_length - special - len(kept)
    head = [*tokenizer.prefix, *kept, *tokenizer.separator]
    second = len(head) if tokenizer.typed_pairs else None
    tokens = tuple(
        Tokens([*head, *part, *tokenizer.suffix], second=second) for part in cut_document(document, room, windows)
    )
    unknown = tokenizer.mostly_unknown(query) or tokenizer.mostly_unknown(document)
    lost = len(query) - len(kept)
    beyond = tokens_beyond(document, room, windows) or int(not whole and not lost)
    return PairSequences(tokens, length, lost, beyond, unknown, whole)


@dataclass(frozen=True, slots=True)
class Context:
    """The tokens of `Document: {document} Query:` in three parts, of which only `document` may be cut.

    A token across a border belongs to what follows: the first document token may hold the template's space
    (`" 你好"`), and the first of `tail` the document's last characters.
    """

    head: list[int]
    document: list[int]
    tail: list[int]


def context(text: str, document_start: int, document_end: int, tokenizer: TextTokenizer) -> Context:
    """Return the tokens of a prompt, parted where the document's characters begin and end."""
    return part_tokens(*tokenizer.ids_with_offsets(text), document_start, document_end)


def part_tokens(ids: list[int], offsets: list[tuple[int, int]], document_start: int, document_end: int) -> Context:
    """Return the tokens of a prompt in three parts, by the half-open range of characters of each token."""
    low = bisect_right(offsets, document_start, key=itemgetter(1))
    high = bisect_right(offsets, document_end, lo=low, key=itemgetter(1))
    return Context(ids[:low], ids[low:high], ids[high:])


def query_likelihood_pair(
    query: list[int],
    prompt: Context,
    index: int,
    tokenizer: TextTokenizer,
    max_length: int,
    windows: bool,
    *,
    whole: bool = True,
) -> PairSequences:
    """Return the prompt followed by the query, whose ids are the targets.

    Only document tokens are cut. The model's input ends before the last query token. Not `whole`: the document's middle
    is left out, beyond what `max_length` tokens hold.

    Raises:
        UnscorableQueryError: The query is empty, or leaves no room for the document.
    """
    fixed = len(prompt.head) + len(prompt.tail) + len(query)
    room = max_length - fixed
    _check_query(query, room, index, max_length, bool(prompt.document))
    tokens = tuple(
        Tokens(
            [*prompt.head, *part, *prompt.tail, *query[:-1]],
            targets=tuple(query),
            shared=max(0, len(prompt.head) + len(part) + len(prompt.tail) - 1),
        )
        for part in cut_document(prompt.document, room, windows)
    )
    unknown = tokenizer.mostly_unknown(query) or tokenizer.mostly_unknown(prompt.document)
    beyond = tokens_beyond(prompt.document, room, windows) or int(not whole)
    return PairSequences(tokens, fixed + len(prompt.document), 0, beyond, unknown, whole)


def _check_query(
    query: list[int], room: int, index: int, max_length: int, has_document: bool, *, whole: bool = True
) -> None:
    if not query:
        raise UnscorableQueryError(f"pairs[{index}] has an empty query, which has no score. Leave the pair out.")
    if room < 1 and (has_document or room < 0):
        raise UnscorableQueryError(
            f"pairs[{index}] has a query of {len(query)} tokens{'' if whole else ' or more'}, which leaves no room for "
            f"a document within {max_length} tokens. Shorten the query or raise max_length."
        )


def tokens_beyond(document: list[int], room: int, windows: bool) -> int:
    """Return how many document tokens do not fit; with windows each is in one of them."""
    return 0 if windows else max(0, len(document) - max(0, room))


def cut_document(document: list[int], room: int, windows: bool) -> Iterator[list[int]]:
    """Yield the cut document, or windows of `room` tokens that overlap by a quarter; the last one is full."""
    if len(document) <= room or not windows:
        yield document[: max(0, room)]
        return
    step = max(1, room - room // 4)
    low = 0
    while low + room < len(document):
        yield document[low : low + room]
        low += step
    yield document[len(document) - room :]
