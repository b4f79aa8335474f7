# `make demo` and `make test` set up all they need; see README.md.
.PHONY: demo test test-fast doctor check lint bench setup locks schema clean

demo: setup
	.venv/bin/harness demo

# First what wants the machine for itself, then the rest side by side.
test: setup
	.venv/bin/python -m pytest -m alone $(PYTEST_OPTIONS)
	.venv/bin/python -m pytest --numprocesses auto -m "not alone" $(PYTEST_OPTIONS)

# Without sandboxes and training: under a minute.
test-fast: setup
	.venv/bin/python -m pytest --numprocesses auto -m "not sandbox and not slow and not alone"

doctor: setup
	.venv/bin/harness doctor

check: setup
	.venv/bin/harness check submission

lint: setup
	.venv/bin/ruff check . && .venv/bin/ruff format --check .

bench: setup
	.venv/bin/python bench/sandbox_overhead.py

setup:
	@scripts/setup

locks: setup
	.venv/bin/python requirements/make_locks.py

clean:
	rm -rf .venv build *.egg-info

schema: setup
	.venv/bin/python -c "from harness.evidence.record import json_schema; print(json_schema(), end='')" > docs/record.schema.json
	.venv/bin/python -c "from harness.compliance.interchange import json_schema; print(json_schema(), end='')" > docs/check.schema.json
	.venv/bin/python -c "from pathlib import Path; from harness.compliance.output import catalogue_markdown; \
		page = Path('docs/check.md'); head, mark, _ = page.read_text().partition('## The checks\n'); \
		page.write_text(head + mark + catalogue_markdown())"
