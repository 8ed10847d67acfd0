#!/usr/bin/env python3
"""Records what PyTorch computes, for the tests to compare falconet with. Run by hand; the results are in the tree.

  tests/golden/pytorch_ops.safetensors  every operation in f64 on small inputs: operands, results and gradients. The metadata
      entry CASE says what was run: "op=conv2d in=x,weight out=y grad=x,weight stride=2.1 pad=0.1.2.3 ...". Tensors: CASE.x (each
      of `in`), CASE.y (each of `out`), CASE.d_y (the gradient that arrives at it), CASE.d_x (each of `grad`).
      An optimizer's case: CASE.parameter, CASE.gradients [steps, elements], CASE.parameters [steps, elements] after each step.
  tests/golden/pytorch_losses.json      the losses of 100 SGD steps of mnist_cnn and resnet20 in f64, f32 and with bf16 autocast
      from hashed weights and batches (the generator is stated in tests/hashed_data.h, and here in `hashed`).
  tests/golden/torchvision.json  of torchvision's networks for 10 classes: the number of parameters, a hash of the keys with their shapes,
      the logits of a hashed batch with hashed weights (as of a trained network, tests/hashed_data.h) in f64, and of
      resnet50 the losses of two SGD steps in f64 from hashed weights.

Needs torch (2.x, CPU), numpy and safetensors, and torchvision for the last:  python3 tools/record_pytorch.py [ops] [losses] [networks]
"""
import json
import math
import os
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.numpy import save_file

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "golden")
LEARNING_RATE = float(np.float32(0.01))  # falconet's StepState holds it in f32


# ---- the generator of tests/hashed_data.h ----
def key(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return np.uint64(h)


def bits(name, first, count):
    with np.errstate(over="ignore"):
        z = key(name) + (np.arange(first, first + count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(name, shape, bound, first=0):
    unit = (bits(name, first, math.prod(shape)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return ((2 * unit - 1) * bound).reshape(shape)


def hashed(name, shape, bound, first=0):
    return uniform(name, shape, bound, first).astype(np.float32).astype(np.float64)


# ---- single operations ----
tensors, metadata = {}, {}


def leaf(case, name, shape):
    return torch.from_numpy(uniform(f"{case}.{name}", shape, 2.0)).requires_grad_()


def store(case, name, value):
    value = value.detach().numpy() if isinstance(value, torch.Tensor) else value
    tensors[f"{case}.{name}"] = np.array(value, order="C")


def record(op, run, inputs, settings="", outputs=("y",), no_gradient=()):
    """inputs: {name: shape or tensor}; run(*inputs) returns the outputs. The first output alone has a gradient."""
    case = f"{op}.{sum(c.split('.')[0] == op for c in metadata):02d}"
    given = {n: leaf(case, n, v) if isinstance(v, tuple) else v for n, v in inputs.items()}
    results = run(*given.values())
    results = results if isinstance(results, tuple) else (results,)
    wanted = [n for n, v in given.items() if v.requires_grad and n not in no_gradient]
    for n, v in given.items():
        store(case, n, v)
    for n, v in zip(outputs, results, strict=True):
        store(case, n, v)
    d_y = torch.from_numpy(uniform(f"{case}.d_y", tuple(results[0].shape), 1.0)) if results[0].dim() else torch.tensor(0.75, dtype=torch.float64)
    store(case, f"d_{outputs[0]}", d_y)
    for n, g in zip(wanted, torch.autograd.grad(results[0], [given[n] for n in wanted], d_y), strict=True):
        store(case, f"d_{n}", g)
    text = f"op={op} in={','.join(given)} out={','.join(outputs)}" + (f" grad={','.join(wanted)}" if wanted else "")
    metadata[case] = text + (" " + settings if settings else "")


def numbers(values):
    return ".".join(str(v) for v in values)


def conv2d(n, c, h, w, k, r, s, stride=(1, 1), pad=(0, 0, 0, 0), dilation=(1, 1), groups=1, bias=True, mode=""):
    """pad: top, left, bottom, right. mode: valid, same or full, as the layer's padding."""
    if mode == "same":  # PyTorch's own rule, not a formula of ours
        run = lambda x, weight, bias=None: F.conv2d(x, weight, bias, 1, "same", dilation, groups)
    else:
        if mode == "full":
            pad = (dilation[0] * (r - 1), dilation[1] * (s - 1)) * 2
        run = lambda x, weight, bias=None: F.conv2d(F.pad(x, (pad[1], pad[3], pad[0], pad[2])), weight, bias, stride, 0, dilation, groups)
    inputs = {"x": (n, c, h, w), "weight": (k, c // groups, r, s)} | ({"bias": (k,)} if bias else {})
    settings = f"stride={numbers(stride)} dilation={numbers(dilation)} groups={groups} " + (f"mode={mode}" if mode else f"pad={numbers(pad)}")
    record("conv2d", run, inputs, settings)


def pool(kind, n, c, h, w, window, stride, pad=(0, 0), ceil=False, include_pad=True, x=None):
    if kind == "max":
        run = lambda x: F.max_pool2d(x, window, stride, pad, 1, ceil)
    else:
        run = lambda x: F.avg_pool2d(x, window, stride, pad, ceil, include_pad)
    settings = f"window={numbers(window)} stride={numbers(stride)} pad={numbers(pad)} ceil={int(ceil)} include_pad={int(include_pad)}"
    record(f"{kind}_pool", run, {"x": (n, c, h, w) if x is None else x}, settings)


def batch_norm(shape, training):
    c = shape[1]

    def run(x, weight, bias, running_mean, running_var):
        mean, var = running_mean.detach().clone(), running_var.detach().clone()
        y = F.batch_norm(x, mean, var, weight, bias, training, 0.1, 1e-5)
        return (y, mean, var) if training else y

    inputs = {"x": shape, "weight": (c,), "bias": (c,), "running_mean": torch.from_numpy(uniform("running_mean", (c,), 1.0)),
              "running_var": torch.from_numpy(1.25 + uniform("running_var", (c,), 1.0))}
    outputs = ("y", "new_mean", "new_var") if training else ("y",)
    record("batch_norm", run, inputs, f"training={int(training)}", outputs)


def optimizer(kind, settings, make, steps=6, elements=7):
    case = f"optimizer.{sum(c.startswith('optimizer.') for c in metadata):02d}"
    parameter = leaf(case, "parameter", (elements,))
    store(case, "parameter", parameter)
    gradients = uniform(f"{case}.gradients", (steps, elements), 1.0)
    store(case, "gradients", gradients)
    optim = make([parameter])
    after = []
    for g in gradients:
        parameter.grad = torch.from_numpy(g.copy())
        optim.step()
        after.append(parameter.detach().numpy().copy())
    store(case, "parameters", np.stack(after))
    metadata[case] = f"op=optimizer kind={kind} {settings}".strip()


def record_operations():
    conv2d(2, 3, 6, 5, 4, 3, 3)
    conv2d(2, 3, 6, 5, 4, 3, 3, bias=False, pad=(1, 1, 1, 1))
    conv2d(1, 1, 7, 7, 2, 5, 5)
    conv2d(2, 2, 7, 6, 3, 3, 2, stride=(2, 1), pad=(0, 1, 2, 0))
    conv2d(1, 4, 5, 5, 6, 1, 1, stride=(2, 2), bias=False)
    conv2d(1, 4, 6, 6, 2, 2, 2, stride=(3, 3))
    conv2d(2, 2, 8, 9, 2, 3, 3, dilation=(2, 3), pad=(2, 3, 2, 3))
    conv2d(1, 6, 5, 5, 4, 3, 3, groups=2, pad=(1, 1, 1, 1))
    conv2d(1, 4, 5, 4, 8, 3, 3, groups=4, pad=(1, 0, 0, 1), stride=(2, 2))
    conv2d(3, 2, 1, 1, 3, 1, 1)
    conv2d(1, 2, 4, 4, 2, 4, 4)
    conv2d(1, 1, 9, 8, 1, 3, 2, stride=(2, 3), dilation=(2, 1), pad=(3, 1, 0, 2))
    for mode in ("valid", "same", "full"):
        conv2d(1, 2, 6, 5, 3, 3, 3, mode=mode)
        conv2d(1, 2, 6, 5, 3, 4, 2, mode=mode)
        conv2d(1, 2, 7, 7, 2, 2, 3, dilation=(3, 2), mode=mode)

    for inputs in ({"x": (4, 7), "weight": (5, 7), "bias": (5,)}, {"x": (1, 3), "weight": (10, 3)}, {"x": (3, 1), "weight": (1, 1), "bias": (1,)}):
        record("linear", lambda x, weight, bias=None: F.linear(x, weight, bias), inputs)

    for kind in ("max", "average"):
        for ceil in (False, True):
            pool(kind, 2, 3, 6, 6, (2, 2), (2, 2), ceil=ceil)
            pool(kind, 2, 3, 7, 5, (2, 2), (2, 2), ceil=ceil)
            pool(kind, 1, 2, 7, 8, (3, 3), (2, 2), (1, 1), ceil=ceil)
            pool(kind, 1, 2, 5, 5, (2, 2), (3, 3), (1, 1), ceil=ceil)
            pool(kind, 1, 3, 6, 9, (3, 2), (1, 2), (0, 1), ceil=ceil)
            pool(kind, 1, 2, 5, 7, (4, 4), (3, 3), (2, 2), ceil=ceil)
        pool(kind, 1, 1, 6, 6, (3, 3), (1, 1))
    for ceil in (False, True):
        pool("average", 1, 2, 7, 8, (3, 3), (2, 2), (1, 1), ceil=ceil, include_pad=False)
        pool("average", 1, 2, 5, 7, (4, 4), (3, 3), (2, 2), ceil=ceil, include_pad=False)
    ties = torch.from_numpy((bits("ties", 0, 2 * 6 * 6) % np.uint64(3)).astype(np.float64).reshape(1, 2, 6, 6)).requires_grad_()
    pool("max", 1, 2, 6, 6, (3, 3), (1, 1), (1, 1), x=ties)
    pool("max", 1, 2, 6, 6, (2, 2), (2, 2), x=ties)
    for shape in ((2, 3, 5, 4), (1, 4, 1, 1)):
        record("global_avg_pool", lambda x: F.adaptive_avg_pool2d(x, 1), {"x": shape})

    for training in (True, False):
        batch_norm((3, 4, 3, 5), training)
        batch_norm((6, 3), training)
        batch_norm((5, 2, 1, 1), training)

    activations = {"relu": F.relu, "leaky_relu": lambda x: F.leaky_relu(x, 0.01), "relu6": F.relu6, "gelu": F.gelu, "silu": F.silu,
                   "sigmoid": torch.sigmoid, "tanh": torch.tanh}
    corners = np.array([0.0, -0.0, 6.0, 1e-300, -1e-300, 30.0, -30.0, 5.999, 6.001, 0.5, -0.5, 100.0])
    for name, f in activations.items():
        record("activation", f, {"x": (2, 3, 4, 5)}, f"act={name}")
        values = torch.from_numpy(np.concatenate([corners, uniform(name, (36,), 8.0)]).reshape(4, 12)).requires_grad_()
        record("activation", f, {"x": values}, f"act={name}")
    record("activation", lambda x: F.leaky_relu(x, 0.2), {"x": (3, 7)}, "act=leaky_relu alpha=0.2")

    for shape in ((2, 3, 4, 5), (3, 7)):
        record("add", lambda a, b: a + b, {"a": shape, "b": shape})
        record("multiply", lambda a, b: a * b, {"a": shape, "b": shape})
    record("multiply", lambda a, b: a * b, {"a": (2, 3, 4, 5), "b": (2, 3, 1, 1)})
    record("concat", lambda a, b, c: torch.cat((a, b, c), 1), {"a": (2, 3, 4, 5), "b": (2, 1, 4, 5), "c": (2, 6, 4, 5)})
    record("concat", lambda a, b: torch.cat((a, b), 1), {"a": (3, 2), "b": (3, 5)})
    record("flatten", lambda x: torch.flatten(x, 1), {"x": (2, 3, 4, 5)})

    for shape in ((4, 7), (2, 3, 4, 5), (3, 1)):
        record("softmax", lambda x: F.softmax(x, 1), {"x": shape})
        record("log_softmax", lambda x: F.log_softmax(x, 1), {"x": shape})

    def cross_entropy(x, labels, smoothing):
        run = lambda x, labels: F.cross_entropy(x, labels.long(), label_smoothing=smoothing)
        record("cross_entropy", run, {"x": x, "labels": torch.tensor(labels, dtype=torch.int32)}, f"smoothing={smoothing}")

    for smoothing in (0, 0.1, 0.5):
        cross_entropy((5, 7), [0, 6, 3, 3, 1], smoothing)
        cross_entropy((1, 2), [1], smoothing)
    large = torch.from_numpy(uniform("large", (3, 4), 700.0)).requires_grad_()
    cross_entropy(large, [0, 1, 3], 0.1)

    for shape in ((4, 7), (2, 3, 4, 5), (3, 1)):
        record("mse", lambda x, target: F.mse_loss(x, target), {"x": shape, "target": shape})
        target = torch.from_numpy(0.5 + uniform("target", shape, 0.5))
        record("bce_with_logits", lambda x, target: F.binary_cross_entropy_with_logits(x, target), {"x": shape, "target": target})
    far = torch.from_numpy(uniform("far", (3, 4), 800.0)).requires_grad_()
    record("bce_with_logits", lambda x, target: F.binary_cross_entropy_with_logits(x, target),
           {"x": far, "target": torch.from_numpy(0.5 + uniform("target", (3, 4), 0.5))})

    def sgd(momentum=0.0, nesterov=False, decay=0.0):
        optimizer("sgd", f"momentum={momentum} nesterov={int(nesterov)} weight_decay={decay}",
                  lambda p: torch.optim.SGD(p, LEARNING_RATE, momentum, 0, decay, nesterov))

    sgd()
    sgd(decay=0.05)
    sgd(momentum=0.9)
    sgd(momentum=0.9, decay=0.05)
    sgd(momentum=0.9, nesterov=True)
    sgd(momentum=0.9, nesterov=True, decay=0.05)
    for kind, make in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        for beta1, beta2, eps, decay in ((0.9, 0.999, 1e-8, 0.0), (0.9, 0.999, 1e-8, 0.05), (0.8, 0.95, 1e-3, 0.01)):
            optimizer(kind, f"beta1={beta1} beta2={beta2} eps={eps} weight_decay={decay}",
                      lambda p: make(p, LEARNING_RATE, (beta1, beta2), eps, decay))

    path = os.path.join(GOLDEN, "pytorch_ops.safetensors")
    save_file(tensors, path, metadata)
    print(f"{path}: {len(metadata)} cases, {os.path.getsize(path)} bytes, torch {torch.__version__}")


# ---- whole networks ----
class MnistCnn(nn.Module):
    batch, image = 16, (1, 28, 28)

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 5), nn.Conv2d(8, 8, 5)
        self.fc1, self.fc2 = nn.Linear(800, 128), nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


class Block(nn.Module):
    def __init__(self, c, k, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k)
        self.conv2, self.bn2 = nn.Conv2d(k, k, 3, 1, 1, bias=False), nn.BatchNorm2d(k)
        self.downsample = nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k)) if stride != 1 or c != k else None

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet20(nn.Module):
    batch, image = 8, (3, 32, 32)

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for i, (c, k) in enumerate(((16, 16), (16, 32), (32, 64))):
            first = Block(c, k, 1 if i == 0 else 2)
            setattr(self, f"layer{i + 1}", nn.Sequential(first, Block(k, k, 1), Block(k, k, 1)))
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def hash_weights(model):
    for module_name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = math.prod(module.weight.shape[1:])
            for name, p in module.named_parameters(recurse=False):
                p.data.copy_(torch.from_numpy(hashed(f"{module_name}.{name}", tuple(p.shape), 1 / math.sqrt(fan_in))))


def train(model_type, precision, steps=100, memory_format=torch.contiguous_format):
    dtype = torch.float64 if precision == "f64" else torch.float32
    model = model_type().to(dtype)
    hash_weights(model)
    model = model.to(memory_format=memory_format).train()
    optim = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9)
    losses, size = [], math.prod((model_type.batch, *model_type.image))
    for step in range(steps):
        images = torch.from_numpy(hashed("images", (model_type.batch, *model_type.image), math.sqrt(3), step * size)).to(dtype)
        labels = torch.from_numpy((bits("labels", step * model_type.batch, model_type.batch) % np.uint64(10)).astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = model(images.to(memory_format=memory_format))
        loss = F.cross_entropy(output.to(dtype), labels)
        optim.zero_grad()
        loss.backward()
        optim.step()
        losses.append(float(loss.detach()))
    return losses


def record_losses():
    out = {"torch": torch.__version__, "learning_rate": LEARNING_RATE, "momentum": 0.9, "classes": 10,
           "generator": {"conv1.weight": hashed("conv1.weight", (4,), 0.2).tolist(), "images": hashed("images", (4,), math.sqrt(3), 12544).tolist(),
                         "labels": (bits("labels", 160, 8) % np.uint64(10)).astype(int).tolist()}}
    for name, model in (("mnist_cnn", MnistCnn), ("resnet20", ResNet20)):
        curves = {p: train(model, p) for p in ("f64", "f32", "bf16")}
        again = train(model, "f64", memory_format=torch.channels_last)  # the same sums in another order: how far rounding grows
        spread = max(abs(a - b) for a, b in zip(curves["f64"], again))
        digits = {"f64": 17, "f32": 9, "bf16": 9}
        out[name] = {"batch": model.batch, "image": model.image, "rounding_spread": float(f"{spread:.2g}")}
        out[name] |= {p: [float(f"{v:.{digits[p]}g}") for v in c] for p, c in curves.items()}
        print(name, "first", curves["f64"][0], "last", curves["f64"][-1], "spread of f64 between layouts", spread,
              "f32", max(abs(a - b) for a, b in zip(curves["f64"], curves["f32"])), "bf16", max(abs(a - b) for a, b in zip(curves["f64"], curves["bf16"])))
    path = os.path.join(GOLDEN, "pytorch_losses.json")
    with open(path, "w") as file:
        json.dump(out, file, indent=None, separators=(", ", ": "))
        file.write("\n")
    print(f"{path}: {os.path.getsize(path)} bytes, torch {torch.__version__}")


# ---- torchvision's networks ----
def hash_trained(model):
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        matrix = value.dim() > 1
        about = 0.0 if matrix else float(name.endswith((".weight", ".running_var")))
        bound = math.sqrt(6 / math.prod(value.shape[1:])) if matrix else 0.5
        values = about + hashed(name, tuple(value.shape), bound)
        value.copy_(torch.from_numpy(values.astype(np.float32)))


def keys_text(model):
    shapes = {n: "x".join(map(str, v.shape)) for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    return "".join(f"{n} {s}\n" for n, s in sorted(shapes.items()))


def train_f64(model, batch, image, steps):
    model = model.double().train()
    hash_weights(model)
    optim = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9)
    losses = []
    for step in range(steps):
        images = torch.from_numpy(hashed("images", (batch, 3, image, image), math.sqrt(3), step * batch * 3 * image * image))
        labels = torch.from_numpy((bits("labels", step * batch, batch) % np.uint64(10)).astype(np.int64))
        loss = F.cross_entropy(model(images), labels)
        optim.zero_grad()
        loss.backward()
        optim.step()
        losses.append(float(loss.detach()))
    return losses


def record_networks():
    import torchvision
    out = {"torch": torch.__version__, "torchvision": torchvision.__version__, "classes": 10}
    for name, image in (("resnet18", 64), ("resnet34", 64), ("resnet50", 64), ("vgg16", 224), ("mobilenet_v2", 64)):
        make = getattr(torchvision.models, name)
        batch = 1 if image == 224 else 2
        with torch.device("meta"):
            whole = make(weights=None)
        model = make(weights=None, num_classes=10).eval()
        hash_trained(model)
        images = torch.from_numpy(hashed("images", (batch, 3, image, image), math.sqrt(3)))
        with torch.inference_mode():
            single = model(images.float()).double()
            logits = model.double()(images)
        out[name] = {"image": image, "batch": batch, "parameters": sum(p.numel() for p in whole.parameters()), "keys": int(key(keys_text(whole))),
                     "logits": [float(f"{v:.12g}") for v in logits.flatten().tolist()]}
        if name == "resnet50":  # basic blocks are those of resnet20, and other networks have dropout
            out[name]["losses"] = train_f64(make(weights=None, num_classes=10), 4, image, 2)
            print(name, "losses", out[name]["losses"])
        print(name, logits.flatten().tolist()[:4], "f32 off by", float((single - logits).abs().max() / logits.abs().max()), "of the largest")
    path = os.path.join(GOLDEN, "torchvision.json")
    with open(path, "w") as file:
        json.dump(out, file, indent=None, separators=(", ", ": "))
        file.write("\n")
    print(f"{path}: {os.path.getsize(path)} bytes, torch {torch.__version__}, torchvision {torchvision.__version__}")


if __name__ == "__main__":
    os.makedirs(GOLDEN, exist_ok=True)
    wanted = sys.argv[1:] or ["ops", "losses", "networks"]
    if "ops" in wanted:
        record_operations()
    if "losses" in wanted:
        record_losses()
    if "networks" in wanted:
        record_networks()
