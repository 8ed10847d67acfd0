// What the depthwise kernels share: how a launch cuts its rows and columns into strips, how a thread reads and writes a vector of channels, the
// filter in shared memory, and the fixed order in which blocks' sums are added.
//
// Channels lie side by side and never meet, so a thread owns V of them (16 or 8 bytes) and nothing is shared but the filter. It takes a strip of T
// neighbouring columns and walks down a band of rows: every row it reads is used for all results that it touches while it is in registers, and the
// next row is on its way meanwhile. A block is `here` vectors of channels by as many strips as fit; strips follow one another along a row, then down,
// then through the batch, so that halos come from the caches.
#pragma once
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/element.cuh"
#include "falconet/device/cuda/ptx.cuh"
#include "falconet/ops/conv/problem.h"

namespace falconet::depthwise {

constexpr int most_threads = 192;

// Rows and columns of whatever a launch walks over: results forward, places of the stride's grid in a strided data gradient, dy in the filter gradient.
struct Walk {
  int vectors = 0, here = 0, groups = 1;              // vectors of channels: in all, of a block, and blocks that share them out (gridDim.y)
  int strips = 0;                                     // of a block
  int first_row = 0, rows = 0, first_column = 0, columns = 0;
  int band = 0, bands = 0, across = 0, items = 0;     // rows of a band; bands of an image, strips of a row, strips in all
  int threads = 0, blocks = 0;                        // gridDim.x
  FastDivide by_here, by_across, by_bands;
};

inline Walk walk_of(int n, int channels, int v, int t, int first_row, int rows, int first_column, int columns, int band, int most_blocks) {
  Walk w;
  w.vectors = (channels + v - 1) / v;
  w.groups = (w.vectors + 63) / 64;
  w.here = (w.vectors + w.groups - 1) / w.groups;
  w.strips = most_threads / w.here;
  w.first_row = first_row, w.rows = rows, w.first_column = first_column, w.columns = columns;
  w.bands = (rows + band - 1) / band;
  w.band = (rows + w.bands - 1) / w.bands;
  w.across = (columns + t - 1) / t;
  w.items = n * w.bands * w.across;
  w.threads = (w.here * w.strips + 31) / 32 * 32;
  int const turns = (w.items + w.strips - 1) / w.strips, most = std::max(1, most_blocks / w.groups), each = turns / most + (turns % most > 0);
  w.blocks = (turns + each - 1) / each;
  w.by_here = FastDivide(w.here), w.by_across = FastDivide(w.across), w.by_bands = FastDivide(w.bands);
  return w;
}

struct Place {  // of a strip: its image, its rows [begin, end) and its first column
  int n, begin, end, column;
};
template <int T>
FALCONET_DEVICE Place place_of(Walk const& w, int item) {
  int strip, band;
  int const n = w.by_bands(w.by_across(item, strip), band), begin = w.first_row + band * w.band;
  return {n, begin, min(begin + w.band, w.first_row + w.rows), w.first_column + strip * T};
}

// V neighbouring elements as one register or several: structures of 16-bit members come apart into 16-bit accesses.
template <int bytes>
struct RawOf;
template <>
struct RawOf<2> { using type = std::uint16_t; };
template <>
struct RawOf<4> { using type = std::uint32_t; };
template <>
struct RawOf<8> { using type = uint2; };
template <>
struct RawOf<16> { using type = uint4; };
template <class E, int V>
using Raw = typename RawOf<sizeof(E) * V>::type;

template <class E, int V>
FALCONET_DEVICE void unpack(Raw<E, V> raw, float (&to)[V]) {
  if constexpr (sizeof(E) == 2 && V == 4) {
    to[0] = ptx::low_bf16(raw.x), to[1] = ptx::high_bf16(raw.x), to[2] = ptx::low_bf16(raw.y), to[3] = ptx::high_bf16(raw.y);
  } else if constexpr (sizeof(E) == 4 && V == 4) {
    to[0] = __uint_as_float(raw.x), to[1] = __uint_as_float(raw.y), to[2] = __uint_as_float(raw.z), to[3] = __uint_as_float(raw.w);
  } else {
    static_assert(V == 1);
    to[0] = __uint_as_float(sizeof(E) == 2 ? std::uint32_t(raw) << 16 : std::uint32_t(raw));
  }
}
// Rounds v to the element type, in place too.
template <class E, int V>
FALCONET_DEVICE Raw<E, V> rounded(float (&v)[V]) {
  Raw<E, V> raw;
  if constexpr (sizeof(E) == 2 && V == 4) {
    raw.x = ptx::pack_bf16(v[0], v[1]), raw.y = ptx::pack_bf16(v[2], v[3]);
    unpack<E, V>(raw, v);
  } else if constexpr (sizeof(E) == 4 && V == 4) {
    raw.x = __float_as_uint(v[0]), raw.y = __float_as_uint(v[1]), raw.z = __float_as_uint(v[2]), raw.w = __float_as_uint(v[3]);
  } else if constexpr (sizeof(E) == 2) {
    raw = std::uint16_t(ptx::pack_bf16(v[0], 0.f));
    unpack<E, V>(raw, v);
  } else {
    raw = __float_as_uint(v[0]);
  }
  return raw;
}

// Vectors on their way from global memory: a queue of `depth` entries of `columns` vectors, in shared memory but each thread's own, so that it needs no
// barrier and no registers; enough bytes are under way however few threads a multiprocessor holds. What does not exist is never copied: columns outside
// the image are zeroed once, rows outside are not entered.
template <class E, int V, int columns, int depth>
struct Queue {
  using P = Raw<E, V>;
  static constexpr int entry = columns * most_threads;
  static constexpr std::size_t bytes = sizeof(P) * entry * depth;
  P* mine;
  int front = 0, back = 0;
  FALCONET_DEVICE explicit Queue(void* memory) : mine(static_cast<P*>(memory) + threadIdx.x) {}
  FALCONET_DEVICE void restart() { front = back = 0; }
  FALCONET_DEVICE P oldest(int column) const { return mine[front + column * most_threads]; }
  FALCONET_DEVICE void pop() { front = front + entry == entry * depth ? 0 : front + entry; }
  FALCONET_DEVICE void push() { back = back + entry == entry * depth ? 0 : back + entry; }
  // Starts a copy into the entry that push() will end.
  FALCONET_DEVICE void start(int column, E const* from) const {
    P* const to = mine + back + column * most_threads;
    if constexpr (sizeof(P) >= 4)
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(std::uint32_t(__cvta_generic_to_shared(to))), "l"(from), "n"(int(sizeof(P))) : "memory");
    else
      *to = *reinterpret_cast<P const*>(from);
  }
  FALCONET_DEVICE void zero(int column) const {
#pragma unroll
    for (int d = 0; d < depth; ++d) mine[d * entry + column * most_threads] = P{};
  }
};
FALCONET_DEVICE void entry_started() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All entries but the youngest `others` are there.
template <int others>
FALCONET_DEVICE void await_entry() { asm volatile("cp.async.wait_group %0;" ::"n"(others) : "memory"); }

// none, relu and relu6 as bounds; a NaN stays visible.
struct Bounds {
  float least = -HUGE_VALF, most = HUGE_VALF;
};
inline Bounds bounds_of(Activation a) { return {a == Activation::none ? -HUGE_VALF : 0.f, a == Activation::relu6 ? 6.f : HUGE_VALF}; }
FALCONET_DEVICE float clip(Bounds b, float v) { return v < b.least ? b.least : v > b.most ? b.most : v; }

// The filter of a block's channels in shared memory: [tap][here * V], in f32, an f32 filter beside bf16 images rounded first; turned round (tap 0
// last) for the data gradient. Its end needs a barrier.
template <class E, int V, int taps>
FALCONET_DEVICE void place_filter(float* to, void const* filter, bool filter_f32, bool turned, int first_channel, int here, int channels) {
  int const count = here * V, all = count * taps;
  for (int i = threadIdx.x; i < all; i += blockDim.x) {
    int const c = i / taps, tap = i - c * taps;
    std::int64_t const at = std::int64_t(first_channel) * taps + i;
    float value = 0;
    if (first_channel + c < channels) {
      if (filter_f32) {
        value = static_cast<float const*>(filter)[at];
        if constexpr (sizeof(E) == 2) value = to_float(to_bf16(value));
      } else {
        value = load(static_cast<E const*>(filter)[at]);
      }
    }
    to[(turned ? taps - 1 - tap : tap) * count + c] = value;
  }
}

// Adds the strips' sums of a block: `sets` values of each of the here * V channels, strip after strip. partial[set][channels]. memory: threads * V floats.
template <int V, int sets>
FALCONET_DEVICE void add_strips(float (&sum)[sets][V], float* memory, Walk const& w, bool works, int first_channel, int channels, float* partial) {
  int const count = w.here * V;
#pragma unroll
  for (int set = 0; set < sets; ++set) {
    __syncthreads();
    if (works)
#pragma unroll
      for (int e = 0; e < V; ++e) memory[threadIdx.x * V + e] = sum[set][e];   // [strip][here][V]
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      float total = 0;
      for (int s = 0; s < w.strips; ++s) total += memory[s * count + i];
      if (first_channel + i < channels) partial[std::int64_t(set) * channels + first_channel + i] = total;
    }
  }
}

// The slots of a result, in their order; what is null is not there.
template <class E>
struct Store {
  E const *residual = nullptr, *mask = nullptr, *other = nullptr;   // other: what the sums are taken with
  float const *affine = nullptr, *bias = nullptr;
  Bounds act;
  bool clips = false;
  float mask_most = HUGE_VALF;       // the mask lets pass what lies between 0 and this
  StepState const* step = nullptr;   // with sums
  bool squares = false;
  float* partial = nullptr;          // [blocks][2][channels]
};

// Scale and shift of a block's channels in shared memory, [2][here * V]: an affine [2, channels] or nothing, and a bias or nothing on top. Its end needs a
// barrier.
inline __host__ __device__ int vectors_size(int here, int v) { return 2 * here * v; }
template <int V>
FALCONET_DEVICE void place_vectors(float* to, float const* affine, float const* bias, int first_channel, int here, int channels) {
  int const count = here * V;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    int const c = min(first_channel + i, channels - 1);
    to[i] = affine ? affine[c] : 1.f;
    to[count + i] = (affine ? affine[channels + c] : 0.f) + (bias ? bias[c] : 0.f);
  }
}

// What a launch does to its results: nothing, sums of squares, or any slots.
enum class Form { plain, squares, slots };

// What else is read for T neighbouring results, loaded before they are computed.
template <class E, int V, int T>
struct Beside {
  Raw<E, V> residual[T], mask[T], other[T];
  FALCONET_DEVICE void load(Store<E> const& s, std::int64_t at, int step, unsigned exists) {
    if (s.residual) load_from(residual, s.residual + at, step, exists);
    if (s.mask) load_from(mask, s.mask + at, step, exists);
    if (s.other) load_from(other, s.other + at, step, exists);
  }
  static FALCONET_DEVICE void load_from(Raw<E, V> (&to)[T], E const* from, int step, unsigned exists) {
#pragma unroll
    for (int t = 0; t < T; ++t)
      if (exists >> t & 1) to[t] = *reinterpret_cast<Raw<E, V> const*>(from + t * step);
  }
};

// vectors: this thread's of place_vectors, `count` apart. Finishes V channels of T results, `step` elements apart from `at` on, and writes those that
// exist. sum: of Stats.
template <class E, int V, int T, Form form>
FALCONET_DEVICE void finish(Store<E> const& s, float const* vectors, int count, Beside<E, V, T> const& beside, float (&results)[T][V], E* to, std::int64_t at, int step,
                            unsigned exists, bool counts, float (&sum)[2][V]) {
  constexpr unsigned all = (1u << T) - 1;
  auto const each = [&](auto change) {   // of every result; what is asked is asked once
#pragma unroll
    for (int t = 0; t < T; ++t)
#pragma unroll
      for (int e = 0; e < V; ++e) results[t][e] = change(results[t][e], t, e);
  };
  auto const beside_it = [](Raw<E, V> const (&tensor)[T], int t, int e) {
    float v[V];
    unpack<E, V>(tensor[t], v);
    return v[e];
  };
  if constexpr (form == Form::slots) {
    if (s.affine || s.bias) each([&](float v, int, int e) { return fmaf(vectors[e], v, vectors[count + e]); });
    if (s.residual) each([&](float v, int t, int e) { return v + beside_it(beside.residual, t, e); });
    if (s.clips) each([&](float v, int, int) { return clip(s.act, v); });
    if (s.mask) each([&](float v, int t, int e) {
      float const m = beside_it(beside.mask, t, e);
      return m > 0 && m < s.mask_most ? v : 0.f;
    });
  }
  Raw<E, V> stored[T];
#pragma unroll
  for (int t = 0; t < T; ++t) stored[t] = rounded<E, V>(results[t]);
  if (exists == all) {
#pragma unroll
    for (int t = 0; t < T; ++t) *reinterpret_cast<Raw<E, V>*>(to + at + t * step) = stored[t];
  } else {
#pragma unroll
    for (int t = 0; t < T; ++t)
      if (exists >> t & 1) *reinterpret_cast<Raw<E, V>*>(to + at + t * step) = stored[t];
  }
  if constexpr (form != Form::plain) {
    if (!counts) return;
#pragma unroll
    for (int t = 0; t < T; ++t) {
      float(&v)[V] = results[t];
      if (exists != all && !(exists >> t & 1)) continue;
      if (form == Form::squares || s.squares) {
#pragma unroll
        for (int e = 0; e < V; ++e) sum[0][e] += v[e], sum[1][e] = fmaf(v[e], v[e], sum[1][e]);
      } else {
        float o[V];
        unpack<E, V>(beside.other[t], o);
#pragma unroll
        for (int e = 0; e < V; ++e) sum[0][e] = fmaf(v[e], o[e], sum[0][e]), sum[1][e] += v[e];
      }
    }
  }
}

// ---------------------------------------------------------------- what the files offer each other

struct Way {
  int v, t, band;   // channels and columns of a thread, rows of a band
};
// Forward, and the data gradient of stride 1 (the same sum over dy with the filter turned round).
void launch_forward(ConvProblem const&, Way const&, ConvArgs const&, float* partial, cudaStream_t);
// Data gradient of stride 2.
void launch_data(ConvProblem const&, Way const&, ConvArgs const&, float* partial, cudaStream_t);
void launch_filter(ConvProblem const&, Way const&, ConvArgs const&, float* partial, cudaStream_t);
Walk walk_of(ConvProblem const&, Way const&);
// out[set * channels + c], or, with taps > 0, out[c * taps + set] and rest[(set - taps) * channels + c]: the sum of partial[block][set][c] over the blocks, in a
// fixed order.
void add_partial_sums(float const* partial, int blocks, int sets, int channels, int taps, float* out, float* rest, cudaStream_t);
// Sums of a block before they are added over the blocks: 0 where there are none.
int sets_of(ConvProblem const&);

template <class E>
Store<E> store_of(ConvProblem const& p, ConvArgs const& a, float* partial) {
  Store<E> s;
  auto const& o = p.store;
  if (o.residual) s.residual = a.residual.as<E>();
  if (o.mask != Mask::none) s.mask = a.mask.as<E>(), s.mask_most = o.mask == Mask::relu6 ? 6.f : HUGE_VALF;
  if (o.affine != Affine::none) s.affine = a.store_affine.as<float>();
  if (o.bias) s.bias = a.bias.as<float>();
  s.act = bounds_of(o.act), s.clips = o.act != Activation::none;
  if (o.stats == Stats::none) return s;
  s.step = a.step, s.partial = partial;
  s.squares = o.stats == Stats::squares;
  if (!s.squares) s.other = (o.stats == Stats::dot ? a.mask : a.other).as<E>();
  return s;
}
inline Form form_of(ConvProblem const& p) {
  OnStore sums;
  sums.stats = p.store.stats == Stats::squares ? Stats::squares : Stats::none;
  if (p.store != sums || p.load_x != OnLoad{}) return Form::slots;
  return sums.stats == Stats::none ? Form::plain : Form::squares;
}

}  // namespace falconet::depthwise
