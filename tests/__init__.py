"""The tests. What the environment of whoever runs them says decides nothing: it is forgotten first of all."""

import os

_OURS = tuple(f"ZH_RETRIEVAL_{name}" for name in ("DEPTH", "KILLS", "TEST", "CMRC", "PICTURES"))
_THEIRS = ("HF_", "TRANSFORMERS_", "MODELSCOPE_", "OPENAI_", "COHERE_", "RAY_ADDRESS", "ZH_RETRIEVAL_")
_DONE = "ZH_RETRIEVAL_TEST_ENVIRONMENT"  # what tests say to their own programs stays

if _DONE not in os.environ:
    for _name in list(os.environ):
        if (_name.startswith(_THEIRS) and not _name.startswith(_OURS)) or _name.lower().endswith("_proxy"):
            del os.environ[_name]
    for _name in ("LC_ALL", "LC_CTYPE", "LC_MESSAGES", "LANGUAGE"):
        os.environ.pop(_name, None)
    os.environ["LANG"] = "C.UTF-8"
    os.environ[_DONE] = "1"
