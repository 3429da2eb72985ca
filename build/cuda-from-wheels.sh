#!/usr/bin/env bash
# Makes a folder that is enough of NVIDIA's CUDA toolkit to compile ggml-cuda, from NVIDIA's own packages on PyPI: for
# machines where the toolkit cannot be installed, and without root. Linux on x86-64 or ARM.
set -euo pipefail

# it pins the version of every part
toolkit='cuda-toolkit[nvcc,nvvm,crt,cudart,cublas,cccl]==13.0.2'

if [[ $# != 1 ]]; then
    echo "usage: build/cuda-from-wheels.sh FOLDER" >&2
    exit 1
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd -P)

python3 -m pip install --quiet --upgrade --no-compile --target "$folder" "$toolkit"

# where nvcc and cmake look, and under the names that a linker looks for
cuda=$folder/nvidia/cu13
ln -sfn lib "$cuda/lib64"
for library in "$cuda"/lib/lib*.so.*; do
    ln -sf "$(basename "$library")" "${library%%.so.*}.so"
done

"$cuda/bin/nvcc" --version | tail -n 2
cat <<END

export CUDACXX=$cuda/bin/nvcc CUDAToolkit_ROOT=$cuda
END
