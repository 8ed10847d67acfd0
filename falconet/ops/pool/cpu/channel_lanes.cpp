// Pooling with the channels of NHWC images as vector lanes: y and dx are each written once, by gathering.
//   max      y[n,p,q,:] = max over the window; a compare and two blends per pixel, the winner carried along as integers
//   average  y[n,p,q,:] = sum over the window / divisor
//   gradient dx[n,h,w,:] = sum over the windows (p,q) that hold the pixel, p then q ascending, of dy where it won, or dy / divisor.
//            No two tasks write the same element, and the order of every sum is fixed.
// Limits: NHWC; f32 or bf16 storage, f32 arithmetic. A row of c channels is covered by vectors of at most c lanes, the last one set
// back to end with the row, so any c works; c < 4 wastes most of a vector.
// Cost: n p q c r s compares or additions forwards, as many backwards; memory once forwards, dy and winner from L1 backwards.
#include <cstdint>

namespace falconet {

struct PoolWork {
  void const* in = nullptr;       // x, or dy
  void* out = nullptr;            // y, or dx
  void* winner = nullptr;         // written forwards (or null), read backwards
  bool max = false, bf16 = false, wide_winner = false, count_include_pad = false;
  int c = 0, h = 0, w = 0, p = 0, q = 0, r = 0, s = 0, stride_h = 0, stride_w = 0, top = 0, left = 0, bottom = 0, right = 0;
};
struct PoolChannelLanes {
  void (*run)(PoolWork const&, bool gradient, int begin, int end);   // rows [begin, end) of the result, counted over the batch
};

}  // namespace falconet

#ifdef FALCONET_ISA
#include "falconet/device/cpu/simd.h"
#include "falconet/device/cpu/simd_load.h"

namespace falconet::FALCONET_ISA {
namespace {

// The pixels [begin, end) of an axis that window `index` holds.
struct Span {
  int start, begin, end;
};
HWY_INLINE Span window(int index, int stride, int pad, int size, int extent) {
  int const start = index * stride - pad;
  return {start, start < 0 ? 0 : start, start + extent < size ? start + extent : size};
}
HWY_INLINE int counted(Span const& v, int extent, int size, int pad_after, bool include_pad) {
  if (!include_pad) return v.end - v.begin;
  int const end = v.start + extent, limit = size + pad_after;
  return (end < limit ? end : limit) - v.start;
}

template <class D, class W>
HWY_INLINE void store_winner(D, hn::Vec<hn::RebindToSigned<D>> v, W* to) {
  hn::Rebind<W, D> const dw;
  if constexpr (sizeof(W) == 1) hn::StoreU(hn::DemoteTo(dw, v), dw, to);
  else hn::StoreU(v, dw, to);
}
template <class D, class W>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> load_winner(D, W const* from) {
  hn::Rebind<W, D> const dw;
  if constexpr (sizeof(W) == 1) return hn::PromoteTo(hn::RebindToSigned<D>(), hn::LoadU(dw, from));
  else return hn::LoadU(dw, from);
}

// Rows [begin, end) of y, counted over the batch: row = n * p + its row in the image.
template <class T, class W, class D>
void forward(D d, PoolWork const& work, int begin, int end) {
  hn::RebindToSigned<D> const di;
  long const c = work.c, x_row = c * work.w;
  for (int row = begin; row < end; ++row) {
    Span const v = window(row % work.p, work.stride_h, work.top, work.h, work.r);
    T const* const image = static_cast<T const*>(work.in) + row / work.p * x_row * work.h;
    T* y = static_cast<T*>(work.out) + row * c * work.q;
    W* winner = static_cast<W*>(work.winner) + (work.winner ? row * c * work.q : 0);
    int const high = counted(v, work.r, work.h, work.bottom, work.count_include_pad);
    for (int column = 0; column < work.q; ++column, y += c) {
      Span const u = window(column, work.stride_w, work.left, work.w, work.s);
      T const* const first = image + v.begin * x_row + u.begin * c;
      int const rows = v.end - v.begin, columns = u.end - u.begin;
      if (work.max) {
        int const first_index = (v.begin - v.start) * work.s + u.begin - u.start;
        for_lanes(d, c, [&](long at) HWY_ATTR {
          auto best = load_f32(d, first + at);
          auto index = hn::Set(di, first_index);
          for (int r = 0; r < rows; ++r)
            for (int s = 0; s < columns; ++s) {
              auto const x = load_f32(d, first + r * x_row + s * c + at);
              auto const better = hn::Or(hn::Gt(x, best), hn::IsNaN(x));
              best = hn::IfThenElse(better, x, best);
              index = hn::IfThenElse(hn::RebindMask(di, better), hn::Set(di, first_index + r * work.s + s), index);
            }
          store_f32(best, d, y + at);
          if (work.winner) store_winner(d, index, winner + at);
        });
        winner += work.winner ? c : 0;
      } else {
        auto const divisor = hn::Set(d, float(high * counted(u, work.s, work.w, work.right, work.count_include_pad)));
        for_lanes(d, c, [&](long at) HWY_ATTR {
          auto sum = hn::Zero(d);
          for (int r = 0; r < rows; ++r)
            for (int s = 0; s < columns; ++s) sum = hn::Add(sum, load_f32(d, first + r * x_row + s * c + at));
          store_f32(hn::Div(sum, divisor), d, y + at);
        });
      }
    }
  }
}

// The windows [begin, end) of an axis that hold pixel `at`.
struct Windows {
  int begin, end;
};
HWY_INLINE Windows holding(int at, int stride, int pad, int extent, int count) {
  int const reach = at + pad, last = reach / stride;
  int const first = reach < extent ? 0 : (reach - extent) / stride + 1;
  return {first, last < count ? last + 1 : count};
}

// Rows [begin, end) of dx, counted over the batch: row = n * h + its row in the image. Windows that do not overlap: each pixel
// belongs to one at most, so dy and the winner are read once for the pixels of a window's row.
template <class T, class W, class D>
void backward_disjoint(D d, PoolWork const& work, int begin, int end) {
  hn::RebindToSigned<D> const di;
  long const c = work.c;
  for (int row = begin; row < end; ++row) {
    int const h = row % work.h, p = (h + work.top) / work.stride_h, r = (h + work.top) % work.stride_h;
    bool const covered = p < work.p && r < work.r;
    T* const dx = static_cast<T*>(work.out) + row * c * work.w;
    auto clear = [&](int from, int to) {
      if (from < to) for_lanes(d, (to - from) * c, [&](long at) HWY_ATTR { store_f32(hn::Zero(d), d, dx + from * c + at); });
    };
    long const map = (long(row / work.h) * work.p + p) * work.q * c;
    T const* dy = static_cast<T const*>(work.in) + map;
    W const* winner = static_cast<W const*>(work.winner) + (work.max ? map : 0);
    int const high = counted(window(p, work.stride_h, work.top, work.h, work.r), work.r, work.h, work.bottom, work.count_include_pad);
    int done = 0;
    for (int q = 0; covered && q < work.q; ++q, dy += c, winner += work.max ? c : 0) {
      Span const u = window(q, work.stride_w, work.left, work.w, work.s);
      clear(done, u.begin);
      done = u.end;
      if (work.max) {
        for_lanes(d, c, [&](long at) HWY_ATTR {
          auto const g = load_f32(d, dy + at);
          auto const index = load_winner(d, winner + at);
          for (int w = u.begin; w < u.end; ++w) {
            auto const here = hn::RebindMask(d, hn::Eq(index, hn::Set(di, r * work.s + w - u.start)));
            store_f32(hn::IfThenElseZero(here, g), d, dx + w * c + at);
          }
        });
      } else {
        auto const factor = hn::Set(d, 1.0f / float(high * counted(u, work.s, work.w, work.right, work.count_include_pad)));
        for_lanes(d, c, [&](long at) HWY_ATTR {
          auto const g = hn::Mul(load_f32(d, dy + at), factor);
          for (int w = u.begin; w < u.end; ++w) store_f32(g, d, dx + w * c + at);
        });
      }
    }
    clear(done, work.w);
  }
}

// The same for windows that may overlap.
template <class T, class W, class D>
void backward(D d, PoolWork const& work, int begin, int end) {
  hn::RebindToSigned<D> const di;
  long const c = work.c, y_row = c * work.q;
  for (int row = begin; row < end; ++row) {
    int const h = row % work.h;
    Windows const v = holding(h, work.stride_h, work.top, work.r, work.p);
    long const map = row / work.h * y_row * work.p;
    T const* const dy = static_cast<T const*>(work.in) + map;
    W const* const winner = static_cast<W const*>(work.winner) + (work.max ? map : 0);
    T* dx = static_cast<T*>(work.out) + row * c * work.w;
    for (int w = 0; w < work.w; ++w, dx += c) {
      Windows const u = holding(w, work.stride_w, work.left, work.s, work.q);
      for_lanes(d, c, [&](long at) HWY_ATTR {
        auto sum = hn::Zero(d);
        for (int p = v.begin; p < v.end; ++p)
          for (int q = u.begin; q < u.end; ++q) {
            long const from = p * y_row + q * c + at;
            auto const g = load_f32(d, dy + from);
            if (work.max) {
              auto const here = hn::Set(di, (h - (p * work.stride_h - work.top)) * work.s + w - (q * work.stride_w - work.left));
              sum = hn::Add(sum, hn::IfThenElseZero(hn::RebindMask(d, hn::Eq(load_winner(d, winner + from), here)), g));
            } else {
              int const high = counted(window(p, work.stride_h, work.top, work.h, work.r), work.r, work.h, work.bottom, work.count_include_pad);
              int const wide = counted(window(q, work.stride_w, work.left, work.w, work.s), work.s, work.w, work.right, work.count_include_pad);
              sum = hn::MulAdd(g, hn::Set(d, 1.0f / float(high * wide)), sum);
            }
          }
        store_f32(sum, d, dx + at);
      });
    }
  }
}

template <class T, class W>
void run_rows(PoolWork const& work, bool gradient, int begin, int end) {
  bool const disjoint = work.stride_h >= work.r && work.stride_w >= work.s;
  with_lanes(work.c, [&](auto d) {
    if (!gradient) forward<T, W>(d, work, begin, end);
    else if (disjoint) backward_disjoint<T, W>(d, work, begin, end);
    else backward<T, W>(d, work, begin, end);
  });
}
void run(PoolWork const& work, bool gradient, int begin, int end) {
  if (work.bf16) work.wide_winner ? run_rows<bf16, std::int32_t>(work, gradient, begin, end) : run_rows<bf16, std::uint8_t>(work, gradient, begin, end);
  else work.wide_winner ? run_rows<float, std::int32_t>(work, gradient, begin, end) : run_rows<float, std::uint8_t>(work, gradient, begin, end);
}

}  // namespace

extern PoolChannelLanes const pool_channel_lanes;
PoolChannelLanes const pool_channel_lanes = {run};

}  // namespace falconet::FALCONET_ISA

#else
#include <algorithm>

#include "falconet/ops/pool/algorithms.h"

namespace falconet {

FALCONET_DECLARE_KERNELS(PoolChannelLanes, pool_channel_lanes)

namespace {

std::string reject(PoolProblem const& p, DeviceFacts const&) {
  if (p.load_x != OnLoad{} || p.result != PoolResult::plain) return "a batch norm in the same launch";
  if (p.type != DType::f32 && p.type != DType::bf16) return "needs f32 or bf16";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  return {};
}

// Memory that is touched at 10 GB/s, and a nanosecond for each vector of the window.
double seconds(PoolProblem const& p, DeviceFacts const& facts) {
  double const lanes = facts.isa == Isa::avx512 ? 16 : facts.isa == Isa::avx2 ? 8 : 4;
  return bytes_of(p.operands()) / 10e9 + 1e-9 * p.operations() / std::min(lanes, double(p.c));
}

void run(PoolProblem const& p, Config const&, PoolArgs const& args, View, Stream& stream) {
  PoolWork work;
  work.in = p.gradient ? args.y.data : args.x.data;
  work.out = p.gradient ? args.x.data : args.y.data;
  work.winner = args.winner.data;
  work.max = p.kind == PoolKind::max;
  work.bf16 = p.type == DType::bf16;
  work.wide_winner = PoolProblem::winner_type(p.r, p.s) == DType::i32;
  work.count_include_pad = p.count_include_pad;
  work.c = p.c, work.h = p.h, work.w = p.w, work.p = p.p, work.q = p.q, work.r = p.r, work.s = p.s;
  work.stride_h = p.stride_h, work.stride_w = p.stride_w;
  work.top = p.pad_top, work.left = p.pad_left, work.bottom = p.pad_bottom, work.right = p.pad_right;
  // Tasks of some ten microseconds each; a small problem is one task, which wakes nobody.
  int const rows = p.n * (p.gradient ? p.h : p.p);
  double const touched = double(p.n) * p.c * (double(p.h) * p.w + double(p.p) * p.q);
  int const tasks = int(std::clamp(touched / 32768, 1.0, double(rows)));
  auto const kernel = FALCONET_KERNELS(stream.isa(), pool_channel_lanes).run;
  stream.threads().run(tasks, [&](int task) {
    kernel(work, p.gradient, int(std::int64_t(rows) * task / tasks), int(std::int64_t(rows) * (task + 1) / tasks));
  });
}

}  // namespace

Algorithm<PoolProblem> pool_channel_lanes_algorithm() {
  return {.name = "channel_lanes", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run};
}

}  // namespace falconet
#endif
