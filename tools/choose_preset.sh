#!/bin/sh
# Which CMake preset `make` takes: choose_preset.sh auto|on|off prints cpu or cuda; choose_preset.sh nvcc prints where nvcc is.
# auto takes cuda where both nvcc and an NVIDIA GPU are found, as cmake/FalconetCuda.cmake does.
set -eu
find_nvcc() {
  for nvcc in "${CUDACXX:-}" "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc /opt/cuda/bin/nvcc; do
    if [ -n "$nvcc" ] && [ -x "$nvcc" ]; then
      echo "$nvcc"
      return
    fi
  done
}
case ${1:-auto} in
  nvcc) find_nvcc ;;
  on) echo cuda ;;
  off) echo cpu ;;
  auto)
    for gpu in /dev/nvidia[0-9]* /dev/dxg; do   # dxg: below Windows
      [ -e "$gpu" ] || continue
      if [ -n "$(find_nvcc)" ]; then echo cuda; exit; fi
      echo "make: a GPU is here, but no nvcc (PATH, CUDACXX, /usr/local/cuda/bin): building for the CPU alone" >&2
      break
    done
    echo cpu ;;
esac
