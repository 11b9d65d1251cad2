"""Charts by matplotlib: SVG for pages, with text kept as text, and SVG or PNG files for papers and slides.

Every chart is drawn for wide and for narrow windows and carries its numbers as a table. Series differ by dash and marker as well
as by colour. In a page, text takes the colour of its surroundings and series take `--series-1` ... `--series-8`. The same input
gives the same bytes. matplotlib is imported when the first chart is drawn.

`series`   what charts are made of
`base`     what all of them have
`lines`, `rows`, `scatter`   the kinds
`drawing`  parts of a drawing
`inline`   a drawing as part of a page
"""

from tandemtune.report.charts.base import NARROW, WIDE, Chart, save_all
from tandemtune.report.charts.lines import LineChart
from tandemtune.report.charts.rows import BarChart, DotChart
from tandemtune.report.charts.scatter import ScatterChart
from tandemtune.report.charts.series import MOST_ROWS, Dots, Mark, Series, thinned

__all__ = [
    "MOST_ROWS",
    "NARROW",
    "WIDE",
    "BarChart",
    "Chart",
    "DotChart",
    "Dots",
    "LineChart",
    "Mark",
    "ScatterChart",
    "Series",
    "save_all",
    "thinned",
]
