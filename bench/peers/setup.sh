#!/bin/sh
# Makes a Python environment with the peers that run on a CPU, by their PyPI names: bench/peers/setup.sh [FOLDER, default build/peers]
# About 1 GB with PyTorch's CPU wheels, which are tried first; they have no CUDA inside. Needs the Debian package python3-venv. For
# PyTorch at its best, libtcmalloc-minimal4 is wanted too.
set -eu
folder=${1:-build/peers}
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --upgrade pip
"$folder/bin/pip" install --quiet numpy openvino
# The rivals of falconet's own algorithms, which it opens by these names: oneDNN 3 (needs libgomp1) and OpenBLAS.
"$folder/bin/pip" install --quiet onednn-cpu-gomp scipy-openblas32
libraries=$("$folder/bin/python" -c 'import os, scipy_openblas32 as o; print(os.path.join(os.path.dirname(o.__file__), "lib"))')
ln -sf "$libraries/libscipy_openblas.so" "$folder/lib/libscipy_openblas.so"
"$folder/bin/pip" install --quiet torch --index-url https://download.pytorch.org/whl/cpu || "$folder/bin/pip" install --quiet torch
"$folder/bin/python" -c 'import torch; print("PyTorch", torch.__version__)'
ls /usr/lib/*/libtcmalloc_minimal.so.4 >/dev/null 2>&1 || echo "no libtcmalloc_minimal.so.4: apt-get install libtcmalloc-minimal4"
echo "rivals: export LD_LIBRARY_PATH=$(cd "$folder" && pwd)/lib   (OPENBLAS_CORETYPE=SkylakeX where OpenBLAS does not know an AVX-512 processor)"
echo "now: bench/peers/compare.py --python $folder/bin/python"
