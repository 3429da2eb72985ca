# Sourced: llama.cpp and our C++ under the sanitizers of addresses and of undefined behaviour, for tests and fuzz targets.
# A finding of the latter ends the process, as one of the former does anyway, unless undefined.txt names it.
# -O1 takes half the time to compile.
fast="-DCMAKE_C_FLAGS_RELEASE='-O1 -g1 -DNDEBUG' -DCMAKE_CXX_FLAGS_RELEASE='-O1 -g1 -DNDEBUG'"
export VISIPRUNER_NATIVE_DIR=$PWD/target/sanitize/asan/native
export VISIPRUNER_CMAKE_ARGS="-DLLAMA_SANITIZE_ADDRESS=ON -DLLAMA_SANITIZE_UNDEFINED=ON \
        -DGGML_SANITIZE_ADDRESS=ON -DGGML_SANITIZE_UNDEFINED=ON $fast"
export UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1:suppressions=$PWD/build/sanitizers/undefined.txt"
