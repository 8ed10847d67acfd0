#!/usr/bin/env python3
"""falconet's best algorithm beside cuDNN's best engine, for every problem and direction of `falconet bench conv ... json=true`.

usage: falconet bench conv problems=LIST device=cuda layouts=nhwc,nchw json=true > rows.jsonl; bench/conv_ratio.py rows.jsonl... [--engine WORD --by NAME] [--contains TEXT]

falconet's own algorithms in either layout against cuDNN's engines in either: a network may keep its images as it likes. Algorithms whose
results are not the same bytes in every run, other rivals and the naive baseline do not count as falconet's. Ratios above 1: falconet is faster.
--engine fft --by fft: cuDNN's engines whose name contains the word beside falconet's algorithm of that name.
"""
import argparse
import json
import math
import sys

RIVALS = ("cudnn", "im2col_cublas", "reference")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--engine", default="", help="only engines of cuDNN whose name contains this")
    parser.add_argument("--by", default="", help="only this algorithm of falconet's")
    parser.add_argument("--contains", default="", help="only problems that contain this text")
    options = parser.parse_args()
    best = {}
    for name in options.files:
        for line in open(name, encoding="utf-8"):
            if not line.startswith("{"):
                continue
            row = json.loads(line)
            if "us" not in row or options.contains not in row["problem"]:
                continue
            problem = row["problem"].replace(" nhwc", "").replace(" nchw", "")
            if row["algorithm"] == "cudnn":
                side = "cudnn" if options.engine in row["config"] else None
            elif row["algorithm"] in RIVALS or "deterministic:0" in row["config"]:
                side = None
            else:
                side = "falconet" if options.by in ("", row["algorithm"]) else None
            if side:
                layout = "nchw" if " nchw" in row["problem"] else "nhwc"
                entry = (row["us"], (row["algorithm"] if side == "falconet" else row["config"].split(":")[0]) + " " + layout)
                known = best.setdefault(problem, {})
                known[side] = min(known.get(side, entry), entry)
    print(f"| problem | falconet us | by | cuDNN us | by | ratio |\n|---|---|---|---|---|---|")
    logs = {}
    for problem, sides in best.items():
        if len(sides) < 2:
            continue
        ours, theirs = sides["falconet"], sides["cudnn"]
        ratio = theirs[0] / ours[0]
        logs.setdefault(problem.split()[0], []).append(math.log(ratio))
        print(f"| {problem} | {ours[0]:.2f} | {ours[1]} | {theirs[0]:.2f} | {theirs[1]} | {ratio:.2f} |")
    every = [v for values in logs.values() for v in values]
    if not every:
        sys.exit("no problem that both have run")
    print("\ngeometric mean of the ratios: " + ", ".join(f"{d} {math.exp(sum(v) / len(v)):.2f}" for d, v in logs.items()) + f"; all {len(every)}: {math.exp(sum(every) / len(every)):.2f}")


if __name__ == "__main__":
    main()
