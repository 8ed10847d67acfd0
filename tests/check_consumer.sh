#!/bin/sh
# A separate project uses falconet in both ways that the README promises, and runs.
#
# usage: check_consumer.sh installed BUILD_FOLDER     find_package(falconet) against what `cmake --install` puts into a temporary folder
#        check_consumer.sh source BUILD_FOLDER        FetchContent (add_subdirectory) of this tree; unoptimised, which builds in half the
#                                                     time, in BUILD_FOLDER/consumer, which is kept so that the next time is short
set -eu
way=$1
folder=$2
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

build=$work/build
case $way in
  installed)
    cmake --install "$folder" --prefix "$work/prefix" >"$work/log" || { cat "$work/log"; exit 1; }
    # The headers that are there are those that falconet.h reaches, and none that needs more than the standard library.
    test -f "$work/prefix/include/falconet/falconet.h"
    if grep -rnE '#include *<(fmt|nlohmann|toml|hwy|zlib|png|jpeglib|lzma|cuda)' "$work/prefix/include"; then
      echo "error: a public header includes a library of falconet's own"
      exit 1
    fi
    set -- -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Release ;;
  source)
    build=$folder/consumer
    set -- -DFALCONET_SOURCE="$root" -DFALCONET_CUDA=off -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0 ;;
  *)
    echo "usage: check_consumer.sh installed|source BUILD_FOLDER" >&2
    exit 2 ;;
esac

cmake -G Ninja -S "$root/tests/consumer" -B "$build" "$@" >"$work/log" || { cat "$work/log"; exit 1; }
cmake --build "$build" --target consumer >"$work/log" || { cat "$work/log"; exit 1; }
"$build/consumer"
