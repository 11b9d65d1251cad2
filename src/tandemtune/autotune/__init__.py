"""What is decided by measuring when a run begins: template, number format, size of chunks, compiled parts. Always the same within a run."""

from tandemtune.autotune.building import build, refuse_changes, settle
from tandemtune.autotune.forecasts import forecast
from tandemtune.autotune.templates import proposed, ranked

__all__ = ["build", "forecast", "proposed", "ranked", "refuse_changes", "settle"]
