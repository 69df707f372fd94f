# SPDX-License-Identifier: GPL-2.0-only
# Everything here also works by hand: ./configure --help, then ninja in the build folder.

MACHINE  ?= x86_64
MACHINES := x86_64 aarch64
TEMPLATE ?= feature/criu
BUILD    ?= build/$(MACHINE)
RECIPE   ?=

PYTHON := python3 layer/cli/launch.py
DEV    := $(PYTHON) --dev
# Progress of the recipes goes around ninja, which keeps what a step prints until the step is done.
NINJA  := NINJA_STATUS="[%f/%t %es] " LAYER_PROGRESS_FD=9 $(PYTHON) -m ninja

TESTED := feature/criu,feature/victims,feature/savefds
PLAIN  := feature/pycriu
SUITES := $(foreach machine,$(MACHINES),build/test/$(machine) build/test/$(machine)-plain)

.PHONY: help demo image kernel audit boot configure host-packages all-host-packages test check lint types unit images host runtime lock bench clean

help:
	@echo "make demo [MACHINE=aarch64]     build an image, boot it, watch a loop being dumped and restored"
	@echo "make image|kernel|audit|boot    one part of that; TEMPLATE=a,b chooses the features"
	@echo "make check                      format, lint, types, unit tests"
	@echo "make test                       check, the images of both machines, tests on the host and in the guests"
	@echo "make bench                      figures, beside CRIU's where that is installed"
	@echo "make lock [RECIPE=name]         move recipes/sources.lock to what the archives sign today"
	@echo "make host-packages              install the Debian packages that the build needs"
	@echo "make clean                      remove build/ (the cache stays: see layer/cache.py)"

demo: image
	@$(PYTHON) -m layer demo --builddir $(BUILD)

image kernel audit boot: configure
	@$(NINJA) -C $(BUILD) $@ 9>&2

configure: host-packages
	@./configure --template $(TEMPLATE) --machine $(MACHINE) --builddir $(BUILD)

host-packages:
	@$(PYTHON) -m layer host-packages --install --machine $(MACHINE) --template $(TEMPLATE)

# One after the other, but for the guests at the end: each machine's is busy on one CPU.
test:
	@$(MAKE) --no-print-directory all-host-packages
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory images
	@$(MAKE) --no-print-directory host
	@echo "The guests of both machines, at the same time; what they say comes when each is through."
	@$(MAKE) --no-print-directory -j2 --output-sync=target runtime

# Everything that the tests need, for both machines, in one transaction.
all-host-packages:
	@$(PYTHON) -m layer host-packages --install $(MACHINES:%=--machine %) --template $(TESTED)

check: lint types unit

lint:
	@$(DEV) -m ruff format --check .
	@$(DEV) -m ruff check .

types:
	@$(DEV) -m mypy

unit: host-packages
	@$(DEV) -m pytest -q --numprocesses auto --dist loadfile tests/unit

images: $(SUITES)

# The image with the feature and the one without it, for each machine.
.PHONY: $(SUITES)
$(SUITES): build/test/%:
	@$(PYTHON) -m layer host-packages --install --machine $(patsubst %-plain,%,$*) --template $(TESTED)
	@./configure --template $(if $(filter %-plain,$*),$(PLAIN),$(TESTED)) --machine $(patsubst %-plain,%,$*) --builddir $@
	@$(NINJA) -C $@ 9>&2

host:
	@$(DEV) -m tests.debian
	@$(DEV) -m tests.clients
	@$(DEV) -m tests.peer
	@$(DEV) -m pytest --numprocesses auto --dist worksteal tests/host

runtime: $(addprefix runtime-,$(MACHINES))

.PHONY: $(addprefix runtime-,$(MACHINES))
$(addprefix runtime-,$(MACHINES)): runtime-%:
	@$(DEV) -m pytest tests/runtime --qemu --require-qemu --machine $* --build build/test/$*

lock:
	@$(PYTHON) -m layer lock $(RECIPE)

bench:
	@$(DEV) benchmarks/run

clean:
	rm -rf build
