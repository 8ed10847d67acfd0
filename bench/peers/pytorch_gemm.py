"""PyTorch's torch.mm on a list of matrix products in the text of problems/gemm/*.txt; store slots are left out.
Prints the median and minimum of 0.2 s in microseconds, as bench_gemm does.
usage: pytorch_gemm.py THREADS [LIST]
"""
import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]))
for line in open(sys.argv[2] if len(sys.argv) > 2 else "problems/gemm/networks.txt"):
    problem = line.split("#")[0].strip()
    if "types=f32" not in problem:
        continue
    p = dict(token.split("=") for token in problem.split())
    m, n, k = int(p["m"]), int(p["n"]), int(p["k"])
    a = torch.randn(k, m).t() if p["ta"] == "1" else torch.randn(m, k)
    b = torch.randn(n, k).t() if p["tb"] == "1" else torch.randn(k, n)
    y = torch.empty(m, n)
    for _ in range(20):
        torch.mm(a, b, out=y)
    us, start = [], time.perf_counter()
    while len(us) < 10 or time.perf_counter() - start < 0.2:
        before = time.perf_counter()
        torch.mm(a, b, out=y)
        us.append((time.perf_counter() - before) * 1e6)
    us.sort()
    print(f"{problem:60} torch.mm {us[len(us) // 2]:9.1f} us, min {us[0]:9.1f}, {2 * m * n * k / us[len(us) // 2] / 1e3:6.1f} GFLOP/s")
