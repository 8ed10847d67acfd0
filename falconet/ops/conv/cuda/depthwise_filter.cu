// Filter gradient of depthwise convolutions:
//   dw(r, s) = sum over n, p, q of dy(n, p, q) * x(n, p * st - pad + r, q * st - pad + s), every channel by itself; db = sum of dy
// A thread keeps the R*R sums of its channels in registers while it walks down its strips: a row of x meets all rows of dy that it touches, which wait in
// registers. The strips of a block are added in order, then the blocks (depthwise.cu): the same bytes every time. Cost: R*R multiply-adds an element of dy;
// bytes: x and dy once.
#include "falconet/device/cuda/check.h"
#include "falconet/ops/conv/cuda/depthwise.cuh"

namespace falconet::depthwise {
namespace {

template <class E>
struct Work {
  Walk walk;                         // over dy
  E const *x = nullptr, *dy = nullptr;
  int channels = 0, height = 0, width = 0, rows = 0, columns = 0;   // of x, of dy
  int pad_top = 0, pad_left = 0;
  float const* load = nullptr;       // [2, channels] of load_x
  Bounds load_act;
  bool loads = false, bias = false;
  float* partial = nullptr;          // [blocks][R*R (+ 1)][channels]
};

template <class E, int V, int R, int stride, int T>
struct Shape {
  static constexpr int ahead = (R + stride - 1) / stride - 1;   // rows of dy that a row of x meets, but the first
  static constexpr int in_columns = (T - 1) * stride + R, taps = R * R, entry = stride * in_columns + T;
  static constexpr int depth = int(sizeof(E)) * V * entry <= 88 ? 4 : 2;
  using Steps = Queue<E, V, entry, depth>;   // of one step: its rows of x, then its row of dy
};

// slots: of x as it is read, and db.
template <class E, int V, int R, int stride, int T, bool slots>
__global__ void __launch_bounds__(most_threads, R == 3 ? 2 : 1) filter(const __grid_constant__ Work<E> w) {
  using F = Shape<E, V, R, stride, T>;
  constexpr int ahead = F::ahead, in_columns = F::in_columns, taps = F::taps, depth = F::depth;
  extern __shared__ __align__(16) float memory[];
  int vector;
  int const strip = w.walk.by_here(threadIdx.x, vector), first_channel = blockIdx.y * w.walk.here * V, c = first_channel + vector * V, count = w.walk.here * V;
  bool const works = strip < w.walk.strips && c < w.channels;
  typename F::Steps steps(memory + (slots ? (2 * count + 3) / 4 * 4 : 0));
  if constexpr (slots) {
    place_vectors<V>(memory, w.load, nullptr, first_channel, w.walk.here, w.channels);
    __syncthreads();
  }
  float const* const loaded = memory + vector * V;
  float sum[taps][V] = {}, db[1][V] = {};

  if (works)
    for (int item = blockIdx.x * w.walk.strips + strip; item < w.walk.items; item += gridDim.x * w.walk.strips) {
      Place const at = place_of<T>(w.walk, item);
      int const column = at.column * stride - w.pad_left;
      int const row_begin = max(at.begin * stride - w.pad_top, 0), row_end = min((at.end - 1) * stride - w.pad_top + R, w.height);
      unsigned inside = 0, exists = 0;      // columns of x, of dy
#pragma unroll
      for (int i = 0; i < in_columns; ++i)
        if (unsigned(column + i) < unsigned(w.width)) inside |= 1u << i;
        else
#pragma unroll
          for (int k = 0; k < stride; ++k) steps.zero(k * in_columns + i);
#pragma unroll
      for (int t = 0; t < T; ++t)
        if (at.column + t < w.columns) exists |= 1u << t;
        else steps.zero(stride * in_columns + t);
      steps.restart();
      // Step p reads row p + ahead of dy and its `stride` rows of x.
      int started = at.begin - ahead, h_started = started * stride - w.pad_top + R - stride;
      std::int64_t const x_step = std::int64_t(w.width) * w.channels, y_step = std::int64_t(w.columns) * w.channels;
      E const* next_x = w.x + (std::int64_t(at.n) * w.height + h_started) * x_step + std::int64_t(column) * w.channels + c;
      E const* next_y = w.dy + (std::int64_t(at.n) * w.rows + at.begin) * y_step + std::int64_t(at.column) * w.channels + c;
      auto const start = [&] {
#pragma unroll
        for (int k = 0; k < stride; ++k, ++h_started, next_x += x_step)
          if (h_started >= row_begin && h_started < row_end)
#pragma unroll
            for (int i = 0; i < in_columns; ++i)
              if (inside >> i & 1) steps.start(k * in_columns + i, next_x + i * w.channels);
        if (started + ahead < at.end)
#pragma unroll
          for (int t = 0; t < T; ++t)
            if (exists >> t & 1) steps.start(stride * in_columns + t, next_y + t * w.channels);
        next_y += y_step, ++started;
        steps.push();
        entry_started();
      };
#pragma unroll 1
      for (int k = 0; k < depth - 1; ++k) start();
      float d[ahead + 1][T][V] = {};   // row p + a of dy is at (p + a) % (ahead + 1), counted from the first p: nothing is moved
      int h = (at.begin - ahead) * stride - w.pad_top + R - stride;
#pragma unroll 1
      for (int p = at.begin - ahead; p < at.end;) {
#pragma unroll
        for (int phase = 0; phase <= ahead; ++phase, ++p) {
          if (p >= at.end) break;
          await_entry<depth - 2>();
          float(&newest)[T][V] = d[(phase + ahead) % (ahead + 1)];
          if (p + ahead < at.end) {
#pragma unroll
            for (int t = 0; t < T; ++t) {
              unpack<E, V>(steps.oldest(stride * in_columns + t), newest[t]);
              if constexpr (slots)
#pragma unroll
                for (int e = 0; e < V; ++e) db[0][e] += newest[t][e];
            }
          } else {
#pragma unroll
            for (int t = 0; t < T; ++t)
#pragma unroll
              for (int e = 0; e < V; ++e) newest[t][e] = 0;
          }
#pragma unroll
          for (int i = 0; i < stride; ++i, ++h) {
            if (h < row_begin || h >= row_end) continue;
            float x[in_columns][V];
#pragma unroll
            for (int j = 0; j < in_columns; ++j) {
              unpack<E, V>(steps.oldest(i * in_columns + j), x[j]);
              if constexpr (slots) {
                if (w.loads)
#pragma unroll
                  for (int e = 0; e < V; ++e) x[j][e] = inside >> j & 1 ? clip(w.load_act, fmaf(loaded[e], x[j][e], loaded[count + e])) : 0.f;
              }
            }
#pragma unroll
            for (int a = 0; a <= ahead; ++a) {
              int const r = R - stride + i - stride * a, row = (phase + a) % (ahead + 1);
              if (r < 0) continue;
#pragma unroll
              for (int s = 0; s < R; ++s)
#pragma unroll
                for (int e = 0; e < V; ++e)
#pragma unroll
                  for (int t = 0; t < T; ++t) sum[r * R + s][e] = fmaf(x[t * stride + s][e], d[row][t][e], sum[r * R + s][e]);
            }
          }
          steps.pop();
          start();
        }
      }
      await_entry<0>();
    }
  float* const partial = w.partial + std::int64_t(blockIdx.x) * (taps + (slots && w.bias)) * w.channels;
  add_strips<V, taps>(sum, memory, w.walk, works, first_channel, w.channels, partial);
  if constexpr (slots)
    if (w.bias) add_strips<V, 1>(db, memory, w.walk, works, first_channel, w.channels, partial + std::int64_t(taps) * w.channels);
}

template <class E, int V, int R, int stride, int T, bool slots>
void launch(Work<E> const& w, cudaStream_t stream) {
  using F = Shape<E, V, R, stride, T>;
  auto const kernel = filter<E, V, R, stride, T, slots>;
  std::size_t const shared = (slots ? std::size_t(2 * w.walk.here * V + 3) / 4 * 16 : 0) + F::Steps::bytes;
  static bool const allowed = (allow_shared_memory(kernel, 160 << 10), true);
  (void)allowed;
  kernel<<<dim3(unsigned(w.walk.blocks), unsigned(w.walk.groups)), w.walk.threads, shared, stream>>>(w);
}
template <class E, int V, int R, int T>
void launch(Work<E> const& w, int stride, bool slots, cudaStream_t stream) {
  if constexpr (R == 3 && V > 1)
    if (!slots) return stride == 1 ? launch<E, V, R, 1, T, false>(w, stream) : launch<E, V, R, 2, T, false>(w, stream);
  stride == 1 ? launch<E, V, R, 1, T, true>(w, stream) : launch<E, V, R, 2, T, true>(w, stream);
}

template <class E>
void launch(ConvProblem const& p, Way const& way, ConvArgs const& a, float* partial, cudaStream_t stream) {
  Work<E> w;
  w.walk = walk_of(p, way);
  w.x = a.x.as<E>(), w.dy = a.y.as<E>();
  w.channels = p.c, w.height = p.h, w.width = p.w, w.rows = p.p(), w.columns = p.q();
  w.pad_top = p.pad_top, w.pad_left = p.pad_left;
  w.loads = p.load_x != OnLoad{}, w.load_act = bounds_of(p.load_x.act);
  if (p.load_x.affine != Affine::none) w.load = a.load_x.as<float>();
  w.bias = p.store.bias, w.partial = partial;
  bool const slots = w.loads || w.bias;
  if (way.v == 1) p.r == 3 ? launch<E, 1, 3, 4>(w, p.stride_h, slots, stream) : launch<E, 1, 5, 2>(w, p.stride_h, slots, stream);
  else if (p.r == 5) launch<E, 4, 5, 2>(w, p.stride_h, slots, stream);
  else way.t == 2 ? launch<E, 4, 3, 2>(w, p.stride_h, slots, stream) : launch<E, 4, 3, 4>(w, p.stride_h, slots, stream);
}

}  // namespace

void launch_filter(ConvProblem const& p, Way const& way, ConvArgs const& a, float* partial, cudaStream_t stream) {
  p.x_type == DType::bf16 ? launch<bf16>(p, way, a, partial, stream) : launch<float>(p, way, a, partial, stream);
}

}  // namespace falconet::depthwise
