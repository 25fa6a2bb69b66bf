# `make demo` shows Sophia at work; `make test` checks all of it. Both install what they need into this folder.
PYTHON ?= python3

.PHONY: help demo test

help:
	@echo 'make demo             set up, start the FastAPI example on 127.0.0.1:8000 and walk through it; Ctrl-C ends it'
	@echo 'make demo ONCE=1      the same, and end after the walk'
	@echo 'make demo PORT=8123   on another port'
	@echo 'make test             everything that must hold before a change is merged'
	@echo 'make test ONLY="rust pytest"   some of its steps; `make test ONLY=list` names them'

demo:
	@PORT="$(PORT)" ONCE="$(ONCE)" MODEL="$(MODEL)" $(PYTHON) scripts/demo.py

test:
	@$(PYTHON) scripts/test.py $(ONLY)
