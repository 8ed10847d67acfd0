#!/usr/bin/env python3
"""What a PyTorch user waits for: from the start of the program to the end of the first training step of mnist_cnn, with MNIST's
training set read into memory and normalised. `compile` as a second word uses torch.compile.

usage: pytorch_first_step.py FOLDER [compile]     FOLDER holds the IDX files, plain or .gz
"""
import gzip
import os
import sys

import torch
from torch import nn
from torch.nn import functional


def read(name, header):
    path = os.path.join(sys.argv[1], name)
    opened = open(path, "rb") if os.path.exists(path) else gzip.open(path + ".gz")
    with opened as file:
        return torch.frombuffer(bytearray(file.read()[header:]), dtype=torch.uint8)


images = read("train-images-idx3-ubyte", 16).view(-1, 1, 28, 28)
labels = read("train-labels-idx1-ubyte", 8)
model = nn.Sequential(
    nn.Conv2d(1, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    nn.Linear(800, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
network = torch.compile(model) if sys.argv[2:] == ["compile"] else model
batch = (images[:64].float() / 255 - 0.1307) / 0.3081
functional.cross_entropy(network(batch), labels[:64].long()).backward()
optimizer.step()
sys.stdout.flush()
os._exit(0)
