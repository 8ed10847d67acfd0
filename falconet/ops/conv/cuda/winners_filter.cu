// Filter gradient of a convolution whose dy comes through a max-pool (load_dy=max_unpool), in f32 on the ordinary cores: of every pooling window only
// the winner has a gradient, so a window costs one pixel's products and not size * size:
//   dw(k, r, s, c) = sum over n and windows of dy(n, window, k) * x(n, winner - pad + (r, s), c)
// A block has the windows of some rows of one image. In shared memory lie the rows of x that they meet (borders as zeros) and, for each filter and
// window, dy and where the winner's first tap begins. A warp has a filter k: its lanes hold four channels of a tap each (I of them), and go
// through the windows together; 4 I multiply-adds for I vectors of x. Clusters of 8 blocks add their sums through each other's shared memory, a
// second launch adds the clusters', all in a fixed order. Few registers, so that a block finds room beside the data gradient's.
// Limits: f32 nhwc, 3x3 and 5x5, stride 1, no groups, channels a multiple of 4, at most 8 filters. Cost: 2 n k p q c r s / size^2 operations.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/cluster.cuh"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/divide.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/cluster_sums.cuh"

namespace falconet {
namespace {

constexpr int threads = 256, warps = threads / 32, together = 8;   // together: blocks of a cluster

struct Geometry {
  int n, h, w, c, k, pad_top, pad_left;
  int size, stored_p, stored_q;          // pooling windows, and how many
  int band, bands;                       // rows of windows of a block, blocks of an image
  int x_rows, x_columns, pitch, windows; // of a block; pitch: words from one row of x to the next
  FastDivide by_bands, by_vectors, by_columns, by_k, by_q, by_size;
};
struct Pointers {
  float const *x, *dy;
  std::uint8_t const* winner;
  float *dw, *db, *partial;              // partial: [clusters][dw and db], null where one cluster makes the result
};
struct alignas(8) Won {                  // where in x the winner's taps begin, in words, and its dy
  int from;
  float dy;
};

// I: vectors of four channels of a tap that a lane has.
template <int R, int I>
__global__ void __launch_bounds__(threads, 5) winners_filter(Geometry const g, Pointers const a) {
  extern __shared__ __align__(16) float memory[];
  float* const x = memory;                                            // [x_rows][x_columns][c], rows `pitch` apart
  Won* const won = reinterpret_cast<Won*>(memory + g.x_rows * g.pitch);   // [k][windows]
  int const t = threadIdx.x, warp = t / 32, lane = t % 32;
  wait_for_work_ahead();
  int band;
  int const n = g.by_bands(blockIdx.x, band), row0 = band * g.band;   // of windows
  bool const exists = n < g.n;

  for (int i = t, all = g.x_rows * g.x_columns * (g.c / 4); i < all; i += threads) {
    int vector, column;
    int const row = g.by_columns(g.by_vectors(i, vector), column), h = row0 * g.size + row - g.pad_top, w = column - g.pad_left;
    bool const in = exists && unsigned(h) < unsigned(g.h) && unsigned(w) < unsigned(g.w);
    copy_async<16>(x + row * g.pitch + column * g.c + vector * 4, a.x + (in ? ((std::int64_t(n) * g.h + h) * g.w + w) * g.c + vector * 4 : 0), in);
  }
  for (int i = t; i < g.windows * g.k; i += threads) {
    int k, column, right;
    int const window = g.by_k(i, k), row = g.by_q(window, column);
    Won v{0, 0};
    if (exists && row0 + row < g.stored_p) {
      std::int64_t const at = ((std::int64_t(n) * g.stored_p + row0 + row) * g.stored_q + column) * g.k + k;
      int const winner = a.winner[at];
      float const dy = a.dy[at];
      int const down = g.by_size(winner, right);
      if (winner < g.size * g.size) v = {(row * g.size + down) * g.pitch + (column * g.size + right) * g.c, dy};
    }
    won[k * g.windows + window] = v;
  }
  copy_async_wait();
  __syncthreads();

  int const of_row = R * g.c / 4, items = R * of_row;                 // vectors of a filter
  float4 sum[I];
  int place[I];
#pragma unroll
  for (int i = 0; i < I; ++i) {
    int const item = min(lane + 32 * i, items - 1), r = item / of_row;
    place[i] = r * g.pitch + (item - r * of_row) * 4;
    sum[i] = make_float4(0, 0, 0, 0);
  }
  float bias = 0;
  if (warp < g.k) {
    Won const* const mine = won + warp * g.windows;
#pragma unroll I < 3 ? 4 : 2
    for (int j = 0; j < g.windows; ++j) {
      Won const v = mine[j];
      bias += v.dy;
#pragma unroll
      for (int i = 0; i < I; ++i) {
        float4 const u = *reinterpret_cast<float4 const*>(x + v.from + place[i]);
        sum[i].x = fmaf(v.dy, u.x, sum[i].x), sum[i].y = fmaf(v.dy, u.y, sum[i].y);
        sum[i].z = fmaf(v.dy, u.z, sum[i].z), sum[i].w = fmaf(v.dy, u.w, sum[i].w);
      }
    }
  }
  let_next_begin();   // the few blocks of add_clusters
  __syncthreads();
  int const of_filter = items * 4, filter_elements = g.k * of_filter, elements = filter_elements + g.k;
  float* const own = memory;                                          // dw, then db
  if (warp < g.k) {
#pragma unroll
    for (int i = 0; i < I; ++i)
      if (lane + 32 * i < items) reinterpret_cast<float4*>(own + warp * of_filter)[lane + 32 * i] = sum[i];
    if (lane == 0) own[filter_elements + warp] = bias;
  }
  auto const cluster = this_cluster();
  cluster.sync();
  for (int i = int(cluster.block_rank()) * threads + t; i < elements; i += together * threads) {
    float total = 0;
#pragma unroll
    for (int other = 0; other < together; ++other) total += cluster.map_shared_rank(own, other)[i];
    if (a.partial) a.partial[std::int64_t(blockIdx.x / together) * elements + i] = total;
    else if (i < filter_elements) a.dw[i] = total;
    else if (a.db) a.db[i - filter_elements] = total;
  }
  cluster.sync();   // nobody leaves while its sums are read
}

struct Way {
  Geometry g;
  int blocks, vectors;               // vectors: I
  std::size_t shared;
};
Way way_of(ConvProblem const& p) {
  Way way{};
  Geometry& g = way.g;
  g.n = p.n, g.h = p.h, g.w = p.w, g.c = p.c, g.k = p.k, g.pad_top = p.pad_top, g.pad_left = p.pad_left;
  g.size = p.pool_size(), g.stored_p = p.stored_p(), g.stored_q = p.stored_q();
  int const bands = std::clamp(128 / p.n, 1, g.stored_p);
  g.band = (g.stored_p + bands - 1) / bands, g.bands = (g.stored_p + g.band - 1) / g.band;
  g.x_rows = g.band * g.size + p.r - 1, g.x_columns = g.stored_q * g.size + p.s - 1;
  // The rows of a tap follow one another in the banks, too.
  g.pitch = g.x_columns * p.c;
  while (g.pitch % 32 != p.s * p.c % 32) g.pitch += 4;
  g.windows = g.band * g.stored_q;
  g.by_bands = FastDivide(g.bands), g.by_vectors = FastDivide(std::max(1, p.c / 4)), g.by_columns = FastDivide(g.x_columns), g.by_k = FastDivide(p.k);
  g.by_q = FastDivide(g.stored_q), g.by_size = FastDivide(g.size);
  way.blocks = (p.n * g.bands + together - 1) / together * together;
  way.vectors = (p.r * p.s * p.c / 4 + 31) / 32;
  std::size_t const elements = std::size_t(p.k) * p.r * p.s * p.c + p.k;
  way.shared = sizeof(float) * std::max(std::size_t(g.x_rows) * g.pitch + 2 * std::size_t(p.k) * g.windows, elements);
  return way;
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction != Direction::bwd_filter) return "filter gradient only";
  if (p.load_dy.unpool.kind != PoolSlot::max) return "a dy that does not come through a max-pool";
  if (!p.one_type(DType::f32)) return "f32 only";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.groups != 1 || p.stride_h != 1 || p.stride_w != 1 || p.dilation_h != 1 || p.dilation_w != 1) return "groups, stride or dilation";
  if (p.r != p.s || (p.r != 3 && p.r != 5)) return "filters of 3x3 and 5x5 only";
  if (p.load_x != OnLoad{}) return "slots of x";
  if (p.load_dy.affine != Affine::none || p.load_dy.act != Activation::none) return "slots of dy but unpooling";
  if (p.c % 4 || p.k > warps) return "channels that are no multiple of 4, or more than 8 filters";
  if (facts.compute_capability < 90) return "clusters of blocks need compute capability 9.0";
  Way const way = way_of(p);
  if (way.vectors > 4) return "more than 512 products of a filter";
  if (way.shared > std::size_t(facts.shared_memory_bytes)) return "rows of an image do not fit shared memory";
  return {};
}

std::size_t scratch(ConvProblem const& p, Config const&) {
  Way const way = way_of(p);
  return way.blocks > together ? sizeof(float) * std::size_t(way.blocks / together) * (std::size_t(p.k) * p.r * p.s * p.c + std::size_t(p.k)) : 0;
}
// Issue of shared-memory reads, and latency.
double seconds(ConvProblem const& p, DeviceFacts const&) {
  Way const way = way_of(p);
  double const waves = std::ceil(way.blocks / 132.0);
  return 4.5e-6 + (way.blocks > together ? 2e-6 : 0) + waves * (double(p.k) * way.g.windows * (way.vectors * 4 + 2) / 1.6e9 + double(way.shared) / 40e9);
}

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Way const way = way_of(p);
  int const clusters = way.blocks / together, filter_elements = p.k * p.r * p.s * p.c, elements = filter_elements + p.k;
  float* const db = p.store.bias ? args.bias.as<float>() : nullptr;
  Pointers const a{args.x.as<float>(), args.y.as<float>(), args.winner.as<std::uint8_t>(), args.w.as<float>(), db, clusters > 1 ? memory.as<float>() : nullptr};
  auto const launch = [&](auto kernel) {
    allow_shared_memory(kernel, int(way.shared));
    launch_ahead(kernel, dim3(unsigned(way.blocks)), dim3(threads), way.shared, together, stream, way.g, a);
  };
  auto const by_vectors = [&](auto side) {
    constexpr int R = decltype(side)::value;
    switch (way.vectors) {
      case 1: return launch(winners_filter<R, 1>);
      case 2: return launch(winners_filter<R, 2>);
      case 3: return launch(winners_filter<R, 3>);
      default: return launch(winners_filter<R, 4>);
    }
  };
  p.r == 3 ? by_vectors(std::integral_constant<int, 3>{}) : by_vectors(std::integral_constant<int, 5>{});
  if (clusters > 1)
    launch_ahead(add_clusters, dim3(unsigned((elements + 127) / 128)), dim3(128), 0, 1, stream, static_cast<float const*>(a.partial), clusters, elements,
                 filter_elements, args.w.as<float>(), db);
  check_launch("conv winners_filter", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_winners_filter{
    .name = "winners_filter", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
