# Sourced: llama.cpp and our C++ under the sanitizers of addresses and of undefined behaviour, for tests and fuzz targets.
# A finding of the latter ends the process, as one of the former does anyway. -O1 takes half the time to compile.
flags='-fno-sanitize-recover=undefined'
fast="-DCMAKE_C_FLAGS_RELEASE='-O1 -g1 -DNDEBUG' -DCMAKE_CXX_FLAGS_RELEASE='-O1 -g1 -DNDEBUG'"
export VISIPRUNER_NATIVE_DIR=$PWD/target/sanitize/asan/native
export VISIPRUNER_CMAKE_ARGS="-DLLAMA_SANITIZE_ADDRESS=ON -DLLAMA_SANITIZE_UNDEFINED=ON \
        -DGGML_SANITIZE_ADDRESS=ON -DGGML_SANITIZE_UNDEFINED=ON \
        -DCMAKE_C_FLAGS=$flags -DCMAKE_CXX_FLAGS=$flags $fast"
