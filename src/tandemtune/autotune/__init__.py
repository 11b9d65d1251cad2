"""What is decided by measuring when a run begins: template, number format, size of chunks, compiled parts. Always the same within a run."""

from tandemtune.autotune.building import build, refuse_changes, settle
from tandemtune.autotune.forecasts import forecast
from tandemtune.autotune.templates import Judge, check_proposing, how_many, proposed

__all__ = ["Judge", "build", "check_proposing", "forecast", "how_many", "proposed", "refuse_changes", "settle"]
