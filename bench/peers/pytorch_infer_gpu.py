"""PyTorch inference at its best on one CUDA GPU: BatchNorm folded into the convolutions, bf16 weights, channels_last, one CUDA graph.

Usage: python3 pytorch_infer_gpu.py -> JSON rows: model, batch, mode, ms (median). Modes: fold-graph (folded, cuDNN benchmark, graph replay),
fold-ma (folded, torch.compile max-autotune with its own graphs).
"""
import json, statistics
import torch, torchvision
from torch.fx.experimental.optimization import fuse
torch.backends.cudnn.benchmark = True
dev = "cuda"


def timed(fn, warm=10, n=30, reps=7):
    for _ in range(warm): fn()
    s, e = torch.cuda.Event(True), torch.cuda.Event(True); out = []
    for _ in range(reps):
        s.record()
        for _ in range(n): fn()
        e.record(); e.synchronize(); out.append(s.elapsed_time(e) / n)
    return statistics.median(out)


for name in ("resnet18", "resnet50", "mobilenet_v2", "vgg16"):
    for batch in (1, 32, 256):
        for mode in ("fold-graph", "fold-ma"):
            if mode == "fold-ma" and name not in ("resnet50", "mobilenet_v2"): continue
            try:
                m = fuse(getattr(torchvision.models, name)().eval()).to(dev, torch.bfloat16).to(memory_format=torch.channels_last)
                x = torch.randn(batch, 3, 224, 224, device=dev, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
                with torch.inference_mode():
                    if mode == "fold-ma":
                        c = torch.compile(m, mode="max-autotune"); fn = lambda: c(x)
                    else:
                        st = torch.cuda.Stream()
                        with torch.cuda.stream(st):
                            for _ in range(5): m(x)
                        torch.cuda.synchronize(); g = torch.cuda.CUDAGraph()
                        with torch.cuda.graph(g): m(x)
                        fn = g.replay
                    ms = timed(fn)
                print(json.dumps(dict(kind="infer", model=name, batch=batch, mode=mode, ms=round(ms, 4), img_s=round(batch / ms * 1e3))), flush=True)
            except Exception as ex: print("FAILED", name, batch, mode, str(ex)[:200], flush=True)
            torch._dynamo.reset(); torch.cuda.empty_cache()
