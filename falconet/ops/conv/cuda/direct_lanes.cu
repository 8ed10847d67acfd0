// Forward and data gradient of convolutions with few channels, in f32 on the ordinary cores: as `direct` (the same two sums over a source image with a
// filter [r][s][in][out], borders as zeros in shared memory, a dy that is read in its pooled form), with larger tiles and the input channels shared
// among neighbouring lanes. A tile is 2 rows by 4 columns by 4 result channels; lane l of a group of 8 (4, 1) takes input channels l, l + 8, ... and
// makes partial sums of the whole tile. A row of the source serves two filter rows and stays in registers from one to the next:
// R * 32 multiply-adds for R vectors of the filter and R + 3 words of the source. The lanes' sums are added by halves: at each step a lane hands
// the half that it will not finish to its neighbour, so that 28 exchanges leave each of 8 lanes one channel of a 2x2 window: bias, ReLU and
// max-pool 2 are done before anything is written.
// Limits: f32 nhwc, 3x3 and 5x5, stride 1, no groups. Cost: 2 n k p q c r s operations, 0.08 to 0.12 words of shared memory for a multiply-add.
#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/copy_async.cuh"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/pooled_map.cuh"

namespace falconet {
namespace {

constexpr int most_threads = 512, least_threads = 64, tile_rows = 2, tile_columns = 4, each = 4;   // each: result channels of a tile

struct Geometry {
  PooledMap source;                  // x or dy
  int in, out;                       // channels of the source, of the result
  int out_height, out_width;         // the result before pooling
  int pad_top, pad_left;             // rows and columns of the source above and left of the result's first
  int band, bands, source_rows, columns, items;   // of one block; columns: of the staged source
  int in_padded, out_row, pixel, row;             // words: from one filter channel, pixel and source row to the next
  FastDivide by_bands, by_tiles, by_tiles_w, by_row, by_vectors, by_w_channels, by_taps;
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

// Brings the block's part of the source into shared memory, v channels at a time: [row][column][pixel], with one share [channel][row][column].
template <int shares, int v>
__device__ __forceinline__ void fetch_source(Geometry const& g, Slots const& slots, Pointers const& a, float* source, int n, int row0) {
  int const t = threadIdx.x, threads = blockDim.x, all = g.source_rows * g.columns * (g.in_padded / v);
  auto const find = [&](int i, std::int64_t& from, int& here, int& c) {
    int in_row, vector;
    int const row = g.by_row(i, in_row), column = g.by_vectors(in_row, vector);
    from = place_of(g.source, slots.unpool, n, row0 - g.pad_top + row, column - g.pad_left, here);
    c = vector * v;
    return source + (shares == 1 ? (c * g.source_rows + row) * g.row + column : row * g.row + column * g.pixel + c);
  };
  bool const whole = g.in % v == 0;
  if (!slots.unpool) {
    for (int i = t; i < all; i += threads) {
      std::int64_t from;
      int here, c;
      float* const to = find(i, from, here, c);
      if (v == 2 && whole) copy_async<8>(to, a.source + (from < 0 || c >= g.in ? 0 : from + c), from >= 0 && c < g.in);
      else
#pragma unroll
        for (int e = 0; e < v; ++e) {
          bool const in = from >= 0 && c + e < g.in;
          copy_async<4>(to + e, a.source + (in ? from + c + e : 0), in);
        }
    }
    return;
  }
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
      if (from < 0 || c >= g.in) continue;
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

// Adds the sums of `count` values at a distance: the lane with `up` keeps the upper half, its neighbour at `lanes` the lower one.
template <int count>
__device__ __forceinline__ void add_halves(float (&v)[count], bool up, int lanes) {
#pragma unroll
  for (int i = 0; i < count / 2; ++i) {
    float const keep = up ? v[i + count / 2] : v[i], give = up ? v[i] : v[i + count / 2];
    v[i] = keep + __shfl_xor_sync(~0u, give, lanes);
  }
}

template <int R, int shares, bool data>
__global__ void __launch_bounds__(most_threads) direct_lanes(Geometry const g, Slots const slots, Pointers const a) {
  extern __shared__ __align__(16) float memory[];
  constexpr int width = tile_columns + R - 1;                                // source columns of a tile
  constexpr int columns = shares == 8 ? 2 : 4, channels = shares == 1 ? 4 : 1;   // of the part of a tile that a lane finishes
  float* const filter = memory;                                              // [r][s][in_padded][out_row]
  float* const source = memory + R * R * g.in_padded * g.out_row;
  int const t = threadIdx.x, threads = blockDim.x;
  int band;
  int const n = g.by_bands(blockIdx.x, band), row0 = band * g.band;
  wait_for_work_ahead();

  for (int i = t, all = g.in * g.out * R * R; i < all; i += threads) {       // w lies in memory as [k][r][s][c]
    int c, tap;
    int const k = g.by_taps(g.by_w_channels(i, c), tap);
    copy_async<4>(filter + (data ? ((R * R - 1 - tap) * g.in_padded + k) * g.out_row + c : (tap * g.in_padded + c) * g.out_row + k), a.filter + i, true);
  }
  if (g.in_padded > g.in)
    for (int i = t, missing = g.in_padded - g.in, all = R * R * missing * g.out_row; i < all; i += threads) {
      int const line = i / g.out_row, tap = line / missing;
      filter[(tap * g.in_padded + g.in + line - tap * missing) * g.out_row + i % g.out_row] = 0;
    }
  if constexpr (shares == 8) fetch_source<shares, 2>(g, slots, a, source, n, row0);
  else fetch_source<shares, 1>(g, slots, a, source, n, row0);
  copy_async_wait();
  __syncthreads();

  // All lanes of a warp stay in the loop together: they exchange sums.
  int const work = g.items * shares;
  for (int first = t - t % 32; first < work; first += threads) {
    int const here = first + t % 32, item = min(here, work - 1) / shares, share = here % shares;
    int tile, tile_column;
    int const o = g.by_tiles(item, tile) * each, tile_row = g.by_tiles_w(tile, tile_column);
    // What this lane finishes: two rows of `columns` columns of `channels` channels from these on.
    int const row = row0 + tile_row * tile_rows, column = tile_column * tile_columns + (shares == 8 ? share / 4 * 2 : 0), k = o + (shares == 1 ? 0 : share % 4);
    bool const writes = here < work && k < g.out;
    std::int64_t const at = ((std::int64_t(n) * g.out_height + row) * g.out_width + column) * g.out + k;
    auto const inside = [&](int y, int x) { return row + y < g.out_height && row + y < row0 + g.band && column + x < g.out_width; };
    float mask[2][columns][channels];
    if (slots.mask)
#pragma unroll
      for (int y = 0; y < 2; ++y)
#pragma unroll
        for (int x = 0; x < columns; ++x)
#pragma unroll
          for (int e = 0; e < channels; ++e)
            mask[y][x][e] = writes && inside(y, x) && k + e < g.out ? a.mask[at + (std::int64_t(y) * g.out_width + x) * g.out + e] : 0;
    float bias[channels];
#pragma unroll
    for (int e = 0; e < channels; ++e) bias[e] = slots.bias && k + e < g.out ? a.bias[k + e] : 0;

    auto const load_row = [&](float const* at, float (&v)[8]) {
      if constexpr (shares == 1) {
#pragma unroll
        for (int j = 0; j < 8; j += 4) {
          float4 const four = *reinterpret_cast<float4 const*>(at + j);
          v[j] = four.x, v[j + 1] = four.y, v[j + 2] = four.z, v[j + 3] = four.w;
        }
      } else {
#pragma unroll
        for (int j = 0; j < width; ++j) v[j] = at[j * g.pixel];
      }
    };
    float sum[each * tile_rows * tile_columns] = {};   // [column][channel][row]: the halves that lanes exchange lie one behind the other
    for (int c = share; c < g.in_padded; c += shares) {
      float const* from = source + (shares == 1 ? (c * g.source_rows + tile_row * tile_rows) * g.row + tile_column * tile_columns
                                                : tile_row * tile_rows * g.row + tile_column * tile_columns * g.pixel + c);
      // Filter row i meets source row i for the upper results and row i + 1 for the lower ones. A short loop: code that is run once must be
      // fetched, too.
      float above[8], u[8];
      load_row(from, above);
      float const* w = filter + c * g.out_row + o;
#pragma unroll 1
      for (int i = 0; i < R; ++i, w += R * g.in_padded * g.out_row) {
        from += g.row;
        load_row(from, u);
#pragma unroll
        for (int s = 0; s < R; ++s) {
          float4 const four = *reinterpret_cast<float4 const*>(w + s * g.in_padded * g.out_row);
          float const now[each] = {four.x, four.y, four.z, four.w};
#pragma unroll
          for (int j = 0; j < tile_columns; ++j)
#pragma unroll
            for (int e = 0; e < each; ++e) {
              sum[(j * each + e) * 2] = fmaf(above[j + s], now[e], sum[(j * each + e) * 2]);
              sum[(j * each + e) * 2 + 1] = fmaf(u[j + s], now[e], sum[(j * each + e) * 2 + 1]);
            }
        }
#pragma unroll
        for (int j = 0; j < width; ++j) above[j] = u[j];
      }
    }
    // result(y, x, e): of the part that this lane finishes
    float done[columns][channels][2];
    if constexpr (shares == 1) {
#pragma unroll
      for (int i = 0; i < 32; ++i) done[i / 8][i / 2 % 4][i % 2] = sum[i];
    } else {
      float rest[columns][8];      // [channel][row]
      if constexpr (shares == 8) add_halves(sum, share & 4, 4);
#pragma unroll
      for (int x = 0; x < columns; ++x) {
#pragma unroll
        for (int i = 0; i < 8; ++i) rest[x][i] = sum[x * 8 + i];
        add_halves(rest[x], share & 2, 2);
        float pair[4] = {rest[x][0], rest[x][1], rest[x][2], rest[x][3]};
        add_halves(pair, share & 1, 1);
        done[x][0][0] = pair[0], done[x][0][1] = pair[1];
      }
    }
    if (!writes) continue;
    if (!data && slots.pool) {
      int const p = row / 2, stored_w = g.out_width / 2;
      if (p >= g.out_height / 2) continue;
#pragma unroll
      for (int window = 0; window < columns / 2; ++window) {
        int const q = column / 2 + window;
        if (q >= stored_w) continue;
        std::int64_t const to = ((std::int64_t(n) * (g.out_height / 2) + p) * stored_w + q) * g.out + k;
#pragma unroll
        for (int e = 0; e < channels; ++e) {
          if (k + e >= g.out) continue;
          float best = 0, ahead = 0;   // ahead: the winner's value ahead of its activation
          int winner = -1;
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            float const u = done[window * 2 + j % 2][e][j / 2] + bias[e], y = activate(slots.act, u);
            if (winner < 0 || y > best || y != y) best = y, ahead = u, winner = j;
          }
          a.result[to + e] = best;
          a.winner_out[to + e] = activation_derivative(slots.act, ahead) == 0 ? no_winner : std::uint8_t(winner);
        }
      }
      continue;
    }
#pragma unroll
    for (int y = 0; y < 2; ++y)
#pragma unroll
      for (int x = 0; x < columns; ++x) {
        if (!inside(y, x)) continue;
        std::int64_t const to = at + (std::int64_t(y) * g.out_width + x) * g.out;
        float v[channels];
#pragma unroll
        for (int e = 0; e < channels; ++e) {
          v[e] = done[x][e][y] + bias[e];
          if (slots.residual && k + e < g.out) v[e] += a.residual[to + e];
          if (slots.act != Activation::none) v[e] = activate(slots.act, v[e]);
          if (slots.mask && !(mask[y][x][e] > 0)) v[e] = 0;
        }
        if constexpr (channels == 4) {
          if (g.out % 4 == 0) {
            *reinterpret_cast<float4*>(a.result + to) = make_float4(v[0], v[1], v[2], v[3]);
            continue;
          }
        }
#pragma unroll
        for (int e = 0; e < channels; ++e)
          if (k + e < g.out) a.result[to + e] = v[e];
      }
  }
}

int rounded(int v, int to) { return (v + to - 1) / to * to; }
int in_of(ConvProblem const& p) { return p.direction == Direction::bwd_data ? p.k : p.c; }
int shares_of(ConvProblem const& p) { return in_of(p) == 1 ? 1 : in_of(p) <= 4 ? 4 : 8; }

Geometry geometry_of(ConvProblem const& p, int band) {
  bool const data = p.direction == Direction::bwd_data;
  int const shares = shares_of(p);
  Geometry g{};
  g.in = in_of(p), g.out = data ? p.c : p.k;
  g.source = pooled_map(data ? p.p() : p.h, data ? p.q() : p.w, g.in, p);
  g.out_height = data ? p.h : p.p(), g.out_width = data ? p.w : p.q();
  g.pad_top = data ? p.r - 1 - p.pad_top : p.pad_top, g.pad_left = data ? p.s - 1 - p.pad_left : p.pad_left;
  g.band = band, g.bands = (g.out_height + band - 1) / band, g.source_rows = band + p.r - 1;
  int const tiles_w = (g.out_width + tile_columns - 1) / tile_columns, tiles = band / tile_rows * tiles_w, out_padded = rounded(g.out, each);
  g.columns = tiles_w * tile_columns + (shares == 1 ? 4 : p.r - 1);
  g.items = tiles * (out_padded / each);
  g.in_padded = rounded(g.in, shares);
  // Lanes that read neighbouring channels of the filter, or neighbouring tiles of the source, meet different banks.
  g.out_row = out_padded / 4 % 2 ? out_padded : out_padded + 4;
  g.pixel = shares == 8 ? g.in_padded + 2 : shares == 4 ? g.in_padded + 1 : 1;
  g.row = shares == 1 ? rounded(g.columns, 4) : rounded(g.columns * g.pixel, 2);
  int const vectors = shares == 8 ? g.in_padded / 2 : g.in_padded;
  g.by_bands = FastDivide(g.bands), g.by_tiles = FastDivide(tiles), g.by_tiles_w = FastDivide(tiles_w), g.by_row = FastDivide(g.columns * vectors);
  g.by_vectors = FastDivide(vectors), g.by_w_channels = FastDivide(p.c), g.by_taps = FastDivide(p.r * p.s);
  return g;
}
std::size_t shared_bytes(ConvProblem const& p, Geometry const& g) {
  return sizeof(float) * (std::size_t(p.r) * p.s * g.in_padded * g.out_row + std::size_t(shares_of(p) == 1 ? g.in_padded : 1) * g.source_rows * g.row);
}
int threads_of(ConvProblem const& p, Geometry const& g) { return std::clamp(rounded(g.items * shares_of(p), 32), least_threads, most_threads); }

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (p.direction == Direction::bwd_filter) return "forward and data gradient only";
  if (!p.one_type(DType::f32)) return "f32 only";
  if (p.layout != Layout::nhwc) return "nhwc only";
  if (p.groups != 1 || p.stride_h != 1 || p.stride_w != 1 || p.dilation_h != 1 || p.dilation_w != 1) return "groups, stride or dilation";
  if (p.r != p.s || (p.r != 3 && p.r != 5)) return "filters of 3x3 and 5x5 only";
  auto const& s = p.store;
  if (p.load_x != OnLoad{}) return "slots of x";
  if (s.mask == Mask::relu6) return "a mask of relu6";
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

// Issue slots of the multiprocessor with most blocks, and the time in which nothing but copies is under way. Fitted on one H200.
double seconds_with(ConvProblem const& p, Geometry const& g) {
  int const shares = shares_of(p), threads = threads_of(p, g);
  double const bytes = double(shared_bytes(p, g)), warps = std::ceil(g.items * double(shares) / 32);
  double const at_once = std::max(1.0, std::min(std::floor(220e3 / bytes), std::floor(560.0 / threads))), blocks = std::ceil(double(p.n) * g.bands / 132);
  double const together = std::min(blocks, at_once), units = std::max(std::ceil(warps * together / 4), shares == 1 ? 4.0 : 2.0);
  double const per_unit = double(g.in_padded) / shares * p.r * (p.r * 32 + p.r * 2 + 20) + 250;
  return 2.9e-6 + std::ceil(blocks / at_once) * (units * per_unit * 0.55e-9 + bytes / 4 / threads * 14e-9 + 0.2e-6 + together * 0.3e-6);
}

std::vector<int> bands_of(ConvProblem const& p, DeviceFacts const& facts) {
  int const height = p.direction == Direction::bwd_data ? p.h : p.p();
  std::vector<std::pair<double, int>> bands;
  for (int pieces : {1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64}) {
    int const band = rounded((height + pieces - 1) / pieces, 2);
    Geometry const g = geometry_of(p, band);
    if (shared_bytes(p, g) > std::size_t(facts.shared_memory_bytes)) continue;
    if (std::none_of(bands.begin(), bands.end(), [&](auto const& b) { return b.second == band; })) bands.emplace_back(seconds_with(p, g), band);
  }
  std::stable_sort(bands.begin(), bands.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
  std::vector<int> out;
  for (auto const& b : bands)
    if (out.size() < 4) out.push_back(b.second);
  if (out.empty()) out.push_back(2);
  return out;
}
std::vector<Config> configs(ConvProblem const& p, DeviceFacts const& facts) {
  std::vector<Config> out;
  for (int band : bands_of(p, facts)) out.push_back(Config{{"rows", band}});
  return out;
}
std::vector<LaunchRange> ranges(ConvProblem const& p, DeviceFacts const& facts) {
  int const height = p.direction == Direction::bwd_data ? p.h : p.p();
  std::vector<LaunchRange> out{{"threads", 32, most_threads, true}};
  for (int rows = 2; rows <= rounded(height, 2) && shared_bytes(p, geometry_of(p, rows)) <= std::size_t(facts.shared_memory_bytes); rows += 2) out.push_back({"rows", rows, rows, false});
  return out;
}
double seconds(ConvProblem const& p, DeviceFacts const& facts) { return seconds_with(p, geometry_of(p, bands_of(p, facts).front())); }

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  bool const data = p.direction == Direction::bwd_data;
  Geometry const g = geometry_of(p, config.get("rows", 2));
  Slots const slots{p.store.act, p.store.bias, p.store.residual, p.store.mask != Mask::none, p.store.pool.kind != PoolSlot::none, p.load_dy.unpool.kind != PoolSlot::none};
  Pointers const a{(data ? args.y : args.x).as<float>(), args.w.as<float>(), args.bias.as<float>(), args.residual.as<float>(), args.mask.as<float>(),
                   (data ? args.x : args.y).as<float>(), data ? args.winner.as<std::uint8_t>() : nullptr, data ? nullptr : args.winner.as<std::uint8_t>()};
  std::size_t const shared = shared_bytes(p, g);
  auto const launch = [&](auto kernel) {
    allow_shared_memory(kernel, int(shared));
    launch_ahead(kernel, dim3(unsigned(p.n * g.bands)), dim3(unsigned(config.get("threads", threads_of(p, g)))), shared, 1, stream, g, slots, a);
  };
  auto const by_shares = [&](auto side, auto backwards) {
    constexpr int R = decltype(side)::value;
    constexpr bool b = decltype(backwards)::value;
    switch (shares_of(p)) {
      case 1: return launch(direct_lanes<R, 1, b>);
      case 4: return launch(direct_lanes<R, 4, b>);
      default: return launch(direct_lanes<R, 8, b>);
    }
  };
  std::integral_constant<int, 3> const three;
  std::integral_constant<int, 5> const five;
  if (p.r == 3) data ? by_shares(three, std::true_type{}) : by_shares(three, std::false_type{});
  else data ? by_shares(five, std::true_type{}) : by_shares(five, std::false_type{});
  check_launch("conv direct_lanes", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_direct_lanes{.name = "direct_lanes", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .seconds = seconds,
                                                    .run = run, .ranges = ranges};

}  // namespace falconet
