"""TandemTune."""
