// The filter gradient of a 1x1 convolution as one matrix product: dw[k, c] = sum over pixels of dy[pixel, k]^T x[pixel, c], by the blocked product of
// ops/gemm, which packs both operands as it goes. With a stride the pixels that the filter reads are first copied side by side.
// Limits: nhwc, groups 1, no padding, f32, or bf16 images (dw in either); no db. Cost: 2 n p q k c operations; x and dy packed once each.
#include "falconet/ops/conv/cpu/pointwise_filter.h"

#include <cstring>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/gemm/cpu/blocked.h"

namespace falconet::pointwise {
namespace {

bool strided(ConvProblem const& p) { return p.stride_h > 1 || p.stride_w > 1; }
BlockedProduct product_of(ConvProblem const& p) {
  return {.m = p.k, .n = p.c, .k = std::int64_t(p.n) * p.p() * p.q(), .trans_a = true, .trans_b = false, .a_type = p.y_type, .b_type = p.x_type, .y_type = p.w_type};
}
std::size_t dense_bytes(ConvProblem const& p) {
  return strided(p) ? (std::size_t(p.n) * std::size_t(p.p()) * std::size_t(p.q()) * std::size_t(p.c) * size_of(p.x_type) + 63) / 64 * 64 : 0;
}

}  // namespace

std::string filter_reject(ConvProblem const& p) {
  bool const images = p.x_type == p.y_type && (p.x_type == DType::f32 || p.x_type == DType::bf16);
  if (!images || (p.w_type != DType::f32 && p.w_type != p.x_type)) return "needs f32 or bf16";
  if (!p.plain()) return "the filter gradient has no slots";
  return {};
}

std::size_t filter_scratch(ConvProblem const& p) { return dense_bytes(p) + blocked_product_scratch(product_of(p)); }

// As pointwise's own, at 67 % of the peak where the results are many (both operands are packed once) and at half of it elsewhere; direct, which reads
// operands as they lie, is faster there but not where pixels lie a stride apart and results are many.
double filter_seconds(ConvProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 2;
  double const share = strided(p) && p.k >= 256 && p.c >= 192 ? 0.67 : 0.5;
  return p.operations() / (share * 3.5e9 * 4 * lanes) + 2 * double(dense_bytes(p)) / 20e9 + 5e-6;
}

void filter_run(ConvProblem const& p, ConvArgs const& args, View scratch, Stream& stream) {
  auto* const dense = scratch.as<char>();
  std::size_t const room = dense_bytes(p), pixel = std::size_t(p.c) * size_of(p.x_type);
  if (room) {
    stream.threads().run(p.n * p.p(), [&](int row) {
      std::int64_t const h = std::int64_t(row % p.p()) * p.stride_h;
      auto const* const from = args.x.as<char const>() + (std::size_t(row / p.p()) * std::size_t(p.h) + std::size_t(h)) * std::size_t(p.w) * pixel;
      auto* const to = dense + std::size_t(row) * std::size_t(p.q()) * pixel;
      for (int q = 0; q < p.q(); ++q) std::memcpy(to + std::size_t(q) * pixel, from + std::size_t(q) * std::size_t(p.stride_w) * pixel, pixel);
    });
  }
  View const rest{dense + room, scratch.type};
  blocked_product(product_of(p), args.y.data, room ? dense : args.x.as<char>(), args.w.data, rest, stream);
}

}  // namespace falconet::pointwise
