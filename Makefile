# Two commands on a fresh Debian or Ubuntu with Python 3.11 or newer:
#   make demo    from nothing to a student's segmentation, in minutes
#   make test    everything the tests need, and the fast tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# a folder of real volumes; tests that need one skip without it
REAL_DATA ?= $(wildcard ../shared/data)
PYTEST := xvfb-run -a -s "-screen 0 1600x1000x24" $(BIN)/pytest \
	$(if $(REAL_DATA),--real-data=$(REAL_DATA))
# libraries that Qt and Mesa load, and a screen for machines that have none
LIBRARIES := libgl1 libegl1 libglx-mesa0 libgl1-mesa-dri libxkbcommon-x11-0 \
	libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 \
	libxcb-render-util0 libxcb-shape0 libxcb-xinerama0 libdbus-1-3 libglib2.0-0 \
	libfontconfig1 xvfb xauth

.DELETE_ON_ERROR:
.PHONY: demo install install-dev libraries lint test test-slow docs screenshots models \
	bench bench-env clean

demo: install
	$(BIN)/python docs/demo.py demo

install: $(VENV)/installed

install-dev: $(VENV)/installed-dev

# torch first: where there is no GPU, a build without CUDA spares gigabytes. torch's own
# index has it; where that is not reached, pip takes what its settings offer.
CPU_TORCH := --index-url https://download.pytorch.org/whl/cpu --retries 0 --timeout 10
$(VENV)/constraints.txt:
	@$(PYTHON) -c "import ensurepip" 2>/dev/null || \
		if [ "$$(id -u)" = 0 ]; then apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q python3-venv; \
		else echo "Python has no venv here; install it, then try again:"; \
		echo "sudo apt-get install -y python3-venv"; exit 1; fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade "pip>=25.1"
	if command -v nvidia-smi >/dev/null; then echo "torch>=2.10"; \
		else echo "torch==2.13.0"; fi > $@
	command -v nvidia-smi >/dev/null || \
		$(BIN)/python -m pip install -q $(CPU_TORCH) -r $@ 2>/dev/null || true
	$(BIN)/python -m pip install -q -r $@

$(VENV)/installed: $(VENV)/constraints.txt pyproject.toml
	$(BIN)/python -m pip install -q -c $(VENV)/constraints.txt -e ".[all]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install -q -c $(VENV)/constraints.txt --group dev
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install -q -c $(VENV)/constraints.txt --group docs
	touch $@

libraries:
	@missing=$$(dpkg-query -W -f '$${db:Status-Status} $${Package}\n' $(LIBRARIES) 2>&1 \
		| grep -v '^installed' || true); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q $(LIBRARIES); \
	else echo "The tests open real windows; install what that needs, then try again:"; \
		echo "sudo apt-get install -y $(LIBRARIES)"; exit 1; fi

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: install-dev libraries
	$(PYTEST) -m "not slow and not gpu"

test-slow: install-dev libraries
	$(PYTEST) -m "slow and not gpu"

# MkDocs with Material, for the reasons at the top of mkdocs.yml; any warning is an error
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@if grep -rlE --include='*.html' '<(script|link) [^>]*(src|href)="?(https?:)?//' site; \
		then echo "These pages fetch something; the site has to work offline."; exit 1; fi
	@echo "open site/index.html"

# peers to measure against, in an environment of their own: they would replace torch.
# make bench BENCH="speed export --quick" measures some, or smaller sizes
BENCH_VENV := .venv-bench
BENCH_PIP = $(BENCH_VENV)/bin/python -m pip install -q \
	-c training/benchmarks/constraints.txt

bench: bench-env
	OMP_WAIT_POLICY=passive $(BENCH_VENV)/bin/python training/benchmarks/bench.py $(BENCH)

bench-env: $(BENCH_VENV)/installed

$(BENCH_VENV)/installed: pyproject.toml training/benchmarks/constraints.txt \
		training/benchmarks/requirements.txt training/benchmarks/peers.txt
	test -d $(BENCH_VENV) || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install -q --upgrade "pip>=25.1"
	$(BENCH_PIP) $(CPU_TORCH) torch 2>/dev/null || true
	$(BENCH_PIP) -e ".[fast,cluster]" -r training/benchmarks/requirements.txt
	$(BENCH_PIP) --no-deps -r training/benchmarks/peers.txt
	touch $@

screenshots: install-dev libraries
	xvfb-run -a -s "-screen 0 1600x1000x24" $(BIN)/python docs/screenshots.py
	xvfb-run -a -s "-screen 0 1600x1000x24" $(BIN)/python docs/review_pictures.py
	# with an empty cache, as on a new machine: nothing was computed before
	XDG_CACHE_HOME=$$(mktemp -d) xvfb-run -a -s "-screen 0 1600x1000x24" \
		$(BIN)/python docs/first_result_pictures.py

clean:
	rm -rf $(VENV) $(BENCH_VENV) demo dist build site
