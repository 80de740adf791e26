"""Query and document as one text that a language model judges: the prompt is whole, the document is cut."""

from __future__ import annotations

from collections.abc import Sequence

from zh_retrieval.errors import InputError
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.sequence import Tokens
from zh_retrieval.tokenization.pairs import Context, PairSequences, cut_document, part_tokens, tokens_beyond
from zh_retrieval.tokenization.tokenizer import TextTokenizer


def judged_texts(
    pairs: Sequence[tuple[str, str]], spec: ModelSpec, instruction: str | None, tokenizer: TextTokenizer
) -> list[Context]:
    """Return the tokens of the prompt of each (query, document), parted where the document begins and ends.

    Each prompt is tokenized as one text, as the reference does, so that a token may reach from the prompt into the
    document: it counts as the document's.
    """
    prompts = [spec.format_pair(query, document, instruction) for query, document in pairs]
    texts = [text for text, _ in prompts]
    ends = [start + len(document) for (_, start), (_, document) in zip(prompts, pairs, strict=True)]
    return [
        part_tokens(ids, offsets, start, end)
        for (ids, offsets), (_, start), end in zip(tokenizer.many_with_offsets(texts), prompts, ends, strict=True)
    ]


def judgement_pair(
    prompt: Context, tokenizer: TextTokenizer, index: int, max_length: int, windows: bool
) -> PairSequences:
    """Return the sequences of one prompt; the model's answer is read behind its last token.

    Raises:
        InputError: The prompt leaves no room for the document.
    """
    fixed = tokenizer.frame_length + len(prompt.head) + len(prompt.tail)
    room = max_length - fixed
    if room < 1 and (prompt.document or room < 0):
        raise InputError(
            f"pairs[{index}] has a query and an instruction that take, with the prompt around them, {fixed} tokens: no "
            f"room for a document within {max_length}. Shorten them or raise max_length."
        )
    tokens = tuple(
        Tokens([*tokenizer.prefix, *prompt.head, *part, *prompt.tail, *tokenizer.suffix])
        for part in cut_document(prompt.document, room, windows)
    )
    beyond = tokens_beyond(prompt.document, room, windows)
    return PairSequences(tokens, fixed + len(prompt.document), 0, beyond, tokenizer.mostly_unknown(prompt.document))
