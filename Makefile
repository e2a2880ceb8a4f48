# Every target makes what it needs, from a fresh clone on: venv, pinned install, run.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
unexport PYTHONDONTWRITEBYTECODE # pip compiles nothing here, so what is imported first must stay

.PHONY: table1 test reports site bench clean

table1: $(VENV)/dev           ## the leaderboard at reduced resolution -> reports/tables/table1.html
	$(BIN)/pansharp-nb run table1

test: $(VENV)/dev             ## everything CI checks
	$(BIN)/python -m pytest -n logical --maxprocesses 4

reports: $(VENV)/dev          ## every table and figure that is not up to date
	$(BIN)/pansharp-nb all -c2 -k

site: $(VENV)/site            ## the pages as a web site -> reports/site/index.html
	$(BIN)/python -m sphinx -qW -b html nbs reports/site
	rm -rf reports/jupyter_execute

bench: $(VENV)/dev            ## timings beside a plain NumPy/SciPy or peer version, in one run
	for f in classical metrics filtering training fusing; do $(BIN)/python benchmarks/$$f.py || exit 1; done

$(VENV)/%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -c constraints.txt pip setuptools wheel
	$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[dev$(if $(filter site,$*),$(comma)site)]'
	touch $@
comma := ,

clean:
	rm -rf $(VENV) build *.egg-info reports/site reports/smoke
