"""PyTorch reference times for training steps and single convolutions on one CUDA GPU.

Each row: model, batch, precision, mode (eager | compile | graph), ms per training step
(forward + loss + backward + SGD-momentum update) and images/s; median over CUDA-event windows.
Inputs are random, labels random; data loading is left out.
Usage: python3 pytorch_gpu.py [--only SUBSTRING,...] [--modes eager,graph,compile,compile-ro,compile-ma] [--layer-precisions bf16]
"""
import argparse, json, os, statistics, sys, time
import torch, torch.nn as nn, torch.nn.functional as F
import torchvision

ap = argparse.ArgumentParser()
ap.add_argument("--only", default="")
ap.add_argument("--skip", default="")
ap.add_argument("--modes", default="eager,graph,compile", help="of eager, graph, compile, compile-ro (reduce-overhead), compile-ma (max-autotune)")
ap.add_argument("--layer-precisions", default="bf16,tf32,fp32", help="of the single layers")
ap.add_argument("--budget", type=float, default=540.0)
args = ap.parse_args()
T0 = time.time()
dev = "cuda"
torch.backends.cudnn.benchmark = True


class MnistCnn(nn.Module):
    """The network of Garg, Joshi and Sahu: conv5x5x8, conv5x5x8, maxpool2, fc128, fc10 on 28x28x1."""
    def __init__(s):
        super().__init__()
        s.c1, s.c2 = nn.Conv2d(1, 8, 5), nn.Conv2d(8, 8, 5)
        s.f1, s.f2 = nn.Linear(800, 128), nn.Linear(128, 10)
    def forward(s, x):
        x = F.relu(s.c1(x)); x = F.relu(s.c2(x)); x = F.max_pool2d(x, 2)
        return s.f2(F.relu(s.f1(x.flatten(1))))


class BasicBlock(nn.Module):
    def __init__(s, i, o, st):
        super().__init__()
        s.c1 = nn.Conv2d(i, o, 3, st, 1, bias=False); s.b1 = nn.BatchNorm2d(o)
        s.c2 = nn.Conv2d(o, o, 3, 1, 1, bias=False); s.b2 = nn.BatchNorm2d(o)
        s.sc = nn.Sequential() if st == 1 and i == o else nn.Sequential(nn.Conv2d(i, o, 1, st, bias=False), nn.BatchNorm2d(o))
    def forward(s, x):
        y = F.relu(s.b1(s.c1(x))); y = s.b2(s.c2(y))
        return F.relu(y + s.sc(x))


class CifarResNet(nn.Module):
    """ResNet-20 (n=3) / ResNet-56 (n=9) of He et al. for 32x32 inputs, 1x1-conv shortcuts."""
    def __init__(s, n, w=16):
        super().__init__()
        s.stem = nn.Sequential(nn.Conv2d(3, w, 3, 1, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU())
        L, i = [], w
        for k in range(3):
            for j in range(n):
                o = w << k
                L.append(BasicBlock(i, o, 2 if k and j == 0 else 1)); i = o
        s.body = nn.Sequential(*L); s.fc = nn.Linear(i, 10)
    def forward(s, x):
        return s.fc(s.body(s.stem(x)).mean((2, 3)))


MODELS = {
    "mnist_cnn": (lambda: MnistCnn(), (1, 28, 28), 10, [32, 64, 1024]),
    "resnet20-cifar": (lambda: CifarResNet(3), (3, 32, 32), 10, [128, 1024]),
    "resnet56-cifar": (lambda: CifarResNet(9), (3, 32, 32), 10, [128]),
    "resnet18": (lambda: torchvision.models.resnet18(), (3, 224, 224), 1000, [256]),
    "resnet50": (lambda: torchvision.models.resnet50(), (3, 224, 224), 1000, [256]),
    "vgg16": (lambda: torchvision.models.vgg16(), (3, 224, 224), 1000, [128]),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(), (3, 224, 224), 1000, [256]),
}

rows = []
def emit(r):
    rows.append(r); print(json.dumps(r), flush=True)


def time_fn(fn, warm=8, reps=7, target_ms=120):
    for _ in range(warm): fn()
    torch.cuda.synchronize()
    s, e = torch.cuda.Event(True), torch.cuda.Event(True)
    s.record(); fn(); fn(); e.record(); e.synchronize()
    n = max(1, int(target_ms / max(s.elapsed_time(e) / 2, 1e-3)))
    out = []
    for _ in range(reps):
        s.record()
        for _ in range(n): fn()
        e.record(); e.synchronize(); out.append(s.elapsed_time(e) / n)
    return statistics.median(out)


def run_model(name, batch, prec, mode):
    build, shape, classes, _ = MODELS[name]
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest" if prec == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = prec != "fp32"
    m = build().to(dev)
    cl = prec == "bf16" or (prec == "tf32" and shape[1] > 32)
    if cl: m = m.to(memory_format=torch.channels_last)
    x = torch.randn(batch, *shape, device=dev)
    if cl: x = x.to(memory_format=torch.channels_last)
    y = torch.randint(classes, (batch,), device=dev)
    opt = torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)
    net = m
    if mode.startswith("compile"):
        net = torch.compile(m, mode={"compile": None, "compile-ro": "reduce-overhead", "compile-ma": "max-autotune"}[mode])
    def step():
        opt.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=prec == "bf16"):
            loss = F.cross_entropy(net(x), y)
        loss.backward(); opt.step()
    fn = step
    if mode == "graph":
        st = torch.cuda.Stream(); st.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(st):
            for _ in range(11): step()
        torch.cuda.current_stream().wait_stream(st)
        g = torch.cuda.CUDAGraph()
        with torch.cuda.graph(g): step()
        fn = g.replay
    torch.cuda.reset_peak_memory_stats()
    ms = time_fn(fn)
    torch.cuda.synchronize()
    emit(dict(kind="train", model=name, batch=batch, prec=prec, mode=mode, ms=round(ms, 4),
              img_s=round(batch / ms * 1e3), peak_mib=round(torch.cuda.max_memory_allocated() / 2**20)))
    m.eval()
    if mode == "eager" or mode == "compile":
        netI = m if mode == "eager" else torch.compile(m)
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=prec == "bf16"):
            ms = time_fn(lambda: netI(x))
        emit(dict(kind="infer", model=name, batch=batch, prec=prec, mode=mode, ms=round(ms, 4), img_s=round(batch / ms * 1e3)))


def run_table1():
    torch.backends.cudnn.allow_tf32 = False
    for n in (1, 4, 16):
        for f in (1, 4, 16):
            x = torch.randn(n, 4, 32, 32, device=dev)
            w = torch.randn(f, 4, 3, 3, device=dev)
            y = F.conv2d(x, w, padding=1); dy = torch.randn_like(y)
            fw = time_fn(lambda: F.conv2d(x, w, padding=1), target_ms=20)
            def fb():
                F.conv2d(x, w, padding=1)
                torch.ops.aten.convolution_backward(dy, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False])
            fbt = time_fn(fb, target_ms=20)
            g = torch.cuda.CUDAGraph()
            st = torch.cuda.Stream(); st.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(st):
                for _ in range(5): fb()
            torch.cuda.current_stream().wait_stream(st)
            with torch.cuda.graph(g): fb()
            gt = time_fn(g.replay, target_ms=20)
            emit(dict(kind="table1", n=n, f=f, fwd_us=round(fw * 1e3, 2), fwdbwd_us=round(fbt * 1e3, 2), fwdbwd_graph_us=round(gt * 1e3, 2)))


# Single-layer shapes: N,C,H,K,R,stride,pad,groups
LAYERS = [(256,3,224,64,7,2,3,1),(256,64,56,64,3,1,1,1),(256,64,56,256,1,1,0,1),(256,256,56,64,1,1,0,1),
          (256,128,28,128,3,1,1,1),(256,256,56,128,1,1,0,1),(256,256,14,256,3,1,1,1),(256,1024,14,256,1,1,0,1),
          (256,512,7,512,3,1,1,1),(256,2048,7,512,1,1,0,1),(256,256,56,512,1,2,0,1),(128,64,224,64,3,1,1,1),
          (128,512,28,512,3,1,1,1),(256,96,112,96,3,2,1,96),(256,144,56,144,3,1,1,144),(1024,16,32,16,3,1,1,1),
          (1024,64,31,64,3,1,1,1),(512,256,15,256,3,1,1,1)]
def run_layers():
    for prec in args.layer_precisions.split(","):
        torch.backends.cudnn.allow_tf32 = prec != "fp32"
        dt = torch.bfloat16 if prec == "bf16" else torch.float32
        for (n, c, h, k, r, s, p, g) in LAYERS:
            x = torch.randn(n, c, h, h, device=dev, dtype=dt).to(memory_format=torch.channels_last)
            w = torch.randn(k, c // g, r, r, device=dev, dtype=dt).to(memory_format=torch.channels_last)
            y = F.conv2d(x, w, stride=s, padding=p, groups=g); dy = torch.randn_like(y)
            o = y.shape[2]; flop = 2 * n * k * o * o * (c // g) * r * r
            byt = (x.numel() + w.numel() + y.numel()) * x.element_size()
            res = {}
            res["fwd"] = time_fn(lambda: F.conv2d(x, w, stride=s, padding=p, groups=g), 4, 5, 25)
            cb = torch.ops.aten.convolution_backward
            res["dgrad"] = time_fn(lambda: cb(dy, x, w, None, [s, s], [p, p], [1, 1], False, [0, 0], g, [True, False, False]), 4, 5, 25)
            res["wgrad"] = time_fn(lambda: cb(dy, x, w, None, [s, s], [p, p], [1, 1], False, [0, 0], g, [False, True, False]), 4, 5, 25)
            emit(dict(kind="layer", prec=prec, shape=[n, c, h, k, r, s, p, g], gflop=round(flop / 1e9, 2), mb=round(byt / 1e6, 1),
                      **{q + "_us": round(v * 1e3, 1) for q, v in res.items()},
                      **{q + "_tflops": round(flop / v / 1e9, 1) for q, v in res.items()},
                      **{q + "_tbs": round(byt / v / 1e9, 2) for q, v in res.items()}))


def run_peaks():
    a = torch.empty(2**30, device=dev, dtype=torch.float32); b = torch.empty_like(a)
    ms = time_fn(lambda: b.copy_(a), 3, 5, 60); emit(dict(kind="peak", what="copy_TBs", v=round(2 * a.numel() * 4 / ms / 1e9, 2)))
    del a, b
    for dt, nm in ((torch.bfloat16, "bf16"), (torch.float32, "tf32"), (torch.float32, "fp32")):
        torch.backends.cuda.matmul.allow_tf32 = nm == "tf32"
        a = torch.randn(8192, 8192, device=dev, dtype=dt); b = torch.randn(8192, 8192, device=dev, dtype=dt)
        ms = time_fn(lambda: a @ b, 3, 5, 60); emit(dict(kind="peak", what="gemm_" + nm + "_TFLOPs", v=round(2 * 8192**3 / ms / 1e9, 1)))


print(torch.__version__, torch.version.cuda, torch.backends.cudnn.version(), torch.cuda.get_device_name(), file=sys.stderr)
jobs = [("peaks", run_peaks), ("table1", run_table1), ("layers", run_layers)]
for name, (_, shape, _, batches) in MODELS.items():
    for b in batches:
        small = shape[1] <= 32
        for prec in (("fp32", "tf32", "bf16") if not small else ("fp32", "bf16")):
            if not small and prec == "fp32": continue
            for mode in args.modes.split(","):
                jobs.append((f"{name}/{b}/{prec}/{mode}", lambda n=name, b=b, p=prec, m=mode: run_model(n, b, p, m)))
for tag, job in jobs:
    if args.only and not any(o in tag for o in args.only.split(",")): continue
    if args.skip and any(o in tag for o in args.skip.split(",")): continue
    if time.time() - T0 > args.budget: print("budget spent before", tag); break
    try: job()
    except Exception as ex: print("FAILED", tag, type(ex).__name__, str(ex)[:300], flush=True)
    torch._dynamo.reset(); torch.cuda.empty_cache()
out = os.environ.get("OUT")
if out: json.dump(rows, open(os.path.join(out, "torch_gpu.json"), "w"), indent=0)
