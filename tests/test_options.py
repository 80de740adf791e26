"""Every option is written once: what derives from it agrees, and what a caller says wins."""

import argparse
import inspect
import pydoc
import typing
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import langchain_zh_retrieval as lc
import llama_index_zh_retrieval as li
import zh_retrieval as zr
from zh_retrieval.cli.flags import add_load_flags, load_options
from zh_retrieval.options import ENVIRONMENT, OPTIONS, LoadKwargs, LoadOptions
from zh_retrieval.ranking import rank_scores

TYPES = typing.get_type_hints(LoadOptions)
ADAPTERS = (lc.ModelScopeEmbeddings, lc.BGEReranker, lc.RankingGPTReranker, lc.ModelScopeReranker,
            li.ModelScopeEmbedding, li.BGEReranker, li.RankingGPTReranker, li.ModelScopeReranker)  # fmt: skip
SAID = {"device": "cuda:3", "dtype": "float16", "cache_dir": "/said", "local_files_only": "yes", "api_key": "said",
        "threads": "3"}  # fmt: skip
GIVEN = {"device": "auto", "dtype": "auto", "cache_dir": None, "local_files_only": False, "api_key": None,
         "threads": None}  # fmt: skip


def make(cls, **settings):
    names = {"Embedding": "bge-base-zh", "ModelScopeReranker": "qwen3-reranker-0.6b"}
    name = next((name for part, name in names.items() if part in cls.__name__), None)
    return cls(name, **settings)


def parsed(*flags):
    parser = argparse.ArgumentParser()
    add_load_flags(parser)
    return parser, load_options(parser.parse_args(flags))


def test_the_keyword_arguments_are_the_fields_with_their_types():
    assert typing.get_type_hints(LoadKwargs) == TYPES
    assert not LoadKwargs.__required_keys__


@pytest.mark.parametrize("load", [zr.load_encoder, zr.load_reranker])
def test_help_and_the_signature_list_every_option_with_its_default(load):
    shown = pydoc.render_doc(load, renderer=pydoc.plaintext)
    parameters = inspect.signature(load).parameters
    for name, option in OPTIONS.items():
        assert f"{name}: {option.help[0].upper()}{option.help[1:]}" in shown
        assert parameters[name].default == option.default
        assert option.environment is None or option.environment in shown
    assert "{options}" not in shown


PLACE = {"local_files_only", "base_url", "dialect", "served_model_name", "score_scale", "timeout"}  # where it computes


@pytest.mark.parametrize("cls", ADAPTERS)
def test_the_adapters_fields_have_the_same_names_types_defaults_and_help(cls):
    found = {name: cls.model_fields[name] for name in OPTIONS}
    hints = typing.get_type_hints(cls)
    for entry in fields(LoadOptions):
        assert hints[entry.name] == TYPES[entry.name]
        assert found[entry.name].default == entry.default
        assert found[entry.name].description == OPTIONS[entry.name].help
        dumped = OPTIONS[entry.name].changes_results or entry.name in PLACE
        assert bool(found[entry.name].exclude) is not dumped


def test_dumps_and_the_identity_hold_exactly_what_changes_results_and_dumps_where():
    expected = {name for name, option in OPTIONS.items() if option.changes_results}
    made = lc.ModelScopeEmbeddings("bge-base-zh", device="cpu")
    assert set(made.model_dump()) & set(OPTIONS) == expected | PLACE
    assert set(made.identity()) & set(OPTIONS) == expected


def test_every_flag_is_an_option_and_none_is_left_out():
    parser, options = parsed()
    assert options == {}
    flags = {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}
    assert flags == {f"--{name.replace('_', '-')}" for name, option in OPTIONS.items() if option.flag}
    _, options = parsed("--max-length", "7", "--local-files-only", "--dtype", "auto")
    assert options == {"max_length": 7, "local_files_only": True, "dtype": "auto"}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_the_environment_replaces_a_default_and_an_argument_wins_even_if_it_is_the_default(name, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT[name], SAID[name])
    expected = {"local_files_only": True, "threads": 3}.get(name, SAID[name])
    assert getattr(LoadOptions.given(), name) == expected
    assert getattr(LoadOptions.given(**{name: GIVEN[name]}), name) == GIVEN[name]


@pytest.mark.parametrize("cls", ADAPTERS)
@pytest.mark.parametrize("name", ENVIRONMENT)
def test_an_adapters_argument_wins_over_the_environment(cls, name, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT[name], SAID[name])
    unsaid, said, assigned = make(cls), make(cls, **{name: GIVEN[name]}), make(cls)
    setattr(assigned, name, GIVEN[name])
    assert name not in unsaid.load_options()
    for made in (said, assigned, said.model_copy()):
        assert getattr(LoadOptions.given(**made.load_options()), name) == GIVEN[name]


@pytest.mark.parametrize("threads", ["many", "0", "-1", "1.5", "②"])
def test_an_environment_without_a_number_of_threads_is_refused(threads, monkeypatch):
    monkeypatch.setenv("ZH_RETRIEVAL_THREADS", threads)
    with pytest.raises(zr.ConfigError, match=r"^ZH_RETRIEVAL_THREADS=.* must be a positive whole number"):
        LoadOptions.given()


def test_an_offline_environment_gives_way_to_an_explicit_false(monkeypatch, tmp_path):
    from zh_retrieval.hub import download

    monkeypatch.setenv("ZH_RETRIEVAL_OFFLINE", "1")
    monkeypatch.setattr(download, "_download", lambda *_: tmp_path)
    spec = zr.get_spec("bge-base-zh")
    with pytest.raises(zr.DownloadError, match="network is not to be used"):
        download.fetch(spec, cache_dir=tmp_path)
    assert download.fetch(spec, cache_dir=tmp_path, local_files_only=False) == tmp_path


@pytest.mark.parametrize("device", ["auto", "cpu", "cpu:0", "cuda", "cuda:0", "cuda:12", "mps"])
def test_device_names(device):
    assert LoadOptions(device=device).device == device


@pytest.mark.parametrize(
    "device",
    ["cuda:abc", "cpu:7x", "cuda:", "cuda:-1", "cuda:1:2", "cuda:１", " cpu", "CPU", "", "auto:0", 0, None, []],
)
def test_other_device_names_are_refused(device, monkeypatch):
    with pytest.raises(zr.ConfigError, match=r"^device="):
        LoadOptions.given(device=device)
    if isinstance(device, str) and device.strip() not in ("", "cpu"):
        monkeypatch.setenv("ZH_RETRIEVAL_DEVICE", device)
        with pytest.raises(zr.ConfigError, match=r"^ZH_RETRIEVAL_DEVICE="):
            LoadOptions.given()


@pytest.mark.parametrize("name", ["max_length", "max_batch_tokens", "max_queue_tokens"])
@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8, int])
def test_any_integer_type_is_kept_as_int(name, integer):
    assert type(getattr(LoadOptions(**{name: integer(64)}), name)) is int
    for cls in ADAPTERS:
        assert type(getattr(make(cls, **{name: integer(64)}), name)) is int


@pytest.mark.parametrize("name", ["max_length", "max_batch_tokens", "max_queue_tokens"])
@pytest.mark.parametrize("value", [0, -3, True, False, np.bool_(True), 2.5, 3.0, "many", np.array([3])])
def test_what_is_no_positive_whole_number_is_refused(name, value):
    with pytest.raises(zr.ConfigError, match="positive whole number of tokens"):
        LoadOptions(**{name: value})
    with pytest.raises(ValueError, match=name):
        lc.ModelScopeEmbeddings("bge-base-zh", **{name: value})


def test_top_n_takes_any_integer_type_and_no_bool():
    assert [ranked.index for ranked in rank_scores([0.1, 0.3, 0.2], np.int64(2))] == [1, 2]
    for bad in (True, 0, 1.0, "2"):
        with pytest.raises(zr.ConfigError, match=r"^top_n="):
            rank_scores([0.1], bad)
    for cls in (lc.BGEReranker, li.RankingGPTReranker):
        assert type(cls(top_n=np.int64(2)).top_n) is int
        with pytest.raises(ValueError, match="top_n"):
            cls(top_n=True)


@pytest.mark.parametrize("name", ["path", "cache_dir"])
def test_a_path_and_an_equal_str_are_one_option(name):
    assert getattr(LoadOptions(**{name: Path("/a/b")}), name) == "/a/b"
    for cls in ADAPTERS:
        made, other = make(cls, **{name: Path("/a/b")}), make(cls, **{name: "/a/b"})
        assert getattr(made, name) == "/a/b"
        assert made.load_options() == other.load_options()
        assert made.model_dump_json() == other.model_dump_json()
    for bad in (3, b"/a", ""):
        with pytest.raises(zr.ConfigError, match=f"^{name}="):
            LoadOptions(**{name: bad})


def test_an_unknown_option_is_a_type_error_that_says_what_was_meant():
    with pytest.raises(TypeError, match=r"no option 'devise'. Did you mean device"):
        zr.load_encoder("builtin", devise="cpu")
    with pytest.raises(TypeError, match="no option 'trust_remote_code'"):
        zr.load_reranker("bge-reranker-large", trust_remote_code=True)


@pytest.mark.parametrize(
    "wrong",
    [{"dtype": "int8"}, {"quantization": "int3"}, {"overflow": "cut"}, {"when_full": "drop"}, {"private": "yes"},
     {"compile": 1}, {"local_files_only": None}, {"revision": 3}, {"revision": " "}],
)  # fmt: skip
def test_every_option_is_checked(wrong):
    with pytest.raises(zr.ConfigError, match=f"^{next(iter(wrong))}="):
        LoadOptions.given(**wrong)
