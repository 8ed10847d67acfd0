"""PyTorch (cuDNN, benchmark mode) on lists of convolution problems in the text of problems/conv/*.txt, one GPU.
Prints: problem, direction, microseconds (median of CUDA-event windows), TFLOP/s.
Usage: python3 torch_conv.py [batch=N] [type=bf16|f32|tf32] [directions=fwd,bwd_data,bwd_filter] FILE...
"""
import re, statistics, sys
import torch
import torch.nn.functional as F

torch.backends.cudnn.benchmark = True
settings = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
files = [a for a in sys.argv[1:] if "=" not in a]
kind = settings.get("type", "bf16")
torch.backends.cudnn.allow_tf32 = kind == "tf32"
dtype = torch.bfloat16 if kind == "bf16" else torch.float32


def time_us(fn, warm=4, reps=7, window_ms=12):
    for _ in range(warm):
        fn()
    torch.cuda.synchronize()
    a, b = torch.cuda.Event(True), torch.cuda.Event(True)
    a.record(); fn(); fn(); b.record(); b.synchronize()
    n = max(1, int(window_ms / max(a.elapsed_time(b) / 2, 1e-3)))
    out = []
    for _ in range(reps):
        a.record()
        for _ in range(n):
            fn()
        b.record(); b.synchronize()
        out.append(a.elapsed_time(b) / n * 1e3)
    return statistics.median(out)


def parse(line):
    p = dict(n=1, c=1, h=1, w=1, k=1, r=1, s=1, p=[0], st=[1], d=[1], g=1)
    for token in line.split():
        m = re.fullmatch(r"([a-z]+)([\d.]+)", token)
        if not m or token.startswith(("f32", "f64", "bf16")):
            continue
        key, v = m.group(1), [int(x) for x in m.group(2).split(".")]
        if key == "hw": p["h"] = p["w"] = v[0]
        elif key == "rs": p["r"] = p["s"] = v[0]
        elif key in ("p", "st", "d"): p[key] = v
        else: p[key] = v[0]
    return p


print(f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {torch.cuda.get_device_name()}, {kind}")
for name in files:
    for line in open(name):
        line = line.split("#")[0].strip()
        if not line:
            continue
        q = parse(line)
        n = int(settings.get("batch", q["n"]))
        if len(q["p"]) > 2:
            continue
        x = torch.randn(n, q["c"], q["h"], q["w"], device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
        w = torch.randn(q["k"], q["c"] // q["g"], q["r"], q["s"], device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
        two = lambda v: [v[0], v[-1]]
        st, pd, dl, g = two(q["st"]), two(q["p"]), two(q["d"]), q["g"]
        y = F.conv2d(x, w, stride=st, padding=pd, dilation=dl, groups=g)
        dy = torch.randn_like(y)
        flop = 2 * n * q["k"] * y.shape[2] * y.shape[3] * (q["c"] // g) * q["r"] * q["s"]
        back = torch.ops.aten.convolution_backward
        runs = {"fwd": lambda: F.conv2d(x, w, stride=st, padding=pd, dilation=dl, groups=g),
                "bwd_data": lambda: back(dy, x, w, None, st, pd, dl, False, [0, 0], g, [True, False, False]),
                "bwd_filter": lambda: back(dy, x, w, None, st, pd, dl, False, [0, 0], g, [False, True, False])}
        for direction in settings.get("directions", "fwd,bwd_data,bwd_filter").split(","):
            us = time_us(runs[direction])
            print(f"{direction} {re.sub('^n[0-9]+', f'n{n}', line)} {kind}: {us:.1f} us {flop / us / 1e6:.1f} TF", flush=True)
