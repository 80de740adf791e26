"""What importing and making an adapter costs: torch and transformers come with the weights, not before."""

import subprocess
import sys

import pytest

CODE = """
import sys
import {framework}
before = set(sys.modules)
from {package} import *
{made}
print(sorted({{"torch", "transformers", "tokenizers", "safetensors"}} & (set(sys.modules) - before)))
"""
LANGCHAIN = ('ModelScopeEmbeddings("bge-base-zh")', "BGEReranker(top_n=3)", "RankingGPTReranker()")
LLAMA = ('ModelScopeEmbedding("bge-base-zh")', "BGEReranker(top_n=3)", "RankingGPTReranker()")


@pytest.mark.parametrize(
    ("framework", "package", "made"),
    [("langchain_core", "langchain_zh_retrieval", LANGCHAIN), ("llama_index.core", "llama_index_zh_retrieval", LLAMA)],
)
def test_adapters_are_made_without_torch(framework, package, made):
    code = CODE.format(framework=framework, package=package, made="\n".join(made))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
