#!/usr/bin/env python3
"""Fails on an include that runs upward: the order of knowledge is

    base -> tensor -> device -> graph -> ops -> nn -> plan -> train -> cli        (data, io: base and tensor only)

Kernels (falconet/ops/*/cpu, falconet/ops/*/cuda), and the headers that every kernel may read, see only base, tensor, device,
ops/{algorithm,fusion,problem_text}.h, their own chapter's problem.h and algorithms.h, and headers of kernel folders.
fmt, nlohmann-json and toml++ stay in .cpp files (base/format.h is the one door to fmt). Also: the library writes
its includes from the root of the repository, and examples know the public API alone.

usage: check_layers.py [ROOT] [--stamp FILE, touched when all is well]
"""
import argparse
import pathlib
import re
import sys

LAYERS = ["base", "tensor", "device", "graph", "ops", "nn", "plan", "train"]
ALLOWED = {layer: set(LAYERS[: i + 1]) for i, layer in enumerate(LAYERS)}
ALLOWED["train"] |= {"data", "io"}
ALLOWED["data"] = {"base", "tensor", "data"}
ALLOWED["io"] = {"base", "tensor", "io"}

KERNEL_LAYERS = {"base", "tensor", "device"}
SHARED_BY_KERNELS = {f"falconet/ops/{name}.h" for name in ("algorithm", "fusion", "problem_text")}
KERNEL_FOLDER = re.compile(r"falconet/ops/([^/]+)/(cpu|cuda)/")
PROBLEM = re.compile(r"falconet/ops/([^/]+)/problem\.h$")

ALGORITHMS = re.compile(r"falconet/ops/([^/]+)/algorithms\.h$")

PRIVATE = re.compile(r"(fmt|nlohmann|toml\+\+)/|toml\.hpp$|falconet/base/format\.h$")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SOURCES = {".h", ".cpp", ".cu", ".cuh"}


def layer_of(path):
    """falconet/ops/conv/op.h -> ops; falconet/falconet.h -> falconet.h, which stands above the library."""
    parts = path.split("/")
    return parts[1] if parts[0] == "falconet" and len(parts) > 1 else parts[0]


def reached(root, header):
    """The header and every header of falconet that it reaches: what is installed."""
    todo, seen = [header], {header}
    while todo:
        path = root / todo.pop()
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            found = INCLUDE.match(line)
            if found and found.group(1) == '"' and found.group(2) not in seen:
                seen.add(found.group(2))
                todo.append(found.group(2))
    return seen


def complaint(source, kind, target, public):
    """Why `source` may not include `target`, or None."""
    if PRIVATE.search(target):
        if source != "falconet/base/format.h" and not source.endswith(".cpp"):
            return "fmt, nlohmann-json and toml++ belong in .cpp files only"
        if source.startswith("falconet/") and KERNEL_FOLDER.match(source) and target != "falconet/base/format.h":
            return "a kernel needs no such library"
        if kind == "<":
            return None
    if kind == "<":
        return "falconet's own headers are written in quotes" if target.startswith("falconet/") else None
    if not source.startswith("falconet/"):
        if source.startswith("examples/") and target not in public and not ALGORITHMS.match(target):
            return "examples use the public API, what falconet/falconet.h reaches, and the tables of algorithms"
        return None
    if not target.startswith("falconet/"):
        return 'the library includes only its own files, written from the root of the repository: "falconet/..."'
    to = layer_of(target)

    kernel, problem = KERNEL_FOLDER.match(source), PROBLEM.match(source)
    if kernel or problem or source in SHARED_BY_KERNELS:
        own = (kernel or problem).group(1) if kernel or problem else None
        mine = {f"falconet/ops/{own}/problem.h", f"falconet/ops/{own}/algorithms.h"} if kernel else set()
        if to in KERNEL_LAYERS or target in SHARED_BY_KERNELS or target in mine:
            return None
        if kernel and KERNEL_FOLDER.match(target):
            return None
        if problem and PROBLEM.match(target):
            return None
        return ("kernels see only base, tensor, device, ops/{algorithm,fusion,problem_text}.h, their own chapter's problem.h and algorithms.h, "
                "and headers of kernel folders")

    layer = layer_of(source)
    if layer == "falconet.h":
        return None
    if layer not in ALLOWED:
        return f"the folder {layer} has no place in the order of knowledge (tools/check_layers.py)"
    if to not in ALLOWED[layer]:
        return f"{layer} may not see {to}: that runs upward ({' -> '.join(LAYERS)} -> cli)"
    return None


def check(root):
    complaints, files, public = [], 0, reached(root, "falconet/falconet.h")
    for folder in ("falconet", "cli", "examples", "tests", "bench"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in SOURCES or "build" in path.relative_to(root).parts:
                continue
            source = path.relative_to(root).as_posix()
            if source.startswith("tests/consumer/"):
                continue  # a project of its own
            files += 1
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                found = INCLUDE.match(line)
                if found:
                    kind, target = found.groups()
                    reason = complaint(source, kind, target, public)
                    if reason:
                        complaints.append(f"{source}:{number}: error: {line.strip()}: {reason}")
    return complaints, files


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("root", nargs="?", default=pathlib.Path(__file__).resolve().parent.parent, type=pathlib.Path)
    parser.add_argument("--stamp", type=pathlib.Path)
    args = parser.parse_args()
    complaints, files = check(args.root)
    for line in complaints:
        print(line, file=sys.stderr)
    if complaints or not files:
        sys.exit(f"check_layers: {len(complaints)} includes out of order in {files} files")
    if args.stamp:
        args.stamp.touch()
    else:
        print(f"check_layers: {files} files, every include in order")


if __name__ == "__main__":
    main()
