// Maximum pooling in two steps, along rows and then along columns (a maximum over a rectangle is the maximum of its rows' maxima):
//   m[h, q, :] = max over s of x[h, q stride_w - left + s, :], with the s that won      once per image row
//   y[p, q, :] = max over r of m[p stride_h - top + r, q, :]                            winner = r S + that s
// A row of m serves every window that crosses it, so a result costs s r / stride_h ... that is s stride_h + r compares instead of s r: it wins
// where windows overlap much (3x3 and larger at stride 1). The first maximum in scan order wins, a NaN beats all, as channel_lanes has it.
// Limits: NHWC, f32 or bf16, forward; at least as many channels as a vector has lanes. Scratch: r rows of m per task.
#include <cstdint>

namespace falconet {

struct SeparablePool {
  void const* x = nullptr;
  void* y = nullptr;
  std::uint8_t* winner = nullptr;   // or null
  bool bf16 = false;
  int c = 0, h = 0, w = 0, p = 0, q = 0, r = 0, s = 0, stride_h = 0, stride_w = 0, top = 0, left = 0;
};
struct PoolSeparable {
  int lanes;
  // Rows [begin, end) of y, counted over the batch; maxima and indices: room for r rows of q c elements each.
  void (*rows)(SeparablePool const&, int begin, int end, float* maxima, std::int32_t* indices);
};

}  // namespace falconet

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/device/cpu/simd_load.h"

namespace falconet::FALCONET_ISA {
namespace {

using D = hn::ScalableTag<float>;
using DI = hn::RebindToSigned<D>;

// m of image row `from` and the index within the window's row.
template <class T>
void along_row(SeparablePool const& g, T const* from, float* maxima, std::int32_t* indices) {
  D const d;
  DI const di;
  for (int q = 0; q < g.q; ++q, maxima += g.c, indices += g.c) {
    int const start = q * g.stride_w - g.left, begin = start < 0 ? 0 : start, end = start + g.s < g.w ? start + g.s : g.w;
    for_lanes(d, g.c, [&](long at) HWY_ATTR {
      auto best = load_f32(d, from + long(begin) * g.c + at);
      auto index = hn::Set(di, begin - start);
      for (int w = begin + 1; w < end; ++w) {
        auto const v = load_f32(d, from + long(w) * g.c + at);
        auto const better = hn::Or(hn::Gt(v, best), hn::IsNaN(v));
        best = hn::IfThenElse(better, v, best);
        index = hn::IfThenElse(hn::RebindMask(di, better), hn::Set(di, w - start), index);
      }
      hn::StoreU(best, d, maxima + at);
      hn::StoreU(index, di, indices + at);
    });
  }
}

template <class T>
void rows_of(SeparablePool const& g, int begin, int end, float* maxima, std::int32_t* indices) {
  D const d;
  DI const di;
  hn::Rebind<std::uint8_t, D> const d8;
  long const row_size = long(g.q) * g.c;
  int image = -1, done = 0;                        // rows of m of that image below `done` are there, each at its number modulo r
  for (int row = begin; row < end; ++row) {
    int const start = row % g.p * g.stride_h - g.top, from = start < 0 ? 0 : start, to = start + g.r < g.h ? start + g.r : g.h;
    if (row / g.p != image) image = row / g.p, done = 0;
    T const* const x = static_cast<T const*>(g.x) + long(image) * g.h * g.w * g.c;
    for (int h = done > from ? done : from; h < to; ++h) along_row(g, x + long(h) * g.w * g.c, maxima + h % g.r * row_size, indices + h % g.r * row_size);
    if (to > done) done = to;
    T* const y = static_cast<T*>(g.y) + row * row_size;
    for_lanes(d, row_size, [&](long at) HWY_ATTR {
      long const first = from % g.r * row_size + at;
      auto best = hn::LoadU(d, maxima + first);
      auto index = hn::Add(hn::LoadU(di, indices + first), hn::Set(di, (from - start) * g.s));
      for (int h = from + 1; h < to; ++h) {
        long const next = h % g.r * row_size + at;
        auto const v = hn::LoadU(d, maxima + next);
        auto const better = hn::Or(hn::Gt(v, best), hn::IsNaN(v));
        best = hn::IfThenElse(better, v, best);
        index = hn::IfThenElse(hn::RebindMask(di, better), hn::Add(hn::LoadU(di, indices + next), hn::Set(di, (h - start) * g.s)), index);
      }
      store_f32(best, d, y + at);
      if (g.winner) hn::StoreU(hn::DemoteTo(d8, index), d8, g.winner + row * row_size + at);
    });
  }
}
void rows(SeparablePool const& g, int begin, int end, float* maxima, std::int32_t* indices) {
  g.bf16 ? rows_of<bf16>(g, begin, end, maxima, indices) : rows_of<float>(g, begin, end, maxima, indices);
}

}  // namespace

extern PoolSeparable const pool_separable_kernels;
PoolSeparable const pool_separable_kernels = {int(hn::MaxLanes(D())), rows};

}  // namespace falconet::FALCONET_ISA

#else
#include <algorithm>

#include "falconet/ops/pool/algorithms.h"

namespace falconet {

FALCONET_DECLARE_KERNELS(PoolSeparable, pool_separable_kernels)

namespace {

std::string reject(PoolProblem const& p, DeviceFacts const& facts) {
  if (p.load_x != OnLoad{} || p.result != PoolResult::plain) return "a batch norm in the same launch";
  if (p.kind != PoolKind::max || p.gradient) return "is maximum pooling forwards";
  if (p.type != DType::f32 && p.type != DType::bf16) return "needs f32 or bf16";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  if (p.c < FALCONET_KERNELS(facts.isa, pool_separable_kernels).lanes) return "needs at least as many channels as a vector has lanes";
  if (PoolProblem::winner_type(p.r, p.s) != DType::u8) return "needs windows of at most 254 pixels";
  return {};
}

// Tasks of consecutive rows; the first rows of a task repeat what the one before it had.
int tasks_of(PoolProblem const& p) {
  double const touched = double(p.n) * p.c * (double(p.h) * p.w + double(p.p) * p.q);
  return int(std::clamp(touched / 65536, 1.0, double(std::min(16, p.n * p.p))));
}
std::size_t row_elements(PoolProblem const& p) { return (std::size_t(p.r) * std::size_t(p.q) * std::size_t(p.c) + 15) / 16 * 16; }
std::size_t scratch(PoolProblem const& p, Config const&) { return 8 * row_elements(p) * std::size_t(tasks_of(p)); }

double seconds(PoolProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 4;
  double const compares = double(p.n) * p.c * p.q * (double(std::min(p.h, p.p * p.stride_h)) * p.s + double(p.p) * p.r);
  return bytes_of(p.operands()) / 10e9 + 1.2e-9 * compares / lanes;
}

void run(PoolProblem const& p, Config const&, PoolArgs const& args, View scratch_view, Stream& stream) {
  SeparablePool g;
  g.x = args.x.data, g.y = args.y.data, g.winner = args.winner.as<std::uint8_t>(), g.bf16 = p.type == DType::bf16;
  g.c = p.c, g.h = p.h, g.w = p.w, g.p = p.p, g.q = p.q, g.r = p.r, g.s = p.s;
  g.stride_h = p.stride_h, g.stride_w = p.stride_w, g.top = p.pad_top, g.left = p.pad_left;
  int const tasks = tasks_of(p), all = p.n * p.p;
  auto const kernel = FALCONET_KERNELS(stream.isa(), pool_separable_kernels).rows;
  stream.threads().run(tasks, [&](int task) {
    float* const maxima = scratch_view.as<float>() + 2 * std::size_t(task) * row_elements(p);
    kernel(g, int(std::int64_t(all) * task / tasks), int(std::int64_t(all) * (task + 1) / tasks), maxima, reinterpret_cast<std::int32_t*>(maxima + row_elements(p)));
  });
}

}  // namespace

Algorithm<PoolProblem> pool_separable() {
  return {.name = "separable", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};
}

}  // namespace falconet
#endif
