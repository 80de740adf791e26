"""What both frameworks expect of us, rule by rule, each with the tests that guard it and a way to break it.

`test_rules.py` checks that the tests are there and that every break still names a place in the code; `make mutants`
applies the breaks one at a time and expects the tests to fail.
"""

from dataclasses import dataclass

LC_EMBEDDINGS = "langchain_zh_retrieval/embeddings.py"
LC_RERANKERS = "langchain_zh_retrieval/compressors.py"
LI_EMBEDDINGS = "llama_index_zh_retrieval/embeddings.py"
LI_RERANKERS = "llama_index_zh_retrieval/postprocessors.py"
FIELDS = "shared/zh_retrieval/frameworks/fields.py"
FRAMEWORKS = "shared/zh_retrieval/frameworks/calls.py"
IDENTITY = "shared/zh_retrieval/frameworks/identity.py"
LAZY = "shared/zh_retrieval/frameworks/lazy.py"


@dataclass(frozen=True)
class Rule:
    """One line of the contract.

    Attributes:
        name: What holds.
        tests: Test ids below tests/contract that fail when it does not.
        file: Where the break is made.
        old: Text that occurs once there.
        new: What breaks the rule.
    """

    name: str
    tests: tuple[str, ...]
    file: str
    old: str
    new: str


LC_HYBRID = "langchain_zh_retrieval/retrievers.py"
LI_HYBRID = "llama_index_zh_retrieval/retrievers.py"
SIDES = "shared/zh_retrieval/frameworks/sides.py"

LANGCHAIN = "test_langchain_embeddings.py::"
LLAMA = "test_llama_index_embeddings.py::"
RERANK = "test_rerankers.py::"
LOOP = "test_event_loop.py::"
CHAIN = "test_langchain_hybrid.py::"
ENGINE = "test_llama_index_hybrid.py::"
WORDS = "test_bm25_retrievers.py::"
SPARSE = "test_sparse_embeddings.py::"

RULES = (
    Rule(
        "LangChain embeddings refuse unknown arguments",
        (LANGCHAIN + "test_unknown_arguments_and_models_are_refused_at_once",),
        FIELDS, 'extra="forbid"', 'extra="ignore"',
    ),
    Rule(
        "the model is named by position, model or model_name",
        (LANGCHAIN + "test_a_model_is_named_by_position_keyword_alias_or_hub_id",),
        FIELDS, 'alias="model", description="Name', 'alias="model_id", description="Name',
    ),
    Rule(
        "vectors are lists of Python floats",
        (LANGCHAIN + "test_vectors_are_lists_of_python_floats_equal_to_the_core",),
        FRAMEWORKS, "= encoder.encode_documents(texts, show_progress=self.show_progress).tolist()",
        "= list(map(list, encoder.encode_documents(texts, show_progress=self.show_progress)))",
    ),
    Rule(
        "newlines are not replaced",
        (LANGCHAIN + "test_texts_reach_the_core_as_they_are",),
        FRAMEWORKS, "= encoder.encode_queries([text], instruction=self.query_instruction)[0].tolist()",
        '= encoder.encode_queries([text.replace("\\n", " ")], instruction=self.query_instruction)[0].tolist()',
    ),
    Rule(
        "a compressed document is a copy, its metadata too",
        (RERANK + "test_inputs_are_not_changed_and_copies_are_independent",),
        LC_RERANKERS, "copied(documents[index].metadata)", "documents[index].metadata",
    ),
    Rule(
        "a new relevance score wins over a stale one",
        (RERANK + "test_both_frameworks_and_the_core_give_the_same_order_and_scores",),
        LC_RERANKERS, "copied(documents[index].metadata) | scored", "scored | copied(documents[index].metadata)",
    ),
    Rule(
        "no documents give no documents, and load nothing",
        (RERANK + "test_empty_input_gives_empty_output",),
        LC_RERANKERS, "self._ranked(query, [each.page_content for each in taken])) if taken else []",
        "self._ranked(query, [each.page_content for each in taken]))",
    ),
    Rule(
        "a reranker is a document compressor and a cross-encoder",
        (RERANK + "test_langchain_interfaces_are_the_real_ones",),
        LC_RERANKERS, ", BaseDocumentCompressor, BaseCrossEncoder)", ", BaseDocumentCompressor)",
    ),
    Rule(
        "the runnable form is async too",
        (RERANK + "test_the_runnable_form_is_async_too",),
        LC_RERANKERS, "RunnableLambda(compress, acompress, ", "RunnableLambda(compress, lambda inputs: inputs, ",
    ),
    Rule(
        "langchain-tests' integration suite passes",
        (LANGCHAIN + "TestIntegrationSuite",),
        FRAMEWORKS, "(await encoder.aencode_queries([text], instruction=self.query_instruction))[0].tolist()",
        "(await encoder.aencode_queries([text], instruction=self.query_instruction))[0]",
    ),
    Rule(
        "langchain-tests' unit suite passes",
        (LANGCHAIN + "TestUnitSuite",),
        FRAMEWORKS, '_task: ClassVar[Task] = "embedding"', '_task: ClassVar[Task] = "reranking"',
    ),
    Rule(
        "the cache namespace tells apart what changes vectors",
        (LANGCHAIN + "test_cache_namespace_tells_apart_what_changes_vectors",),
        IDENTITY, "computed_dtype(options, resolve_device(options.device))", "None",
    ),
    Rule(
        "the cache namespace holds the instruction",
        (LANGCHAIN + "test_cache_namespace_tells_apart_what_changes_vectors",),
        LC_EMBEDDINGS, '| {"query_instruction": self.query_instruction}', "",
    ),
    Rule(
        "no token shows in repr or dumps",
        (LANGCHAIN + "test_repr_and_dumps_hold_no_secret", LLAMA + "test_payloads_hold_no_secret"),
        FIELDS, "    show_progress: bool = Field(",
        "    token: Any = Field(default_factory=lambda: __import__('os').environ.get('MODELSCOPE_API_TOKEN'))\n"
        "    show_progress: bool = Field(",
    ),
    Rule(
        "a batch reaches the core at once",
        (LLAMA + "test_the_whole_job_reaches_the_core_at_once",),
        LI_EMBEDDINGS, "default=2048, gt=0", "default=10, gt=0",
    ),
    Rule(
        "LlamaIndex's async batch does not block the event loop",
        (LOOP + "test_the_event_loop_goes_on[ModelScopeEmbedding-aget_text_embedding_batch]",),
        LI_EMBEDDINGS, "return await self._adocuments(texts)", "return self._documents(texts)",
    ),
    Rule(
        "LlamaIndex's async query does not block the event loop",
        (LOOP + "test_the_event_loop_goes_on[ModelScopeEmbedding-aget_query_embedding]",),
        LI_EMBEDDINGS, "await self._aquery(query)", "self._query(query)",
    ),
    Rule(
        "LangChain's async batch does not block the event loop",
        (LOOP + "test_the_event_loop_goes_on[ModelScopeEmbeddings-aembed_documents]",),
        LC_EMBEDDINGS, "await self._adocuments(texts)", "self._documents(texts)",
    ),
    Rule(
        "async compression does not block the event loop",
        (LOOP + "test_the_event_loop_goes_on[BGEReranker-acompress_documents]",),
        LC_RERANKERS, "await self._aranked(", "self._ranked(",
    ),
    Rule(
        "a cache keyed by the bare text is refused where prompts differ",
        (LLAMA + "test_a_cache_by_bare_text_is_refused_where_queries_and_documents_differ",),
        LI_EMBEDDINGS, "if self.embeddings_cache is not None and not same:", "if False:",
    ),
    Rule(
        "dictionaries hold what changes vectors",
        (LLAMA + "test_dictionaries_round_trip_and_hold_what_changes_vectors",),
        FIELDS, "exclude = None if option.changes_results or name in _PLACE else True", "exclude = True",
    ),
    Rule(
        "dictionaries leave out what does not",
        (LLAMA + "test_dictionaries_round_trip_and_hold_what_changes_vectors",),
        FIELDS, "exclude = None if option.changes_results or name in _PLACE else True", "exclude = None",
    ),
    Rule(
        "pickles hold settings only",
        (LLAMA + "test_pickles_hold_settings_only", LANGCHAIN + "test_weights_never_travel_in_pickles"),
        LAZY, "def __reduce__(self)", "def _reduce(self)",
    ),
    Rule(
        "a pipeline runs in worker processes, each of which loads for itself",
        (LLAMA + "test_an_ingestion_pipeline_runs_in_worker_processes",),
        LAZY, "model = load()",
        "assert __import__('multiprocessing').parent_process() is None; model = load()",
    ),
    Rule(
        "every rerank start event has its end, errors included",
        (RERANK + "test_every_rerank_start_event_has_its_end",),
        LI_RERANKERS, "        finally:\n            _dispatcher.event(",
        "        except KeyError:\n            raise\n        else:\n            _dispatcher.event(",
    ),
    Rule(
        "the callback manager gets the reranking event",
        (RERANK + "test_callbacks_get_the_reranking_event",),
        LI_RERANKERS, "event(CBEventType.RERANKING", "event(CBEventType.LLM",
    ),
    Rule(
        "text is taken as the embedding sees it",
        (RERANK + "test_text_is_taken_as_the_embedding_sees_it",),
        LI_RERANKERS, "metadata_mode=MetadataMode.EMBED", "metadata_mode=MetadataMode.ALL",
    ),
    Rule(
        "nodes are not changed when the retrieval score is kept",
        (RERANK + "test_inputs_are_not_changed_and_copies_are_independent",),
        LI_RERANKERS, "scored.node.model_copy(update=copied(vars(scored.node)))", "scored.node",
    ),
    Rule(
        "a kept retrieval score stays out of embedded and prompted text",
        (RERANK + "test_inputs_are_not_changed_and_copies_are_independent",),
        LI_RERANKERS, '("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")',
        '("excluded_llm_metadata_keys",)',
    ),
    Rule(
        "LlamaIndex takes the class as one of its own",
        (LLAMA + "test_settings_take_the_native_class_and_no_langchain_one",),
        LI_EMBEDDINGS, "class ModelScopeEmbedding(EncoderFields, BaseEmbedding):",
        "class ModelScopeEmbedding(EncoderFields):",
    ),
    Rule(
        "distances are told from similarities",
        (CHAIN + "test_every_kind_of_score_gives_the_ranking_of_the_core", ENGINE + "test_distances_are_seen_as_such"),
        SIDES, "return -1.0 if up > down else 1.0", "return 1.0",
    ),
    Rule(
        "what both sides found by different ids is one document",
        (ENGINE + "test_qdrant_gives_the_same_ranking",),
        SIDES, "met = waiting.get(each.text)", "met = None",
    ),
    Rule(
        "LangChain's filter holds for the lexical side too",
        (CHAIN + "test_a_filter_holds_for_both_sides",),
        LC_HYBRID, "keep = filter_for_both(search, self.vectorstore)", "keep = None",
    ),
    Rule(
        "LlamaIndex's filter holds for the lexical side too",
        (ENGINE + "test_filters_of_an_index_hold_for_the_lexical_side_too",),
        LI_HYBRID, "filters = _filters_of_both(self._dense, self._lexical)", "filters = self._lexical.filters",
    ),
    Rule(
        "the whole depth of the lexical side counts",
        (ENGINE + "test_the_ranking_and_the_scores_are_the_cores",),
        LI_HYBRID, "self._lexical.limited(self.depth, ", "self._lexical.limited(1, ",
    ),
    Rule(
        "callbacks reach the lexical side",
        (CHAIN + "test_callbacks_see_the_retriever_and_its_lexical_side",),
        LC_HYBRID, "        config = RunnableConfig(callbacks=run_manager.get_child())\n        found = dense",
        "        config = RunnableConfig()\n        found = dense",
    ),
    Rule(
        "both sides are searched side by side",
        (ENGINE + "test_both_sides_are_searched_side_by_side",),
        SIDES, "tasks = asyncio.ensure_future(first), asyncio.ensure_future(second)",
        "started = asyncio.ensure_future(first)\n    await started\n    tasks = started, asyncio.ensure_future(second)",
    ),
    Rule(
        "BM25 keeps copies of what it was given, and gives copies",
        (WORDS + "test_what_was_given_is_not_kept",),
        "langchain_zh_retrieval/bm25.py", "with_scores(each, {}), each.page_content)", "each, each.page_content)",
    ),
    Rule(
        "a filter holds before the cut",
        (WORDS + "test_langchain_filters_before_it_cuts",),
        "shared/zh_retrieval/frameworks/lexical.py", "k if keep is None else max(1, len(self._items))", "k",
    ),
    Rule(
        "both stores' packages take sparse embeddings for theirs",
        (SPARSE + "test_both_stores_packages_take_the_class_for_theirs",),
        "langchain_zh_retrieval/sparse.py", "register_with_stores(type(self))", "pass",
    ),
)  # fmt: skip
