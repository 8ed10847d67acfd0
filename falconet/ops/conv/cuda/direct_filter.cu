// Filter gradient of convolutions with few channels, in f32 on the ordinary cores, straight from the images:
//   dw(k, r, s, c) = sum over n, p, q of dy(n, p, q, k) * x(n, p - pad + r, q - pad + s, c),   db(k) = sum over n, p, q of dy(n, p, q, k)
// A tile is one filter row r, kt filters, all s and ct channels. A thread keeps a tile's sums in registers and runs along a row of dy: with
// the last S columns of x at hand, each step reads ct + kt words for kt*S*ct multiply-adds. A block lays some rows of x and dy (borders as
// zeros, dy from its pooled form where it is unpooled) into shared memory, gives its rows and tiles to its threads and adds their sums in a
// fixed order. Blocks of different pixels form clusters of 8, which add theirs through each other's shared memory. Two ways to cut the work:
//   split 1: a block takes one tile and an eighth of the pixels; the cluster's sum is the result, in one launch
//   split 0: a block takes all tiles and a few rows of one image; the clusters' sums are added by a second launch
// Limits: f32 nhwc, 3x3 and 5x5, stride 1, no groups. Cost: 2 n k p q c r s operations.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/cluster.cuh"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/cluster_sums.cuh"
#include "falconet/ops/conv/cuda/pooled_map.cuh"

namespace falconet {
namespace {

constexpr int together = 8, least_threads = 128, most_threads = 512;   // together: blocks of a cluster

struct Geometry {
  int n, h, w, c, k, p, q, pad_top, pad_left;
  int band, bands, units, count;      // rows of a unit (a piece of one image), units of an image, of the batch, of a block
  int k_tiles, c_tiles, tiles;        // tiles of a block; k_tiles, c_tiles: of the problem
  bool split;
  int slots, segments, segment;       // threads of a tile: row slots times segments of `segment` columns
  int x_rows, x_columns, x_row, dy_columns, dy_row;   // of a unit; x_row, dy_row: words from one row to the next
  PooledMap dy;
  FastDivide by_slots, by_threads, by_band, by_bands, by_x_columns, by_dy_columns, by_x_rows;
};
struct Pointers {
  float const *x, *dy;
  std::uint8_t const* winner;         // null: dy lies unpooled
  float *dw, *db, *partial;           // partial: [clusters][dw and db], null where one cluster makes the result
};

template <int R, int kt, int ct>
__global__ void __launch_bounds__(most_threads) direct_filter(Geometry const g, Pointers const a) {
  constexpr int products = kt * R * ct, sums = products + kt, stride = ct == 4 ? sums : sums | 1;   // stride: threads meet different banks
  extern __shared__ __align__(16) float memory[];
  int const t = threadIdx.x, threads = blockDim.x, part = blockIdx.x;
  // The block's tiles: all, or one of c tile, k tile, filter row.
  int const first_r = g.split ? blockIdx.y % R : 0, first_k = g.split ? blockIdx.y / R % g.k_tiles : 0, first_c = g.split ? blockIdx.y / R / g.k_tiles : 0;
  int const here_k = g.split ? 1 : g.k_tiles, here_c = g.split ? 1 : g.c_tiles;
  float* const x = memory;                                                    // [here_c][count][x_rows][x_columns][ct], rows x_row apart
  float* const dy = memory + (here_c * g.count * g.x_rows * g.x_row + 3) / 4 * 4;   // [here_k][count * band][dy_columns][kt], rows dy_row apart
  wait_for_work_ahead();

  for (int i = t, all = here_c * g.count * g.x_rows * g.x_columns; i < all; i += threads) {
    int column, in_unit;
    int const line = g.by_x_columns(i, column), unit_and_c = g.by_x_rows(line, in_unit), c_tile = unit_and_c / g.count, slot = unit_and_c - c_tile * g.count;
    int band;
    int const n = g.by_bands(part * g.count + slot, band), h = band * g.band - g.pad_top + in_unit, w = column - g.pad_left, c = (first_c + c_tile) * ct;
    bool const in = n < g.n && unsigned(h) < unsigned(g.h) && unsigned(w) < unsigned(g.w);
    float const* const from = a.x + (in ? ((std::int64_t(n) * g.h + h) * g.w + w) * g.c + c : 0);
    float* const to = x + std::int64_t(line) * g.x_row + column * ct;
    if (ct == 4 && g.c % 4 == 0) copy_async<16>(to, from, in);
    else
#pragma unroll
      for (int e = 0; e < ct; ++e) copy_async<4>(to + e, in && c + e < g.c ? from + e : a.x, in && c + e < g.c);
  }
  int const all_dy = here_k * g.count * g.band * g.dy_columns;
  auto const find = [&](int i, std::int64_t& from, int& here, int& k) {   // where kt values of dy go to, and come from
    int column, in_band, band;
    int const line = g.by_dy_columns(i, column), unit_and_k = g.by_band(line, in_band), k_tile = unit_and_k / g.count, slot = unit_and_k - k_tile * g.count;
    int const n = g.by_bands(part * g.count + slot, band);
    from = n < g.n ? place_of(g.dy, a.winner != nullptr, n, band * g.band + in_band, column, here) : -1;
    k = (first_k + k_tile) * kt;
    return dy + std::int64_t(line) * g.dy_row + column * kt;
  };
  bool const whole = g.k % kt == 0;
  if (!a.winner) {
    for (int i = t; i < all_dy; i += threads) {
      std::int64_t from;
      int here, k;
      float* const to = find(i, from, here, k);
      if (whole)
#pragma unroll
        for (int e = 0; e < kt; e += 4) copy_async<16>(to + e, a.dy + (from < 0 ? 0 : from + k + e), from >= 0);
      else
#pragma unroll
        for (int e = 0; e < kt; ++e) {
          bool const in = from >= 0 && k + e < g.k;
          copy_async<4>(to + e, a.dy + (in ? from + k + e : 0), in);
        }
    }
  } else {
    constexpr int batch = kt == 4 ? 4 : 2;   // pixels whose loads are under way together
    for (int first = t; first < all_dy; first += batch * threads) {
      float* to[batch];
      float value[batch][kt];
      int winner[batch][kt], here[batch];
#pragma unroll
      for (int u = 0; u < batch; ++u) {
        std::int64_t from = -1;
        int k = 0;
        int const i = first + u * threads;
        to[u] = i < all_dy ? find(i, from, here[u], k) : nullptr;
#pragma unroll
        for (int e = 0; e < kt; ++e) value[u][e] = 0, winner[u][e] = no_winner;
        if (from < 0) continue;
        if (whole) {
#pragma unroll
          for (int e = 0; e < kt; e += 4) {
            float4 const v = *reinterpret_cast<float4 const*>(a.dy + from + k + e);
            uchar4 const w = *reinterpret_cast<uchar4 const*>(a.winner + from + k + e);
            value[u][e] = v.x, value[u][e + 1] = v.y, value[u][e + 2] = v.z, value[u][e + 3] = v.w;
            winner[u][e] = w.x, winner[u][e + 1] = w.y, winner[u][e + 2] = w.z, winner[u][e + 3] = w.w;
          }
        } else {
#pragma unroll
          for (int e = 0; e < kt; ++e)
            if (k + e < g.k) value[u][e] = a.dy[from + k + e], winner[u][e] = a.winner[from + k + e];
        }
      }
#pragma unroll
      for (int u = 0; u < batch; ++u) {
        if (!to[u]) continue;
#pragma unroll
        for (int e = 0; e < kt; e += 4)
          *reinterpret_cast<float4*>(to[u] + e) = make_float4(winner[u][e] == here[u] ? value[u][e] : 0, winner[u][e + 1] == here[u] ? value[u][e + 1] : 0,
                                                              winner[u][e + 2] == here[u] ? value[u][e + 2] : 0, winner[u][e + 3] == here[u] ? value[u][e + 3] : 0);
      }
    }
  }
  copy_async_wait();
  __syncthreads();

  int pixels;                                                     // this thread's place among those of its tile
  int const tile = g.by_threads(t, pixels);
  int slot = 0;
  int const segment = g.by_slots(pixels, slot);
  bool const works = tile < g.tiles;
  int const r = g.split ? first_r : tile % R, k_tile = g.split ? 0 : tile / R % g.k_tiles, c_tile = g.split ? 0 : tile / R / g.k_tiles;
  float sum[kt][R][ct] = {}, bias[kt] = {};
  if (works)
    for (int j = slot; j < g.count * g.band; j += g.slots) {
      int in_band;
      int const unit = g.by_band(j, in_band);
      float const* xs = x + (std::int64_t(c_tile * g.count + unit) * g.x_rows + in_band + r) * g.x_row + segment * g.segment * ct;
      float const* ys = dy + std::int64_t(k_tile * g.count * g.band + j) * g.dy_row + segment * g.segment * kt;
      Vector<ct> window[R];
#pragma unroll
      for (int s = 0; s < R - 1; ++s) window[s] = reinterpret_cast<Vector<ct> const*>(xs)[s];
      xs += (R - 1) * ct;
#pragma unroll 1
      for (int q = 0; q < g.segment; q += R, xs += R * ct, ys += R * kt)
#pragma unroll
        for (int u = 0; u < R; ++u) {
          window[(u + R - 1) % R] = reinterpret_cast<Vector<ct> const*>(xs)[u];
          float d[kt];
#pragma unroll
          for (int e = 0; e < kt; e += 4) {
            float4 const four = *reinterpret_cast<float4 const*>(ys + u * kt + e);
            d[e] = four.x, d[e + 1] = four.y, d[e + 2] = four.z, d[e + 3] = four.w;
          }
#pragma unroll
          for (int e = 0; e < kt; ++e) {
            bias[e] += d[e];
#pragma unroll
            for (int s = 0; s < R; ++s)
#pragma unroll
              for (int f = 0; f < ct; ++f) sum[e][s][f] = fmaf(d[e], window[(u + s) % R].e[f], sum[e][s][f]);
          }
        }
    }

  let_next_begin();   // the few blocks of add_clusters

  // Threads of a tile, then blocks of the cluster, each in order.
  __syncthreads();
  float* const own = memory + t * stride;
  if (works) {
    if constexpr (ct == 4) {
#pragma unroll
      for (int e = 0; e < kt; ++e)
#pragma unroll
        for (int s = 0; s < R; ++s) *reinterpret_cast<float4*>(own + (e * R + s) * ct) = make_float4(sum[e][s][0], sum[e][s][1], sum[e][s][2], sum[e][s][3]);
      *reinterpret_cast<float4*>(own + products) = make_float4(bias[0], bias[1], bias[2], bias[3]);
    } else {
#pragma unroll
      for (int e = 0; e < kt; ++e) {
        own[products + e] = bias[e];
#pragma unroll
        for (int s = 0; s < R; ++s) own[e * R + s] = sum[e][s][0];
      }
    }
  }
  __syncthreads();
  int const of_tile = g.slots * g.segments, outputs = g.tiles * sums;
  float* const parts = memory + threads * stride;                 // [helpers][outputs]
  int const helpers = min(max(threads / outputs, 1), of_tile), share = (of_tile + helpers - 1) / helpers;
  for (int i = t; i < outputs * helpers; i += threads) {
    int const helper = i / outputs, output = i - helper * outputs, of = output / sums, element = output - of * sums;
    float total = 0;
#pragma unroll 8
    for (int j = helper * share; j < min(of_tile, (helper + 1) * share); ++j) total += memory[(of * of_tile + j) * stride + element];
    parts[i] = total;
  }
  __syncthreads();
  if (helpers > 1) {
    for (int i = t; i < outputs; i += threads) {
      float total = parts[i];
      for (int j = 1; j < helpers; ++j) total += parts[j * outputs + i];
      parts[i] = total;
    }
  }
  auto const cluster = this_cluster();
  cluster.sync();
  int const rank = int(cluster.block_rank()), filter_elements = g.k * R * R * g.c;
  for (int i = rank * threads + t; i < outputs; i += together * threads) {
    float total = 0;
#pragma unroll
    for (int other = 0; other < together; ++other) total += cluster.map_shared_rank(parts, other)[i];
    int const of = i / sums, element = i - of * sums;
    int const filter_row = g.split ? first_r : of % R, kk = first_k + (g.split ? 0 : of / R % g.k_tiles), cc = first_c + (g.split ? 0 : of / R / g.k_tiles);
    float* const result = a.partial ? a.partial + std::int64_t(part / together) * (filter_elements + g.k) : nullptr;
    if (element >= products) {
      int const k = kk * kt + element - products;
      if (filter_row > 0 || cc > 0 || k >= g.k) continue;
      if (result) result[filter_elements + k] = total;
      else if (a.db) a.db[k] = total;
    } else {
      int const k = kk * kt + element / (R * ct), s = element / ct % R, c = cc * ct + element % ct;
      if (k >= g.k || c >= g.c) continue;
      (result ? result : a.dw)[((k * R + filter_row) * R + s) * g.c + c] = total;
    }
  }
  cluster.sync();   // nobody leaves while its sums are read
}

struct Way {
  Geometry g;
  int kt, ct, parts, groups, threads;
  std::size_t shared;
};
Way way_of(ConvProblem const& p, bool split) {
  Way way{};
  Geometry& g = way.g;
  way.kt = p.c < 3 && p.k > 4 ? 8 : 4, way.ct = p.c < 3 ? 1 : 4;
  g.n = p.n, g.h = p.h, g.w = p.w, g.c = p.c, g.k = p.k, g.p = p.p(), g.q = p.q(), g.pad_top = p.pad_top, g.pad_left = p.pad_left, g.split = split;
  g.k_tiles = (p.k + way.kt - 1) / way.kt, g.c_tiles = (p.c + way.ct - 1) / way.ct;
  int const tiles = g.k_tiles * g.c_tiles * p.r;
  g.tiles = split ? 1 : tiles;
  way.groups = split ? tiles : 1;
  int const bands = std::clamp(split ? (together + p.n - 1) / p.n : 132 / p.n, 1, g.p);
  g.band = (g.p + bands - 1) / bands, g.bands = (g.p + g.band - 1) / g.band, g.units = p.n * g.bands;
  g.count = split ? (g.units + together - 1) / together : 1;
  way.parts = split ? together : (g.units + together - 1) / together * together;
  int const rows = g.count * g.band;
  g.slots = std::clamp(std::min(rows, most_threads / g.tiles), 1, 256);
  g.segments = std::clamp(std::min(256 / (g.slots * g.tiles), g.q / (2 * p.s)), 1, 8);
  g.segment = ((g.q + g.segments - 1) / g.segments + p.s - 1) / p.s * p.s;
  g.x_rows = g.band + p.r - 1;
  g.dy_columns = g.segments * g.segment, g.x_columns = g.dy_columns + p.s - 1;
  // An odd number of vectors from row to row: threads in neighbouring rows meet different banks.
  g.x_row = (g.x_columns | 1) * way.ct, g.dy_row = (g.dy_columns * (way.kt / 4) | 1) * 4;
  way.threads = std::max((g.slots * g.segments * g.tiles + 31) / 32 * 32, least_threads);
  int const here_c = split ? 1 : g.c_tiles, here_k = split ? 1 : g.k_tiles, sums = way.kt * p.s * way.ct + way.kt, outputs = g.tiles * sums;
  g.dy = pooled_map(g.p, g.q, g.k, p);
  g.by_slots = FastDivide(g.slots), g.by_threads = FastDivide(g.slots * g.segments), g.by_band = FastDivide(g.band), g.by_bands = FastDivide(g.bands);
  g.by_x_columns = FastDivide(g.x_columns), g.by_dy_columns = FastDivide(g.dy_columns), g.by_x_rows = FastDivide(g.x_rows);
  std::size_t const staged = (std::size_t(here_c) * g.count * g.x_rows * g.x_row + 3) / 4 * 4 + std::size_t(here_k) * rows * g.dy_row;
  int const helpers = std::min(std::max(way.threads / outputs, 1), g.slots * g.segments);
  std::size_t const reduced = std::size_t(way.threads) * (sums | 1) + std::size_t(outputs) * helpers;
  way.shared = sizeof(float) * std::max(staged, reduced);
  return way;
}
bool fits(Way const& way, DeviceFacts const& facts) {
  return way.threads <= most_threads && way.shared <= std::size_t(facts.shared_memory_bytes) && way.groups < 65536;
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (p.direction != Direction::bwd_filter) return "filter gradient only";
  if (!p.one_type(DType::f32)) return "f32 only";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.groups != 1 || p.stride_h != 1 || p.stride_w != 1 || p.dilation_h != 1 || p.dilation_w != 1) return "groups, stride or dilation";
  if (p.r != p.s || (p.r != 3 && p.r != 5)) return "filters of 3x3 and 5x5 only";
  if (p.load_x != OnLoad{}) return "slots of x";
  if (p.load_dy.affine != Affine::none || p.load_dy.act != Activation::none) return "slots of dy but unpooling";
  if (p.average_pooled()) return "average pooling";
  if (p.c > 64 || p.k > 64) return "more than 64 channels";
  if (facts.compute_capability < 90) return "clusters of blocks need compute capability 9.0";
  if (!fits(way_of(p, true), facts) && !fits(way_of(p, false), facts)) return "rows and sums do not fit shared memory";
  return {};
}

double seconds_with(ConvProblem const& p, Way const& way) {
  Geometry const& g = way.g;
  double const sums = double(way.kt) * p.s * way.ct, at_once = std::max(1.0, std::floor(220e3 / double(way.shared)));
  double const blocks = double(way.parts) * way.groups / 128, rows = std::ceil(double(g.count) * g.band / g.slots);
  double const per_thread = rows * (g.segment * (sums + way.kt + 6) + 20) + sums * 4 + 300;
  double const waves = std::ceil(blocks / at_once), warps = std::ceil(way.threads / 32.0 * std::min(std::ceil(blocks), at_once) / 4);
  return 4.5e-6 + waves * warps * per_thread / 1.6e9 + std::ceil(blocks) * double(way.shared) / 20e9 + (way.parts > together ? 2e-6 : 0);
}

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const& facts) {
  std::vector<std::pair<double, int>> ways;
  for (int split : {1, 0})
    if (Way const way = way_of(p, split); fits(way, facts)) ways.emplace_back(seconds_with(p, way), split);
  std::stable_sort(ways.begin(), ways.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
  std::vector<Config> out;
  for (auto const& way : ways) out.push_back(Config{{"split", way.second}});
  return out;
}
Way chosen(ConvProblem const& p, Config const& c) { return way_of(p, c.get("split", 1)); }
std::size_t scratch(ConvProblem const& p, Config const& c) {
  Way const way = chosen(p, c);
  return way.parts > together ? sizeof(float) * std::size_t(way.parts / together) * (std::size_t(p.k) * p.r * p.s * p.c + std::size_t(p.k)) : 0;
}
double seconds(ConvProblem const& p, DeviceFacts const& facts) { return seconds_with(p, chosen(p, configs(p, facts).front())); }

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Way const way = chosen(p, config);
  int const clusters = way.parts / together, filter_elements = p.k * p.r * p.s * p.c, elements = filter_elements + p.k;
  float* const db = p.store.bias ? args.bias.as<float>() : nullptr;
  Pointers const a{args.x.as<float>(), args.y.as<float>(), p.load_dy.unpool.kind != PoolSlot::none ? args.winner.as<std::uint8_t>() : nullptr,
                   args.w.as<float>(), db, clusters > 1 ? memory.as<float>() : nullptr};
  auto const launch = [&](auto kernel) {
    allow_shared_memory(kernel, int(way.shared));
    launch_ahead(kernel, dim3(unsigned(way.parts), unsigned(way.groups)), dim3(unsigned(way.threads)), way.shared, together, stream, way.g, a);
  };
  if (p.r == 3) way.ct == 4 ? launch(direct_filter<3, 4, 4>) : way.kt == 8 ? launch(direct_filter<3, 8, 1>) : launch(direct_filter<3, 4, 1>);
  else way.ct == 4 ? launch(direct_filter<5, 4, 4>) : way.kt == 8 ? launch(direct_filter<5, 8, 1>) : launch(direct_filter<5, 4, 1>);
  if (clusters > 1)
    launch_ahead(add_clusters, dim3(unsigned((elements + 127) / 128)), dim3(128), 0, 1, stream, static_cast<float const*>(a.partial), clusters, elements,
                 filter_elements, args.w.as<float>(), db);
  check_launch("conv direct_filter", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_direct_filter{
    .name = "direct_filter", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
