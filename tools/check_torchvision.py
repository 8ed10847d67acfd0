#!/usr/bin/env python3
"""Compares falconet's logits with PyTorch's for torchvision's networks with random weights, running statistics and images of 224x224.

For each network: writes its weights (as a trained network's: nothing is left at 0 or 1) and the images as safetensors, has
tests/network_output.cpp compute the logits, and prints the largest difference as a share of the largest logit: at most 1e-4 in f32.
How far PyTorch's own f32 is from its f64 stands beside it. Exits 1 if a network is farther off.

Needs torch and torchvision; falconet built (`make build`):
  python3 tools/check_torchvision.py [--program build/tests/network_output] [--device cpu] [--batch 2] [--keep FOLDER] [NETWORK...]
"""
import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile

import torch
import torchvision

NETWORKS = ("resnet18", "resnet34", "resnet50", "vgg16", "mobilenet_v2")
BOUND = 1e-4


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": {torch.float32: "F32", torch.int64: "I64"}[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for t in tensors.values():
            file.write(t.contiguous().numpy().tobytes())


def read_output(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(length))["output"]
        return torch.frombuffer(bytearray(file.read()), dtype=torch.float32).reshape(entry["shape"])


def randomise(model):
    """Weights that keep the scale of activations; statistics and vectors spread about their usual values."""
    for name, value in model.state_dict().items():
        if value.dim() > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        elif value.dtype == torch.float32:
            value.uniform_(-0.5, 0.5)
            if name.endswith(".running_var") or (name.endswith(".weight")):
                value.add_(1)


def check(name, arguments, folder):
    torch.manual_seed(1)
    model = getattr(torchvision.models, name)(weights=None).eval()
    images = torch.randn(arguments.batch, 3, 224, 224)
    with torch.inference_mode():
        randomise(model)
        weights, inputs, output = (os.path.join(folder, f"{name}{end}.safetensors") for end in ("", "_images", "_output"))
        write_safetensors(weights, model.state_dict())
        write_safetensors(inputs, {"images": images})
        single = model(images).double()
        logits = model.double()(images.double())
    del model
    ran = subprocess.run([arguments.program, name, weights, inputs, output, arguments.device, arguments.precision], capture_output=True, text=True)
    if ran.returncode:
        print(f"{name:13} {ran.stderr.strip()}")
        return False
    scale = float(logits.abs().max())
    ours = read_output(output).double()
    off, theirs, beside = (float((a - b).abs().max()) / scale for a, b in ((ours, logits), (single, logits), (ours, single)))
    bound = BOUND if arguments.precision == "f32" else float("inf")
    good = max(off, beside) <= bound and ours.shape == logits.shape
    print(f"{name:13} {scale:12.4g} {off:12.2e} {beside:12.2e} {theirs:14.2e}  {'ok' if good else 'TOO FAR'}", flush=True)
    if not arguments.keep:
        for path in (weights, inputs, output):
            os.remove(path)
    return good


def main():
    parser = argparse.ArgumentParser(description="falconet's logits beside PyTorch's for torchvision's networks")
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--program", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build", "tests", "network_output"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--keep", metavar="FOLDER", help="leave weights, images and outputs here")
    arguments = parser.parse_args()
    if arguments.keep:
        os.makedirs(arguments.keep, exist_ok=True)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}; {arguments.device}, {arguments.precision}, batch {arguments.batch}")
    print("differences as shares of the largest logit; bound 1e-4 in f32")
    print(f"{'network':13} {'largest':>12} {'off f64':>12} {'off f32':>12} {'torch f32 off':>14}")
    with tempfile.TemporaryDirectory() as folder:
        good = [check(name, arguments, arguments.keep or folder) for name in arguments.networks]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
