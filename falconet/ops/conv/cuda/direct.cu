// Forward and data gradient of convolutions with few channels, in f32 on the ordinary cores, straight from the images:
//   forward        result(i, j, o) = sum over r, s, c of x(i - pad + r, j - pad + s, c) * w(o, r, s, c)
//   data gradient  result(i, j, o) = sum over r, s, k of dy(i - (R-1-pad) + r, j - (R-1-pad) + s, k) * w(k, R-1-r, S-1-s, o)
// Both are one sum over a source image with a filter [r][s][in][out]; only what is put into shared memory differs. A block takes some rows of
// one image: it lays the filter and the source rows that they need (borders as zeros; an unpooled dy from its pooled form) into shared memory,
// channels in vectors of 4, even and odd columns apart so that neighbouring threads read neighbouring words. A thread makes 2x2 results of 4
// channels: R+1 source rows of S+1 columns each meet every filter row, so that a word of shared memory serves 4 to 8 multiply-adds. The four
// results are a pooling window: bias, ReLU and max-pool 2 are done before anything is written.
// Limits: f32 nhwc, 3x3 and 5x5, stride 1, no groups. Cost: 2 n k p q c r s operations bound by words from shared memory (0.58 for a multiply-add).
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/pooled_map.cuh"

namespace falconet {
namespace {

constexpr int least_threads = 128, most_threads = 512, each = 4;      // each: channels of one thread's results

struct Geometry {
  PooledMap source;                  // x or dy
  int in;                            // its channels
  int out_height, out_width, out;    // the result before pooling
  int pad_top, pad_left;             // rows and columns of the source above and left of the result's first
  int band, bands, source_rows, half, tiles_w, windows, items;   // of one block; half: words of one parity of a source row
  int shares;                        // neighbouring threads that share the source's channels of one item
  int in_vectors, in_padded, out_padded;
  FastDivide by_windows, by_tiles_w, by_row, by_vectors, by_in, by_out;
};
struct Slots {
  Activation act;
  bool bias, residual, mask, pool, unpool;
};
struct Pointers {
  float const *source, *filter, *bias, *residual, *mask;
  float* result;
  std::uint8_t const* winner_in;
  std::uint8_t* winner_out;
};

template <int R, int v, bool data>
__global__ void __launch_bounds__(most_threads) direct(Geometry const g, Slots const slots, Pointers const a) {
  extern __shared__ __align__(16) float memory[];
  float* const filter = memory;                                      // [r][s][in_padded][out_padded]
  float* const source = memory + R * R * g.in_padded * g.out_padded; // [in_vectors][source_rows][2][half][v]
  int const t = threadIdx.x, threads = blockDim.x, n = blockIdx.x / g.bands, row0 = (blockIdx.x - n * g.bands) * g.band;
  wait_for_work_ahead();

  for (int i = t; i < R * R * g.in_padded * g.out_padded; i += threads) {   // w lies in memory as [k][r][s][c]
    int o, c;
    int const tap = g.by_in(g.by_out(i, o), c), from = data ? (c * R * R + R * R - 1 - tap) * g.out + o : (o * R * R + tap) * g.in + c;
    bool const in = o < g.out && c < g.in;
    copy_async<4>(filter + i, a.filter + (in ? from : 0), in);
  }
  int const columns = 2 * g.half, all = g.source_rows * columns * g.in_vectors;
  bool const whole = g.in % v == 0;
  auto const find = [&](int i, std::int64_t& from, int& here, int& c) {   // where vector i of the block's source goes to, and comes from
    int in_row, vector;
    int const row = g.by_row(i, in_row), column = g.by_vectors(in_row, vector);
    from = place_of(g.source, slots.unpool, n, row0 - g.pad_top + row, column - g.pad_left, here);
    c = vector * v;
    return source + (((vector * g.source_rows + row) * 2 + (column & 1)) * g.half + (column >> 1)) * v;
  };
  if (!slots.unpool) {
    for (int i = t; i < all; i += threads) {
      std::int64_t from;
      int here, c;
      float* const to = find(i, from, here, c);
      if (v == 4 && whole) copy_async<16>(to, a.source + (from < 0 ? 0 : from + c), from >= 0);
      else
#pragma unroll
        for (int e = 0; e < v; ++e) {
          bool const in = from >= 0 && c + e < g.in;
          copy_async<4>(to + e, a.source + (in ? from + c + e : 0), in);
        }
    }
  } else {
    constexpr int batch = 4;   // vectors whose loads are under way together
    for (int first = t; first < all; first += batch * threads) {
      float* to[batch];
      Vector<v> value[batch];
      Bytes<v> winner[batch];
      int here[batch];
#pragma unroll
      for (int u = 0; u < batch; ++u) {
        int const i = first + u * threads;
        std::int64_t from = -1;
        int c = 0;
        to[u] = i < all ? find(i, from, here[u], c) : nullptr;
        value[u] = {};
        winner[u] = {};
        if (from < 0) continue;
        if (whole) {
          value[u] = *reinterpret_cast<Vector<v> const*>(a.source + from + c);
          winner[u] = *reinterpret_cast<Bytes<v> const*>(a.winner_in + from + c);
        } else {
#pragma unroll
          for (int e = 0; e < v; ++e)
            if (c + e < g.in) value[u].e[e] = a.source[from + c + e], winner[u].e[e] = a.winner_in[from + c + e];
        }
      }
#pragma unroll
      for (int u = 0; u < batch; ++u) {
        if (!to[u]) continue;
#pragma unroll
        for (int e = 0; e < v; ++e) value[u].e[e] = winner[u].e[e] == here[u] ? value[u].e[e] : 0;
        *reinterpret_cast<Vector<v>*>(to[u]) = value[u];
      }
    }
  }
  copy_async_wait();
  __syncthreads();

  // All lanes of a warp stay in the loop together: they exchange sums.
  int const work = g.items * g.shares;
  for (int first = t - t % 32; first < work; first += threads) {
    int const here = first + t % 32, item = min(here, work - 1) / g.shares, share = here % g.shares;
    int window, tile_column;
    int const o = g.by_windows(item, window) * each, tile_row = g.by_tiles_w(window, tile_column);
    float bias[each], sum[2][2][each] = {};
#pragma unroll
    for (int e = 0; e < each; ++e) bias[e] = slots.bias && o + e < g.out ? a.bias[o + e] : 0;   // ahead: a round trip to memory
    for (int vector = share; vector < g.in_vectors; vector += g.shares) {
      Vector<v> const* from = reinterpret_cast<Vector<v> const*>(source) + (vector * g.source_rows + 2 * tile_row) * 2 * g.half + tile_column;
#pragma unroll 1
      for (int i = 0; i <= R; ++i, from += 2 * g.half) {
        Vector<v> x[R + 1];
#pragma unroll
        for (int j = 0; j <= R; ++j) x[j] = from[(j & 1) * g.half + (j >> 1)];
        float const* const upper = filter + (i * R * g.in_padded + vector * v) * g.out_padded + o;
        // The source row is filter row i of the upper results and i - 1 of the lower ones.
#pragma unroll
        for (int below = 0; below < 2; ++below) {
          if (below ? i == 0 : i == R) continue;
          float const* const row = upper - below * R * g.in_padded * g.out_padded;
#pragma unroll
          for (int s = 0; s < R; ++s)
#pragma unroll
            for (int e = 0; e < v; ++e) {
              float4 const w = *reinterpret_cast<float4 const*>(row + (s * g.in_padded + e) * g.out_padded);
#pragma unroll
              for (int b = 0; b < 2; ++b) {
                float const u = x[s + b].e[e];
                sum[below][b][0] = fmaf(u, w.x, sum[below][b][0]);
                sum[below][b][1] = fmaf(u, w.y, sum[below][b][1]);
                sum[below][b][2] = fmaf(u, w.z, sum[below][b][2]);
                sum[below][b][3] = fmaf(u, w.w, sum[below][b][3]);
              }
            }
        }
      }
    }
    for (int step = 1; step < g.shares; step *= 2)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < each; ++e) sum[j / 2][j % 2][e] += __shfl_xor_sync(~0u, sum[j / 2][j % 2][e], step);
    if (here >= work || share > 0) continue;
    int const row = row0 + 2 * tile_row, column = 2 * tile_column;
    if (!data && slots.pool) {
      int const p = row / 2, q = column / 2;
      if (p >= g.out_height / 2 || q >= g.out_width / 2) continue;
      std::int64_t const at = ((std::int64_t(n) * (g.out_height / 2) + p) * (g.out_width / 2) + q) * g.out;
#pragma unroll
      for (int e = 0; e < each; ++e) {
        if (o + e >= g.out) continue;
        float best = 0, before = 0;   // before: the winner's value ahead of its activation
        int winner = -1;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float const u = sum[j / 2][j % 2][e] + bias[e], y = activate(slots.act, u);
          if (winner < 0 || y > best || y != y) best = y, before = u, winner = j;
        }
        a.result[at + o + e] = best;
        a.winner_out[at + o + e] = activation_derivative(slots.act, before) == 0 ? no_winner : std::uint8_t(winner);
      }
      continue;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      int const h = row + j / 2, w = column + j % 2;
      if (h >= g.out_height || h >= row0 + g.band || w >= g.out_width) continue;
      std::int64_t const at = ((std::int64_t(n) * g.out_height + h) * g.out_width + w) * g.out + o;
      float y[each];
#pragma unroll
      for (int e = 0; e < each; ++e) {
        y[e] = sum[j / 2][j % 2][e];
        if (o + e >= g.out) continue;
        y[e] += bias[e];
        if (slots.residual) y[e] += a.residual[at + e];
        if (slots.act != Activation::none) y[e] = activate(slots.act, y[e]);
        if (slots.mask && !(a.mask[at + e] > 0)) y[e] = 0;
      }
      if (g.out % each == 0) *reinterpret_cast<float4*>(a.result + at) = make_float4(y[0], y[1], y[2], y[3]);
      else
        for (int e = 0; e < each && o + e < g.out; ++e) a.result[at + e] = y[e];
    }
  }
}

int rounded(int v, int to) { return (v + to - 1) / to * to; }

// Rows of one block's results: two or more, and about one block for every multiprocessor.
int rows_of(ConvProblem const& p) {
  int const height = p.direction == Direction::bwd_data ? p.h : p.p();
  int const bands = std::clamp(132 / p.n, 1, (height + 1) / 2);
  return rounded((height + bands - 1) / bands, 2);
}

Geometry geometry_of(ConvProblem const& p, int band) {
  bool const data = p.direction == Direction::bwd_data;
  Geometry g{};
  g.in = data ? p.k : p.c;
  g.source = pooled_map(data ? p.p() : p.h, data ? p.q() : p.w, g.in, p);
  g.out_height = data ? p.h : p.p(), g.out_width = data ? p.w : p.q(), g.out = data ? p.c : p.k;
  g.pad_top = data ? p.r - 1 - p.pad_top : p.pad_top, g.pad_left = data ? p.s - 1 - p.pad_left : p.pad_left;
  g.band = band, g.bands = (g.out_height + band - 1) / band, g.source_rows = band + p.r - 1;
  g.tiles_w = (g.out_width + 1) / 2, g.half = g.tiles_w + (p.s - 1) / 2;
  int const v = g.in < 3 ? 1 : 4;
  g.in_padded = rounded(g.in, v), g.in_vectors = g.in_padded / v, g.out_padded = rounded(g.out, each);
  g.windows = band / 2 * g.tiles_w, g.items = g.windows * (g.out_padded / each);
  g.shares = 1;
  while (g.in_vectors % (2 * g.shares) == 0 && g.items * g.shares <= 192 && g.shares < 8) g.shares *= 2;
  g.by_windows = FastDivide(g.windows), g.by_tiles_w = FastDivide(g.tiles_w), g.by_row = FastDivide(2 * g.half * g.in_vectors);
  g.by_vectors = FastDivide(g.in_vectors), g.by_in = FastDivide(g.in_padded), g.by_out = FastDivide(g.out_padded);
  return g;
}
std::size_t shared_bytes(ConvProblem const& p, Geometry const& g) {
  return sizeof(float) * (std::size_t(p.r) * p.s * g.in_padded * g.out_padded + std::size_t(g.in_padded) * g.source_rows * 2 * g.half);
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (p.direction == Direction::bwd_filter) return "forward and data gradient only";
  if (!p.one_type(DType::f32)) return "f32 only";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.groups != 1 || p.stride_h != 1 || p.stride_w != 1 || p.dilation_h != 1 || p.dilation_w != 1) return "groups, stride or dilation";
  if (p.r != p.s || (p.r != 3 && p.r != 5)) return "filters of 3x3 and 5x5 only";
  auto const& s = p.store;
  if (p.load_x != OnLoad{}) return "slots of x";
  if (p.store.mask == Mask::relu6) return "a mask of relu6";
  if (p.load_dy.affine != Affine::none || p.load_dy.act != Activation::none) return "slots of dy but unpooling";
  if (p.average_pooled()) return "average pooling";
  if (s.affine != Affine::none || s.stats != Stats::none) return "an affine or statistics of the result";
  if (p.direction == Direction::bwd_data && (s.bias || s.pool.kind != PoolSlot::none)) return "the data gradient has no bias and no pooling";
  if (s.pool.kind != PoolSlot::none && s.pool.size != 2) return "pooling windows other than 2x2";
  if (p.c > 64 || p.k > 64) return "more than 64 channels";
  Geometry const g = geometry_of(p, 2);
  if (shared_bytes(p, g) > std::size_t(facts.shared_memory_bytes)) return "a filter and two rows of results do not fit shared memory";
  if (std::int64_t(p.n) * g.bands >= std::int64_t(1) << 31) return "2^31 blocks or more";
  return {};
}

double seconds_with(ConvProblem const& p, Geometry const& g) {
  double const per_thread = double(g.in_padded) / g.shares * p.r * p.s * 4 * each * 2.3 + 400;   // cycles: words from shared memory bound it
  double const warps = std::ceil(g.items * g.shares / 32.0), at_once = std::max(1.0, std::floor(220e3 / double(shared_bytes(p, g))));
  double const blocks = std::ceil(double(p.n) * g.bands / 132), slots = std::ceil(warps * std::min(blocks, at_once) / 4) * std::ceil(blocks / at_once);
  return 4e-6 + slots * per_thread / 1.6e9 + double(shared_bytes(p, g)) * blocks / 60e9;
}

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const& facts) {
  int const height = p.direction == Direction::bwd_data ? p.h : p.p(), best = rows_of(p);
  std::vector<Config> out;
  for (int rows : {best, rounded(best / 2, 2), 2, std::min(rounded(2 * best, 2), rounded(height, 2))}) {
    Config const c{{"rows", std::max(rows, 2)}};
    if (shared_bytes(p, geometry_of(p, std::max(rows, 2))) <= std::size_t(facts.shared_memory_bytes) && std::find(out.begin(), out.end(), c) == out.end()) out.push_back(c);
  }
  return out;
}
std::vector<LaunchRange> ranges(ConvProblem const& p, DeviceFacts const& facts) {
  int const height = p.direction == Direction::bwd_data ? p.h : p.p();
  std::vector<LaunchRange> out{{"threads", 32, most_threads, true}};
  for (int rows = 2; rows <= rounded(height, 2) && shared_bytes(p, geometry_of(p, rows)) <= std::size_t(facts.shared_memory_bytes); rows += 2) out.push_back({"rows", rows, rows, false});
  return out;
}
double seconds(ConvProblem const& p, DeviceFacts const& facts) { return seconds_with(p, geometry_of(p, configs(p, facts).front().get("rows", 2))); }

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  bool const data = p.direction == Direction::bwd_data;
  Geometry const g = geometry_of(p, config.get("rows", rows_of(p)));
  Slots const slots{p.store.act, p.store.bias, p.store.residual, p.store.mask != Mask::none, p.store.pool.kind != PoolSlot::none, p.load_dy.unpool.kind != PoolSlot::none};
  Pointers const a{(data ? args.y : args.x).as<float>(), args.w.as<float>(), args.bias.as<float>(), args.residual.as<float>(), args.mask.as<float>(),
                   (data ? args.x : args.y).as<float>(), data ? args.winner.as<std::uint8_t>() : nullptr, data ? nullptr : args.winner.as<std::uint8_t>()};
  std::size_t const shared = shared_bytes(p, g);
  int const threads = config.get("threads", std::clamp(rounded(g.items * g.shares, 32), least_threads, most_threads));
  auto const launch = [&](auto kernel) {
    allow_shared_memory(kernel, int(shared));
    launch_ahead(kernel, dim3(unsigned(p.n * g.bands)), dim3(unsigned(threads)), shared, 1, stream, g, slots, a);
  };
  bool const single = g.in_padded == g.in_vectors;
  if (p.r == 3) data ? single ? launch(direct<3, 1, true>) : launch(direct<3, 4, true>) : single ? launch(direct<3, 1, false>) : launch(direct<3, 4, false>);
  else data ? single ? launch(direct<5, 1, true>) : launch(direct<5, 4, true>) : single ? launch(direct<5, 1, false>) : launch(direct<5, 4, false>);
  check_launch("conv direct", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_direct{.name = "direct", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .seconds = seconds, .run = run,
                                              .ranges = ranges};

}  // namespace falconet
