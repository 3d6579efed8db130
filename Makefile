# A thin layer over CMake, Ninja and CTest.  `make help` lists what there is.
BUILD   ?= build
RELEASE  = build-release
PREFIX  ?= /usr/local
DESTDIR ?=
CMAKE_FLAGS ?=
TESTS   ?= unit|sim|live

export PREFIX DESTDIR

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet

$(BUILD)/build.ninja: | deps
	@mkdir -p $(BUILD)
	@cmake -S . -B $(BUILD) -G Ninja $(CMAKE_FLAGS) >$(BUILD)/configure.log 2>&1 || \
		{ cat $(BUILD)/configure.log; exit 1; }

# DEPS=no: take the machine as it is.
deps deps-lint deps-bench:
ifneq ($(DEPS),no)
	@scripts/install-deps.sh build $(patsubst deps-%,%,$(filter deps-%,$@))
endif

demo: release
	@scripts/demo.sh $(RELEASE)
check: all
	@ctest --test-dir $(BUILD) --output-on-failure --no-tests=error --no-label-summary -j2 -L '$(TESTS)'
check-long: all
	@ctest --test-dir $(BUILD) --output-on-failure --no-tests=error --no-label-summary -L long
# What is installed, shown and measured has neither the lock checker nor fault points.
release: deps
	@mkdir -p $(RELEASE)
	@cmake -S . -B $(RELEASE) -G Ninja -DKRG_CHECKS=OFF -DBUILD_TESTING=OFF >$(RELEASE)/configure.log 2>&1 || \
		{ cat $(RELEASE)/configure.log; exit 1; }
	@ninja -C $(RELEASE) --quiet
install: release
	@cmake --install $(RELEASE) --prefix $(PREFIX) >$(RELEASE)/install.log
format: deps-lint
	@git ls-files '*.c' '*.h' | xargs clang-format -i
lint: deps-lint
	@scripts/lint.sh
layers: deps
	@scripts/layers.sh
bench: deps-bench
	@bench/run.sh
asan tsan: deps-lint
	@scripts/sanitize.sh $@
fuzz: deps-lint
	@scripts/fuzz.sh
clean:
	rm -rf $(BUILD) build-*/

help:
	@echo 'make          build into $(BUILD)/ (as root on Debian, missing packages are installed first)'
	@echo 'make demo     a lab of 4 nodes builds and compresses real files; 1 node against 4'
	@echo 'make check    all tests: unit, sim, live (live ones need root and are skipped without)'
	@echo 'make check-long  what takes long: ten minutes of a storm of programs over 4 nodes'
	@echo 'make install  to PREFIX=$(PREFIX), under DESTDIR'
	@echo 'make lint     formatting, clang-tidy, headers that compile alone, shell scripts'
	@echo 'make format   clang-format over what git tracks'
	@echo 'make layers   each part builds and passes its unit tests without those above it'
	@echo 'make bench    the figures, each against its baseline (doc/BENCHMARKS.md)'
	@echo 'make asan     unit, sim and short live tests under AddressSanitizer and UBSan; make tsan'
	@echo 'make fuzz     each decoder, FUZZ_SECONDS=60 in total'

.PHONY: all deps deps-lint deps-bench demo check check-long release install format lint layers bench asan tsan fuzz clean help
