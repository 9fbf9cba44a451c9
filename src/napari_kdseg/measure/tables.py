"""Tables of measurements as files: CSV for people, Parquet for programs.

CSV writes numbers with as many digits as count, and nothing where there is no number.
Parquet keeps types and all digits; it needs pyarrow, which takes some 150 MB for this
alone, so it is an extra (``parquet``).
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from napari_kdseg.atomic import check_writable, write_bytes_atomic
from napari_kdseg.errors import UsageError, VolumeError
from napari_kdseg.extras import not_installed
from napari_kdseg.measure.metrics import QUANTITY

Value = str | int | float | bool
Row = Mapping[str, Value]
ENDINGS = (".csv", ".parquet")


def check_table(path: Path) -> None:
    """Refuse a name or a place that no table can be written to, before the work.

    Raises
    ------
    UsageError
        Where the ending is neither CSV nor Parquet, pyarrow is missing, or the place
        cannot be written to.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(
            f"{path} ends in {path.suffix or 'nothing'}; a table ends in .csv or "
            ".parquet."
        )
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow as pa  # noqa: F401
        except ImportError as error:
            raise UsageError(
                f"{not_installed(str(path), 'pyarrow')} Or let the table end in .csv."
            ) from error
    check_writable(path)


def write_table(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Write a table so that it is complete, or as it was before.

    Parameters
    ----------
    path
        Its ending chooses the format; its folder is made.
    rows
        NaN means that there is no such number.
    columns
        In their order; rows have all of them.

    Raises
    ------
    UsageError
        As `check_table`.
    VolumeError
        Where it cannot be written.
    """
    check_table(path)
    parquet = path.suffix.lower() == ".parquet"
    data = _as_parquet(rows, columns) if parquet else _as_csv(rows, columns)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, data)
    except OSError as error:
        raise VolumeError(
            f"{path} could not be written: {error.strerror or error}. Nothing was left "
            "behind; see that its folder may be written to and has room."
        ) from error


def _as_csv(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_text(row[name]) for name in columns] for row in rows)
    return text.getvalue().encode()


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:{QUANTITY}}"
    return str(value)


def _as_parquet(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({name: [_or_none(row[name]) for row in rows] for name in columns})
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return sink.getvalue()


def _or_none(value: Value) -> Value | None:
    return None if isinstance(value, float) and math.isnan(value) else value
