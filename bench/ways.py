#!/usr/bin/env python3
"""The algorithms of an operation side by side: records `falconet bench`, and draws tables and pictures from what was recorded.

  bench/ways.py record OPERATION LIST ... --out FILE.tsv [--program build/falconet] [--threads 1,2] [--budget 0.5] [--algorithms A,B]
      one row for each problem, number of threads and algorithm: median and least microseconds, and the machine's limit
  bench/ways.py draw FILE.tsv ...
      FILE.svg (a row for each problem, a mark for each algorithm, from the least times) and FILE.md (the same as a table)
  bench/ways.py suites LIST ... --out FILE.tsv [...]       convolutions in every direction beside the vendor libraries that are found
      one row for each shape and direction: falconet's fastest, the one its estimates choose, the best rival
  bench/ways.py again FILE.tsv
      measures again what came out under 0.9 or over 3 (a core taken away for a while makes either), and keeps the least times on both sides
  bench/ways.py ratio FILE.tsv [--without depthwise]
      FILE.svg: the best rival's time over falconet's for every shape and direction, and the counts

Only the standard library is needed. Vendor libraries: see bench/peers/setup.sh."""
import argparse
import collections
import datetime
import html
import json
import math
import pathlib
import subprocess
import sys
import time

BASELINES, VENDORS = ("reference", "naive"), ("onednn", "openblas")
COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f", "#bcbd22"]


def machine():
    name = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return f"{name}, {datetime.date.today()}"


def bench(program, operation, problems, threads, budget, more=()):
    command = [program, "bench", operation, f"problems={problems}", "json=true", "check=off", f"threads={threads}", f"budget={budget}", *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return [row for row in map(json.loads, done.stdout.splitlines()) if "us" in row]


def read(path):
    lines = pathlib.Path(path).read_text().splitlines()
    notes = [line[2:] for line in lines if line.startswith("# ")]
    head, *rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return notes, [dict(zip(head, row)) for row in rows]


def write(path, notes, head, rows):
    text = "".join(f"# {note}\n" for note in notes) + "\t".join(head) + "\n"
    pathlib.Path(path).write_text(text + "".join("\t".join(str(row[h]) for h in head) + "\n" for row in rows))


def record(args):
    rows = []
    for problems in args.lists:
        rows += bench(args.program, args.operation, problems, args.threads, args.budget, [f"algorithms={args.algorithms}"] if args.algorithms else [])
    for row in rows:
        row["us"], row["us_min"], row["limit_us"] = (f"{row[k]:.4g}" for k in ("us", "us_min", "limit_us"))
    command = f"bench/ways.py record {args.operation} {' '.join(args.lists)} --threads {args.threads} --budget {args.budget}" + (f" --algorithms {args.algorithms}" if args.algorithms else "")
    write(args.out, [machine(), command], ["problem", "threads", "algorithm", "us", "us_min", "limit_us"], rows)


class Svg:
    def __init__(self, width, height):
        self.width, self.height, self.parts = width, height, []

    def text(self, x, y, words, size=11, anchor="start", colour="#333", more=""):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"{more}>{html.escape(words)}</text>')

    def line(self, x1, y1, x2, y2, colour="#ddd", width=1.0, dashes=""):
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{dash}/>')

    def dot(self, x, y, colour, hollow=False, radius=4, title=""):
        fill = f'fill="white" stroke="{colour}" stroke-width="1.6"' if hollow else f'fill="{colour}"'
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {fill}><title>{html.escape(title)}</title></circle>')

    def save(self, path):
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" font-family="sans-serif">'
        pathlib.Path(path).write_text(head + f'<rect width="{self.width}" height="{self.height}" fill="white"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def short(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def draw_one(path):
    notes, rows = read(path)
    problems, algorithms = collections.OrderedDict(), []
    several = len({row["threads"] for row in rows}) > 1
    for row in rows:
        key = row["problem"] + (f" ({row['threads']} thr)" if several else "")
        problems.setdefault(key, {"limit": float(row["limit_us"])})[row["algorithm"]] = float(row["us_min"])
        if row["algorithm"] not in algorithms:
            algorithms.append(row["algorithm"])
    algorithms.sort(key=lambda a: (a in VENDORS, a in BASELINES))
    values = [max(v, 1e-3) for p in problems.values() for v in p.values()]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    label = 12 + 6.1 * max(map(len, problems))
    width, top, step = int(label + 620), 62, 19
    svg = Svg(width, top + step * len(problems) + 40)
    at = lambda us: label + 600 * (math.log10(max(us, 1e-3)) - low) / (high - low)
    svg.text(10, 18, pathlib.Path(path).stem + ", least microseconds; " + notes[0], 13)
    x = 10
    for i, a in enumerate([*algorithms, "limit"]):
        svg.line(x, 34, x, 46, "#000", 2) if a == "limit" else svg.dot(x + 4, 40, COLOURS[i % len(COLOURS)], a in VENDORS + BASELINES)
        svg.text(x + 12, 44, "the machine's limit" if a == "limit" else a)
        x += 26 + 7 * len(a)
    for power in range(low, high + 1):
        svg.line(at(10.0**power), top - 8, at(10.0**power), top + step * len(problems))
        svg.text(at(10.0**power), top + step * len(problems) + 16, f"{10.0 ** power:g}", anchor="middle")
    for n, (problem, found) in enumerate(problems.items()):
        y = top + step * n + 4
        svg.text(label - 8, y + 4, problem, 10, "end")
        svg.line(at(found["limit"]), y - 6, at(found["limit"]), y + 6, "#000", 2)
        for i, a in enumerate(algorithms):
            if a in found:
                svg.dot(at(found[a]), y, COLOURS[i % len(COLOURS)], a in VENDORS + BASELINES, title=f"{a}: {short(found[a])} us")
    svg.save(pathlib.Path(path).with_suffix(".svg"))
    table = [f"# {pathlib.Path(path).stem}", "", *notes, "", "Least microseconds; **bold** the fastest; limit: what the machine's multiply-adds or memory allow, measured in the same run.", "",
             "| problem | " + " | ".join(algorithms) + " | limit |", "|" + " --- |" * (len(algorithms) + 2)]
    for problem, found in problems.items():
        best = min(found[a] for a in algorithms if a in found)
        cells = ["-" if a not in found else f"**{short(found[a])}**" if found[a] == best else short(found[a]) for a in algorithms]
        table.append(f"| {problem} | " + " | ".join(cells) + f" | {short(found['limit'])} |")
    pathlib.Path(path).with_suffix(".md").write_text("\n".join(table) + "\n")


def one_of_suite(name, problem, of):
    own = [r for a, r in of.items() if a not in VENDORS + BASELINES]
    rivals = [r for a, r in of.items() if a in VENDORS]
    if not own or not rivals:
        return None
    tuned, chosen, rival = min(own, key=lambda r: r["us_min"]), min(own, key=lambda r: r["estimate_us"]), min(rivals, key=lambda r: r["us_min"])
    return {"list": name, "problem": problem, "tuned": tuned["algorithm"], "tuned_us": f"{tuned['us_min']:.4g}", "chosen": chosen["algorithm"],
            "chosen_us": f"{chosen.get('first_us', chosen['us_min']):.4g}", "rival": rival["algorithm"], "rival_us": f"{rival['us_min']:.4g}"}


def suites(args):
    rows = []
    for name in args.lists:
        found = collections.OrderedDict()
        for row in bench(args.program, "conv", name, args.threads, args.budget, ["repetitions=20"]):
            found.setdefault(row["problem"], {})[row["algorithm"]] = row
        rows += filter(None, (one_of_suite(pathlib.Path(name).stem, problem, of) for problem, of in found.items()))
    command = f"bench/ways.py suites {' '.join(args.lists)} --threads {args.threads} --budget {args.budget}"
    write(args.out, [machine(), command], ["list", "problem", "tuned", "tuned_us", "chosen", "chosen_us", "rival", "rival_us"], rows)


def again(args):
    notes, rows = read(args.file)
    for row in rows:
        if not args.low < float(row["rival_us"]) / float(row["tuned_us"]) < args.high:
            found = collections.OrderedDict()
            for r in bench(args.program, "conv", row["problem"], args.threads, args.budget, [f"algorithms={args.algorithms}"] if args.algorithms else []):
                first = found.get(r["algorithm"], r).get("first_us", r["us_min"])    # of the configuration that goes by estimates
                if r["algorithm"] not in found or r["us_min"] < found[r["algorithm"]]["us_min"]:
                    found[r["algorithm"]] = r
                found[r["algorithm"]]["first_us"] = first
            new = one_of_suite(row["list"], row["problem"], found)
            for us, who in (("tuned_us", "tuned"), ("chosen_us", "chosen"), ("rival_us", "rival")):
                # Estimates choose what the program has today, whatever its time is.
                if new and (float(new[us]) < float(row[us]) or (us == "chosen_us" and new[who] != row[who])):
                    row[us], row[who] = new[us], new[who]
            time.sleep(args.pause)
            row["chosen_us"] = row["chosen_us"] if float(row["chosen_us"]) >= float(row["tuned_us"]) else row["tuned_us"]
    if not any("measured again" in note for note in notes):
        notes.append(f"ratios under {args.low:g} or over {args.high:g} were measured again, the least of both kept on either side")
    write(args.file, notes, list(rows[0]), rows)


def counts(ratios):
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"{len(ratios)} shape-directions: {100 * sum(r >= 0.9 for r in ratios) / len(ratios):.1f} % at least 0.9, {sum(r < 0.7 for r in ratios)} under 0.7, geometric mean {mean:.2f}"


def depthwise(problem):
    words = dict((w.rstrip("0123456789."), w.lstrip("abcdefghijklmnopqrstuvwxyz_")) for w in problem.split())
    return words.get("g", "1") != "1" and words["g"] == words["c"]


def ratio(args):
    notes, rows = read(args.file)
    if args.without:
        rows = [row for row in rows if not depthwise(row["problem"])]
    for row in rows:
        row["tuned_ratio"], row["chosen_ratio"] = float(row["rival_us"]) / float(row["tuned_us"]), float(row["rival_us"]) / float(row["chosen_us"])
    rows.sort(key=lambda row: row["tuned_ratio"])
    colours = {"fwd": COLOURS[0], "bwd_data": COLOURS[1], "bwd_filter": COLOURS[2]}
    left, top, width, height = 60, 92, 960, 420
    svg = Svg(left + width + 20, top + height + 40)
    low, high = math.log2(0.25), math.log2(8)
    y_of = lambda r: top + height * (1 - (min(max(math.log2(r), low), high) - low) / (high - low))
    svg.text(10, 18, "Best rival's time over falconet's, every convolution of the suites in every direction, least of the runs; " + notes[0], 13)
    svg.text(10, 38, "fastest algorithm (what a tuner finds): " + counts([r["tuned_ratio"] for r in rows]), 12)
    svg.text(10, 55, "chosen by the estimates alone: " + counts([r["chosen_ratio"] for r in rows]), 12)
    for i, (name, colour) in enumerate(colours.items()):
        svg.dot(left + 110 * i, 74, colour)
        svg.text(left + 8 + 110 * i, 78, name)
    for level in (0.25, 0.5, 0.7, 0.9, 1, 2, 4, 8):
        svg.line(left, y_of(level), left + width, y_of(level), "#888" if level in (0.7, 0.9, 1) else "#ddd", 1, "" if level == 1 else "4 3")
        svg.text(left - 6, y_of(level) + 4, f"{level:g}", anchor="end")
    for i, row in enumerate(rows):
        svg.dot(left + width * (i + 0.5) / len(rows), y_of(row["tuned_ratio"]), colours[row["problem"].split()[0]], radius=2.2,
                title=f"{row['problem']}: {row['tuned']} {row['tuned_us']} us, {row['rival']} {row['rival_us']} us")
    svg.text(left, top + height + 24, "shape-directions, sorted")
    out = pathlib.Path(args.file).with_suffix(".svg")
    svg.save(out)
    print("fastest:", counts([r["tuned_ratio"] for r in rows]))
    print("chosen: ", counts([r["chosen_ratio"] for r in rows]))
    for name in sorted({row["list"] for row in rows}):
        print(f"  {name}: {counts([r['tuned_ratio'] for r in rows if r['list'] == name])}")
    for row in rows[:args.worst]:
        print(f"{row['tuned_ratio']:.2f}  {row['problem']}: {row['tuned']} {row['tuned_us']} us (chosen: {row['chosen']} {row['chosen_us']}), {row['rival']} {row['rival_us']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, run in (("record", record), ("suites", suites)):
        verb = verbs.add_parser(name)
        if name == "record":
            verb.add_argument("operation")
            verb.add_argument("--algorithms", help="only these, with commas; default: all")
        verb.add_argument("lists", nargs="+")
        verb.add_argument("--out", required=True)
        verb.add_argument("--program", default="build/falconet")
        verb.add_argument("--threads", default="2" if name == "suites" else "1,2")
        verb.add_argument("--budget", default="0.25" if name == "suites" else "0.5")
        verb.set_defaults(run=run)
    verb = verbs.add_parser("again")
    verb.add_argument("file")
    verb.add_argument("--low", type=float, default=0.9)
    verb.add_argument("--high", type=float, default=3)
    verb.add_argument("--algorithms", help="only these, with commas; default: all")
    verb.add_argument("--pause", type=float, default=0, help="seconds between problems, for others on the machine")
    verb.add_argument("--program", default="build/falconet")
    verb.add_argument("--threads", default="2")
    verb.add_argument("--budget", default="1")
    verb.set_defaults(run=again)
    verb = verbs.add_parser("draw")
    verb.add_argument("files", nargs="+")
    verb.set_defaults(run=lambda args: [draw_one(path) for path in args.files])
    verb = verbs.add_parser("ratio")
    verb.add_argument("file")
    verb.add_argument("--without", choices=["depthwise"])
    verb.add_argument("--worst", type=int, default=20)
    verb.set_defaults(run=ratio)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
