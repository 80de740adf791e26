"""Judgements by hand: what is still to be judged, and a file that keeps every answer at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from zh_retrieval.errors import InputError
from zh_retrieval.evaluation.run import Ranking
from zh_retrieval.files.whole import write_whole

Item = tuple[str, str]
"""Ids of a question and a passage."""
_HEADER = "query-id\tcorpus-id\tscore\n"
_COLUMNS = 3


def pool(rankings: Sequence[Mapping[str, Ranking]], query_ids: Sequence[str], depth: int) -> list[Item]:
    """Return the pairs to judge: what any system has among its first `depth`, question by question.

    Passages stand in the order of their ids, not of a system's ranks: a judge who sees who found what, judges that.
    """
    return [
        (query, name)
        for query in query_ids
        for name in sorted({name for found in rankings if query in found for name in found[query].ids[:depth]})
    ]


class Labels:
    """A qrels file in BEIR's form that is replaced as a whole after every answer: killed at any time, it is complete.

    The answers stand in the order given, so that `undo` takes the last one back after a restart too.
    """

    def __init__(self, path: Path) -> None:
        """Read what was answered before.

        Raises:
            InputError: The file is not in BEIR's form.
        """
        self._path = path
        self._grades: dict[Item, int] = {}
        if path.exists():
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError:
                raise InputError(f"{path} is not UTF-8. Convert it: another program has written it.") from None
            for number, line in enumerate(lines[1:], 2):
                fields = line.split("\t")
                if len(fields) != _COLUMNS or not fields[2].isdecimal():
                    raise InputError(f"{path}:{number}: expected query, passage and grade with tabs, found {line!r}.")
                self._grades[fields[0], fields[1]] = int(fields[2])

    def __contains__(self, item: Item) -> bool:
        """Return True if the pair is judged."""
        return item in self._grades

    def __len__(self) -> int:
        """Return how many pairs are judged."""
        return len(self._grades)

    def put(self, item: Item, grade: int) -> None:
        """Keep a judgement: 0 wrong, 1 and more right."""
        self._grades.pop(item, None)  # the last answer stands last
        self._grades[item] = grade
        self._save()

    def undo(self) -> Item | None:
        """Take the last judgement back and return its pair; None if there is none."""
        if not self._grades:
            return None
        item, _ = self._grades.popitem()
        self._save()
        return item

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{query}\t{name}\t{grade}\n" for (query, name), grade in self._grades.items()]
        content = _HEADER + "".join(lines)
        write_whole(self._path, lambda file: file.write_bytes(content.encode("utf-8")))
