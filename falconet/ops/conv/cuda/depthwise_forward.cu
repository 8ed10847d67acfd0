// Depthwise convolution forward, and its data gradient of stride 1, which is the same sum with dy for x, the filter turned round and padded by R-1-pad:
//   result(p, q) = sum over r, s of in(p * st - pad + r, q * st - pad + s) * w(r, s), every channel by itself
// A thread walks down the rows of `in`. A row serves every result row that it touches while it is in registers: with stride 1 it ends row p and is the
// last but one of row p + 1, and so on; R/st - 1 rows of results are under way. Cost: R*R multiply-adds a result; bytes: in once (its halo columns from L1,
// halo rows between bands from L2) and the result once.
#include "falconet/device/cuda/check.h"
#include "falconet/ops/conv/cuda/depthwise.cuh"

namespace falconet::depthwise {
namespace {

template <class E>
struct Work {
  Walk walk;
  E const* in = nullptr;
  E* out = nullptr;
  void const* filter = nullptr;
  bool filter_f32 = false, turned = false;
  int channels = 0, height = 0, width = 0, rows = 0, columns = 0;   // of in, of out
  int pad_top = 0, pad_left = 0;
  float const* load = nullptr;       // [2, channels] of load_x
  Bounds load_act;
  bool loads = false;
  Store<E> store;
};

template <class E, int V, int R, int stride, int T>
struct Form {
  static constexpr int ahead = (R + stride - 1) / stride - 1;   // results that are begun before one is finished
  static constexpr int in_columns = (T - 1) * stride + R, taps = R * R;
  static constexpr int depth = int(sizeof(E)) * V * in_columns > 64 ? 3 : 4;
  using Rows = Queue<E, V, in_columns, depth>;
  static __host__ __device__ int filter_floats(int here) { return (here * V * taps + 2 * vectors_size(here, V) + 3) / 4 * 4; }   // and vectors
};

// slots: any slot but squares.
template <class E, int V, int R, int stride, int T, bool slots>
__global__ void __launch_bounds__(most_threads, R == 3 ? 2 : 1) forward(const __grid_constant__ Work<E> w) {
  using F = Form<E, V, R, stride, T>;
  constexpr int ahead = F::ahead, in_columns = F::in_columns, taps = F::taps, depth = F::depth;
  extern __shared__ __align__(16) float memory[];
  int vector;
  int const strip = w.walk.by_here(threadIdx.x, vector), first_channel = blockIdx.y * w.walk.here * V, c = first_channel + vector * V, count = w.walk.here * V;
  bool const works = strip < w.walk.strips && c < w.channels;
  float* const vectors = memory + count * taps;   // of the result, then of x as it is read
  typename F::Rows rows(memory + F::filter_floats(w.walk.here));
  place_filter<E, V, taps>(memory, w.filter, w.filter_f32, w.turned, first_channel, w.walk.here, w.channels);
  if constexpr (slots) {
    place_vectors<V>(vectors, w.store.affine, w.store.bias, first_channel, w.walk.here, w.channels);
    place_vectors<V>(vectors + vectors_size(w.walk.here, V), w.load, nullptr, first_channel, w.walk.here, w.channels);
  }
  __syncthreads();
  float const *const results = vectors + vector * V, *const loaded = results + vectors_size(w.walk.here, V);
  float in_registers[R == 3 ? taps : 1][V];
  if constexpr (R == 3) {
#pragma unroll
    for (int tap = 0; tap < taps; ++tap)
#pragma unroll
      for (int e = 0; e < V; ++e) in_registers[tap][e] = memory[tap * count + vector * V + e];
  }
  float sum[2][V] = {};
  int const valid = w.store.step ? w.store.step->valid_count : 0;

  if (works)
    for (int item = blockIdx.x * w.walk.strips + strip; item < w.walk.items; item += gridDim.x * w.walk.strips) {
      Place const at = place_of<T>(w.walk, item);
      int const column = at.column * stride - w.pad_left;
      int const row_begin = max(at.begin * stride - w.pad_top, 0), row_end = min((at.end - 1) * stride - w.pad_top + R, w.height);
      E const* const in = w.in + std::int64_t(at.n) * w.height * w.width * w.channels + c;
      unsigned inside = 0, exists = 0;      // columns of the image, of the result
#pragma unroll
      for (int i = 0; i < in_columns; ++i) inside |= unsigned(column + i) < unsigned(w.width) ? 1u << i : 0u;
#pragma unroll
      for (int t = 0; t < T; ++t) exists |= at.column + t < w.columns ? 1u << t : 0u;
      bool const counts = at.n < valid;
      auto const start = [&](int h, int place) {
        bool const row = h >= row_begin && h < row_end;
        E const* const from = in + (h * w.width + column) * w.channels;
#pragma unroll
        for (int i = 0; i < in_columns; ++i) rows.start(place, i, from + i * w.channels, row && (inside >> i & 1));
        row_started();
      };
      float under_way[ahead + 1][T][V] = {};   // [0]: the row that ends with this step
      int h = (at.begin - ahead) * stride - w.pad_top + R - stride;
#pragma unroll
      for (int i = 0; i < depth - 1; ++i) start(h + i, i);
#pragma unroll 1
      for (int p = at.begin - ahead; p < at.end; ++p) {
        std::int64_t const to = ((std::int64_t(at.n) * w.rows + p) * w.columns + at.column) * w.channels + c;
        Beside<E, V, T> beside;
        if (slots && p >= at.begin) beside.load(w.store, to, w.channels, exists);
#pragma unroll
        for (int i = 0; i < stride; ++i, ++h) {
          await_row<depth - 2>();
          bool const row = h >= row_begin && h < row_end;
#pragma unroll
          for (int column_in = 0; column_in < in_columns; ++column_in) {
            float x[V];
            unpack(rows.front(column_in), x);
            if constexpr (slots) {
              if (w.loads)
#pragma unroll
                for (int e = 0; e < V; ++e)
                  x[e] = row && (inside >> column_in & 1) ? clip(w.load_act, fmaf(loaded[e], x[e], loaded[count + e])) : 0.f;
            }
#pragma unroll
            for (int j = 0; j <= ahead; ++j) {
              int const r = R - stride + i - stride * j;   // the filter row under which this row lies in result row p + j
              if (r < 0) continue;
#pragma unroll
              for (int s = 0; s < R; ++s) {
                if ((column_in - s) % stride || column_in < s || (column_in - s) / stride >= T) continue;
                constexpr bool registers = R == 3;
#pragma unroll
                for (int e = 0; e < V; ++e) {
                  float const f = registers ? in_registers[registers ? r * R + s : 0][e] : memory[(r * R + s) * count + vector * V + e];
                  float& result = under_way[j][(column_in - s) / stride][e];
                  result = fmaf(x[e], f, result);
                }
              }
            }
          }
          start(h + depth - 1, depth - 1);
          rows.pop();
        }
        if (p >= at.begin) finish<E, V, T, slots>(w.store, results, count, beside, under_way[0], w.out, to, w.channels, exists, counts, sum);
#pragma unroll
        for (int t = 0; t < T; ++t)
#pragma unroll
          for (int e = 0; e < V; ++e) {
#pragma unroll
            for (int j = 0; j < ahead; ++j) under_way[j][t][e] = under_way[j + 1][t][e];
            under_way[ahead][t][e] = 0;
          }
      }
      await_row<0>();
    }
  if (w.store.partial) add_strips<V, 2>(sum, memory, w.walk, works, first_channel, w.channels, w.store.partial + std::int64_t(blockIdx.x) * 2 * w.channels);
}

template <class E, int V, int R, int stride, int T, bool slots>
void launch(Work<E> const& w, cudaStream_t stream) {
  using F = Form<E, V, R, stride, T>;
  std::size_t const filter = sizeof(float) * std::size_t(F::filter_floats(w.walk.here));
  auto const kernel = forward<E, V, R, stride, T, slots>;
  std::size_t const shared = std::max(filter + F::Rows::bytes * std::size_t(w.walk.threads), sizeof(float) * V * std::size_t(w.walk.threads));
  static bool const allowed = (allow_shared_memory(kernel, 160 << 10), true);
  (void)allowed;
  kernel<<<dim3(unsigned(w.walk.blocks), unsigned(w.walk.groups)), w.walk.threads, shared, stream>>>(w);
}
template <class E, int V, int T>
void launch(Work<E> const& w, int side, int stride, bool slots, cudaStream_t stream) {
  if (side == 5) return stride == 1 ? launch<E, V, 5, 1, T, true>(w, stream) : launch<E, V, 5, 2, T, true>(w, stream);
  if constexpr (V > 1)
    if (!slots) return stride == 1 ? launch<E, V, 3, 1, T, false>(w, stream) : launch<E, V, 3, 2, T, false>(w, stream);
  stride == 1 ? launch<E, V, 3, 1, T, true>(w, stream) : launch<E, V, 3, 2, T, true>(w, stream);
}

template <class E>
void launch(ConvProblem const& p, Way const& way, ConvArgs const& a, float* partial, cudaStream_t stream) {
  bool const data = p.direction == Direction::bwd_data;
  Work<E> w;
  w.walk = walk_of(p, way);
  w.in = (data ? a.y : a.x).as<E>(), w.out = (data ? a.x : a.y).as<E>();
  w.filter = a.w.data, w.filter_f32 = p.w_type == DType::f32, w.turned = data;
  w.channels = p.c;
  w.height = data ? p.p() : p.h, w.width = data ? p.q() : p.w, w.rows = data ? p.h : p.p(), w.columns = data ? p.w : p.q();
  w.pad_top = data ? p.r - 1 - p.pad_top : p.pad_top, w.pad_left = data ? p.s - 1 - p.pad_left : p.pad_left;
  w.loads = p.load_x != OnLoad{}, w.load_act = bounds_of(p.load_x.act);
  if (p.load_x.affine != Affine::none) w.load = a.load_x.as<float>();
  w.store = store_of<E>(p, a, partial);
  bool const slots = has_slots(p);
  if constexpr (sizeof(E) == 2) {
    if (way.v == 4 && way.t == 7) return launch<E, 4, 3, 1, 7, false>(w, stream);
  }
  if (way.v == 4) launch<E, 4, 4>(w, p.r, p.stride_h, slots, stream);
  else launch<E, 1, 4>(w, p.r, p.stride_h, slots, stream);
}

}  // namespace

void launch_forward(ConvProblem const& p, Way const& way, ConvArgs const& a, float* partial, cudaStream_t stream) {
  p.x_type == DType::bf16 ? launch<bf16>(p, way, a, partial, stream) : launch<float>(p, way, a, partial, stream);
}

}  // namespace falconet::depthwise
