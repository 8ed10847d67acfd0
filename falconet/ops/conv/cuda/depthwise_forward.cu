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
struct Shape {
  static constexpr int ahead = (R + stride - 1) / stride - 1;   // results that are begun before one is finished
  static constexpr int in_columns = (T - 1) * stride + R, taps = R * R;
  static constexpr int depth = int(sizeof(E)) * V * in_columns > 64 ? 3 : 4;
  using Rows = Queue<E, V, in_columns, depth>;
  static __host__ __device__ int filter_floats(int here) { return (here * V * taps + 2 * vectors_size(here, V) + 3) / 4 * 4; }   // and vectors
};

template <class E, int V, int R, int stride, int T, Form form>
__global__ void __launch_bounds__(most_threads, R == 3 ? 2 : 1) forward(const __grid_constant__ Work<E> w) {
  using F = Shape<E, V, R, stride, T>;
  constexpr int ahead = F::ahead, in_columns = F::in_columns, taps = F::taps, depth = F::depth;
  constexpr bool slots = form == Form::slots, registers = R == 3;
  extern __shared__ __align__(16) float memory[];
  int vector;
  int const strip = w.walk.by_here(threadIdx.x, vector), first_channel = blockIdx.y * w.walk.here * V, c = first_channel + vector * V, count = w.walk.here * V;
  bool const works = strip < w.walk.strips && c < w.channels;
  float* const vectors = memory + count * taps;   // of the result, then of x as it is read
  typename F::Rows rows(memory + F::filter_floats(w.walk.here));
  float const *const results = vectors + vector * V, *const loaded = results + vectors_size(w.walk.here, V);

  Place at{};
  E const* next = nullptr;             // of the row that is started next, its first column
  int rows_left = 0;                   // to be started
  int row_begin = 0, row_end = 0;      // rows of the image that the strip reads
  unsigned inside = 0, exists = 0;     // columns of the image, of the result
  auto const start = [&] {
    if (rows_left > 0) {
#pragma unroll
      for (int i = 0; i < in_columns; ++i)
        if (inside >> i & 1) rows.start(i, next + i * w.channels);
      next += std::int64_t(w.width) * w.channels, --rows_left;
    }
    rows.push();
    entry_started();
  };
  auto const begin = [&](int item) {
    at = place_of<T>(w.walk, item);
    int const column = at.column * stride - w.pad_left;
    row_begin = max(at.begin * stride - w.pad_top, 0), row_end = min((at.end - 1) * stride - w.pad_top + R, w.height);
    rows_left = row_end - row_begin;
    next = w.in + std::int64_t(at.n) * w.height * w.width * w.channels + c + (std::int64_t(row_begin) * w.width + column) * w.channels;
    inside = exists = 0;
#pragma unroll
    for (int i = 0; i < in_columns; ++i)
      if (unsigned(column + i) < unsigned(w.width)) inside |= 1u << i;
      else rows.zero(i);
#pragma unroll
    for (int t = 0; t < T; ++t) exists |= at.column + t < w.columns ? 1u << t : 0u;
    rows.restart();
#pragma unroll 1
    for (int i = 0; i < depth - 1; ++i) start();
  };
  int item = blockIdx.x * w.walk.strips + strip;
  bool const any = works && item < w.walk.items;
  if (any) begin(item);                // the first rows are on their way while the filter is placed

  place_filter<E, V, taps>(memory, w.filter, w.filter_f32, w.turned, first_channel, w.walk.here, w.channels);
  if constexpr (slots) {
    place_vectors<V>(vectors, w.store.affine, w.store.bias, first_channel, w.walk.here, w.channels);
    place_vectors<V>(vectors + vectors_size(w.walk.here, V), w.load, nullptr, first_channel, w.walk.here, w.channels);
  }
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
      float under_way[ahead + 1][T][V] = {};   // row p + j of the results is at (p + j) % (ahead + 1), counted from the first p: nothing is moved
      int h = (at.begin - ahead) * stride - w.pad_top + R - stride;
      std::int64_t to = ((std::int64_t(at.n) * w.rows + at.begin) * w.columns + at.column) * w.channels + c;
#pragma unroll 1
      for (int p = at.begin - ahead; p < at.end;) {
#pragma unroll
        for (int phase = 0; phase <= ahead; ++phase, ++p) {
          if (p >= at.end) break;
          Beside<E, V, T> beside;
          if (slots && p >= at.begin) beside.load(w.store, to, w.channels, exists);
#pragma unroll
          for (int i = 0; i < stride; ++i, ++h) {
            if (h < row_begin || h >= row_end) continue;
            await_entry<depth - 2>();
            float x[in_columns][V];
#pragma unroll
            for (int j = 0; j < in_columns; ++j) unpack<E, V>(rows.oldest(j), x[j]);
            rows.pop();
            start();
            if constexpr (slots) {
              if (w.loads)
#pragma unroll
                for (int j = 0; j < in_columns; ++j)
#pragma unroll
                  for (int e = 0; e < V; ++e) x[j][e] = inside >> j & 1 ? clip(w.load_act, fmaf(loaded[e], x[j][e], loaded[count + e])) : 0.f;
            }
#pragma unroll
            for (int j = 0; j <= ahead; ++j) {
              int const r = R - stride + i - stride * j, row = (phase + j) % (ahead + 1);   // r: the filter row under which this row lies in result p + j
              if (r < 0) continue;
#pragma unroll
              for (int s = 0; s < R; ++s)
#pragma unroll
                for (int e = 0; e < V; ++e) {
                  float const f = registers ? filter[registers ? r * R + s : 0][e] : memory[(r * R + s) * count + vector * V + e];
#pragma unroll
                  for (int t = 0; t < T; ++t) under_way[row][t][e] = fmaf(x[t * stride + s][e], f, under_way[row][t][e]);
                }
            }
          }
          if (p >= at.begin) {
            finish<E, V, T, form>(w.store, results, count, beside, under_way[phase], w.out, to, w.channels, exists, counts, sum);
            to += std::int64_t(w.columns) * w.channels;
          }
#pragma unroll
          for (int t = 0; t < T; ++t)
#pragma unroll
            for (int e = 0; e < V; ++e) under_way[phase][t][e] = 0;
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

template <class E, int V, int R, int stride, int T, Form form>
void launch(Work<E> const& w, cudaStream_t stream) {
  using F = Shape<E, V, R, stride, T>;
  auto const kernel = forward<E, V, R, stride, T, form>;
  std::size_t const shared = sizeof(float) * std::size_t(F::filter_floats(w.walk.here)) + F::Rows::bytes;
  static bool const allowed = (allow_shared_memory(kernel, 160 << 10), true);
  (void)allowed;
  kernel<<<dim3(unsigned(w.walk.blocks), unsigned(w.walk.groups)), w.walk.threads, shared, stream>>>(w);
}
template <class E, int V, int R, int T, Form form>
void launch(Work<E> const& w, int stride, cudaStream_t stream) {
  stride == 1 ? launch<E, V, R, 1, T, form>(w, stream) : launch<E, V, R, 2, T, form>(w, stream);
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
  int const stride = p.stride_h;
  Form const form = form_of(p);
  if (way.v == 1) return p.r == 3 ? launch<E, 1, 3, 4, Form::slots>(w, stride, stream) : launch<E, 1, 5, 4, Form::slots>(w, stride, stream);
  if (p.r == 5) return launch<E, 4, 5, 4, Form::slots>(w, stride, stream);
  if constexpr (sizeof(E) == 2)
    if (way.t == 7) return form == Form::plain ? launch<E, 4, 3, 1, 7, Form::plain>(w, stream) : launch<E, 4, 3, 1, 7, Form::squares>(w, stream);
  if (form == Form::plain) launch<E, 4, 3, 4, Form::plain>(w, stride, stream);
  else form == Form::squares ? launch<E, 4, 3, 4, Form::squares>(w, stride, stream) : launch<E, 4, 3, 4, Form::slots>(w, stride, stream);
}

}  // namespace

void launch_forward(ConvProblem const& p, Way const& way, ConvArgs const& a, float* partial, cudaStream_t stream) {
  p.x_type == DType::bf16 ? launch<bf16>(p, way, a, partial, stream) : launch<float>(p, way, a, partial, stream);
}

}  // namespace falconet::depthwise
