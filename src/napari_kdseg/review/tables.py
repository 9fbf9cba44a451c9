"""What a store of verdicts holds: its tables, and rows in and out of them.

Rows are only ever added: triggers refuse to change or to remove one.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    Integer,
    MetaData,
    Table,
    Text,
    event,
)

from napari_kdseg.review.verdicts import COLUMNS, Kind, Source, Verdict, Word

VERSION = 1
"""Of the tables; a store of a newer one is refused."""

_WHOLE = BigInteger().with_variant(Integer, "sqlite")
_NUMBERS = ("axis", "index", "sitting", "seq")
_WORDS = {"verdict": get_args(Word), "source": get_args(Source), "kind": get_args(Kind)}

METADATA = MetaData()

STORES = Table(
    "kdseg_store",
    METADATA,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("created_utc", Text, nullable=False),
)

SITTINGS = Table(
    "kdseg_sittings",
    METADATA,
    Column("number", _WHOLE, primary_key=True, autoincrement=False),
    Column("reviewer", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("process", _WHOLE, nullable=False),
    Column("process_started", Float, nullable=False),  # tells reused numbers apart
    Column("opened_utc", Text, nullable=False),
)

ENDS = Table(
    "kdseg_sitting_ends",
    METADATA,
    Column("sitting", _WHOLE, primary_key=True, autoincrement=False),
    Column("ended_utc", Text, nullable=False),
)

VERDICTS = Table(
    "kdseg_verdicts",
    METADATA,
    Column("number", _WHOLE, primary_key=True),
    Column("uuid", Text, nullable=False, unique=True),
    Column("project", Text, nullable=False),
    Column("case", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("scan_hash", Text, nullable=False),
    Column("prediction", Text, nullable=False),
    Column("labels_hash", Text, nullable=False),
    Column("axis", Integer, CheckConstraint("axis IN (0, 1, 2)"), nullable=False),
    Column("index", _WHOLE, nullable=False),
    Column("kind", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("sitting", _WHOLE, nullable=False),
    Column("seq", _WHOLE, nullable=False),
    Column("seconds", Float),
    Column("comment", Text, nullable=False),
    Column("created_utc", Text, nullable=False),
    Column("schema", Integer, nullable=False),
    *(
        CheckConstraint(f"{name} IN ({', '.join(map(repr, words))})", f"{name}_word")
        for name, words in _WORDS.items()
    ),
)


def values_of(verdict: Verdict) -> dict[str, Any]:
    """Give a verdict as a row is written."""
    return {**asdict(verdict), "schema": VERSION}


def verdict_of(row: Mapping[str, Any]) -> Verdict:
    """Give a row as a verdict."""
    return Verdict(**{name: row[name] for name in COLUMNS})


def is_whole(row: Mapping[str, Any]) -> bool:
    """Whether a row that comes from a damaged file can be a verdict."""
    texts = (name for name in COLUMNS if name not in (*_NUMBERS, "seconds"))
    return (
        all(row[name] in words for name, words in _WORDS.items())
        and row["axis"] in (0, 1, 2)
        and all(isinstance(row[name], int) and row[name] >= 0 for name in _NUMBERS)
        and all(isinstance(row[name], str) for name in texts)
        and isinstance(row["seconds"], float | None)
    )


# ---- nothing is changed or removed ----

_REFUSAL = "verdicts are only ever added"


def _keep_for_ever(table: Table) -> None:
    for what in ("update", "delete"):
        statement = (
            f"CREATE TRIGGER {table.name}_no_{what} BEFORE {what} ON {table.name} "
            f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        )
        _after_creation(table, statement, "sqlite")
    for statement in (
        "CREATE OR REPLACE FUNCTION kdseg_refuse() RETURNS trigger LANGUAGE plpgsql "
        f"AS $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
        f"CREATE TRIGGER {table.name}_stays "
        f"BEFORE UPDATE OR DELETE OR TRUNCATE ON {table.name} "
        "FOR EACH STATEMENT EXECUTE FUNCTION kdseg_refuse()",
    ):
        _after_creation(table, statement, "postgresql")


def _after_creation(table: Table, statement: str, dialect: str) -> None:
    ddl = DDL(statement)  # type: ignore[no-untyped-call]  # so in SQLAlchemy
    event.listen(table, "after_create", ddl.execute_if(dialect=dialect))


for _table in METADATA.sorted_tables:
    _keep_for_ever(_table)
