# Onepass: from photos to a comparison of classifiers. `make help` lists the targets.

DATA ?= chess#       a data set: chess, cats_vs_dogs, caltech101, a folder or URL of class folders, a CSV file
SEED ?= 0#           the seed of the split and of everything random in training
SIZES ?= 224#        sides of the squares that VGG16 sees: 224, or several such as "224 320"
PAIRS ?= auto#       products of pairs of channels, for textures: yes, no, or auto: unless photos would be computed again
GROUP_BY ?= #        what stays in one split: folder, or a pattern on the path such as '^(.*)-'
ON ?= #              the cluster for features and heads: empty for this machine, ray, ray://HOST:PORT
OUT ?= .#            the folder for features/, runs/, reports/ and labels/
MODELS ?= #          the networks for finetune: baseline, finetuned, finetuned-all; empty for the usual ones
MODEL ?= svm#        the model for predict, sort and serve, a folder of OUT/runs/DATA such as svm or finetuned
IMAGES ?= .#         the photo or folder for predict and sort
TO ?= sorted#        the folder that sort puts photos into
HOW ?= #             how sort does it: link, copy or move; empty to say only what would happen
POOL ?= #            a folder of photos without labels for label
PYTHON ?= python3#   the Python for .venv, 3.11.4 to 3.13

TF := $(if $(shell nvidia-smi -L 2>/dev/null),gpu,cpu)
INSTALLED := .venv/installed-$(TF)
RUN := .venv/bin/python -m
WHERE = --out="$$OUT" --seed="$$SEED"
CLUSTER = $(if $(ON),--on="$$ON")
FINETUNE = $(RUN) finetune train $(WHERE) $(if $(MODELS),--models $$MODELS) -- "$$DATA"
COMPARE = $(RUN) finetune compare --out="$$OUT"
# Where a network will be fine-tuned, what it starts from is kept from VGG16's only pass.
KEEP = $(if $(ON),,$(if $(filter all finetune,$(or $(MAKECMDGOALS),all)),--activations block4_pool))
ADDED = $(if $(POOL),--pool="$$POOL")
GROUPS = $(if $(GROUP_BY),--group-by="$$GROUP_BY")

# A name may contain any character. The shell gets each as it was typed, through the environment.
TYPED := DATA SEED SIZES PAIRS GROUP_BY ON OUT MODELS MODEL IMAGES TO HOW POOL
$(foreach name,$(TYPED),$(eval override $(name) := $$(value $(name))))
export $(TYPED)

# As in Python, ~ is the home folder. Python also reads file:///path, which the shell cannot.
REMOVE = case "$$OUT" in \
  "") echo "error: OUT is empty; give a folder, and . for the current one" >&2; exit 2;; \
  *:/*) echo "error: $$OUT: give OUT as a path" >&2; exit 2;; \
  "~"|"~/"*) OUT="$$HOME$${OUT\#"~"}";; \
  esac; rm -rf --

.NOTPARALLEL:
.PHONY: all features heads finetune compare predict sort serve label notebook test check bench lock clean distclean help

# The page does not wait for the networks, which take longest.
all: heads  ## features, heads, compare, finetune and compare again, in this order (the default)
	@$(COMPARE) --so-far -- "$$DATA"
	@$(FINETUNE)
	@$(COMPARE) -- "$$DATA"

features: $(INSTALLED)  ## photos -> OUT/features/DATA.h5; VGG16 sees every distinct image once, ever
	@$(RUN) extract features $(WHERE) $(CLUSTER) $(GROUPS) $(KEEP) --sizes $$SIZES \
	  --pairs="$$PAIRS" -- "$$DATA"

heads: features  ## features -> OUT/runs/DATA/{logistic,svm,mlp}
	@$(RUN) classify train $(WHERE) $(CLUSTER) -- "$$DATA"

finetune: features  ## photos -> OUT/runs/DATA/{baseline,finetuned,finetuned-all}, the last one with a GPU or in MODELS
	@$(FINETUNE)

compare: $(INSTALLED)  ## all results -> OUT/reports/DATA/{index.html,compare.md,compare.json}
	@$(COMPARE) -- "$$DATA"

predict: $(INSTALLED)  ## what MODEL says about IMAGES, a photo or a folder
	@$(RUN) classify predict --data="$$DATA" --out="$$OUT" -- "$$MODEL" "$$IMAGES"

sort: $(INSTALLED)  ## put IMAGES into a folder in TO for each class that MODEL sees; see HOW
	@$(RUN) classify sort --data="$$DATA" --out="$$OUT" --to="$$TO" $(if $(HOW),--how="$$HOW") \
	  -- "$$MODEL" "$$IMAGES"

serve: $(INSTALLED)  ## open a page on this machine to try MODEL
	@$(RUN) classify serve --data="$$DATA" --out="$$OUT" -- "$$MODEL"

label: features  ## open a page on this machine to correct labels, and to label photos of POOL
	@$(RUN) classify label --out="$$OUT" $(ADDED) -- "$$DATA"

notebook: $(INSTALLED)  ## run the tutorial in both languages, from nothing, and keep its output
	for notebook in notebooks/*.ipynb; do \
	  rm -rf notebooks/out; \
	  .venv/bin/jupyter execute --inplace "$$notebook" || exit; \
	done

test: $(INSTALLED)  ## run the tests
	$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)  ## check lint, format and types
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(RUN) mypy --platform win32 --cache-dir .mypy_cache/win32

bench: .venv/bench/installed  ## measure DATA's extraction against other libraries (installs them)
	.venv/bench/bin/python -m benchmarks.extract --json benchmarks/extract.json -- "$$DATA"

lock:  ## lock the newest version of every package (needs uv)
	for tf in cpu gpu; do \
	  uv pip compile -q --upgrade --universal --generate-hashes --extra $$tf --extra dev \
	    --custom-compile-command "make lock" pyproject.toml -o requirements/$$tf.txt; \
	done

clean:  ## remove results and reports, never features or the cache
	@$(REMOVE) "$$OUT/runs" "$$OUT/reports"

distclean: clean  ## also remove features, cache, .venv and downloaded data; what you put in data/ stays
	@$(REMOVE) "$$OUT/features"
	rm -rf notebooks/out .venv data/.downloads
	for record in data/*.fetched.json; do \
	  [ ! -f "$$record" ] || rm -rf "$${record%.fetched.json}" "$$record"; \
	done

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18
	@echo
	@sed -n 's/^\([A-Z]*\) ?= \([^#]*\)#  *\(.*\)/  \1=\2	\3/p' $(MAKEFILE_LIST) | expand -t 18

$(INSTALLED): pyproject.toml requirements/$(TF).txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11, 4) <= sys.version_info < (3, 14))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo missing), and Python 3.11.4 to 3.13 is" \
	    "needed; install one of them, from python.org or with uv python install 3.13," \
	    "and name it: make PYTHON=python3.13" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  -r requirements/$(TF).txt
	@touch $@

# An environment of its own, so the project never uses it; it sees the packages of .venv.
.venv/bench/installed: $(INSTALLED) requirements/bench.txt
	.venv/bin/python -m venv .venv/bench
	.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.venv/bench/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	.venv/bench/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/bench.txt
	@touch $@
