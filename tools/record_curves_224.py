#!/usr/bin/env python3
"""Records the losses of 100 SGD steps of torchvision's networks at 224x224 on a CUDA GPU, for tests/gpu_training.cpp to compare falconet with:
in f64, f32 (TF32 off) and with bf16 autocast, from hashed weights and batches (tests/hashed_data.h), without dropout. Run by hand on a machine with
a GPU; the result is in the tree as tests/golden/pytorch_losses_224.json, a network's curves replaced by new ones:

  python3 tools/record_curves_224.py FILE.json NETWORK[:PRECISION[@RUN],...]...       for example  curves.json resnet18 vgg16:f32,bf16,bf16@1

Curves are lists of runs: run r sees the batches of steps 100 * r to 100 * r + 99. Needs torch 2.x and torchvision.
"""
import json
import math
import os
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "golden")
STEPS, CLASSES, MOMENTUM = 100, 10, 0.9
RATE = 0.009999999776482582                  # of f32, as falconet keeps it
NETWORKS = {  # batch, gain of the weights, learning rate
    "resnet18": (16, 1.0, RATE),
    "resnet50": (16, 1.0, RATE),
    "mobilenet_v2": (16, 1.0, RATE),
    "vgg16": (8, math.sqrt(6), RATE / 8),      # without batch norm the signal must keep its size by its weights
}
PRECISIONS = ("f32", "bf16", "f64")


# ---- the generator of tests/hashed_data.h, in wrapping 64-bit integers on the GPU ----
def signed(v):
    v &= 0xFFFFFFFFFFFFFFFF
    return v - (1 << 64) if v >> 63 else v


def shifted(z, by):
    return (z >> by) & ((1 << (64 - by)) - 1)


def bits(name, first, count):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    z = (torch.arange(first, first + count, dtype=torch.int64, device="cuda") + 1) * signed(0x9E3779B97F4A7C15) + signed(h)
    z = (z ^ shifted(z, 30)) * signed(0xBF58476D1CE4E5B9)
    z = (z ^ shifted(z, 27)) * signed(0x94D049BB133111EB)
    return z ^ shifted(z, 31)


def hashed(name, shape, bound, first=0):
    unit = shifted(bits(name, first, math.prod(shape)), 11).double() * 2.0**-53
    return ((2 * unit - 1) * bound).float().reshape(shape)


def labels_of(step, batch):
    z = bits("labels", step * batch, batch)
    return ((shifted(z, 1) % CLASSES) * 2 + (z & 1)) % CLASSES


def batch_of(step, batch):
    return hashed("images", (batch, 3, 224, 224), math.sqrt(3), step * batch * 3 * 224 * 224), labels_of(step, batch)


def hash_weights(model, gain):
    for module_name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            bound = 1 / math.sqrt(math.prod(module.weight.shape[1:]))
            module.weight.data.copy_(hashed(f"{module_name}.weight", tuple(module.weight.shape), gain * bound))
            if module.bias is not None and module.bias.abs().max() > 0:      # some of torchvision's start at 0
                module.bias.data.copy_(hashed(f"{module_name}.bias", tuple(module.bias.shape), bound))


def train(name, precision, run):
    batch, gain, rate = NETWORKS[name]
    make = getattr(torchvision.models, name)
    model = make(weights=None, num_classes=CLASSES, **({} if name.startswith("resnet") else {"dropout": 0.0})).cuda()
    hash_weights(model, gain)
    dtype = torch.float64 if precision == "f64" else torch.float32
    layout = torch.channels_last if precision == "bf16" else torch.contiguous_format
    model = model.to(dtype).to(memory_format=layout).train()
    optim = torch.optim.SGD(model.parameters(), rate, momentum=MOMENTUM)
    losses = []
    for step in range(STEPS):
        images, labels = batch_of(run * STEPS + step, batch)
        images = images.to(dtype).to(memory_format=layout)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            output = model(images)
        loss = F.cross_entropy(output.to(dtype), labels)
        optim.zero_grad()
        loss.backward()
        optim.step()
        losses.append(loss.detach())
    return [float(f"{float(v):.{17 if precision == 'f64' else 9}g}") for v in losses]


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    path, wishes = sys.argv[1], sys.argv[2:]
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with open(os.path.join(GOLDEN, "pytorch_losses.json")) as file:
        wanted = json.load(file)["generator"]
    if [hashed("conv1.weight", (4,), 0.2).tolist(), hashed("images", (4,), math.sqrt(3), 12544).tolist(), labels_of(20, 8).tolist()] != [wanted["conv1.weight"], wanted["images"], wanted["labels"]]:
        sys.exit("record_curves_224: the generator differs from that of tools/record_pytorch.py")
    out = json.load(open(path)) if os.path.exists(path) else {}
    out |= {"torch": torch.__version__, "torchvision": torchvision.__version__, "device": torch.cuda.get_device_name(), "momentum": MOMENTUM, "classes": CLASSES}
    for wish in wishes:
        name, _, precisions = wish.partition(":")
        batch, gain, rate = NETWORKS[name]
        entry = out.setdefault(name, {})
        entry |= {"batch": batch, "gain": gain, "learning_rate": rate}
        for precision in precisions.split(",") if precisions else PRECISIONS:
            precision, _, run = precision.partition("@")       # f32@1: the second run
            curves = entry.setdefault(precision, [])
            run = int(run or 0)
            curves += [[]] * (run + 1 - len(curves))
            curves[run] = train(name, precision, run)
            print(name, precision, run, f"{curves[run][0]:.5f} -> {sum(curves[run][80:]) / 20:.5f}", flush=True)
            with open(path + ".new", "w") as file:
                json.dump(out, file, separators=(", ", ": "))
                file.write("\n")
            os.replace(path + ".new", path)


if __name__ == "__main__":
    main()
