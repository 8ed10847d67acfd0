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
struct Form {
  static constexpr int ahead = (R + stride - 1) / stride - 1;   // rows of dy that a row of x meets, but the first
  static constexpr int in_columns = (T - 1) * stride + R, taps = R * R, depth = int(sizeof(E)) * V * in_columns > 64 ? 3 : 4;
  using RowsX = Queue<E, V, in_columns, depth>;
  using RowsY = Queue<E, V, T, depth>;
};

// slots: of x as it is read, and db.
template <class E, int V, int R, int stride, int T, bool slots>
__global__ void __launch_bounds__(most_threads, R == 3 ? 2 : 1) filter(const __grid_constant__ Work<E> w) {
  using F = Form<E, V, R, stride, T>;
  constexpr int ahead = F::ahead, in_columns = F::in_columns, taps = F::taps, depth = F::depth;
  extern __shared__ __align__(16) float memory[];
  int vector;
  int const strip = w.walk.by_here(threadIdx.x, vector), first_channel = blockIdx.y * w.walk.here * V, c = first_channel + vector * V, count = w.walk.here * V;
  bool const works = strip < w.walk.strips && c < w.channels;
  char* const queues = reinterpret_cast<char*>(memory) + (slots ? (2 * count + 3) / 4 * 16 : 0);
  typename F::RowsX rows_x(queues);
  typename F::RowsY rows_y(queues + F::RowsX::bytes * blockDim.x);
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
      E const* const x = w.x + std::int64_t(at.n) * w.height * w.width * w.channels + c;
      E const* const dy = w.dy + std::int64_t(at.n) * w.rows * w.columns * w.channels + c;
      unsigned inside = 0, exists = 0;      // columns of x, of dy
#pragma unroll
      for (int i = 0; i < in_columns; ++i) inside |= unsigned(column + i) < unsigned(w.width) ? 1u << i : 0u;
#pragma unroll
      for (int t = 0; t < T; ++t) exists |= at.column + t < w.columns ? 1u << t : 0u;
      // Step p takes row p + ahead of dy, then `stride` rows of x. A row of x is one group of copies; the row of dy belongs to the step's first.
      int const step_begin = at.begin - ahead, h_begin = step_begin * stride - w.pad_top + R - stride;
      auto const start = [&](int k, int place_x, int place_y) {   // k: rows of x since the first
        int const h = h_begin + k;
        bool const row = h >= row_begin && h < row_end;
        E const* const from = x + (h * w.width + column) * w.channels;
#pragma unroll
        for (int i = 0; i < in_columns; ++i) rows_x.start(place_x, i, from + i * w.channels, row && (inside >> i & 1));
        if (k % stride == 0) {
          int const p = step_begin + k / stride + ahead;
          E const* const from_y = dy + (p * w.columns + at.column) * w.channels;
#pragma unroll
          for (int t = 0; t < T; ++t) rows_y.start(place_y, t, from_y + t * w.channels, p < at.end && (exists >> t & 1));
        }
        row_started();
      };
      float d[ahead + 1][T][V] = {};   // rows p to p + ahead of dy
#pragma unroll
      for (int k = 0; k < depth - 1; ++k) start(k, k, k / stride);
#pragma unroll 1
      for (int p = step_begin; p < at.end; ++p) {
#pragma unroll
        for (int i = 0; i < stride; ++i) {
          int const k = (p - step_begin) * stride + i, h = h_begin + k;
          await_row<depth - 2>();
          if (i == 0) {
#pragma unroll
            for (int t = 0; t < T; ++t) {
              unpack(rows_y.front(t), d[ahead][t]);
              if constexpr (slots)
#pragma unroll
                for (int e = 0; e < V; ++e) db[0][e] += d[ahead][t][e];
            }
          }
          bool const row = h >= row_begin && h < row_end;
#pragma unroll
          for (int j = 0; j < in_columns; ++j) {
            float v[V];
            unpack(rows_x.front(j), v);
            if constexpr (slots) {
              if (w.loads)
#pragma unroll
                for (int e = 0; e < V; ++e) v[e] = row && (inside >> j & 1) ? clip(w.load_act, fmaf(loaded[e], v[e], loaded[count + e])) : 0.f;
            }
#pragma unroll
            for (int a = 0; a <= ahead; ++a) {
              int const r = R - stride + i - stride * a;
              if (r < 0) continue;
#pragma unroll
              for (int s = 0; s < R; ++s) {
                if ((j - s) % stride || j < s || (j - s) / stride >= T) continue;
#pragma unroll
                for (int e = 0; e < V; ++e) sum[r * R + s][e] = fmaf(v[e], d[a][(j - s) / stride][e], sum[r * R + s][e]);
              }
            }
          }
          // The row depth - 1 further on; its row of dy goes behind those under way. Of the queue of dy, the front leaves with the step's last row.
          start(k + depth - 1, depth - 1, (i + depth - 1) / stride);
          rows_x.pop();
        }
        rows_y.pop();
#pragma unroll
        for (int t = 0; t < T; ++t)
#pragma unroll
          for (int e = 0; e < V; ++e)
#pragma unroll
            for (int a = 0; a < ahead; ++a) d[a][t][e] = d[a + 1][t][e];
      }
      await_row<0>();
    }
  float* const partial = w.partial + std::int64_t(blockIdx.x) * (taps + (slots && w.bias)) * w.channels;
  add_strips<V, taps>(sum, memory, w.walk, works, first_channel, w.channels, partial);
  if constexpr (slots)
    if (w.bias) add_strips<V, 1>(db, memory, w.walk, works, first_channel, w.channels, partial + std::int64_t(taps) * w.channels);
}

template <class E, int V, int R, int stride, int T, bool slots>
void launch(Work<E> const& w, cudaStream_t stream) {
  using F = Form<E, V, R, stride, T>;
  auto const kernel = filter<E, V, R, stride, T, slots>;
  std::size_t const threads = std::size_t(w.walk.threads), vectors = slots ? std::size_t(2 * w.walk.here * V + 3) / 4 * 16 : 0;
  std::size_t const shared = std::max(vectors + (F::RowsX::bytes + F::RowsY::bytes) * threads, sizeof(float) * V * threads);
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
  else p.r == 3 ? launch<E, 4, 3, 4>(w, p.stride_h, slots, stream) : launch<E, 4, 5, 2>(w, p.stride_h, slots, stream);
}

}  // namespace

void launch_filter(ConvProblem const& p, Way const& way, ConvArgs const& a, float* partial, cudaStream_t stream) {
  p.x_type == DType::bf16 ? launch<bf16>(p, way, a, partial, stream) : launch<float>(p, way, a, partial, stream);
}

}  // namespace falconet::depthwise
