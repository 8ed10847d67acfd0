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
struct Shape {
  static constexpr int stride = 2, behind = (R + stride - 1) / stride - 1;   // places before u whose dy reaches the pixels of u
  static constexpr int in_columns = T + behind, taps = R * R, depth = 4;
  using Rows = Queue<E, V, in_columns, depth>;
  static __host__ __device__ int filter_floats(int here) { return (here * V * taps + vectors_size(here, V) + 3) / 4 * 4; }
};

template <class E, int V, int R, int T, Form form>
__global__ void __launch_bounds__(most_threads, R == 3 ? 2 : 1) data(const __grid_constant__ Work<E> w) {
  using F = Shape<E, V, R, T>;
  constexpr int stride = F::stride, behind = F::behind, in_columns = F::in_columns, taps = F::taps, depth = F::depth, across = stride * T;
  constexpr bool slots = form == Form::slots, registers = R == 3;
  extern __shared__ __align__(16) float memory[];
  int vector;
  int const strip = w.walk.by_here(threadIdx.x, vector), first_channel = blockIdx.y * w.walk.here * V, c = first_channel + vector * V, count = w.walk.here * V;
  bool const works = strip < w.walk.strips && c < w.channels;
  float* const vectors = memory + count * taps;
  typename F::Rows rows(memory + F::filter_floats(w.walk.here));

  Place at{};
  E const* next = nullptr;             // of the row that is started next, its first column
  int rows_left = 0;                   // to be started
  int row_begin = 0, row_end = 0;      // rows of dy that the strip reads
  unsigned inside = 0, exists = 0;     // columns of dy, of dx
  auto const start = [&] {
    if (rows_left > 0) {
#pragma unroll
      for (int i = 0; i < in_columns; ++i)
        if (inside >> i & 1) rows.start(i, next + i * w.channels);
      next += std::int64_t(w.columns) * w.channels, --rows_left;
    }
    rows.push();
    entry_started();
  };
  auto const begin = [&](int item) {
    at = place_of<T>(w.walk, item);
    int const q = at.column - behind, column = at.column * stride - w.pad_left;   // first columns of dy and dx
    row_begin = max(at.begin - behind, 0), row_end = min(at.end, w.rows);
    rows_left = row_end - row_begin;
    next = w.dy + std::int64_t(at.n) * w.rows * w.columns * w.channels + c + (std::int64_t(row_begin) * w.columns + q) * w.channels;
    inside = exists = 0;
#pragma unroll
    for (int i = 0; i < in_columns; ++i)
      if (unsigned(q + i) < unsigned(w.columns)) inside |= 1u << i;
      else rows.zero(i);
#pragma unroll
    for (int i = 0; i < across; ++i) exists |= unsigned(column + i) < unsigned(w.width) ? 1u << i : 0u;
    rows.restart();
#pragma unroll 1
    for (int i = 0; i < depth - 1; ++i) start();
  };
  int item = blockIdx.x * w.walk.strips + strip;
  bool const any = works && item < w.walk.items;
  if (any) begin(item);                // the first rows are on their way while the filter is placed

  place_filter<E, V, taps>(memory, w.filter, w.filter_f32, false, first_channel, w.walk.here, w.channels);
  if constexpr (slots) place_vectors<V>(vectors, w.store.affine, w.store.bias, first_channel, w.walk.here, w.channels);
  __syncthreads();
  float filter[registers ? taps : 1][V];
  if constexpr (registers) {
#pragma unroll
    for (int tap = 0; tap < taps; ++tap)
#pragma unroll
      for (int e = 0; e < V; ++e) filter[tap][e] = memory[tap * count + vector * V + e];
  }
  float sum[2][V] = {};
  int const valid = w.store.step ? w.store.step->valid_count : 0;

  if (any)
    while (true) {
      bool const counts = at.n < valid;
      constexpr int kept = stride * (behind + 1);
      float under_way[kept][across][V] = {};   // row st * u + r is at (st * u + r) % kept, counted from the first u: nothing is moved
      int h = (at.begin - behind) * stride - w.pad_top;
      std::int64_t const row_step = std::int64_t(w.width) * w.channels;
      std::int64_t to = (std::int64_t(at.n) * w.height + h) * row_step + std::int64_t(at.column * stride - w.pad_left) * w.channels + c;
#pragma unroll 1
      for (int u = at.begin - behind; u < at.end;) {
#pragma unroll
        for (int phase = 0; phase <= behind; ++phase, ++u, h += stride, to += stride * row_step) {
          if (u >= at.end) break;
          Beside<E, V, across> beside[stride];
          if (slots && u >= at.begin)
#pragma unroll
            for (int i = 0; i < stride; ++i)
              if (unsigned(h + i) < unsigned(w.height)) beside[i].load(w.store, to + i * row_step, w.channels, exists);
          if (u >= row_begin && u < row_end) {
            await_entry<depth - 2>();
            float d[in_columns][V];
#pragma unroll
            for (int j = 0; j < in_columns; ++j) unpack<E, V>(rows.oldest(j), d[j]);
            rows.pop();
            start();
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
              for (int s = 0; s < R; ++s)
#pragma unroll
                for (int e = 0; e < V; ++e) {
                  float const f = registers ? filter[registers ? r * R + s : 0][e] : memory[(r * R + s) * count + vector * V + e];
#pragma unroll
                  for (int j = 0; j < in_columns; ++j) {
                    int const i = stride * (j - behind) + s, row = (stride * phase + r) % kept;   // i: the column of dx
                    if (i >= 0 && i < across) under_way[row][i][e] = fmaf(d[j][e], f, under_way[row][i][e]);
                  }
                }
          }
#pragma unroll
          for (int i = 0; i < stride; ++i) {
            int const row = (stride * phase + i) % kept;
            if (u >= at.begin && unsigned(h + i) < unsigned(w.height))
              finish<E, V, across, form>(w.store, vectors + vector * V, count, beside[i], under_way[row], w.dx, to + i * row_step, w.channels, exists, counts, sum);
#pragma unroll
            for (int j = 0; j < across; ++j)
#pragma unroll
              for (int e = 0; e < V; ++e) under_way[row][j][e] = 0;
          }
        }
      }
      await_entry<0>();
      item += gridDim.x * w.walk.strips;
      if (item >= w.walk.items) break;
      begin(item);
    }
  if (form != Form::plain && w.store.partial)
    add_strips<V, 2>(sum, memory, w.walk, works, first_channel, w.channels, w.store.partial + std::int64_t(blockIdx.x) * 2 * w.channels);
}

template <class E, int V, int R, int T, Form form>
void launch(Work<E> const& w, cudaStream_t stream) {
  using F = Shape<E, V, R, T>;
  auto const kernel = data<E, V, R, T, form>;
  std::size_t const shared = sizeof(float) * std::size_t(F::filter_floats(w.walk.here)) + F::Rows::bytes;
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
  bool const slots = form_of(p) != Form::plain;
  if (way.v == 1) return p.r == 3 ? launch<E, 1, 3, 2, Form::slots>(w, stream) : launch<E, 1, 5, 2, Form::slots>(w, stream);
  if (p.r == 5) return launch<E, 4, 5, 2, Form::slots>(w, stream);
  slots ? launch<E, 4, 3, 2, Form::slots>(w, stream) : launch<E, 4, 3, 2, Form::plain>(w, stream);
}

}  // namespace

void launch_data(ConvProblem const& p, Way const& way, ConvArgs const& a, float* partial, cudaStream_t stream) {
  p.x_type == DType::bf16 ? launch<bf16>(p, way, a, partial, stream) : launch<float>(p, way, a, partial, stream);
}

}  // namespace falconet::depthwise
