PYTHON ?= python3

.PHONY: demo test setup lint types slow real clean

demo: setup  ## two runtimes, calibration, three evals, one table
	@.venv/bin/a1 demo

test: setup lint  ## lint, types, and every test that is not slow, a file at a time in each of two processes
	@.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

slow: setup  ## the tests that take minutes
	@.venv/bin/python -m pytest -m slow

real: setup  ## two public models as a pair: A1 on them, and their scores beside transformers'; DATA=FOLDER has gsm8k.jsonl
	@.venv/bin/python -m a1_sgl.launch.real prepare
	@.venv/bin/python -m a1_sgl.launch.real show $(if $(DATA),--data "$(DATA)")

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@$(MAKE) --no-print-directory types

types: setup  ## the rooms lie beside each other; types are checked where they are one package, as installed
	@rm -rf build/rooms && mkdir -p build/rooms/a1_sgl
	@ln -s "$(CURDIR)"/a1_sgl/* "$(CURDIR)/programs" "$(CURDIR)/evals" "$(CURDIR)/launch" build/rooms/a1_sgl/
	@cd build/rooms && "$(CURDIR)/.venv/bin/mypy" --config-file "$(CURDIR)/pyproject.toml" \
		--cache-dir "$(CURDIR)/.mypy_cache" a1_sgl

setup:  ## makes .venv when it is missing or out of date
	@$(PYTHON) launch/bootstrap.py

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
