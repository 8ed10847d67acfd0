#!/usr/bin/env python3
"""PyTorch's training step and prediction on this CPU, in falconet's terms: one JSON object a row.

A training step is forward, loss, backward and SGD-momentum update on a resident random batch; no loader, no first step. A
prediction is the logits of a resident random batch. Each row is a process of its own, so that allocator, thread count and compiled
code do not leak from one to the next.

usage: pytorch_cpu.py train|predict --model mnist_cnn --batch 64 [--threads 2] [--precision f32|bf16] [--steps 100]
                      [--mode eager|channels_last|compile] [--allocator glibc|tcmalloc]
       pytorch_cpu.py sweep train|predict ...        every mode and allocator in turn; the best row comes last

tcmalloc: libtcmalloc_minimal.so.4 (Debian package libtcmalloc-minimal4) is preloaded and THP_MEM_ALLOC_ENABLE=1 set, which gives
PyTorch huge pages. compile: torch.compile, which needs a C++ compiler, and freezing where it predicts.
"""
import argparse
import ctypes.util
import glob
import json
import os
import resource
import statistics
import subprocess
import sys
import time

MODES = ["eager", "channels_last", "compile"]
ALLOCATORS = ["glibc", "tcmalloc"]
TORCHVISION = ["resnet18", "resnet34", "resnet50", "vgg16", "mobilenet_v2"]
IMAGE = {"mnist_cnn": (1, 28, 28), "lenet5": (1, 28, 28), "resnet20": (3, 32, 32), "resnet56": (3, 32, 32)} | {name: (3, 224, 224) for name in TORCHVISION}
CLASSES = 10  # torchvision's networks: 1000


def network(name):
    """The networks of falconet/nn/models.cpp in PyTorch."""
    from torch import nn
    from torch.nn import functional

    if name in TORCHVISION:
        import torchvision

        return getattr(torchvision.models, name)(weights=None)
    if name == "mnist_cnn":  # Garg, Joshi and Sahu: 105,634 parameters
        return nn.Sequential(
            nn.Conv2d(1, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(800, 128), nn.ReLU(), nn.Linear(128, CLASSES))
    if name == "lenet5":
        return nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES))

    class Block(nn.Module):  # He et al. 2016 for CIFAR, with a projection where the shape changes
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.downsample = None
            if stride != 1 or inputs != outputs:
                self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

        def forward(self, x):
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            return functional.relu(y + (x if self.downsample is None else self.downsample(x)))

    per_stage = (int(name.removeprefix("resnet")) - 2) // 6
    layers, inputs = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for stage in range(3):
        for index in range(per_stage):
            layers.append(Block(inputs, 16 << stage, 2 if stage and index == 0 else 1))
            inputs = 16 << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))


def milliseconds(step, steps):
    """Every step's time after a warm-up of ten steps and a quarter of a second."""
    until = time.perf_counter() + 0.25
    warm = 0
    while warm < 10 or time.perf_counter() < until:
        step()
        warm += 1
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def measure(args):
    import torch
    from torch.nn import functional

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = network(args.model)
    x = torch.randn(args.batch, *IMAGE[args.model])
    labels = torch.randint(CLASSES, (args.batch,))
    if args.mode == "channels_last" or (args.mode == "compile" and x.shape[1] > 1):
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16")

    if args.what == "train":
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)

        def loss_of(x, labels):
            return functional.cross_entropy(model(x), labels)

        if args.mode == "compile":
            loss_of = torch.compile(loss_of, dynamic=False)

        def step():
            optimizer.zero_grad(set_to_none=True)
            with autocast:
                loss = loss_of(x, labels)
            loss.backward()
            optimizer.step()

        start = time.perf_counter()
        step()
        first = time.perf_counter() - start
        times = milliseconds(step, args.steps)
    else:
        model.eval()
        if args.mode == "compile":
            import torch._inductor.config

            torch._inductor.config.freezing = True
            model = torch.compile(model, dynamic=False)
        with torch.no_grad(), autocast:
            start = time.perf_counter()
            model(x)
            first = time.perf_counter() - start
            times = milliseconds(lambda: model(x), args.steps)
    return {
        "what": args.what, "model": args.model, "batch": args.batch, "precision": args.precision, "device": "cpu", "threads": args.threads,
        "ms": round(statistics.median(times), 4), "ms_min": round(min(times), 4),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "peer": f"pytorch {torch.__version__}",
        "mode": args.mode, "allocator": args.allocator, "steps": args.steps, "first_ms": round(first * 1e3, 1),
    }


def tcmalloc():
    found = glob.glob("/usr/lib/*/libtcmalloc_minimal.so.4") + glob.glob("/usr/lib*/libtcmalloc_minimal.so.4")
    return found[0] if found else ctypes.util.find_library("tcmalloc_minimal")


def in_own_process(args, mode, allocator):
    """The row of one mode, or None where it does not run (torch.compile without a compiler, no tcmalloc)."""
    environment = dict(os.environ)
    environment.pop("LD_PRELOAD", None)
    if allocator == "tcmalloc":
        if not tcmalloc():
            print("pytorch_cpu: no libtcmalloc_minimal.so.4 (Debian package libtcmalloc-minimal4)", file=sys.stderr)
            return None
        environment.update(LD_PRELOAD=tcmalloc(), THP_MEM_ALLOC_ENABLE="1")
    command = [sys.executable, os.path.abspath(__file__), args.what, "--child", "--mode", mode, "--allocator", allocator]
    for name in ("model", "batch", "threads", "precision", "steps"):
        command += [f"--{name}", str(getattr(args, name))]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        print(f"pytorch_cpu: {mode}, {allocator} does not run here: {result.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(result.stdout.splitlines()[-1])


def parse(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="?", choices=["sweep"])
    parser.add_argument("what", choices=["train", "predict"])
    parser.add_argument("--model", choices=IMAGE, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--mode", choices=MODES, default="channels_last")
    parser.add_argument("--allocator", choices=ALLOCATORS, default="glibc")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main():
    args = parse(sys.argv[1:])
    if args.child:
        print(json.dumps(measure(args)))
        return
    rows = []
    for mode in MODES if args.sweep else [args.mode]:
        for allocator in ALLOCATORS if args.sweep else [args.allocator]:
            row = in_own_process(args, mode, allocator)
            if row:
                rows.append(row)
                print(json.dumps(row), flush=True)
    if not rows:
        sys.exit("pytorch_cpu: no mode ran")
    if args.sweep:
        print(json.dumps(min(rows, key=lambda row: row["ms"])))


if __name__ == "__main__":
    main()
