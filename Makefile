PYTHON ?= python3

.PHONY: demo test setup lint slow clean

demo: setup  ## two runtimes, calibration, three evals, one table
	@.venv/bin/a1 demo

test: setup lint  ## lint, types, and every test that is not slow
	@.venv/bin/python -m pytest

slow: setup  ## the tests that take minutes
	@.venv/bin/python -m pytest -m slow

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

setup:  ## makes .venv when it is missing or out of date
	@$(PYTHON) launch/bootstrap.py

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
