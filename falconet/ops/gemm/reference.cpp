// The definition: y[i][j] = store(sum over l of op_a(a)[i][l] * op_b(b)[l][j]), in plain loops.
// f64, f32 and bf16 storage in any mix that the problem allows; every sum is accumulated in f64 and rounded once, on store.
#include "falconet/ops/gemm/algorithms.h"

namespace falconet {
namespace {

double load(View const& v, std::int64_t at) {
  switch (v.type.dtype) {
    case DType::f64:
      return v.as<double const>()[at];
    case DType::f32:
      return double(v.as<float const>()[at]);
    default:
      return double(to_float(v.as<bf16 const>()[at]));
  }
}
void store(View const& v, std::int64_t at, double value) {
  switch (v.type.dtype) {
    case DType::f64:
      v.as<double>()[at] = value;
      break;
    case DType::f32:
      v.as<float>()[at] = float(value);
      break;
    default:
      v.as<bf16>()[at] = to_bf16(float(value));
      break;
  }
}

std::string reject(GemmProblem const&, DeviceFacts const&) { return {}; }

void run(GemmProblem const& p, Config const&, GemmArgs const& args, View, Stream& stream) {
  auto const place = [&](GemmImage::Which which, std::int64_t row, std::int64_t columns, std::int64_t column) {
    return row * columns + (p.image.which == which ? p.image.at(column) : column);
  };
  stream.threads().run(int(p.m), [&](int i) {
    for (std::int64_t j = 0; j < p.n; ++j) {
      double sum = 0;
      for (std::int64_t l = 0; l < p.k; ++l)
        sum += load(args.a, p.trans_a ? l * p.m + i : place(GemmImage::a, i, p.k, l)) * load(args.b, p.trans_b ? j * p.k + l : place(GemmImage::b, l, p.n, j));
      std::int64_t const at = place(GemmImage::y, i, p.n, j);
      if (p.store.bias) sum += load(args.bias, j);
      if (p.store.residual) sum += load(args.residual, at);
      sum = activate(p.store.act, sum);
      if (p.store.mask == Mask::relu && !(load(args.mask, at) > 0)) sum = 0;
      store(args.y, at, sum);
    }
  });
}

}  // namespace

Algorithm<GemmProblem> gemm_reference() {
  return {.name = "reference", .target = DeviceKind::cpu, .reject = reject, .run = run, .baseline = true};
}

}  // namespace falconet
