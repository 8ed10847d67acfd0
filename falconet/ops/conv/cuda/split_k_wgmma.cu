// The filter gradient in bf16 on Hopper's tensor cores, channels-last, with f32 sums:
//   dw[k][tap][c] = sum over pixels of dy[pixel][k] * x[pixel moved by tap][c]
// a product whose sum runs over n*p*q pixels and whose result is small. Both operands lie pixel by pixel in memory, so both are read
// M/N-major: dy as boxes of 64 pixels by 64 channels, x by the copy engine's im2col mode in boxes of 64 pixels by 64 channels of one tap;
// nothing is transposed or unfolded. A tile is `filters` k by `boxes` x 64 columns (tap, c). All tiles' pixels, laid end to end, are cut
// into equal shares, one per block: either aligned to the tiles (`splits` blocks per tile; blocks that share pixels run in step, so that L2
// serves them once), or in one line (stream-K with a fixed map), so that any number of tiles keeps all blocks busy. A block writes the f32
// partial sum of every tile that it touches, and a second kernel adds the partials of a tile in a fixed order. No atomics: the same bytes
// every time. Short sums over many tiles are not cut (`whole`): blocks take whole tiles, and store dw themselves. The bias gradient is the sum of
// dy's chunks, each taken by one of the tiles that read it, in turn.
// Cost: 2 n p q k c r s operations; bytes: x once per 64..256 filters and dy once per tile column, mostly from L2; partials (blocks +
// tiles) x tile x 4 bytes.
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "falconet/base/error.h"
#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/device/cuda/tensor_map.h"
#include "falconet/device/cuda/wgmma.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/slice_sums.cuh"

namespace falconet {
namespace {

constexpr int chunk = 64;          // pixels of one stage
constexpr int most_blocks = 132;   // multiprocessors of the H100 and H200; fixed, so that results do not depend on the card

struct Tile {
  int filters, boxes;              // filters: rows, 64 each; boxes: 64 columns each
};
constexpr Tile tiles_known[] = {{128, 4}, {128, 3}, {128, 2}, {64, 4}, {64, 9}, {256, 1}};

template <int filters_, int boxes_, int across_, int threads_>
struct Form {
  static constexpr int filters = filters_, boxes = boxes_, threads = threads_;
  static constexpr int groups = threads / 128 - 1;                  // warpgroups that multiply
  static constexpr int across = across_, down = groups / across;    // how they share the columns and the rows
  static constexpr int blocks = filters / 64 / down;                // of 64 rows per warpgroup
  static constexpr int columns = boxes * 64 / across;               // per warpgroup
  static constexpr int stage_bytes = (filters / 64 + boxes) * 8192;
  static constexpr int stages = (232448 - 2048) / stage_bytes > 6 ? 6 : (232448 - 2048) / stage_bytes;
  static constexpr int shared_bytes = stages * stage_bytes + 1024;
};

struct Work {
  CUtensorMap x, dy;
  int tiles = 0, box_tiles = 0, boxes = 0;         // tiles across the columns; boxes in all
  int blocks_of_64 = 0, filter_width = 0;          // of c; s
  int chunks = 0;                                  // of pixels
  int image = 0, columns = 0, rows = 0;            // of y: pixels per image, q, p
  int step_h = 1, step_w = 1, lower_h = 0, lower_w = 0, dilation_h = 1, dilation_w = 1;
  int advance_n = 0, advance_p = 0, advance_q = 0; // a chunk of pixels as (n, p, q)
  int splits = 0;                                  // blocks per tile; 0: in one line
  void* dw = nullptr;                              // of whole tiles, else null
  bool dw_f32 = false;
  int filters = 0, channels = 0;                   // of dw
  float *partial = nullptr, *bias_partial = nullptr;   // of each tile that a block touches; of each row of tiles, [filters]
};

__device__ void store_pair(float* p, float a, float b) { *reinterpret_cast<float2*>(p) = make_float2(a, b); }
__device__ void store_pair(bf16* p, float a, float b) { *reinterpret_cast<std::uint32_t*>(p) = ptx::pack_bf16(a, b); }

// A warpgroup's part of a whole tile: rows from `row` on, boxes from `box` on.
template <class F, class E>
FALCONET_DEVICE void store_whole(float const (&d)[F::blocks][F::columns / 2], Work const& work, E* dw, int row, int box, int thread) {
  int const k = row + thread / 32 * 16 + thread % 32 / 4;
  std::int64_t const line = std::int64_t(work.boxes / work.blocks_of_64) * work.channels;   // elements of a filter
#pragma unroll
  for (int b = 0; b < F::columns / 64; ++b) {
    if (box + b >= work.boxes) break;
    int const tap = (box + b) / work.blocks_of_64, first = (box + b - tap * work.blocks_of_64) * 64 + 2 * (thread & 3);
    E* const to = dw + k * line + std::int64_t(tap) * work.channels + first;
#pragma unroll
    for (int i = 0; i < F::blocks; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float const* const v = d[i] + (b * 8 + j) * 4;
        if (first + 8 * j >= work.channels) continue;
        if (k + i * 64 < work.filters) store_pair(to + i * 64 * line + 8 * j, v[0], v[1]);
        if (k + i * 64 + 8 < work.filters) store_pair(to + (i * 64 + 8) * line + 8 * j, v[2], v[3]);
      }
  }
}

// Block b works on units [b * units / blocks, (b + 1) * units / blocks); unit = tile * chunks + chunk.
__host__ __device__ std::int64_t first_unit(int block, std::int64_t units, int blocks) { return block * units / blocks; }
__device__ int block_of(std::int64_t unit, std::int64_t units, int blocks) { return int(((unit + 1) * blocks - 1) / units); }

template <class F, bool bias>
__global__ void __launch_bounds__(F::threads, 1) split_k(const __grid_constant__ Work work) {
  using namespace ptx;
  if (lacks_hopper()) return;
  extern __shared__ __align__(1024) char dynamic[];
  __shared__ std::uint64_t full[F::stages], empty[F::stages];
  std::uint32_t const base = (shared_address(dynamic) + 1023) & ~1023u;
  int const group = threadIdx.x / 128;
  std::int64_t const units = std::int64_t(work.tiles) * work.chunks;
  int const blocks = gridDim.x;
  std::int64_t begin = first_unit(blockIdx.x, units, blocks), end = first_unit(blockIdx.x + 1, units, blocks);
  if (work.splits) {
    int const tile = blockIdx.x % work.tiles, split = blockIdx.x / work.tiles;
    begin = std::int64_t(tile) * work.chunks + split * work.chunks / work.splits;
    end = std::int64_t(tile) * work.chunks + (split + 1) * work.chunks / work.splits;
  } else if (work.dw) {
    begin = first_unit(blockIdx.x, work.tiles, blocks) * work.chunks, end = first_unit(blockIdx.x + 1, work.tiles, blocks) * work.chunks;
  }

  if (threadIdx.x == 0) {
    for (int i = 0; i < F::stages; ++i) barrier_init(shared_address(full + i), 4), barrier_init(shared_address(empty + i), F::groups * (bias ? 4 : 1));
    barrier_init_done();
    prefetch_map(&work.x);
    prefetch_map(&work.dy);
  }
  __syncthreads();
  wait_for_work_ahead();

  if (group == 0) {
    // Copies: one thread of each of the four warps, every fourth box of a stage.
    if constexpr (F::groups == 2) give_registers<40>();
    else give_registers<32>();
    if (threadIdx.x % 32 == 0) {
      int const warp = threadIdx.x / 32;
      constexpr int rows = F::filters / 64;
      int stage = 0, phase = 1;
      for (std::int64_t unit = begin; unit < end;) {
        int const tile = int(unit / work.chunks), first = int(unit - std::int64_t(tile) * work.chunks);
        int const last = int(min(std::int64_t(work.chunks), first + (end - unit)));
        unit += last - first;
        int const row_tile = tile / work.box_tiles, first_box = tile % work.box_tiles * F::boxes;
        int const boxes = min(F::boxes, work.boxes - first_box);
        // This warp's boxes of x: where in the channels, displaced by which tap.
        constexpr int most = (rows + F::boxes + 3) / 4;
        int channel[most], shift_h[most], shift_w[most], slot[most], count = 0, bytes = 0;
#pragma unroll
        for (int i = 0; i < most; ++i) {
          int const box = warp + 4 * i - rows;
          slot[i] = warp + 4 * i;
          channel[i] = shift_h[i] = shift_w[i] = 0;
          if (box < 0) {
            bytes += 8192, count = i + 1;
          } else if (box < boxes) {
            int const tap = (first_box + box) / work.blocks_of_64;
            channel[i] = (first_box + box - tap * work.blocks_of_64) * 64;
            shift_h[i] = tap / work.filter_width, shift_w[i] = tap - shift_h[i] * work.filter_width;
            shift_h[i] *= work.dilation_h, shift_w[i] *= work.dilation_w;
            bytes += 8192, count = i + 1;
          }
        }
        int n = first * chunk / work.image, in_image = first * chunk - n * work.image, p = in_image / work.columns, q = in_image - p * work.columns;
        for (int c = first; c < last; ++c) {
          barrier_wait(shared_address(empty + stage), phase);
          std::uint32_t const ready = shared_address(full + stage), to = base + stage * F::stage_bytes;
          barrier_expect(ready, bytes);
#pragma unroll
          for (int i = 0; i < most; ++i) {
            if (i >= count) break;
            if (slot[i] < rows) load_2d(to + slot[i] * 8192, &work.dy, row_tile * F::filters + slot[i] * 64, c * chunk, ready);
            else load_im2col(to + slot[i] * 8192, &work.x, channel[i], q * work.step_w + work.lower_w, p * work.step_h + work.lower_h, n, shift_w[i], shift_h[i], ready);
          }
          if (++stage == F::stages) stage = 0, phase ^= 1;
          q += work.advance_q, p += work.advance_p, n += work.advance_n;
          if (q >= work.columns) q -= work.columns, ++p;
          if (p >= work.rows) p -= work.rows, ++n;
        }
      }
    }
    return;
  }

  if constexpr (F::groups == 2) take_registers<232>();
  else take_registers<160>();
  int const me = group - 1, thread = threadIdx.x & 127, row_group = me / F::across, column_group = me % F::across;
  // Who says that a stage has been read: a warpgroup's first thread, of its products; each warp, where it has read the stage for the bias itself.
  bool const releases = bias ? thread % 32 == 0 : thread == 0;
  float d[F::blocks][F::columns / 2], bias_sums[F::blocks][4] = {};
  int stage = 0, phase = 0;
  for (std::int64_t unit = begin; unit < end;) {
    int const tile = int(unit / work.chunks), first = int(unit - std::int64_t(tile) * work.chunks);
    int const steps = int(min(std::int64_t(work.chunks), first + (end - unit))) - first;
    unit += steps;
    int previous = -1;
    // The chunks whose bias gradient is this tile's: those with its number modulo box_tiles.
    [[maybe_unused]] int until = bias ? (tile % work.box_tiles + work.box_tiles - first % work.box_tiles) % work.box_tiles : 0;
    for (int k = 0; k < steps; ++k) {
      barrier_wait(shared_address(full + stage), phase);
      std::uint32_t const rows = base + stage * F::stage_bytes + row_group * F::blocks * 8192;
      std::uint32_t const columns = base + stage * F::stage_bytes + F::filters / 64 * 8192 + column_group * F::columns / 64 * 8192;
      std::uint64_t const a = mn_major_operand(rows, 8192), b = mn_major_operand(columns, 8192);
#pragma unroll
      for (int i = 0; i < F::blocks; ++i) hold(d[i]);
      wgmma_fence();
#pragma unroll
      for (int kk = 0; kk < 4; ++kk)
#pragma unroll
        for (int i = 0; i < F::blocks; ++i) wgmma<1, 1>(d[i], a + i * 512 + kk * mn_major_step, b + kk * mn_major_step, (k | kk) != 0);
      wgmma_commit();
      if constexpr (bias) {   // meanwhile; a wgmma with ones would take as long as one of 64 columns
        if (until == 0) {
          until = work.box_tiles;
#pragma unroll
          for (int i = 0; i < F::blocks; ++i) add_rows(bias_sums[i], rows + i * 8192, 4, thread / 32, thread % 32);
        }
        --until;
      }
      wgmma_wait<1>();
#pragma unroll
      for (int i = 0; i < F::blocks; ++i) hold(d[i]);
      if (previous >= 0 && releases) barrier_arrive(shared_address(empty + previous));
      previous = stage;
      if (++stage == F::stages) stage = 0, phase ^= 1;
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < F::blocks; ++i) hold(d[i]);
    if (previous >= 0 && releases) barrier_arrive(shared_address(empty + previous));
    if (!bias && work.dw) {
      int const row = tile / work.box_tiles * F::filters + row_group * F::blocks * 64, box = tile % work.box_tiles * F::boxes + column_group * F::columns / 64;
      if (work.dw_f32) store_whole<F>(d, work, static_cast<float*>(work.dw), row, box, thread);
      else store_whole<F>(d, work, static_cast<bf16*>(work.dw), row, box, thread);
      continue;
    }
    // Partials in the order of the registers, so that a warp writes 512 bytes at a time.
    float4* const out = reinterpret_cast<float4*>(work.partial) + std::int64_t(work.splits ? blockIdx.x : blockIdx.x + tile) * (F::filters * F::boxes * 16);
#pragma unroll
    for (int i = 0; i < F::blocks; ++i)
#pragma unroll
      for (int j = 0; j < F::columns / 8; ++j)
        out[((me * F::blocks + i) * (F::columns / 8) + j) * 128 + thread] = make_float4(d[i][4 * j], d[i][4 * j + 1], d[i][4 * j + 2], d[i][4 * j + 3]);
    if constexpr (bias) {
      int const row_tile = tile / work.box_tiles;
      if (unit < end && int(unit / work.chunks) / work.box_tiles == row_tile) continue;   // the next tile has the same rows
      float* const sums = work.bias_partial + std::int64_t(work.splits ? blockIdx.x : blockIdx.x + row_tile) * F::filters + row_group * F::blocks * 64 +
                          thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
      for (int i = 0; i < F::blocks; ++i) {
        if (column_group == 0 && (thread & 3) == 0) sums[i * 64] = bias_sums[i][0], sums[i * 64 + 8] = bias_sums[i][2];
        bias_sums[i][0] = bias_sums[i][1] = bias_sums[i][2] = bias_sums[i][3] = 0;
      }
    }
  }
}

// db[k]: the sums of all blocks that touched tiles of k's rows, in order; a warp per k.
template <class F>
__device__ void add_bias_partials(float const* partial, float* db, int row_tile, int tiles, int splits, int blocks, int chunks, int box_tiles, int filters) {
  int const lane = threadIdx.x % 32;
  std::int64_t const units = std::int64_t(tiles) * chunks, of_row = std::int64_t(box_tiles) * chunks;
  int const first = splits ? 0 : block_of(row_tile * of_row, units, blocks);
  int const count = splits ? box_tiles * splits : block_of((row_tile + 1) * of_row - 1, units, blocks) - first + 1;
  for (int row = blockIdx.x * 8 + (threadIdx.y * blockDim.x + threadIdx.x) / 32; row < F::filters; row += gridDim.x * 8) {
    int const k = row_tile * F::filters + row;
    if (k >= filters) return;
    double sum = 0;
    for (int i = lane; i < count; i += 32) {
      int const slot = splits ? i / box_tiles * tiles + row_tile * box_tiles + i % box_tiles : first + i + row_tile;
      sum += double(__ldcg(partial + std::int64_t(slot) * F::filters + row));
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (lane == 0) db[k] = float(sum);
  }
}

// Adds the partials of each tile: with g = blockDim.y, thread (x, y) takes four sums of every g-th partial from y on, then the g are added
// in order. blockIdx.y is the tile, or beyond the last one a row of tiles whose bias gradient is added.
template <class F, class E>
__global__ void __launch_bounds__(256) add_partials(float4 const* partial, E* dw, int tiles, int splits, int blocks, int chunks, int box_tiles, int boxes,
                                                    int blocks_of_64, int filters, int channels, float const* bias_partial, float* db) {
  __shared__ float4 sums[256];
  if (int(blockIdx.y) >= tiles) {
    wait_for_work_ahead();
    return add_bias_partials<F>(bias_partial, db, blockIdx.y - tiles, tiles, splits, blocks, chunks, box_tiles, filters);
  }
  int const tile = blockIdx.y, element = blockIdx.x * blockDim.x + threadIdx.x;
  std::int64_t const units = std::int64_t(tiles) * chunks;
  int const begin = splits ? 0 : block_of(std::int64_t(tile) * chunks, units, blocks);
  int const count = splits ? splits : block_of(std::int64_t(tile + 1) * chunks - 1, units, blocks) - begin + 1;
  constexpr std::int64_t slot = F::filters * F::boxes * 16;
  std::int64_t const step = splits ? slot * tiles : slot;
  float4 const* from = partial + (splits ? tile : begin + tile) * slot + element + threadIdx.y * step;
  float4 sum = make_float4(0, 0, 0, 0);
  wait_for_work_ahead();
#pragma unroll 4
  for (int i = threadIdx.y; i < count; i += blockDim.y, from += blockDim.y * step) {
    float4 const v = __ldcg(from);
    sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
  }
  sums[threadIdx.y * blockDim.x + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0) return;
  for (int i = 1; i < int(blockDim.y); ++i) {
    float4 const v = sums[i * blockDim.x + threadIdx.x];
    sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
  }
  int const thread = element % 128, which = element / 128;   // which = (group * blocks + i) * columns / 8 + j
  int const j = which % (F::columns / 8), i = which / (F::columns / 8) % F::blocks, group = which / (F::columns / 8) / F::blocks;
  int const k = tile / box_tiles * F::filters + ((group / F::across) * F::blocks + i) * 64 + thread / 32 * 16 + thread % 32 / 4;
  int const column = group % F::across * F::columns + 8 * j + 2 * (thread & 3), box = tile % box_tiles * F::boxes + column / 64;
  if (box >= boxes) return;
  int const tap = box / blocks_of_64, c = (box - tap * blocks_of_64) * 64 + column % 64, taps = boxes / blocks_of_64;
  if (c >= channels) return;
  E* const to = dw + (std::int64_t(k) * taps + tap) * channels + c;
  if (k < filters) store_pair(to, sum.x, sum.y);
  if (k + 8 < filters) store_pair(to + std::int64_t(8) * taps * channels, sum.z, sum.w);
}

Tile tile_of(Config const& c) { return {c.get("filters", 128), c.get("boxes", 4)}; }
enum class Cut { line, aligned, whole };
Cut cut_of(Config const& c) { return c.get("whole", 0) ? Cut::whole : c.get("aligned", 0) ? Cut::aligned : Cut::line; }

struct Split {
  int tiles, box_tiles, boxes, chunks, blocks, splits;
};
// most: of the blocks; fewer work on as they end a tile.
Split split_of(ConvProblem const& p, Tile t, Cut cut, int most = most_blocks) {
  Split s{};
  s.boxes = p.r * p.s * ((p.c + 63) / 64);
  s.box_tiles = (s.boxes + t.boxes - 1) / t.boxes;
  s.tiles = s.box_tiles * ((p.k + t.filters - 1) / t.filters);
  s.chunks = int((std::int64_t(p.n) * p.p() * p.q() + chunk - 1) / chunk);
  s.blocks = int(std::clamp<std::int64_t>(std::int64_t(s.tiles) * s.chunks / 4, 1, most));
  if (cut == Cut::aligned && s.tiles <= s.blocks) {
    s.splits = s.blocks / s.tiles;
    s.blocks = s.splits * s.tiles;
  }
  if (cut == Cut::whole) s.blocks = std::min(s.tiles, most);
  return s;
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (facts.compute_capability != 90) return "needs a Hopper GPU (compute capability 9.0)";
  if (p.direction != Direction::bwd_filter) return "filter gradient only";
  if (p.x_type != DType::bf16 || p.y_type != DType::bf16 || p.layout != Layout::nhwc) return "x and dy in bf16 and nhwc only";
  if (p.w_type != DType::bf16 && p.w_type != DType::f32) return "dw in bf16 or f32 only";
  if (p.groups != 1) return "groups";
  if (p.c % 8 || p.k % 8) return "channels must be multiples of 8";
  OnStore with_bias;
  with_bias.bias = p.store.bias;
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{} || p.store != with_bias) return "slots";
  if (p.stride_h > 8 || p.stride_w > 8) return "strides above 8";
  if ((p.r - 1) * p.dilation_h > 120 || (p.s - 1) * p.dilation_w > 120 || std::max({p.pad_top, p.pad_left, p.pad_bottom, p.pad_right}) > 120)
    return "a filter or padding above 120";
  if (std::int64_t(p.n) * p.p() * p.q() >= std::int64_t(1) << 30) return "2^30 pixels or more";
  return {};
}

// Constants measured on an H200.
double seconds_with(ConvProblem const& p, Tile t, Cut cut) {
  Split const s = split_of(p, t, cut);
  bool const whole = cut == Cut::whole;
  double const chunks = whole ? std::ceil(double(s.tiles) / s.blocks) * s.chunks : std::ceil(double(s.tiles) * s.chunks / s.blocks);   // of a block
  double const product = 2.0 * t.filters * t.boxes * 64 * chunk / 5.8e12, fetch = (t.filters / 64 + t.boxes) * 8192 / (s.splits ? 7.5e10 : 6.2e10);
  double const slot = t.filters * t.boxes * 256.0, partials = whole ? 0 : double(s.blocks + (s.splits ? 0 : s.tiles)) * slot * 2 / 5e12;
  double const stores = whole ? std::ceil(double(s.tiles) / s.blocks) * slot / 2.2e10 : 0;   // not hidden
  double const ones = p.store.bias ? 1 + 0.1 / s.box_tiles : 1;                              // of the product's time
  return (whole ? 4e-6 : 7e-6) + std::max(chunks * std::max(product * ones, fetch) + stores, bytes_of(p.operands()) / 3.9e12) + partials;
}

std::vector<Config> configs(ConvProblem const& p, DeviceFacts const&) {
  struct Way {
    Tile tile;
    Cut cut;
  };
  std::vector<Way> ways;
  for (Tile t : tiles_known)
    for (Cut cut : {Cut::aligned, Cut::line, Cut::whole}) {
      if (t.filters > 64 && p.k <= t.filters / 2) continue;
      Split const s = split_of(p, t, cut);
      if (cut == Cut::aligned ? s.splits > 0 : cut == Cut::line || (!p.store.bias && s.tiles >= most_blocks / 2)) ways.push_back({t, cut});
    }
  std::stable_sort(ways.begin(), ways.end(), [&](Way const& a, Way const& b) { return seconds_with(p, a.tile, a.cut) < seconds_with(p, b.tile, b.cut); });
  std::vector<Config> out;
  for (auto const& w : ways) {
    Config c{{"filters", w.tile.filters}, {"boxes", w.tile.boxes}, {"aligned", int(w.cut == Cut::aligned)}};
    if (w.cut == Cut::whole) c = Config{{"filters", w.tile.filters}, {"boxes", w.tile.boxes}, {"whole", 1}};
    out.push_back(c);
  }
  return out;
}

std::vector<LaunchRange> ranges(ConvProblem const&, DeviceFacts const&) { return {{"blocks", 1, most_blocks, false}}; }
int most_of(Config const& c) { return c.get("blocks", most_blocks); }

std::size_t scratch(ConvProblem const& p, Config const& config) {
  Tile const t = tile_of(config);
  Cut const cut = cut_of(config);
  if (cut == Cut::whole) return 0;
  Split const s = split_of(p, t, cut, most_of(config));
  return std::size_t(s.blocks + s.tiles) * t.filters * (t.boxes * 64 + (p.store.bias ? 1 : 0)) * sizeof(float);
}

double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  Config const best = configs(p, facts).front();
  return seconds_with(p, tile_of(best), cut_of(best));
}

template <class F, bool bias>
void launch(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch, cudaStream_t stream) {
  static bool const allowed = (allow_shared_memory(split_k<F, bias>, F::shared_bytes), true);
  (void)allowed;
  Cut const cut = cut_of(config);
  Split const s = split_of(p, {F::filters, F::boxes}, cut, most_of(config));
  int const P = p.p(), Q = p.q();
  Work w;
  w.x = im2col_map(args.x.data,
                   {.n = p.n, .h = p.h, .w = p.w, .c = p.c, .stride_n = std::int64_t(p.h) * p.w * p.c, .stride_h = std::int64_t(p.w) * p.c, .stride_w = p.c,
                    .lower_h = -p.pad_top, .lower_w = -p.pad_left, .upper_h = p.pad_bottom - (p.r - 1) * p.dilation_h,
                    .upper_w = p.pad_right - (p.s - 1) * p.dilation_w, .step_h = p.stride_h, .step_w = p.stride_w},
                   64, chunk);
  w.dy = tiled_map(args.y.data, {p.k, std::int64_t(p.n) * P * Q}, {p.k}, {64, chunk});
  w.tiles = s.tiles, w.box_tiles = s.box_tiles, w.boxes = s.boxes, w.blocks_of_64 = (p.c + 63) / 64, w.filter_width = p.s, w.chunks = s.chunks;
  w.image = P * Q, w.columns = Q, w.rows = P;
  w.step_h = p.stride_h, w.step_w = p.stride_w, w.lower_h = -p.pad_top, w.lower_w = -p.pad_left, w.dilation_h = p.dilation_h, w.dilation_w = p.dilation_w;
  w.advance_n = chunk / w.image, w.advance_p = chunk % w.image / Q, w.advance_q = chunk % w.image % Q;
  w.splits = s.splits, w.partial = scratch.as<float>();
  w.bias_partial = w.partial + std::int64_t(s.blocks + s.tiles) * F::filters * F::boxes * 64;
  w.filters = p.k, w.channels = p.c, w.dw = cut == Cut::whole ? args.w.data : nullptr, w.dw_f32 = p.w_type == DType::f32;
  launch_ahead(split_k<F, bias>, dim3(unsigned(s.blocks)), dim3(F::threads), F::shared_bytes, 1, stream, w);
  if (cut == Cut::whole) return check_launch("conv split_k_wgmma", p, stream);
  int const partials = s.splits ? s.splits : s.blocks / s.tiles + 2, together = partials >= 16 ? 8 : partials >= 8 ? 4 : partials >= 4 ? 2 : 1;
  dim3 const block(256 / together, together), grid(F::filters * F::boxes * 16 / block.x, s.tiles + (bias ? s.tiles / s.box_tiles : 0));
  auto const* partial = reinterpret_cast<float4 const*>(w.partial);
  auto const add = [&](auto* dw) {
    launch_ahead(add_partials<F, std::remove_pointer_t<decltype(dw)>>, grid, block, 0, 1, stream, partial, dw, s.tiles, s.splits, s.blocks, s.chunks, s.box_tiles,
                 s.boxes, w.blocks_of_64, p.k, p.c, w.bias_partial, bias ? args.bias.as<float>() : nullptr);
  };
  if (p.w_type == DType::f32) add(args.w.as<float>());
  else add(args.w.as<bf16>());
  check_launch("conv split_k_wgmma", p, stream);
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch, Stream& stream) {
  auto const s = static_cast<cudaStream_t>(stream.cuda());
  Tile const t = tile_of(config);
  bool known = false;
  auto const with = [&](auto form) {
    using F = decltype(form);
    if (t.filters != F::filters || t.boxes != F::boxes) return;
    known = true;
    (p.store.bias ? launch<F, true> : launch<F, false>)(p, config, args, scratch, s);
  };
  with(Form<128, 4, 1, 384>{});
  with(Form<128, 3, 1, 384>{});
  with(Form<128, 2, 1, 384>{});
  with(Form<64, 4, 2, 384>{});
  with(Form<64, 9, 3, 512>{});
  with(Form<256, 1, 1, 384>{});
  if (!known) fail(ErrorKind::usage, "split_k_wgmma has no tile '" + config.text() + "'");
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_split_k_wgmma{
    .name = "split_k_wgmma", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .scratch = scratch, .seconds = seconds, .run = run,
    .ranges = ranges};

}  // namespace falconet
