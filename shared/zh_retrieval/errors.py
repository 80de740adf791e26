"""The error tree. Every error a user can cause is one of these, and each is also a builtin.

ZhRetrievalError
├── UnknownModelError (ValueError)      no such model name
├── WrongTaskError (TypeError)          an embedder where a reranker is needed, or the reverse
├── ConfigError (ValueError)            an option that does not exist, or does not fit the model
├── InputError (ValueError)             a text that cannot be processed; names its index
├── MissingExtraError (ImportError)     an optional package is not installed
├── DownloadError (OSError)             a snapshot could not be fetched or is not complete
├── CheckpointError (RuntimeError)      files of a snapshot are missing, broken or contradict the recipe
├── RemoteError (OSError)               a server cannot be reached, fails, or answers what is no answer
├── DeviceMemoryError (RuntimeError)    one sequence alone does not fit the device
├── OverloadedError (RuntimeError)      the queue is full, and when_full="refuse"
└── ClosedError (RuntimeError)          the model was closed
"""

from __future__ import annotations


class ZhRetrievalError(Exception):
    """Base class of every error that zh-retrieval raises on purpose."""


class UnknownModelError(ZhRetrievalError, ValueError):
    """The model name is not in `zh_retrieval.MODELS`."""


class WrongTaskError(ZhRetrievalError, TypeError):
    """The model exists but does the other task (embedding or reranking)."""


class ConfigError(ZhRetrievalError, ValueError):
    """An option has a value that is unknown or that this model does not support."""


class InputError(ZhRetrievalError, ValueError):
    """An input is not text, is not valid Unicode, or does not fit the model; the message names its index."""


class MissingExtraError(ZhRetrievalError, ImportError):
    """A package of an optional extra is not installed; the message holds the pip line."""


class DownloadError(ZhRetrievalError, OSError):
    """A snapshot could not be fetched, verified or found locally."""


class RemoteError(ZhRetrievalError, OSError):
    """A server cannot be reached in time, fails, or gives what is no answer to what was asked."""


class CheckpointError(ZhRetrievalError, RuntimeError):
    """A folder's weights, config or tokenizer are missing, broken or contradict the recipe."""


class DeviceMemoryError(ZhRetrievalError, RuntimeError):
    """A single sequence does not fit into the memory of the device."""


class OverloadedError(ZhRetrievalError, RuntimeError):
    """More tokens wait than `max_queue_tokens`, and `when_full="refuse"`: try again later."""


class ClosedError(ZhRetrievalError, RuntimeError):
    """The model was used after `close()`."""
