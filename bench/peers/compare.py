#!/usr/bin/env python3
"""falconet beside PyTorch (and OpenVINO) on this CPU, in one run: they take turns, so that a noisy spell of the machine meets both.

usage: compare.py [--python PYTHON with torch] [--program build/falconet] [--rounds 5] [--threads 2]
                  [--jobs train:mnist_cnn:64,predict:mnist_cnn:1,...] [--modes eager,channels_last,compile] [--precision bf16] [--out FILE.md]

A round runs every job once by falconet (bench train|predict, falconet's own algorithms) and once by each of PyTorch's modes; each
is a process of its own. On a busy machine start it as `chrt -f 50 compare.py ...` (root): a barrier of OpenMP that has to wait for
other people's compilers turns 5 ms into 500, and minima alone do not mend that. The table has, per job, the median of the rounds' medians and the least time seen, of falconet and of
the best mode of the peers, and how many times faster falconet is. The rows of every round go to FILE.jsonl when --out is given.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
JOBS = "train:mnist_cnn:64,train:lenet5:64,train:resnet20:128,predict:mnist_cnn:1,predict:mnist_cnn:64,predict:lenet5:1,predict:resnet20:1,predict:resnet20:64"


TORCHVISION = ["resnet18", "resnet34", "resnet50", "vgg16", "mobilenet_v2"]


def row_of(what, command):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=ROOT)
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    for row in rows:
        if row.get("what") == what:
            return row
    print(f"no row from {' '.join(map(str, command))}: {result.stderr.strip()[-300:]}", file=sys.stderr)
    return None


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def steps_of(what, model):
    if model in TORCHVISION:
        return 10
    return 50 if model.startswith("resnet") else 200 if what == "train" else 1000


def measure(args, jobs, contenders):
    """rows[job][contender] = list of rows, one a round."""
    rows = {job: {name: [] for name in contenders} for job in jobs}
    for turn in range(args.rounds):
        for job in jobs:
            what, model, batch = job
            for name in contenders:
                if turn and not rows[job][name]:
                    continue  # it did not run in the first round
                if name == "falconet":
                    command = [args.program, "bench", what, f"model={model}", f"batch={batch}", f"threads={args.threads}",
                               f"steps={steps_of(what, model)}", f"precision={args.precision}", "device=cpu", "json=true"]
                elif name == "openvino":
                    if what != "predict":
                        continue
                    command = [args.python, HERE / "openvino_cpu.py", what, "--model", model, "--batch", batch, "--threads", args.threads,
                               "--steps", steps_of(what, model), "--precision", args.precision]
                else:
                    mode, allocator = name.split("+")
                    command = [args.python, HERE / "pytorch_cpu.py", what, "--model", model, "--batch", batch, "--threads", args.threads,
                               "--steps", steps_of(what, model), "--mode", mode, "--allocator", allocator, "--precision", args.precision]
                row = row_of(what, command)
                if row:
                    rows[job][name].append(row | {"by": name, "round": turn})
        print(f"round {turn + 1} of {args.rounds} done", file=sys.stderr)
    return rows


def summary(rows):
    return statistics.median(row["ms"] for row in rows), min(row["ms_min"] for row in rows), max(row["peak_bytes"] for row in rows)


def table(rows):
    lines = ["| what | model | batch | falconet ms (min) | best peer ms (min) | which, mode | times faster (min) | memory MB, falconet / peer |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for (what, model, batch), by in rows.items():
        peers = {name: summary(list_) for name, list_ in by.items() if list_ and name != "falconet"}
        best = min(peers, key=lambda name: peers[name][0]) if peers else None
        ours = summary(by["falconet"]) if by.get("falconet") else None
        cells = [what, model, str(batch)]
        cells.append(f"{ours[0]:.3f} ({ours[1]:.3f})" if ours else "-")
        cells.append(f"{peers[best][0]:.3f} ({peers[best][1]:.3f})" if best else "-")
        cells.append(best.replace("+", ", ") if best else "-")
        least = min(peer[1] for peer in peers.values()) if peers else None
        cells.append(f"{peers[best][0] / ours[0]:.2f} ({least / ours[1]:.2f})" if ours and best else "-")
        cells.append(f"{ours[2] / 1e6:.0f} / {peers[best][2] / 1e6:.0f}" if ours and best else f"- / {peers[best][2] / 1e6:.0f}" if best else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=str(ROOT / "build/peers/bin/python"))
    parser.add_argument("--program", default=str(ROOT / "build/falconet"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--jobs", default=JOBS)
    parser.add_argument("--modes", default="eager,channels_last", help="of PyTorch, or none; compile takes minutes more, the first time")
    parser.add_argument("--allocators", default="glibc,tcmalloc")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--openvino", action="store_true", help="OpenVINO's predictions too (PyPI package openvino)")
    parser.add_argument("--without-falconet", action="store_true", help="the peers alone")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()

    jobs = [(what, model, int(batch)) for what, model, batch in (job.split(":") for job in args.jobs.split(","))]
    contenders = [] if args.without_falconet else ["falconet"]
    contenders += [] if args.modes == "none" else [f"{mode}+{allocator}" for mode in args.modes.split(",") for allocator in args.allocators.split(",")]
    contenders += ["openvino"] if args.openvino else []
    load = os.getloadavg()[0]
    rows = measure(args, jobs, contenders)

    peer = ", ".join(sorted({row["peer"] for by in rows.values() for list_ in by.values() for row in list_ if "peer" in row})) or "no peer"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    head = (f"{processor()}, {os.cpu_count()} processors seen, {args.threads} threads; {peer}; falconet {commit}; {time.strftime('%Y-%m-%d')}; "
            f"{args.rounds} rounds taken in turn; {args.precision}; load average at the start {load:.1f}.\n\n"
            f"`bench/peers/compare.py --rounds {args.rounds} --modes {args.modes} --allocators {args.allocators} --precision {args.precision} --jobs {args.jobs}`\n")
    text = head + "\n" + table(rows) + "\n"
    print(text)
    if args.out:
        args.out.write_text("# falconet beside PyTorch\n\n" + text)
        with open(args.out.with_suffix(".jsonl"), "w") as file:
            for by in rows.values():
                for list_ in by.values():
                    for row in list_:
                        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
