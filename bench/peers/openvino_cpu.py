#!/usr/bin/env python3
"""OpenVINO's prediction on this CPU, in falconet's terms: one JSON object on standard output.

The network is pytorch_cpu.py's, converted in memory; a prediction is a synchronous request in latency mode on a resident random batch.

usage: openvino_cpu.py predict --model mnist_cnn --batch 1 [--threads 2] [--precision f32|bf16] [--steps 1000]
"""
import json
import resource
import statistics
import sys
import time

from pytorch_cpu import IMAGE, milliseconds, network, parse


def main():
    args = parse(sys.argv[1:])
    if args.what != "predict":
        sys.exit("openvino_cpu: OpenVINO predicts only")
    import openvino
    import torch

    x = torch.randn(args.batch, *IMAGE[args.model])
    model = openvino.convert_model(network(args.model).eval(), example_input=x, input=[list(x.shape)])
    start = time.perf_counter()
    compiled = openvino.Core().compile_model(model, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": args.precision, "INFERENCE_NUM_THREADS": args.threads})
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(x.numpy().copy()))
    request.infer()
    first = time.perf_counter() - start
    times = milliseconds(request.infer, args.steps)
    print(json.dumps({
        "what": "predict", "model": args.model, "batch": args.batch, "precision": args.precision, "device": "cpu", "threads": args.threads,
        "ms": round(statistics.median(times), 4), "ms_min": round(min(times), 4),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "peer": f"openvino {openvino.__version__}",
        "mode": "latency", "steps": args.steps, "first_ms": round(first * 1e3, 1)}))


if __name__ == "__main__":
    main()
