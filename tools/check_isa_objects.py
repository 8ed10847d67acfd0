#!/usr/bin/env python3
"""Fails if an object built for one instruction set defines a symbol that objects of another set could define too.

A SIMD source is compiled once per instruction set. Of an inline function that several objects hold, the linker keeps any one copy:
were it the one built for AVX-512, a machine without it would die of SIGILL. So every weak or global symbol of such an object lies in
its own namespace, falconet::ISA, or in Highway's namespace of the same target.

usage: check_isa_objects.py ISA OBJECT ...
"""
import re
import subprocess
import sys

HIGHWAY_TARGETS = {"plain": r"N_(SSE2|SCALAR|EMU128|NEON\w*|VSX\w*|PPC\w*|RVV)", "avx2": "N_AVX2", "avx512": "N_AVX3"}
# What a compiler derives from a symbol: virtual table, type info and its name, guard of a static, a static inside a function.
PREFIX = r"_Z(TV|TI|TS|GV|Z|GR)*N?[KVRO]*(St)?"


def own(isa):
    highway = rf"3hwy\d+{HIGHWAY_TARGETS[isa]}(?=\d|[CDL])"
    return re.compile(rf"^({PREFIX}(8falconet{len(isa)}{isa}|{highway})|DW\.ref\.|__odr_asan)")


def strangers(isa, objects):
    symbols = subprocess.run(["nm", "--defined-only", "--extern-only", "--format=posix", "-A", *objects], check=True, capture_output=True, text=True)
    for line in symbols.stdout.splitlines():
        place, symbol, kind, *_ = line.rsplit(": ", 1)[0:1] + line.rsplit(": ", 1)[1].split()
        if not own(isa).match(symbol):
            yield place, symbol, kind


def main():
    isa, objects = sys.argv[1], sys.argv[2:]
    found = list(strangers(isa, objects))
    for place, symbol, kind in found:
        name = subprocess.run(["c++filt", symbol], capture_output=True, text=True).stdout.strip()
        print(f"{place}: error: {name} ({kind}) lies outside falconet::{isa}; make it part of that namespace, or static", file=sys.stderr)
    if found:
        sys.exit(f"check_isa_objects: {len(found)} symbols could be shared between instruction sets")
    print(f"check_isa_objects: {len(objects)} objects of {isa}, every symbol in falconet::{isa}")


if __name__ == "__main__":
    main()
