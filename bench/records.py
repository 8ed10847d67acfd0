#!/usr/bin/env python3
"""The records on one NVIDIA GPU: training steps, inference, single layers and the settings of Li, Goebel and Fu, beside PyTorch in the same run.

usage: bench/records.py record OUT.jsonl [--build build-cuda] [--rounds 3] [--only TEXT,TEXT] [--peer-modes graph] [--python python3] [--no-peer]
       bench/records.py draw FILE.jsonl         writes FILE.md (tables) and FILE.svg (a bar for each work: falconet, PyTorch, what is asked for)

`record` runs each work `--rounds` times, falconet's and then PyTorch's (bench/peers/pytorch_gpu.py, which needs torch and torchvision), and writes the
median of the medians and the least of all. falconet's own algorithms only (`rivals=off`). Times in ms, of layers and settings in us.
"""
import argparse
import datetime
import json
import math
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from ways import Svg

ROOT = pathlib.Path(__file__).resolve().parent.parent
# what, falconet's words, the peer's tag (model/batch/precision), must, goal in ms
WORKS = [
    ("mnist_cnn b64 f32", "train model=mnist_cnn batch=64", "mnist_cnn/64/fp32", 0.06, 0.02),
    ("resnet20 b128 bf16", "train model=resnet20 batch=128 precision=bf16", "resnet20-cifar/128/bf16", 0.9, 0.45),
    ("resnet20 b1024 bf16", "train model=resnet20 batch=1024 precision=bf16", "resnet20-cifar/1024/bf16", 3.0, 1.5),
    ("resnet56 b128 bf16", "train model=resnet56 batch=128 precision=bf16", "resnet56-cifar/128/bf16", 2.2, 1.1),
    ("resnet18 b256 bf16", "train model=resnet18 batch=256 precision=bf16", "resnet18/256/bf16", 10, 7),
    ("resnet50 b256 bf16", "train model=resnet50 batch=256 precision=bf16", "resnet50/256/bf16", 27, 18),
    ("resnet50 b256 bf16, memory=8GiB", "train model=resnet50 batch=256 precision=bf16 memory=8GiB", None, 27, 18),
    ("vgg16 b128 bf16", "train model=vgg16 batch=128 precision=bf16", "vgg16/128/bf16", 23, 20),
    ("mobilenet_v2 b256 bf16", "train model=mobilenet_v2 batch=256 precision=bf16", "mobilenet_v2/256/bf16", 12.5, 5),
    ("resnet50 b256 bf16, inference", "predict model=resnet50 batch=256 precision=bf16", None, 8, 6),
]
SETTING_MUST, SETTING_GOAL = 8, 5          # us, each setting, three directions
LAYER_MUST, LAYER_LEAST = 1.1, 0.9         # geometric mean of the peer's time over falconet's; the least


def wanted(args, what):
    return not args.only or any(text in what for text in args.only.split(","))


def rows_of(command, cwd=ROOT):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not rows:
        sys.exit(f"records.py: {' '.join(map(str, command))}\n{done.stdout[-500:]}{done.stderr[-500:]}")
    return rows


def peer_rows(args, tags, modes):
    with tempfile.TemporaryDirectory() as folder:   # it writes a file of its own there
        command = [args.python, ROOT / "bench/peers/pytorch_gpu.py", "--only", ",".join(tags), "--modes", modes, "--layer-precisions", "bf16"]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=folder)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for line in (done.stdout + done.stderr).splitlines():
        if line.startswith("FAILED") or "Error" in line:
            print("    PyTorch: " + line[:200], file=sys.stderr)
    return rows, done.stderr.splitlines()[0] if done.stderr else "no PyTorch"


def own_conv(args, words):
    """A row for each work of `gpu_conv bench`, each work once in a round: the median of the rounds and the least."""
    found = {}
    for _ in range(args.rounds):
        for row in rows_of([args.build / "tests/gpu_conv", "bench", *words.split(), "json=true"]):
            if "us" not in row:   # the card's limits
                continue
            found.setdefault(json.dumps({k: v for k, v in row.items() if not k.startswith("us")}), []).append(row)
    return [dict(json.loads(key), us=statistics.median(r["us"] for r in rows), us_min=min(r.get("us_min", r["us"]) for r in rows)) for key, rows in found.items()]


def record(args):
    args.build = args.build.resolve()
    out = []

    def emit(row):
        out.append(row)
        print(json.dumps(row), flush=True)
        args.out.write_text("".join(json.dumps(r) + "\n" for r in out))

    checks = subprocess.run([args.build / "falconet", "checks"], capture_output=True, text=True).stdout
    machine = [re.sub(r"\s+", " ", line) for line in checks.splitlines() if re.match(r"(falconet|cuda|gpu 0)\b", line)]
    emit({"kind": "machine", "date": str(datetime.date.today()), "falconet": "; ".join(machine), "rounds": args.rounds})
    works = [w for w in WORKS if wanted(args, w[0])]
    for what, words, _, must, goal in works:
        rounds = [rows_of([args.build / "falconet", "bench", *words.split(), "device=cuda", "json=true"])[0] for _ in range(args.rounds)]
        emit({"kind": "work", "what": what, "command": "falconet bench " + words + " device=cuda", "ms": statistics.median(r["ms"] for r in rounds),
              "ms_min": min(r["ms_min"] for r in rounds), "launches": rounds[0].get("launches"), "arena_bytes": rounds[0].get("arena_bytes"), "state_bytes": rounds[0].get("state_bytes"),
              "must": must, "goal": goal})
    settings = wanted(args, "li2019")
    layers = wanted(args, "layers")
    for lanes in ("lanes", "true") if settings else ():
        for row in own_conv(args, f"problems/conv/li2019.txt type=f32 together={lanes}"):
            emit(dict(row, kind="setting"))
    for row in own_conv(args, "problems/conv/gpu_layers.txt type=bf16") if layers else ():
        emit(dict(row, kind="layer"))
    if args.no_peer:
        return
    tags = [w[2] for w in works if w[2]]
    if tags or settings or layers:
        rows, version = peer_rows(args, [f"{tag}/" for tag in tags] + ["table1"] * settings + ["layers"] * layers, args.peer_modes)
        emit({"kind": "peer machine", "torch": version})
        for row in rows:
            emit(dict(row, kind="peer " + row["kind"]))


def bars(works, peers, path, note):
    """Times as shares of what PyTorch takes, one row a work: falconet's bar, a mark where the must lies and one where the goal does."""
    left, width, top, step = 240, 560, 70, 30
    svg = Svg(left + width + 130, top + step * len(works) + 30)
    svg.text(10, 20, "One H200: a step's time as a share of PyTorch's (shorter is faster)", 14)
    svg.text(10, 38, note, 10)
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + share * width
        svg.line(x, top - 12, x, top + step * len(works))
        svg.text(x, top - 16, f"{share:g}", 10, "middle")
    for i, work in enumerate(works):
        y = top + step * i
        peer = peers[work["what"]]
        share = work["ms"] / peer
        svg.text(left - 8, y + 14, work["what"], 11, "end")
        svg.parts.append(f'<rect x="{left}" y="{y + 3}" width="{share * width:.1f}" height="16" fill="#4477aa"/>')
        svg.text(left + max(share, work["must"] / peer) * width + 6, y + 15, f"{work['ms']:.3g} ms, {1 / share:.2f} times faster", 10)
        for key, colour in (("must", "#cc6677"), ("goal", "#228833")):
            x = left + work[key] / peer * width
            svg.line(x, y, x, y + 22, colour, 2)
    y = top + step * len(works) + 18
    svg.line(left, y - 10, left, y + 2, "#cc6677", 2), svg.text(left + 6, y, "must", 10)
    svg.line(left + 60, y - 10, left + 60, y + 2, "#228833", 2), svg.text(left + 66, y, "goal", 10)
    svg.text(left + 120, y, "1 = PyTorch's time", 10)
    svg.save(path)


def draw(args):
    rows = [json.loads(line) for line in args.file.read_text().splitlines()]
    of = lambda kind: [r for r in rows if r["kind"] == kind]
    machine, torch = of("machine")[0], (of("peer machine") or [{"torch": "not run"}])[0]["torch"]
    tag = {w[0]: w[2] for w in WORKS}
    best = {}
    for r in of("peer train"):
        key = f"{r['model']}/{r['batch']}/{r['prec']}"
        best[key] = min(best.get(key, (math.inf, "")), (r["ms"], r["mode"]))
    lines = [f"# Records on one GPU, {machine['date']}", "", f"{machine['falconet']}. Peer: PyTorch {torch}. `bench/records.py record`, {machine['rounds']} rounds: median, least in brackets.",
             "falconet's own algorithms only; steps in flight on a batch that lies on the card (bench/METHOD.md).", "",
             "| work | falconet, ms | launches | memory: arena + weights and states | PyTorch, ms | times faster | must | goal |", "|---|---|---|---|---|---|---|---|"]
    peers = {}
    for r in of("work"):
        peer = best.get(tag.get(r["what"]))
        if peer:
            peers[r["what"]] = peer[0]
        memory = f"{r['arena_bytes'] / 2**30:.2f}" + (f" + {r['state_bytes'] / 2**30:.2f}" if r.get("state_bytes") else "") + " GiB" if r.get("arena_bytes") else ""
        beside = (f"{peer[0]:.4g} ({peer[1]})", f"{peer[0] / r['ms']:.2f}") if peer else ("", "")
        verdict = "met" if r["ms"] <= r["must"] else "NOT MET"
        lines.append(f"| `{r['command']}` | {r['ms']:.4g} ({r['ms_min']:.4g}) | {r['launches'] or ''} | {memory} | {beside[0]} | {beside[1]} | "
                     f"{r['must']:g}: {verdict} | {r['goal']:g}{': met' if r['ms'] <= r['goal'] else ''} |")
    if of("setting"):
        table = {(r["n"], r["f"]): r["fwdbwd_graph_us"] for r in of("peer table1")}
        lines += ["", "## Settings of Li, Goebel and Fu: forward, data and filter gradient, f32 without TF32, one graph, us", "",
                  "| problem | side by side | one after another | PyTorch's graph | must 8 |", "|---|---|---|---|---|"]
        line = {r["problem"]: r["us"] for r in of("setting") if not r["lanes"]}
        for r in of("setting"):
            if r["lanes"]:
                n, k = (int(re.search(rf"\b{x}(\d+)", r["problem"]).group(1)) for x in "nk")
                lines.append(f"| `{r['problem']}` | {r['us']:.2f} ({r['us_min']:.2f}) | {line[r['problem']]:.2f} | {table.get((n, k), '')} | {'met' if min(r['us'], line[r['problem']]) <= SETTING_MUST else 'NOT MET'} |")
    if of("layer") and of("peer layer"):
        lines += ["", "## Single layers, bf16: falconet's fastest config / PyTorch's (cuDNN in benchmark mode), us", "", "| layer | forward | data gradient | filter gradient |", "|---|---|---|---|"]
        ours = {}
        for r in of("layer"):
            direction, _, problem = r["problem"].partition(" ")
            key = (direction, " ".join(w for w in problem.split() if w not in ("bf16", "nhwc", "nchw")))
            ours[key] = min(ours.get(key, math.inf), r["us"])
        logs, slow = [], []
        for problem, r in zip(dict.fromkeys(p for _, p in ours), of("peer layer")):   # both in the order of the list
            cells = []
            for direction, peer in (("fwd", "fwd_us"), ("bwd_data", "dgrad_us"), ("bwd_filter", "wgrad_us")):
                us = ours[(direction, problem)]
                ratio = r[peer] / us
                logs.append(math.log(ratio))
                if ratio < LAYER_LEAST:
                    slow.append(f"{direction} {problem} {ratio:.2f}")
                cells.append(f"{us:.4g} / {r[peer]:.4g} = {ratio:.2f}")
            lines.append(f"| {problem} | " + " | ".join(cells) + " |")
        lines += ["", f"Geometric mean {math.exp(sum(logs) / len(logs)):.2f} (must {LAYER_MUST}); under {LAYER_LEAST}: {', '.join(slow) or 'none'}."]
    if peers:
        bars([r for r in of("work") if r["what"] in peers], peers, args.file.with_suffix(".svg"), f"{machine['date']}; {torch}")
        lines += ["", f"![times beside PyTorch]({args.file.with_suffix('.svg').name})"]
    args.file.with_suffix(".md").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record")
    one.add_argument("out", type=pathlib.Path)
    one.add_argument("--build", type=pathlib.Path, default=ROOT / "build-cuda")
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--only", help="works that contain one of these texts; li2019 and layers are two of them")
    one.add_argument("--peer-modes", default="graph", help="of eager, graph, compile, compile-ro, compile-ma; the fastest counts")
    one.add_argument("--python", default=sys.executable, help="one that has torch and torchvision")
    one.add_argument("--no-peer", action="store_true")
    two = commands.add_parser("draw")
    two.add_argument("file", type=pathlib.Path)
    args = parser.parse_args()
    (record if args.command == "record" else draw)(args)


if __name__ == "__main__":
    main()
