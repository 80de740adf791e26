"""Records as Arrow columns: the ids, the texts and every other column that the input has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from zh_retrieval.errors import InputError
from zh_retrieval.files.reading.formats.columns import pyarrow
from zh_retrieval.files.reading.records import Form, Record
from zh_retrieval.files.utf8 import json_text, writable
from zh_retrieval.files.writing.encoded import DENSE

_MOST = 1000  # columns: more are keys that are data


def other_columns(form: Form, fields: Iterable[str], made: Sequence[str] = (DENSE,)) -> dict[str, str]:
    """Return name in the input -> name in the output, of all columns but `id`, `text` and those that are `made`.

    A column called `id` or `text` that is not the id or the text is called `input_id` or `input_text`.
    """
    ours = {*made}
    if form.id_field in (None, "id"):
        ours.add("id")
    if form.text_field == "text":
        ours.add("text")
    return {name: f"input_{name}" if name in ("id", "text") else name for name in fields if name not in ours}


def columns_of(
    records: Sequence[Record], form: Form, *, others: bool = True, made: Sequence[str] = (DENSE,)
) -> dict[str, Any]:
    """Return column name -> Arrow array: `id` and `text` as strings, then the other columns of the input.

    A column has the type that the input says (Parquet, Arrow), or that its values have: numbers, booleans, text, lists
    of these. Objects and columns of several types are JSON text. A row without the field is null.

    Args:
        records: Rows, bad ones too.
        form: How they were read.
        others: False leaves the other columns out.
        made: Names of the columns of vectors, which those of the input give way to.

    Raises:
        InputError: There are more than 1000 columns.
    """
    pa = pyarrow()
    found = {
        "id": pa.array([writable(record.id) for record in records], type=pa.string()),
        "text": pa.array([None if record.error else record.text for record in records], type=pa.string()),
    }
    fields = dict.fromkeys(name for record in records for name in record.fields)
    names = other_columns(form, fields, made) if others else {}
    types = {id(record.types): record.types for record in records}
    if len(names) > _MOST:
        raise InputError(f"{records[0].where}: more than {_MOST} columns. Use --drop-columns, or JSONL output.")
    for name, column in names.items():
        values = [record.fields.get(name) for record in records]
        found[writable(column)] = _array(pa, values, name, list(types.values()))
    return found


def _array(pa: Any, values: list[Any], name: str, schemas: list[Any]) -> Any:
    known = {schema.field(name).type for schema in schemas if schema is not None and name in schema.names}
    try:
        if len(known) == 1 and all(schema is not None for schema in schemas):
            return pa.array(values, type=known.pop())
        if not any(_nested(value) for value in values):
            return pa.array(values)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):  # several types, half a surrogate pair, 2**70
        pass
    return pa.array([_as_text(value) for value in values], type=pa.string())


def _nested(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)
    )


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    return writable(value) if isinstance(value, str) else json_text(value)


def common_schema(schemas: Sequence[Any]) -> Any:
    """Return the schema that all tables of an output fit into: see `fitted`.

    A column whose types differ is int64 or double where all are numbers, else text.
    """
    pa = pyarrow()
    types: dict[str, list[Any]] = {}
    for schema in schemas:
        for field in schema:
            known = types.setdefault(field.name, [])
            if field.type not in known:
                known.append(field.type)
    return pa.schema([pa.field(name, _common(pa, known)) for name, known in types.items()])


def _common(pa: Any, types: list[Any]) -> Any:
    known = [kind for kind in types if not pa.types.is_null(kind)]
    if len(known) <= 1:
        return known[0] if known else pa.string()
    if all(pa.types.is_integer(kind) for kind in known):
        return pa.int64()
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in known):
        return pa.float64()
    return pa.string()


def fitted(table: Any, schema: Any) -> Any:
    """Return a table with the columns of a schema of `common_schema`; what it lacks is null."""
    pa = pyarrow()
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(len(table), field.type))
            continue
        column = table.column(field.name)
        if column.type != field.type:
            if pa.types.is_string(field.type):
                column = pa.array([_as_text(value) for value in column.to_pylist()], type=field.type)
            else:
                column = column.cast(field.type, safe=False)
        columns.append(column)
    return pa.table(columns, schema=schema)
