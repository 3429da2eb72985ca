# What one types. `make help` lists it.

CARGO ?= cargo

.PHONY: help setup demo test test-vulkan vulkan-sdk lint fmt bench stock bench-stock bench-7b bench-questions \
	release models-check fixtures page-check serve-clients serve-llama-server serve-bad serve-soak serve-bench \
	asan tsan miri fuzz damaged faults package-check dist

help:
	@echo 'make setup   install what the build needs (cmake, libclang), or say the command that does'
	@echo 'make demo    build, and let the model that ships answer questions about a picture, dense and pruned'
	@echo 'make test    all tests, with a comparison against an unpatched llama.cpp, and other programs against visipruner serve'
	@echo 'make test-vulkan        exactness on a Vulkan device, which may be software (lavapipe)'
	@echo 'make lint    rustfmt, clippy, documentation and its links, patches'
	@echo 'make fmt     format the sources'
	@echo 'make bench   benchmarks'
	@echo 'make bench-7b           dense and pruned on the shape of LLaVA-1.5-7B, see docs/performance.md'
	@echo 'make bench-questions    the second question about a picture, here and in stock llama.cpp'
	@echo 'make models-check       this program and stock llama.cpp beside Hugging Face transformers, on small random models'
	@echo 'make fixtures           what transformers makes of pictures, for the tests, see tests/transformers/README.md'
	@echo 'make page-check         the page of visipruner serve in a real browser (chromium), see tests/page'
	@echo 'make serve-clients      the packages of OpenAI and LangChain, llm and curl against visipruner serve, see tests/serve'
	@echo 'make serve-llama-server llama-server'\''s own tests against visipruner serve'
	@echo 'make serve-bad          bad requests: none ends it, none hangs'
	@echo 'make serve-soak N=10000 mixed requests from several clients: each is answered as it is alone'
	@echo 'make serve-bench MODEL=... MMPROJ=...   time to the first token over HTTP, and of which the engine'
	@echo 'make asan    the engine under the sanitizers of addresses and undefined behaviour, and whether it leaks'
	@echo 'make tsan    the server and what is stopped under the sanitizer of threads'
	@echo 'make miri    the pure-Rust part under miri, which a nightly compiler has'
	@echo 'make fuzz TARGET=... SECONDS=3600       lets cargo-fuzz look for inputs that break a promise, see fuzz/'
	@echo 'make damaged N=1000     so many damaged projectors and models of each kind: none ends the process'
	@echo 'make faults             every allocation of a small run fails once'
	@echo 'make package-check      the crate as it is published: built by others, installed, documented, without network'
	@echo 'make dist    an archive for Linux on any x86-64 processor, in target/dist'
	@echo 'make bench-stock MODEL=... MMPROJ=...   this program and stock llama.cpp, side by side'

setup:
	@build/setup.sh

demo: setup
	$(CARGO) run --release -- demo

# The pure-Rust part first: it takes seconds, and proves that it builds without the native part.
test: setup
	$(CARGO) build --no-default-features
	$(CARGO) test --no-default-features --features hub,lab
	$(CARGO) build
	$(MAKE) --no-print-directory stock
	$(CARGO) test
	tests/serve/all.sh

# What a build with Vulkan needs, and headers that are new enough. VULKAN_SDK names those of an SDK that is installed.
ifeq ($(VULKAN_SDK),)
vulkan-sdk: setup
	build/vulkan.sh
test-vulkan: export VULKAN_SDK := $(CURDIR)/target/vulkan-sdk/usr
else
vulkan-sdk: setup
endif

# Tests of one body for every device, on Vulkan: a device of any kind, software too. In a folder of its own, so that the
# builds with and without the feature leave each other alone. Two at a time: a device is opened while another test
# wants it, too.
test-vulkan: export GGML_VK_VISIBLE_DEVICES ?= 0

test-vulkan: vulkan-sdk
	VISIPRUNER_TEST_DEVICES=Vulkan \
		$(CARGO) test --no-default-features --features lab,vulkan --target-dir target/vulkan --lib --test engine -- \
		--test-threads=2 on_vulkan

# The unpatched library and target/stock/stock-eval, which runs a model on it.
stock:
	tests/stock/build.sh

lint: setup
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	for features in '' hub lab native native,lab server native,cli; do \
		$(CARGO) clippy --all-targets --no-default-features --features "$$features" -- -D warnings || exit 1; \
	done
	$(CARGO) rustc --lib --profile check -- --cfg fuzzing -D warnings # what fuzz/ is compiled with
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps
	for features in '' hub lab native server cli; do \
		RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --no-default-features --features "$$features" || exit 1; \
	done
	build/links.py
	patches/tool.sh check

fmt:
	$(CARGO) fmt

bench: setup
	$(CARGO) bench

# The shape of LLaVA-1.5-7B with random weights, on the backend that FEATURES names (cuda, vulkan; Metal is on by itself).
# `visipruner` is the variant that probes every middle layer and drops nothing. FLAGS are those of `visipruner bench`.
FEATURES ?=
TYPE     ?= Q4_K_M
SYNTH    := target/synth/synthetic-llava-1.5-7b

$(SYNTH)-$(TYPE).gguf: | release
	target/release/visipruner synth --shape llava-1.5-7b --type $(TYPE) --force -o target/synth

release: setup
	$(CARGO) build --release $(if $(FEATURES),--features $(FEATURES))

bench-7b: release $(SYNTH)-$(TYPE).gguf
	target/release/visipruner bench -m $(SYNTH)-$(TYPE).gguf --mmproj $(SYNTH)-mmproj-F16.gguf \
		--policy visipruner --stages middle --layer-threshold -1 --schedule 18/10/28 --schedule 13/10/24 \
		--report target/bench-7b-$(TYPE).json --plot target/bench-7b-$(TYPE).svg $(FLAGS)

# The second question about a picture, and several answers together, on the same shape, beside stock llama.cpp on the CPU.
bench-questions: release stock $(SYNTH)-$(TYPE).gguf
	target/release/visipruner bench -m $(SYNTH)-$(TYPE).gguf --mmproj $(SYNTH)-mmproj-F16.gguf \
		--stock target/stock/stock-eval --vision-encoder upstream --n-text 64 --questions 2 --sequences 4 \
		--schedule 18/10/28 --schedule 13/10/24 --report target/bench-questions-$(TYPE).json $(FLAGS)

# Without MODEL the one that ships.
MODEL  ?= models/tiny-llava-shapes-f16.gguf
MMPROJ ?= models/tiny-llava-shapes-mmproj-f16.gguf
FLAGS  ?=

bench-stock: setup
	$(CARGO) build --release
	$(MAKE) --no-print-directory stock
	target/release/visipruner bench -m $(MODEL) --mmproj $(MMPROJ) --stock target/stock/stock-eval \
		--vision-encoder upstream $(FLAGS)

# Small models of Hugging Face transformers, converted by llama.cpp's converters. FAMILIES names some of them.
TRANSFORMERS := target/transformers
FAMILIES     ?=

$(TRANSFORMERS)/venv/installed: tests/transformers/requirements.txt
	tests/venv.sh $(TRANSFORMERS)/venv $<

models-check: release $(TRANSFORMERS)/venv/installed
	$(TRANSFORMERS)/venv/bin/python tests/transformers/models_check.py $(FAMILIES)

fixtures: $(TRANSFORMERS)/venv/installed
	$(TRANSFORMERS)/venv/bin/python tests/transformers/make_fixtures.py $(FAMILIES)

# Pictures of the page go to target/page/screenshots. TESTS names some of the tests, as pytest's -k has them.
PAGE  := target/page
TESTS ?=

$(PAGE)/venv/installed: tests/page/requirements.txt
	tests/venv.sh $(PAGE)/venv $<

page-check: release $(PAGE)/venv/installed
	$(PAGE)/venv/bin/pytest -q -p no:cacheprovider $(if $(TESTS),-k '$(TESTS)') tests/page

# visipruner serve, asked by others. VISIPRUNER names the program, which is built otherwise.
SERVE := target/serve
N     ?= 10000

ifdef VISIPRUNER
export VISIPRUNER
else
serve-clients serve-llama-server serve-bad serve-soak serve-bench: export VISIPRUNER = target/release/visipruner
serve-clients serve-llama-server serve-bad serve-soak serve-bench: release
endif

$(SERVE)/venv/installed: tests/serve/requirements.txt
	tests/venv.sh $(SERVE)/venv $<

serve-clients: $(SERVE)/venv/installed
	$(SERVE)/venv/bin/python -m pytest -q -rs -p no:cacheprovider tests/serve

serve-llama-server: $(SERVE)/venv/installed
	$(SERVE)/venv/bin/python tests/serve/llama_server/run.py $(FLAGS)

serve-bad: $(SERVE)/venv/installed
	$(SERVE)/venv/bin/python tests/serve/bad_requests.py $(FLAGS)

serve-soak: $(SERVE)/venv/installed
	$(SERVE)/venv/bin/python tests/serve/soak.py --requests $(N) $(FLAGS)

serve-bench: $(SERVE)/venv/installed
	$(SERVE)/venv/bin/python tests/serve/first_token.py --model $(MODEL) --mmproj $(MMPROJ) $(FLAGS)

# What looks for errors of memory, see CONTRIBUTING.md. FLAGS go to the tests.
asan tsan: setup
	build/sanitize.sh $@ $(FLAGS)

# Whatever needs neither llama.cpp nor files: miri knows no foreign code, and its file system is slow.
MIRIFLAGS ?= -Zmiri-disable-isolation

miri:
	MIRIFLAGS='$(MIRIFLAGS)' $(CARGO) +nightly miri test --no-default-features --lib -- policy:: gguf:: report:: prefill:: $(FLAGS)

TARGET  ?=
SECONDS ?= 3600

fuzz:
	fuzz/run.sh '$(TARGET)' '$(SECONDS)' $(FLAGS)

damaged: N = 1000
damaged: setup
	VISIPRUNER_DAMAGED=$(N) $(CARGO) test --test damaged -- --nocapture $(FLAGS)

faults: setup
	VISIPRUNER_ALLOCATIONS=1000000 $(CARGO) test --test allocation -- --nocapture $(FLAGS)

# What is published. FLAGS go to `cargo package`: --allow-dirty.
package-check: setup
	tests/package.sh $(FLAGS)

dist: setup
	build/release.sh
