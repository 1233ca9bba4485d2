"""Tables written as the files that people have."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import xlsxwriter


def write_table(table: pa.Table, path: Path) -> Path:
    """A Parquet or an Arrow file; a name that begins with stream is an Arrow stream."""
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, path)
    else:
        new = pa.ipc.new_stream if path.name.startswith("stream") else pa.ipc.new_file
        with new(path, table.schema) as writer:
            writer.write_table(table)
    return path


def write_sheets(path: Path, sheets: dict[str, Sequence[Sequence[Any]]]) -> Path:
    """An Excel file with these cells by sheet; dates have a format of dates."""
    with xlsxwriter.Workbook(path) as book:
        dates = book.add_format({"num_format": "dd.mm.yyyy hh:mm"})
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for row, cells in enumerate(rows):
                for column, cell in enumerate(cells):
                    if isinstance(cell, date):
                        sheet.write_datetime(row, column, cell, dates)
                    elif isinstance(cell, str):
                        sheet.write_string(row, column, cell)
                    elif cell is not None:
                        sheet.write(row, column, cell)
    return path


def write_frame(frame: pd.DataFrame, path: Path) -> Path:
    """A frame as csv, Parquet, Feather or a sheet."""
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".xlsx":
        cells = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
        write_sheets(path, {"Sheet1": [list(frame.columns), *cells]})
    else:
        write_table(pa.Table.from_pandas(frame, preserve_index=False), path)
    return path
