# What one types. `make help` lists it.

CARGO ?= cargo

.PHONY: help setup demo test lint fmt bench stock bench-stock

help:
	@echo 'make setup   install what the build needs (cmake, libclang), or say the command that does'
	@echo 'make demo    build, and let the model that ships answer questions about a picture, dense and pruned'
	@echo 'make test    all tests, with a comparison against an unpatched llama.cpp'
	@echo 'make lint    rustfmt, clippy, documentation, patches'
	@echo 'make fmt     format the sources'
	@echo 'make bench   benchmarks'
	@echo 'make bench-stock MODEL=... MMPROJ=...   this program and stock llama.cpp, side by side'

setup:
	@build/setup.sh

demo: setup
	$(CARGO) run --release -- demo

# The pure-Rust part first: it takes seconds, and proves that it builds without the native part.
test: setup
	$(CARGO) test --no-default-features
	$(CARGO) build
	$(MAKE) --no-print-directory stock
	$(CARGO) test

# The unpatched library and target/stock/stock-eval, which runs a model on it.
stock:
	tests/stock/build.sh

lint: setup
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --all-targets --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps
	patches/tool.sh check

fmt:
	$(CARGO) fmt

bench: setup
	$(CARGO) bench

# Without MODEL the one that ships. FLAGS are those of `visipruner bench`.
MODEL  ?= models/tiny-llava-shapes-f16.gguf
MMPROJ ?= models/tiny-llava-shapes-mmproj-f16.gguf
FLAGS  ?=

bench-stock: setup
	$(CARGO) build --release
	$(MAKE) --no-print-directory stock
	target/release/visipruner bench -m $(MODEL) --mmproj $(MMPROJ) --stock target/stock/stock-eval \
		--vision-encoder upstream $(FLAGS)
