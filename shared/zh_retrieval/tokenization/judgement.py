"""Query and document as one text that a language model judges: the prompt is whole, the document is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.sequence import Tokens
from zh_retrieval.tokenization.pairs import Context, PairSequences, cut_document, part_tokens, tokens_beyond
from zh_retrieval.tokenization.tokenizer import TextTokenizer
from zh_retrieval.validation import UnscorableQueryError


def judged_texts(
    pairs: Sequence[tuple[str, str]], spec: ModelSpec, instruction: str | None, tokenizer: TextTokenizer
) -> Iterator[Context]:
    """Yield the tokens of the prompt of each (query, document), parted where the document begins and ends.

    Each prompt is tokenized as one text, as the reference does, so that a token may reach from the prompt into the
    document: it counts as the document's.
    """
    prompts = [spec.format_pair(query, document, instruction) for query, document in pairs]
    found = tokenizer.many_with_offsets([text for text, _ in prompts])
    for (ids, offsets), (_, start), (_, document) in zip(found, prompts, pairs, strict=True):
        yield part_tokens(ids, offsets, start, start + len(document))


def judgement_pair(
    prompt: Context, tokenizer: TextTokenizer, index: int, max_length: int, windows: bool, *, whole: bool = True
) -> PairSequences:
    """Return the sequences of one prompt; the model's answer is read behind its last token.

    Not `whole`: the document's middle is left out, beyond what `max_length` tokens hold.

    Raises:
        UnscorableQueryError: The prompt leaves no room for the document.
    """
    fixed = tokenizer.frame_length + len(prompt.head) + len(prompt.tail)
    room = max_length - fixed
    if room < 1 and (prompt.document or room < 0):
        raise UnscorableQueryError(
            f"pairs[{index}] has a query and an instruction that take, with the prompt around them, {fixed} tokens: no "
            f"room for a document within {max_length}. Shorten them or raise max_length."
        )
    tokens = tuple(
        Tokens(
            [*tokenizer.prefix, *prompt.head, *part, *prompt.tail, *tokenizer.suffix],
            shared=min(len(tokenizer.prefix) + len(prompt.head), fixed + len(part) - 1),
        )
        for part in cut_document(prompt.document, room, windows)
    )
    beyond = tokens_beyond(prompt.document, room, windows) or int(not whole)
    unknown = tokenizer.mostly_unknown(prompt.document)
    return PairSequences(tokens, fixed + len(prompt.document), 0, beyond, unknown, whole)
