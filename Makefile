# make demo    the main job on the embedded model          make test    the tests
# make ui      browse the runs in MLflow                   make check   lint, types, layers, size
# make fig1    draw figure 1 again                         make track   rebuild the MLflow store from the files
# make bench   time the engine against one forward pass per mask, and the whole command against a script; hours
# make small   the paper's question on two small models: hours on two CPU cores; skips finished cells, then draws
# make paper   the paper's grid, three 8B models: needs GPUs and a hub account
# make figures draw all figures and tables                  make paper-check   the paper's numbers from its tables
# make fig9    sub-layers against blocks; STUDY=units, after `python launch.py experiment=units`
# make fig10   masks before and after repair and healing; STUDY=heal, after `make heal-study` or from its archive
# make heal-study   does the choice of the mask matter after healing? a small model, hours on two CPU cores
# make study   the larger study of docs/results.md: many hours on two CPU cores; DATA=DIR, a folder of texts and items;
#              continues from the archives of `study` and `study_losses`
# make test-slow   the tests that `make test` leaves out, because each takes more than six seconds
# make test-avx2   the numerical tests again, with the instructions of an older processor and one thread
# make test-slurm   the launchers on a real SLURM of two nodes, installed from Debian's packages; as root
# make test-gguf   cut GGUF files run by a real llama.cpp, which is built from its source package: ten minutes
# make gpu-check   check a GPU node once: the engine's losses, a model (FLAGS="--model DIR")
# make serve-check   on a GPU node: an export computes the same in vLLM or SGLang; FLAGS="--model DIR"
# make report  one HTML page of a study: summary, figures, tables, every cell; STUDY=small RESULTS=results; with STUDY= of
#              all cells in RESULTS

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RESULTS ?= results
# If RESULTS has no results yet, make draws a study that comes with the code (`small` or `heal`), and `make small` or
# `make heal-study` continues it.
STUDY ?= $(if $(wildcard $(RESULTS)/studies/demo.json),demo,small)
packed = analysis/$(1)/$(1).tar.xz
HAS_RESULTS := $(or $(wildcard $(RESULTS)/studies/$(STUDY).json),$(if $(wildcard $(call packed,$(STUDY))),,none))
OF_STUDY = $(if $(STUDY),--study $(STUDY))
SHOWN := $(if $(HAS_RESULTS),$(RESULTS),$(call packed,$(STUDY)))
export MLFLOW_DISABLE_TELEMETRY = true

# Every file analysis/figures/figN_NAME.py is a figure.
EVERY := $(foreach file,$(wildcard analysis/figures/fig*.py),$(firstword $(subst _, ,$(notdir $(file))))) table1 table2 table3

.PHONY: demo small study paper heal-study test test-slow test-avx2 test-slurm test-gguf soak ui bench gpu-check serve-check check lint types house figures $(EVERY) report paper-check track pictures describe tour constraints clean

# Nothing is compiled here: Python compiles what it imports, which is a small part of these packages.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The second command takes over what the first has computed: it repairs one of its masks and writes the smaller model.
DEMO = $(BIN)/depth-pruning grid experiment=demo paths.results=$(RESULTS)
demo: $(VENV)/installed
	@echo "1 of 3: which 3 of 30 blocks go? Two objectives and two searches, all measured on a novel"
	@$(DEMO)
	@echo "2 of 3: the blocks of greedy search for perplexity: dense, pruned and repaired side by side"
	@$(DEMO) objective=perplexity algo=greedy compensation=linear guide=true study=demo_repaired
	@echo "3 of 3: a picture of the four choices, and one page of figures and tables"
	@$(BIN)/depth-pruning report --results $(RESULTS) --study demo
	@$(BIN)/depth-pruning figure fig1 --results $(RESULTS) --study demo
	@echo "next    $(BIN)/depth-pruning grid experiment=demo_full           the larger grid: two ratios, text against answers"
	@echo "        $(BIN)/depth-pruning compress smollm2 smaller minutes=10   a better small model, with training"

# ARGS="eval=local 'eval.texts={wikitext2: FILE}'" adds settings to every cell. If a cell fails, make
# ends with an error, but only after all other cells have run and the figures are drawn.
LAUNCH = $(BIN)/depth-pruning grid paths.results=$(RESULTS) $(ARGS)

small: $(VENV)/installed
	@$(BIN)/depth-pruning archive unpack $(call packed,small) $(RESULTS)
	@failed=0; \
	$(LAUNCH) experiment=small || failed=1; \
	$(LAUNCH) experiment=small_margin || failed=1; \
	$(LAUNCH) experiment=small algo=exhaustive model=gemma3_270m ratio=0.1 || failed=1; \
	$(LAUNCH) experiment=small_margin algo=exhaustive model=gemma3_270m ratio=0.1 || failed=1; \
	$(MAKE) figures report STUDY=small && exit $$failed

# PARTS=study runs one part. DATA has wikitext2.txt, lambada.jsonl and python.txt; items for the evaluation (.jsonl), see
# TASKS (python and commonsense: the held-out parts of the embedded data); for the margin arc_easy_train.jsonl, labels.json.
PARTS ?= study study_margin study_gemma study_gemma_margin study_all study_seeds study_sizes study_items study_labels \
	study_units study_healing study_losses
ITEMS_study_margin = calibration.path=$(DATA)/arc_easy_train.jsonl
ITEMS_study_gemma_margin = $(ITEMS_study_margin)
ITEMS_study_items = $(ITEMS_study_margin)
ITEMS_study_losses = $(ITEMS_study_margin)
ITEMS_study_labels = calibration.path=$(DATA)/labels.json
TASKS := arc_easy arc_challenge piqa boolq openbookqa commonsense
comma := ,
named = {$(subst $() $(),$(comma),$(strip $(1)))}
HELDOUT = eval=local eval.scorer=engine eval.window=128 eval.limit=200 \
	'eval.texts=$(call named,wikitext2:$(DATA)/wikitext2.txt lambada:$(DATA)/lambada.jsonl python:$(DATA)/python.txt)' \
	'eval.items=$(call named,$(foreach task,$(TASKS),$(task):$(DATA)/$(task).jsonl))'
# Parts that a reader compares with each other share a study, so that each report is about one comparison. The report of
# `study` is RESULTS/figures/report.html, those of the other studies are RESULTS/figures/NAME/report.html. The studies
# that have been run are in one archive. study_labels compares labels with the items of study_margin and uses its cells.
STUDIES := study study_all study_seeds study_sizes study_labels study_units study_healing study_losses
study: $(VENV)/installed
	@test -d "$(DATA)" || { echo "make study needs DATA=DIR, a folder of texts and items: the Makefile names its files."; exit 2; }
	@$(BIN)/depth-pruning archive unpack $(call packed,study) $(RESULTS)
	@$(BIN)/depth-pruning archive unpack $(call packed,study_losses) $(RESULTS)
	@failed=0; \
	$(foreach part,$(PARTS),$(LAUNCH) experiment=$(part) $(HELDOUT) $(ITEMS_$(part)) || failed=1;) \
	$(if $(filter study_healing,$(PARTS)), \
	  $(LAUNCH) experiment=study_healing $(HELDOUT) $(HEALING) heal.tokens=16384 || failed=1; \
	  $(MAKE) fig10 STUDY=study_healing || failed=1;) \
	$(if $(filter study_units,$(PARTS)),$(MAKE) fig9 STUDY=study_units || failed=1;) \
	$(if $(filter study_labels,$(PARTS)), \
	  $(LAUNCH) experiment=study_margin study=study_labels algo=one_shot,greedy,beam $(HELDOUT) $(ITEMS_study_margin) || failed=1;) \
	for name in $(filter-out study,$(STUDIES)); do test ! -e $(RESULTS)/studies/$$name.json || \
	  $(MAKE) report STUDY=$$name FLAGS="$(FLAGS) --out $(RESULTS)/figures/$$name" || failed=1; done; \
	$(MAKE) figures report STUDY=study && exit $$failed

# Masks are searched and repaired first; then all are healed on one budget after the other, which share their
# beginning. BUDGETS="4096" HEAL_SEEDS=0 runs a part; the same command continues.
BUDGETS ?= 4096 16384 65536 262144
HEAL_SEEDS ?= 0 1 2
MASKS := heal heal_criteria heal_random heal_sublayer
HEALING = compensation=none heal=lora heal.source=wikipedia_sample heal.batch_tokens=512 heal.lr=0.001 heal.warmup=2 \
	heal.heldout=4 heal.eval_every=32 heal.patience=0
heal-study: $(VENV)/installed
	@$(BIN)/depth-pruning archive unpack $(call packed,heal) $(RESULTS)
	@failed=0; \
	for masks in $(MASKS); do $(LAUNCH) experiment=$$masks || failed=1; done; \
	for tokens in $(BUDGETS); do for seed in $(HEAL_SEEDS); do for masks in $(MASKS); do \
	  $(LAUNCH) experiment=$$masks $(HEALING) heal.tokens=$$tokens heal.seed=$$seed || failed=1; \
	done; done; done; \
	$(MAKE) fig10 report STUDY=heal && exit $$failed

paper: $(VENV)/installed
	@failed=0; \
	$(LAUNCH) experiment=paper || failed=1; \
	$(LAUNCH) experiment=paper_margin || failed=1; \
	$(MAKE) figures report STUDY=paper && exit $$failed

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 -m slow

# Losses round differently here than with AVX-512 or AMX, so a test that depends on rounding fails here or in `make test`.
NUMERICAL := $(addprefix tests/,algo engine export healing objective search)
test-avx2: $(VENV)/installed-dev
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -n 2 -m "not slow" $(NUMERICAL)

test-slurm: $(VENV)/installed-dev
	TEST_SLURM=1 $(BIN)/python -m pytest tests/slurm

# Only the library is built, not llama.cpp's programs.
$(VENV)/installed-llamacpp: $(VENV)/installed-dev
	CMAKE_ARGS="$(CMAKE_ARGS) -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF" \
	  $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[llamacpp]'
	touch $@

test-gguf: $(VENV)/installed-llamacpp
	TEST_GGUF=1 $(BIN)/python -m pytest -s tests/llamacpp

soak: $(VENV)/installed-dev
	TEST_SOAK=100 $(BIN)/python -m pytest -o log_cli=true --log-cli-level=INFO tests/hostile/test_soak.py

ui: $(VENV)/installed
	@$(BIN)/depth-pruning ui $(RESULTS)

# `make fig2` runs analysis/figures/fig2_ranks.py. FLAGS="--accuracy piqa" chooses a metric,
# FLAGS="--only objective=perplexity,divergence" chooses some of the cells.
$(EVERY): $(VENV)/installed
	@$(BIN)/depth-pruning figure $@ --results $(SHOWN) $(OF_STUDY) $(FLAGS)

# Every figure and table that the study has data for. It is read once.
figures: $(VENV)/installed
	@$(BIN)/depth-pruning figure all --results $(SHOWN) $(OF_STUDY) $(FLAGS)

report: $(VENV)/installed
	@$(BIN)/depth-pruning report --results $(SHOWN) $(OF_STUDY) $(FLAGS)

paper-check: $(VENV)/installed
	@$(BIN)/depth-pruning check-paper

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.whole
	$(BIN)/python -m benchmarks.healing

gpu-check: $(VENV)/installed
	$(BIN)/python -m benchmarks.gpu_check $(FLAGS)

serve-check: $(VENV)/installed
	$(BIN)/python -m benchmarks.serve_check $(FLAGS)

# What pages show of the code and of the archives: pictures, tables, the notebook's outputs.
pictures: $(VENV)/installed-dev
	$(BIN)/python -m docs.draw_pictures

describe: $(VENV)/installed-dev
	$(BIN)/python -m docs.described

tour: $(VENV)/installed-dev
	$(BIN)/python -m docs.run_tour

track: $(VENV)/installed
	$(BIN)/depth-pruning track $(RESULTS)

check: lint types house

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

# Lines; and files, floors and ways of values, each below its limit.
house: $(VENV)/installed-dev
	$(BIN)/python -m tests.house

types: $(VENV)/installed-dev
	$(BIN)/mypy

# The versions that were tested together: names and versions only, so that any index can serve them.
constraints: $(VENV)/installed-dev
	$(BIN)/python -m pip freeze --exclude-editable | sed -E '/^(torch|torchvision|triton|nvidia-|setuptools|pip)/d; s/\+cpu//' > constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info
