"""A folder's vocabulary as a fast tokenizer: tokenizer.json exactly as it is, or one conversion of an older format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zh_retrieval.checks import is_installed
from zh_retrieval.errors import CheckpointError, MissingExtraError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SENTENCEPIECE = ("sentencepiece.bpe.model", "tokenizer.model", "spiece.model")
_READ_WITH = {  # vocabulary -> what else is read where it is the one; the first that is there wins
    "tokenizer.json": (),
    "qwen.tiktoken": (),
    "vocab.txt": ("tokenizer_config.json",),
    **dict.fromkeys(_SENTENCEPIECE, ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")),
}


def vocabulary_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the files that `load_vocabulary` reads of a folder, whether all exist or not."""
    for name, others in _READ_WITH.items():
        if (folder / name).is_file():
            return name, *others
    return ()


def load_vocabulary(folder: Path) -> Tokenizer:
    """Return the tokenizer of a snapshot folder.

    tokenizer.json wins, since tokenizer_config.json may name a class that rebuilds it wrongly; then qwen.tiktoken,
    vocab.txt (WordPiece) and sentencepiece models are converted.

    Raises:
        CheckpointError: No vocabulary file, or one that cannot be read.
        MissingExtraError: A sentencepiece model needs transformers, sentencepiece and protobuf.
    """
    from tokenizers import Tokenizer

    json_file = folder / "tokenizer.json"
    if json_file.is_file():
        try:
            return Tokenizer.from_file(str(json_file))
        except Exception as error:  # the Rust library raises bare Exception
            raise CheckpointError(f"{json_file} cannot be read: {error}. Fetch the file again.") from error
    if (folder / "qwen.tiktoken").is_file():
        from zh_retrieval.tokenization.tiktoken import qwen_tokenizer

        return qwen_tokenizer(folder / "qwen.tiktoken")
    if (folder / "vocab.txt").is_file():
        return _wordpiece(folder)
    for name in _SENTENCEPIECE:
        if (folder / name).is_file():
            return _sentencepiece(folder, name)
    raise CheckpointError(
        f"{folder} holds no vocabulary: expected one of tokenizer.json, qwen.tiktoken, vocab.txt, "
        f"{', '.join(_SENTENCEPIECE)}. Without it every text would become unknown tokens."
    )


def _wordpiece(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    settings = _settings(folder)
    tokenizer = Tokenizer(models.WordPiece.from_file(str(folder / "vocab.txt"), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=bool(settings.get("do_lower_case", True)),
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
        strip_accents=settings.get("strip_accents"),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    known = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if tokenizer.token_to_id(name) is not None]
    tokenizer.add_special_tokens(known)
    return tokenizer


def _sentencepiece(folder: Path, name: str) -> Tokenizer:
    if not all(map(is_installed, ("transformers", "sentencepiece", "google.protobuf"))):
        raise MissingExtraError(
            f"{folder / name} needs a conversion. Put tokenizer.json of the same model beside it, or run: "
            'pip install "zh-retrieval[torch]" sentencepiece protobuf'
        )
    from transformers import LlamaTokenizer, XLMRobertaTokenizer

    cls = XLMRobertaTokenizer if name == "sentencepiece.bpe.model" else LlamaTokenizer
    backend: Tokenizer = cls.from_pretrained(str(folder)).backend_tokenizer
    return backend


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return {}
    try:
        loaded = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}. Fetch the file again.") from error
    return loaded if isinstance(loaded, dict) else {}
