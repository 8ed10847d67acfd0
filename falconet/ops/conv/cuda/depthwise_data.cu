// Data gradient of depthwise convolutions with stride 2, without inserted zeros:
//   dx(u * st - pad + i) = sum over j of dy(u - j) * w(i + st * j),   i = 0 .. st-1, along rows and columns alike
// A place u of the stride's grid holds st x st pixels of dx, each with its own taps (4, 2, 2 and 1 of a 3x3 filter). A thread walks down the rows of dy; a
// row of dy adds to R rows of dx, the first st of which it ends. Cost: R*R/(st*st) multiply-adds a pixel of dx; bytes: dy once and dx once.
#include "falconet/device/cuda/check.h"
#include "falconet/ops/conv/cuda/depthwise.cuh"

namespace falconet::depthwise {
namespace {

template <class E>
struct Work {
  Walk walk;                         // over places u; first_row and first_column may be positive
  E const* dy = nullptr;
  E* dx = nullptr;
  void const* filter = nullptr;
  bool filter_f32 = false;
  int channels = 0, rows = 0, columns = 0, height = 0, width = 0;   // of dy, of dx
  int pad_top = 0, pad_left = 0;
  Store<E> store;
};

template <class E, int V, int R, int T>
struct Form {
  static constexpr int stride = 2, behind = (R + stride - 1) / stride - 1;   // places before u whose dy reaches the pixels of u
  static constexpr int in_columns = T + behind, taps = R * R, depth = 4;
  using Rows = Queue<E, V, in_columns, depth>;
  static __host__ __device__ int filter_floats(int here) { return (here * V * taps + vectors_size(here, V) + 3) / 4 * 4; }
};

// slots: any slot but squares.
template <class E, int V, int R, int T, bool slots>
__global__ void __launch_bounds__(most_threads, R == 3 ? 2 : 1) data(const __grid_constant__ Work<E> w) {
  using F = Form<E, V, R, T>;
  constexpr int stride = F::stride, behind = F::behind, in_columns = F::in_columns, taps = F::taps, depth = F::depth, across = stride * T;
  extern __shared__ __align__(16) float memory[];
  int vector;
  int const strip = w.walk.by_here(threadIdx.x, vector), first_channel = blockIdx.y * w.walk.here * V, c = first_channel + vector * V, count = w.walk.here * V;
  bool const works = strip < w.walk.strips && c < w.channels;
  float* const vectors = memory + count * taps;
  typename F::Rows rows(memory + F::filter_floats(w.walk.here));
  place_filter<E, V, taps>(memory, w.filter, w.filter_f32, false, first_channel, w.walk.here, w.channels);
  if constexpr (slots) place_vectors<V>(vectors, w.store.affine, w.store.bias, first_channel, w.walk.here, w.channels);
  __syncthreads();
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
      int const q = at.column - behind, column = at.column * stride - w.pad_left;   // first columns of dy and dx
      int const row_begin = max(at.begin - behind, 0), row_end = min(at.end, w.rows);
      E const* const dy = w.dy + std::int64_t(at.n) * w.rows * w.columns * w.channels + c;
      unsigned inside = 0, exists = 0;      // columns of dy, of dx
#pragma unroll
      for (int i = 0; i < in_columns; ++i) inside |= unsigned(q + i) < unsigned(w.columns) ? 1u << i : 0u;
#pragma unroll
      for (int i = 0; i < across; ++i) exists |= unsigned(column + i) < unsigned(w.width) ? 1u << i : 0u;
      bool const counts = at.n < valid;
      auto const start = [&](int p, int place) {
        bool const row = p >= row_begin && p < row_end;
        E const* const from = dy + (p * w.columns + q) * w.channels;
#pragma unroll
        for (int i = 0; i < in_columns; ++i) rows.start(place, i, from + i * w.channels, row && (inside >> i & 1));
        row_started();
      };
      float under_way[R][across][V] = {};   // rows of dx from the first of place u on
#pragma unroll
      for (int i = 0; i < depth - 1; ++i) start(at.begin - behind + i, i);
#pragma unroll 1
      for (int u = at.begin - behind; u < at.end; ++u) {
        await_row<depth - 2>();
#pragma unroll
        for (int j = 0; j < in_columns; ++j) {
          float d[V];
          unpack(rows.front(j), d);
#pragma unroll
          for (int s = 0; s < R; ++s) {
            int const i = stride * (j - behind) + s;   // the column of dx
            if (i < 0 || i >= across) continue;
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
              for (int e = 0; e < V; ++e) {
                constexpr bool registers = R == 3;
                float const f = registers ? in_registers[registers ? r * R + s : 0][e] : memory[(r * R + s) * count + vector * V + e];
                under_way[r][i][e] = fmaf(d[e], f, under_way[r][i][e]);
              }
          }
        }
        start(u + depth - 1, depth - 1);
        rows.pop();
        if (u >= at.begin)
#pragma unroll
          for (int i = 0; i < stride; ++i) {
            int const h = u * stride - w.pad_top + i;
            if (h < 0 || h >= w.height) continue;
            std::int64_t const to = ((std::int64_t(at.n) * w.height + h) * w.width + column) * w.channels + c;
            Beside<E, V, across> beside;
            if constexpr (slots) beside.load(w.store, to, w.channels, exists);
            finish<E, V, across, slots>(w.store, vectors + vector * V, count, beside, under_way[i], w.dx, to, w.channels, exists, counts, sum);
          }
#pragma unroll
        for (int i = 0; i < across; ++i)
#pragma unroll
          for (int e = 0; e < V; ++e)
#pragma unroll
            for (int r = 0; r < R; ++r) under_way[r][i][e] = r + stride < R ? under_way[r + stride < R ? r + stride : 0][i][e] : 0.f;
      }
      await_row<0>();
    }
  if (w.store.partial) add_strips<V, 2>(sum, memory, w.walk, works, first_channel, w.channels, w.store.partial + std::int64_t(blockIdx.x) * 2 * w.channels);
}

template <class E, int V, int R, int T, bool slots>
void launch(Work<E> const& w, cudaStream_t stream) {
  using F = Form<E, V, R, T>;
  auto const kernel = data<E, V, R, T, slots>;
  std::size_t const threads = std::size_t(w.walk.threads);
  std::size_t const shared = std::max(sizeof(float) * std::size_t(F::filter_floats(w.walk.here)) + F::Rows::bytes * threads, sizeof(float) * V * threads);
  static bool const allowed = (allow_shared_memory(kernel, 160 << 10), true);
  (void)allowed;
  kernel<<<dim3(unsigned(w.walk.blocks), unsigned(w.walk.groups)), w.walk.threads, shared, stream>>>(w);
}

template <class E>
void launch(ConvProblem const& p, Way const& way, ConvArgs const& a, float* partial, cudaStream_t stream) {
  Work<E> w;
  w.walk = walk_of(p, way);
  w.dy = a.y.as<E>(), w.dx = a.x.as<E>();
  w.filter = a.w.data, w.filter_f32 = p.w_type == DType::f32;
  w.channels = p.c, w.rows = p.p(), w.columns = p.q(), w.height = p.h, w.width = p.w;
  w.pad_top = p.pad_top, w.pad_left = p.pad_left;
  w.store = store_of<E>(p, a, partial);
  bool const slots = has_slots(p);
  if (way.v == 1) return p.r == 3 ? launch<E, 1, 3, 2, true>(w, stream) : launch<E, 1, 5, 2, true>(w, stream);
  if (p.r == 5) return launch<E, 4, 5, 2, true>(w, stream);
  if (way.t == 4) return slots ? launch<E, 4, 3, 4, true>(w, stream) : launch<E, 4, 3, 4, false>(w, stream);
  slots ? launch<E, 4, 3, 2, true>(w, stream) : launch<E, 4, 3, 2, false>(w, stream);
}

}  // namespace

void launch_data(ConvProblem const& p, Way const& way, ConvArgs const& a, float* partial, cudaStream_t stream) {
  p.x_type == DType::bf16 ? launch<bf16>(p, way, a, partial, stream) : launch<float>(p, way, a, partial, stream);
}

}  // namespace falconet::depthwise
