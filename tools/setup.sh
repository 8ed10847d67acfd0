#!/bin/sh
# Installs what building and testing falconet needs and this machine lacks. As root on Debian or Ubuntu it calls apt-get, without
# asking; otherwise it names the packages and fails. With everything there it takes a few milliseconds and says nothing.
#
# A fresh Debian 12 with make and git alone lacks all of it. What is looked for is the header or the program, not the package, so
# that other distributions, with packages of other names, work too; the names printed are Debian's.
set -eu
cxx=${CXX:-c++}

missing_programs() {
  command -v "$cxx" >/dev/null || echo g++
  command -v cmake >/dev/null || echo cmake
  command -v ninja >/dev/null || command -v ninja-build >/dev/null || echo ninja-build
  command -v make >/dev/null || echo make
  command -v python3 >/dev/null || echo python3
}

# One run of the preprocessor prints the package of every header that it cannot find.
missing_headers() {
  if ! command -v "$cxx" >/dev/null; then
    packages
    return
  fi
  {
    while read -r header package; do
      printf '#if !__has_include(<%s>)\n%s\n#endif\n' "$header" "$package"
    done <<HEADERS
zlib.h zlib1g-dev
jpeglib.h libjpeg62-turbo-dev
png.h libpng-dev
lzma.h liblzma-dev
libdeflate.h libdeflate-dev
hwy/highway.h libhwy-dev
fmt/format.h libfmt-dev
nlohmann/json.hpp nlohmann-json3-dev
toml++/toml.h libtomlplusplus-dev
gtest/gtest.h libgtest-dev
HEADERS
  } | "$cxx" -std=c++20 -E -P -x c++ - | tr -s '\n '
}
packages() {
  echo zlib1g-dev libjpeg62-turbo-dev libpng-dev liblzma-dev libdeflate-dev libhwy-dev libfmt-dev nlohmann-json3-dev libtomlplusplus-dev libgtest-dev
}

missing() {
  { missing_programs; missing_headers; } | tr '\n' ' ' | sed 's/^ *//; s/ *$//'
}

wanted=$(missing)
[ -n "$wanted" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "falconet needs packages that are not installed. On Debian or Ubuntu:" >&2
  echo "  sudo apt-get install $wanted" >&2
  exit 1
fi

echo "installing $wanted"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
  # shellcheck disable=SC2086  # one word per package
  DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $wanted >>"$log" 2>&1 </dev/null
}
if ! install && ! { apt-get -q update >>"$log" 2>&1 && install; }; then
  tail -n 20 "$log" >&2
  echo "error: apt-get could not install $wanted" >&2
  exit 1
fi
wanted=$(missing)
if [ -n "$wanted" ]; then
  echo "error: installed, but still not found: $wanted" >&2
  exit 1
fi
