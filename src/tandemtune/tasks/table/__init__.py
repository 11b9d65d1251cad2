"""Tables: all rows of a file with all their columns, in its order, read and written by its ending.

`base`       the table itself
`sources`    where rows come from
`reading`    reads a file; `json_rows`, `parquet` and `hub` know what is in one
`columns`    looks columns up
`writing`    writes a file
"""

from tandemtune.tasks.table.base import Format, Row, Source, Table
from tandemtune.tasks.table.columns import check_columns, column_of, columns_in, is_absent, value_of
from tandemtune.tasks.table.reading import read_table
from tandemtune.tasks.table.sources import HUB, SUFFIXES, absolute_address, check_source, located
from tandemtune.tasks.table.writing import check_output, write_table

__all__ = [
    "HUB",
    "SUFFIXES",
    "Format",
    "Row",
    "Source",
    "Table",
    "absolute_address",
    "check_columns",
    "check_output",
    "check_source",
    "column_of",
    "columns_in",
    "is_absent",
    "located",
    "read_table",
    "value_of",
    "write_table",
]
