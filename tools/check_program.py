#!/usr/bin/env python3
"""Fails if the program needs more at run time than glibc, or is larger than it may be once stripped.

usage: check_program.py PROGRAM [--most BYTES]      prints the stripped size and what the program needs
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

# Of glibc, and GCC's unwinder, which every Debian, Ubuntu, Fedora and Arch has. The NVIDIA driver is opened at run time, if at all.
ALLOWED = re.compile(r"^(libc|libm|libdl|libpthread|librt|libgcc_s)\.so\.\d+$|^ld-linux")


def needed(program):
    text = subprocess.run(["readelf", "--dynamic", "--wide", program], check=True, capture_output=True, text=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.*)\]", text)


def newest_glibc(program):
    text = subprocess.run(["readelf", "--version-info", "--wide", program], check=True, capture_output=True, text=True).stdout
    versions = {tuple(map(int, v.split("."))) for v in re.findall(r"Name: GLIBC_([\d.]+)", text)}
    return ".".join(map(str, max(versions))) if versions else "none"


def stripped_size(program):
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "program")
        subprocess.run(["strip", "-o", copy, program], check=True)
        return os.path.getsize(copy)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--most", type=int, help="bytes that the stripped program may have")
    args = parser.parse_args()
    libraries, size = needed(args.program), stripped_size(args.program)
    print(f"{size / 1e6:.2f} MB stripped; glibc {newest_glibc(args.program)}; needs {' '.join(libraries)}")
    foreign = [library for library in libraries if not ALLOWED.match(library)]
    if foreign:
        sys.exit(f"check_program: {args.program} needs {' '.join(foreign)}; link it statically or open it at run time")
    if args.most and size > args.most:
        sys.exit(f"check_program: {args.program} has {size} bytes stripped, and {args.most} are allowed")


if __name__ == "__main__":
    main()
