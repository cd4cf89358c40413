# make repro      everything from raw files to reports/index.html; rebuilds only what changed
# make test       the tests, a whole pipeline in a temporary clone included
# make rehearsal  of them, `scale: full` from fetch to report against servers on this machine
PYTHON ?= python3.11
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: repro test rehearsal lock
.DEFAULT_GOAL := repro

.venv: .venv/installed
.venv/installed: requirements.txt
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

repro: .venv
	dvc repro

test: .venv
	ruff check . && ruff format --check .
	python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

rehearsal: .venv
	python -m pytest --verbose tests/rehearsal

# The full lock, with hashes, for every platform, from the direct requirements.
lock: .venv
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" --output-file requirements.txt requirements.in
