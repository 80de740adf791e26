"""What users of other packages write, and what comes back: our own error, what to write instead, and no secret."""

import traceback

import pytest
from pydantic import BaseModel, ValidationError

import langchain_zh_retrieval as lc
import llama_index_zh_retrieval as li
import zh_retrieval as zr

KEY = "sk-geheim-4711"
EMBEDDERS = (lc.ModelScopeEmbeddings, li.ModelScopeEmbedding)
RERANKERS = (lc.BGEReranker, li.BGEReranker, lc.RankingGPTReranker, li.RankingGPTReranker)
OTHERS = {
    "model_kwargs": ({"device": "cuda", "trust_remote_code": True, "torch_dtype": "x"}, "write device= beside it"),
    "encode_kwargs": ({"normalize_embeddings": True, "batch_size": 8}, "vectors have length 1 always"),
    "query_encode_kwargs": ({"prompt_name": "query"}, "own prompt"),
    "cache_folder": ("/x", "write cache_dir="),
    "multi_process": (True, "embed --ray local"),
    "model_id": ("x", "write model='NAME'"),
    "text_instruction": ("x", "documents get the model's own prompt"),
    "normalize": (True, "vectors have length 1 always"),
    "trust_remote_code": (True, "no remote code is run"),
    "max_seq_length": (512, "write max_length="),
    "top_k": (3, "write top_n="),
    "dtyp": ("float32", "Did you mean dtype="),
    "nothing_like_it": (1, "there is no such argument"),
}


@pytest.mark.parametrize("cls", EMBEDDERS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("name", OTHERS)
def test_an_argument_of_another_package_gets_its_line(cls, name):
    value, advice = OTHERS[name]
    with pytest.raises(zr.ConfigError, match=f"does not take {name}") as caught:
        cls("bge-base-zh", **{name: value})
    assert advice in str(caught.value)
    with pytest.raises(zr.ZhRetrievalError) as plain:
        zr.load_encoder("bge-base-zh", **{name: value})
    assert isinstance(plain.value, TypeError)
    assert advice in str(plain.value)


def test_every_wrong_argument_is_an_error_of_ours():
    wrong = [
        *(lambda cls=cls: cls() for cls in EMBEDDERS),
        *(lambda cls=cls: cls("bge-base-zh", device=3) for cls in EMBEDDERS),
        *(lambda cls=cls: cls("bge-base-zh", model_name="bge-large-zh") for cls in EMBEDDERS),
        *(lambda cls=cls, top_n=top_n: cls(top_n=top_n) for cls in RERANKERS for top_n in (0, -1, 1.5, "x", True)),
        *(lambda cls=cls: cls(normalize="softmax") for cls in RERANKERS),
        *(lambda cls=cls: cls(query_instruction="x") for cls in RERANKERS),
        lambda: setattr(lc.BGEReranker(), "top_n", 0),
        lambda: setattr(lc.ModelScopeEmbeddings("bge-base-zh"), "timeout", "x"),
        lc.ModelScopeReranker,
    ]
    for make in wrong:
        with pytest.raises(zr.ZhRetrievalError) as caught:
            make()
        assert isinstance(caught.value, ValueError)


def test_pydantics_own_ways_keep_pydantics_errors():
    class Settings(BaseModel):
        embeddings: lc.ModelScopeEmbeddings
        count: int

    with pytest.raises(ValidationError, match="does not take bogus"):
        lc.ModelScopeEmbeddings.model_validate({"model": "bge-base-zh", "bogus": 1})
    with pytest.raises(ValidationError) as caught:
        Settings(embeddings={"model": "nope"}, count="x")
    assert len(caught.value.errors()) == 2
    assert Settings(embeddings={"model": "bge-base-zh"}, count=1).embeddings.spec.name == "bge-base-zh-v1.5"


@pytest.mark.parametrize("cls", [*EMBEDDERS, *RERANKERS], ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_no_error_shows_a_key(cls):
    model = "bge-base-zh" if cls in EMBEDDERS else "bge-reranker-large"
    good = cls.model_construct(model_name=model)
    wrong = [
        lambda: cls(api_key=KEY, bogus=1),
        lambda: cls(model, api_key=KEY, device=3),
        lambda: cls("nope", api_key=KEY),
        lambda: cls(model, api_key=[KEY]),
        lambda: cls(model, api_key=KEY + "\n"),
        lambda: cls(model, bogus={"api_key": KEY}),
        lambda: cls(model, base_url=f"http://me:{KEY}@gpu:8080"),
        lambda: cls(model, base_url=f"http://me:p@{KEY}@gpu:8080"),
        lambda: cls(model, base_url=f"http://gpu:8080?key={KEY}"),
        lambda: cls(model, base_url=f"me:{KEY}@gpu"),
        lambda: cls.model_validate({"model": model, "api_key": [KEY]}),
        lambda: cls.model_validate({"model": model, "api_key": KEY, "bogus": 1}),
        lambda: cls.model_validate_json(f'{{"api_key": "{KEY}", "bogus": 1}}'),
        lambda: setattr(good, "api_key", [KEY]),
    ]
    for make in wrong:
        with pytest.raises((zr.ZhRetrievalError, ValidationError)) as caught:
            make()
        assert KEY not in "".join(traceback.format_exception(caught.value, chain=True))
        assert isinstance(caught.value, ValidationError) or not isinstance(caught.value.__context__, ValidationError)


PLACE = {"base_url": "http://gpu:8080", "dialect": "openai", "served_model_name": "x", "timeout": 7.0}


@pytest.mark.parametrize("cls", [li.ModelScopeEmbedding, li.BGEReranker])
def test_what_was_remote_or_offline_comes_back_as_that(cls):
    model = "bge-base-zh" if cls is li.ModelScopeEmbedding else "bge-reranker-large"
    made = cls(model, **PLACE, local_files_only=True, score_scale="logit", api_key=KEY)
    said = made.to_dict()
    assert KEY not in repr(dict(said))
    for back in (cls.from_dict(said), cls.model_validate(made.model_dump())):
        assert {name: getattr(back, name) for name in PLACE} == PLACE
        assert (back.local_files_only, back.score_scale, back.api_key) == (True, "logit", None)
    twin = lc.ModelScopeEmbeddings("bge-base-zh", **PLACE)
    assert lc.ModelScopeEmbeddings.model_validate(twin.model_dump()).base_url == PLACE["base_url"]


def test_a_folder_that_is_trained_again_is_another_one_for_caches(tmp_path):
    from tests.tiny_models import tiny_bert

    folder = tiny_bert(tmp_path / "a")
    chain, node = (
        lc.ModelScopeEmbeddings("bge-base-zh", path=folder),
        li.ModelScopeEmbedding("bge-base-zh", path=folder),
    )
    before = chain.model, str(node.to_dict())
    assert chain.model != lc.ModelScopeEmbeddings("bge-base-zh").model == "bge-base-zh-v1.5"
    (tiny_bert(tmp_path / "b", seed=1) / "model.safetensors").replace(folder / "model.safetensors")
    after = chain.model, str(node.to_dict())
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert li.ModelScopeEmbedding.from_dict(node.to_dict()).path == str(folder)


def test_late_chunks_names_arguments_that_were_swapped():
    with pytest.raises(zr.InputError, match=r"late_chunks\(documents, embeddings\)"):
        lc.late_chunks(lc.ModelScopeEmbeddings("jina-base-zh"), [])
