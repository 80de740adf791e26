"""`zh-retrieval eval --published`: the published table, printed."""

from __future__ import annotations

import argparse
from typing import NoReturn

from zh_retrieval.table import render


class ShowPublished(argparse.Action):
    """Prints the table and ends, as --version does: no folder is needed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print and exit with 0."""
        from zh_retrieval.recipes.cmteb import NOTES, RERANKING, RETRIEVAL, TABLE

        header = ("model", *RETRIEVAL, "average", *RERANKING)
        rows = []
        for row in TABLE:
            retrieval = [*row.retrieval, row.average] if row.average is not None else [None] * (len(RETRIEVAL) + 1)
            values = [*retrieval, *(row.reranking or [None] * len(RERANKING))]
            rows.append((row.model, *("-" if value is None else f"{value:.2f}" for value in values)))
        print("C-MTEB as published, x 100. Retrieval: nDCG@10. Reranking (the last four): MAP.\n")
        print(render(header, rows, [60] * len(header)))
        print()
        for row in TABLE:
            print(f"{row.model}: {row.source}")
        print("", *NOTES.values(), sep="\n")
        parser.exit()
