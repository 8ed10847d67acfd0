#!/usr/bin/env python3
"""Three measures beside the time of a step: start to first training step, peak memory of the demo's training, stripped size.

usage: start_memory_size.py [--build build] [--data data/mnist] [--repeat 10] [--python PYTHON with torch]
One JSON object a row; ms is the median and ms_min the least of the repeats, taken in turn with PyTorch's.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(command, **options):
    """Seconds and the largest resident memory of a command."""
    start = time.perf_counter()
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT, **options)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command[0]} failed: {errors.decode()[-500:]}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def start_to_first_step(commands, repeat):
    times = {name: [] for name in commands}
    peaks = {}
    for _ in range(repeat):
        for name, command in commands.items():
            seconds, peak = run(command)
            times[name].append(seconds * 1e3)
            peaks[name] = max(peak, peaks.get(name, 0))
    for name, values in times.items():
        row = {"what": "start to first step", "by": name, "model": "mnist_cnn", "batch": 64, "precision": "f32", "device": "cpu"}
        yield row | {"ms": round(statistics.median(values), 1), "ms_min": round(min(values), 1), "peak_bytes": peaks[name], "repeats": repeat}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "data/mnist")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--python", help="a Python with torch, to be measured in turn")
    args = parser.parse_args()
    build, data = args.build.resolve(), args.data.resolve()

    subprocess.run(["cmake", "--build", build, "--target", "falconet_program", "bench_first_step"], check=True, stdout=subprocess.DEVNULL)
    commands = {"falconet": [build / "bench/bench_first_step", data]}
    if args.python:
        commands["pytorch"] = [shutil.which(args.python) or args.python, ROOT / "bench/peers/pytorch_first_step.py", data]
    for row in start_to_first_step(commands, args.repeat):
        print(json.dumps(row), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        seconds, peak = run([build / "falconet", "train", "recipe=mnist", f"run={folder}/run"])
        print(json.dumps({"what": "demo training", "by": "falconet", "ms": round(seconds * 1e3, 1), "peak_bytes": peak}), flush=True)
        stripped = pathlib.Path(folder, "falconet")
        subprocess.run(["strip", "-o", stripped, build / "falconet"], check=True)
        print(json.dumps({"what": "stripped program", "by": "falconet", "bytes": stripped.stat().st_size}))


if __name__ == "__main__":
    main()
