"""Tasks, grading, the runner and its statistics."""
