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

template <class E, int V>
FALCONET_DEVICE void unpack(Pack<E, V> const& from, float (&to)[V]) {
  if constexpr (sizeof(E) == 2 && V % 2 == 0) {
    std::uint32_t words[V / 2];
    __builtin_memcpy(words, &from, sizeof words);
#pragma unroll
    for (int i = 0; i < V / 2; ++i) to[2 * i] = ptx::low_bf16(words[i]), to[2 * i + 1] = ptx::high_bf16(words[i]);
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) to[i] = load(from.e[i]);
  }
}
// Rounds v to the element type, in place too.
template <class E, int V>
FALCONET_DEVICE Pack<E, V> rounded(float (&v)[V]) {
  Pack<E, V> out;
  if constexpr (sizeof(E) == 2 && V % 2 == 0) {
    std::uint32_t words[V / 2];
#pragma unroll
    for (int i = 0; i < V / 2; ++i) words[i] = ptx::pack_bf16(v[2 * i], v[2 * i + 1]);
    __builtin_memcpy(&out, words, sizeof words);
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) put(out.e[i], v[i]);
  }
  unpack(out, v);
  return out;
}

// Rows on their way from global memory: a queue of `depth` rows of `columns` vectors, in shared memory but each thread's own, so that it needs no barrier
// and no registers; enough bytes are under way however few threads a multiprocessor holds.
template <class E, int V, int columns, int depth>
struct Queue {
  Pack<E, V>* mine;
  int place = 0;   // of the oldest row
  static constexpr std::size_t bytes = sizeof(Pack<E, V>) * columns * depth;   // a thread
  FALCONET_DEVICE explicit Queue(void* memory) : mine(static_cast<Pack<E, V>*>(memory) + threadIdx.x) {}
  FALCONET_DEVICE Pack<E, V>* at(int ahead, int column) const {
    int const row = place + ahead >= depth ? place + ahead - depth : place + ahead;
    return mine + (row * columns + column) * blockDim.x;
  }
  FALCONET_DEVICE Pack<E, V> front(int column) const { return *at(0, column); }
  FALCONET_DEVICE void pop() { place = place + 1 == depth ? 0 : place + 1; }
  // Starts one vector of the row `ahead` of the oldest; zeros where it does not exist.
  FALCONET_DEVICE void start(int ahead, int column, E const* from, bool exists) const {
    constexpr int size = sizeof(Pack<E, V>);
    Pack<E, V>* const to = at(ahead, column);
    if constexpr (size >= 4) {
      std::uint32_t const shared = std::uint32_t(__cvta_generic_to_shared(to));
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(exists ? from : nullptr), "n"(size), "r"(exists ? size : 0) : "memory");
    } else {
      *to = exists ? *reinterpret_cast<Pack<E, V> const*>(from) : Pack<E, V>{};
    }
  }
};
FALCONET_DEVICE void row_started() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All rows but the youngest `others` are there.
template <int others>
FALCONET_DEVICE void await_row() { asm volatile("cp.async.wait_group %0;" ::"n"(others) : "memory"); }

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

// What else is read for T neighbouring results, loaded before they are computed.
template <class E, int V, int T>
struct Beside {
  Pack<E, V> residual[T], mask[T], other[T];
  FALCONET_DEVICE void load(Store<E> const& s, std::int64_t at, int step, unsigned exists) {
#pragma unroll
    for (int t = 0; t < T; ++t) {
      if (!(exists >> t & 1)) continue;
      if (s.residual) residual[t] = *reinterpret_cast<Pack<E, V> const*>(s.residual + at + t * step);
      if (s.mask) mask[t] = *reinterpret_cast<Pack<E, V> const*>(s.mask + at + t * step);
      if (s.other) other[t] = *reinterpret_cast<Pack<E, V> const*>(s.other + at + t * step);
    }
  }
};

// vectors: this thread's of place_vectors, `count` apart. Finishes V channels of T results, `step` elements apart from `at` on, and writes those that exist. sum: of Stats.
template <class E, int V, int T, bool slots>
FALCONET_DEVICE void finish(Store<E> const& s, float const* vectors, int count, Beside<E, V, T> const& beside, float (&results)[T][V], E* to, std::int64_t at, int step,
                            unsigned exists, bool counts, float (&sum)[2][V]) {
#pragma unroll
  for (int t = 0; t < T; ++t) {
    if (!(exists >> t & 1)) continue;
    float(&v)[V] = results[t];
    if constexpr (slots) {
#pragma unroll
      for (int e = 0; e < V; ++e) v[e] = fmaf(vectors[e], v[e], vectors[count + e]);
      if (s.residual) {
        float r[V];
        unpack(beside.residual[t], r);
#pragma unroll
        for (int e = 0; e < V; ++e) v[e] += r[e];
      }
#pragma unroll
      for (int e = 0; e < V; ++e) v[e] = clip(s.act, v[e]);
      if (s.mask) {
        float m[V];
        unpack(beside.mask[t], m);
#pragma unroll
        for (int e = 0; e < V; ++e) v[e] = m[e] > 0 ? v[e] : 0.f;
      }
    }
    *reinterpret_cast<Pack<E, V>*>(to + at + t * step) = rounded<E, V>(v);
    if (!counts) continue;
    if (!slots || s.squares) {
#pragma unroll
      for (int e = 0; e < V; ++e) sum[0][e] += v[e], sum[1][e] = fmaf(v[e], v[e], sum[1][e]);
    } else if (s.other) {
      float o[V];
      unpack(beside.other[t], o);
#pragma unroll
      for (int e = 0; e < V; ++e) sum[0][e] = fmaf(v[e], o[e], sum[0][e]), sum[1][e] += v[e];
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
// Sums of a block before they are added over the blocks: 0 where there are none.
int sets_of(ConvProblem const&);

template <class E>
Store<E> store_of(ConvProblem const& p, ConvArgs const& a, float* partial) {
  Store<E> s;
  auto const& o = p.store;
  if (o.residual) s.residual = a.residual.as<E>();
  if (o.mask != Mask::none) s.mask = a.mask.as<E>();
  if (o.affine != Affine::none) s.affine = a.store_affine.as<float>();
  if (o.bias) s.bias = a.bias.as<float>();
  s.act = bounds_of(o.act);
  if (o.stats == Stats::none) return s;
  s.step = a.step, s.partial = partial;
  s.squares = o.stats == Stats::squares;
  if (!s.squares) s.other = (o.stats == Stats::dot ? a.mask : a.other).as<E>();
  return s;
}
// Whether a result passes anything but squares.
inline bool has_slots(ConvProblem const& p) {
  OnStore sums;
  sums.stats = p.store.stats == Stats::squares ? Stats::squares : Stats::none;
  return p.store != sums || p.load_x != OnLoad{};
}

}  // namespace falconet::depthwise
