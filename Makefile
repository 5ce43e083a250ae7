# Habitual names for what ./dev does; arguments go in ARGS: make test ARGS="-k fuse -n 0"
.PHONY: demo test lint bench setup clean

demo test lint bench setup:
	@./dev $@ $(ARGS)

clean:
	rm -rf .venv .dev.lock build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
