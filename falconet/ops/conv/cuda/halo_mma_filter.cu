// The filter gradient of convolutions of few channels (16 or fewer, 32, 64) with 3x3 or 1x1 filters in bf16 by mma.sync, channels-last:
//   dw[k][tap][c] = sum over pixels of dy[pixel][k] * x[pixel * stride + tap][c]
// A tile of dy and the part of x that it meets, halo included, lie in shared memory once; both are read transposed by the matrix loads, so
// the pixels are the depth of m16n8k16, dy's channels its rows and x's channels of one tap its columns. A warp has a role (a row of the
// filter and 32 of dy's channels, or all of a small filter) and a share of the tile's pixels; sums stay in registers for the whole launch,
// are added over the warps of a block and written once per block; a second kernel adds the blocks' sums. All in a fixed order: the same
// bytes every time. Cost: 2 k c r s operations per pixel of the tiles; bytes: x and dy once, 4 k c r s per block.
#include <algorithm>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/small_channels.cuh"

namespace falconet {
namespace {

using namespace small_channels;
constexpr int most_blocks = 132,  // multiprocessors of the H100 and H200; fixed, so that results do not depend on the card
              most_shared = 220 * 1024, own_shared = 2048;

struct Work {
  bf16 const *x = nullptr, *dy = nullptr;
  Tiles tiles;
  int n = 0, height = 0, width = 0, real = 0;  // of x; real: its channels in memory
  int rows = 0, columns = 0;                   // of dy
  int stride = 1, pad_top = 0, pad_left = 0;
  int stages = 1;            // tiles in shared memory at once
  float* partial = nullptr;  // [blocks][K][taps][C]
};

template <int K_, int C_, int side_>
struct Form {
  static constexpr int K = K_, C = C_, side = side_, taps = side * side, elements = K * taps * C;
  static constexpr bool whole = K == 16 && C == 16;                           // one role has all rows of the filter
  static constexpr int filters = K < 32 ? 16 : 32, lines = whole ? side : 1;  // of a role
  static constexpr int roles = (whole ? 1 : side) * (K / filters);
  static constexpr int groups = roles == 1 ? (side == 3 ? 16 : 8) : roles == 2 ? 8 : roles == 3 ? 4 : 2;  // shares of a tile's pixels
  static constexpr int threads = roles * groups * 32;
};

template <class F>
__global__ void __launch_bounds__(F::threads, 1) halo_mma_filter(const __grid_constant__ Work w) {
  using namespace ptx;
  constexpr int K = F::K, C = F::C, side = F::side, rows16 = F::filters / 16;
  extern __shared__ __align__(128) char dynamic[];
  __shared__ int offset[own_shared / 4];  // of a tile's pixel in x's part
  Tiles const& t = w.tiles;
  int const pixels = t.group * t.rows * t.columns, steps = (pixels + 15) / 16, of_image = t.rows * t.columns;
  int const dy_bytes = steps * 16 * pixel_bytes<K>, slot_bytes = dy_bytes + t.group * t.in_rows * t.in_columns * pixel_bytes<C>;
  std::uint32_t const memory = shared_address(dynamic);
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32, role = warp % F::roles, share = warp / F::roles;
  int const line = F::whole ? 0 : role % side, filter = F::whole ? 0 : role / side * F::filters;

  auto const start = [&](int tile, int slot) {
    Place const at = place_of(t, tile);
    std::uint32_t const to = memory + slot * slot_bytes;
    fetch<K>(to, w.dy, t.group, t.rows, t.columns, at.n, at.row, at.column, w.n, w.rows, w.columns, K);
    fetch<C>(to + dy_bytes, w.x, t.group, t.in_rows, t.in_columns, at.n, at.row * w.stride - w.pad_top, at.column * w.stride - w.pad_left,
             w.n, w.height, w.width, w.real);
    copies_done();
  };
  wait_for_work_ahead();
  int ahead = blockIdx.x;  // the next tile to fetch
  for (int i = 0; i < max(1, w.stages - 1); ++i, ahead += gridDim.x) ahead < t.count ? start(ahead, i) : copies_done();
  for (int i = threadIdx.x; i < steps * 16; i += F::threads) {
    int const p = min(i, pixels - 1), g = p / of_image, row = (p - g * of_image) / t.columns, column = p - g * of_image - row * t.columns;
    offset[i] = ((g * t.in_rows + row * w.stride) * t.in_columns + column * w.stride) * pixel_bytes<C>;
  }
  // The steps' last pixels, which no copy writes.
  for (int i = threadIdx.x; i < w.stages * (steps * 16 - pixels) * (pixel_bytes<K> / 16); i += F::threads) {
    int const of_slot = (steps * 16 - pixels) * (pixel_bytes<K> / 16), slot = i / of_slot;
    *reinterpret_cast<uint4*>(dynamic + slot * slot_bytes + pixels * pixel_bytes<K> + (i - slot * of_slot) * 16) = make_uint4(0, 0, 0, 0);
  }

  float d[F::lines * side][rows16][C / 8][4];
#pragma unroll
  for (int a = 0; a < F::lines * side; ++a)
#pragma unroll
    for (int m = 0; m < rows16; ++m)
#pragma unroll
      for (int j = 0; j < C / 8; ++j) d[a][m][j][0] = d[a][m][j][1] = d[a][m][j][2] = d[a][m][j][3] = 0;

  int slot = 0;
  for (int tile = blockIdx.x; tile < t.count; tile += gridDim.x) {
    if (w.stages == 4)
      copies_wait<2>();
    else if (w.stages == 3)
      copies_wait<1>();
    else
      copies_wait<0>();
    __syncthreads();  // the tile is there, and nobody reads the last one
    if (w.stages > 1) {
      int const free = slot == 0 ? w.stages - 1 : slot - 1;
      ahead < t.count ? start(ahead, free) : copies_done();
      ahead += gridDim.x;
    }
    std::uint32_t const dy = memory + slot * slot_bytes, x = dy + dy_bytes;
#pragma unroll 1
    for (int step = share; step < steps; step += F::groups) {
      std::uint32_t a[rows16][4];
#pragma unroll
      for (int m = 0; m < rows16; ++m)
        load_matrices_transposed(
            a[m], dy + (step * 16 + (lane & 7) + (lane >> 4) * 8) * pixel_bytes<K> + (filter / 8 + 2 * m + (lane >> 3 & 1)) * 16);
      std::uint32_t const from = x + offset[step * 16 + (lane & 15)] + (lane >> 4) * 16 + line * t.in_columns * pixel_bytes<C>;
#pragma unroll
      for (int r = 0; r < F::lines; ++r)
#pragma unroll
        for (int s = 0; s < side; ++s)
#pragma unroll
          for (int j = 0; j < C / 16; ++j) {
            std::uint32_t b[4];
            load_matrices_transposed(b, from + (r * t.in_columns + s) * pixel_bytes<C> + j * 32);
#pragma unroll
            for (int m = 0; m < rows16; ++m)
              mma_bf16(d[r * side + s][m][2 * j], a[m], b[0], b[1]), mma_bf16(d[r * side + s][m][2 * j + 1], a[m], b[2], b[3]);
          }
    }
    if (++slot == w.stages) slot = 0;
  }
  copies_wait<0>();
  __syncthreads();

  // The shares of the pixels, in order.
  float* const table = reinterpret_cast<float*>(dynamic) + share * F::elements;
#pragma unroll
  for (int a = 0; a < F::lines * side; ++a)
#pragma unroll
    for (int m = 0; m < rows16; ++m)
#pragma unroll
      for (int j = 0; j < C / 8; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          int const k = filter + m * 16 + lane / 4 + 8 * half, tap = line * side + a, c = 8 * j + 2 * (lane & 3);
          *reinterpret_cast<float2*>(table + (k * F::taps + tap) * C + c) = make_float2(d[a][m][j][2 * half], d[a][m][j][2 * half + 1]);
        }
  __syncthreads();
  float4 const* const all = reinterpret_cast<float4 const*>(dynamic);
  for (int i = threadIdx.x; i < F::elements / 4; i += F::threads) {
    float4 sum = all[i];
#pragma unroll
    for (int g = 1; g < F::groups; ++g) {
      float4 const v = all[g * (F::elements / 4) + i];
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    reinterpret_cast<float4*>(w.partial)[std::int64_t(blockIdx.x) * (F::elements / 4) + i] = sum;
  }
}

__device__ void put(float& to, float v) { to = v; }
__device__ void put(bf16& to, float v) { to = to_bf16(v); }

// dw = the blocks' sums in a fixed order: thread (x, y) adds every 32nd block for four elements, then the 32 are added. Channels from
// `real` on are padding.
template <class E>
__global__ void __launch_bounds__(1024) add_blocks(float4 const* partial, int blocks, int elements, int channels, int real, E* dw) {
  __shared__ float4 sums[32][32];
  int const i = blockIdx.x * 32 + threadIdx.x;
  wait_for_work_ahead();
  float4 sum = make_float4(0, 0, 0, 0), v[5];  // at most 132 blocks: all loads under way at once
#pragma unroll
  for (int k = 0; k < 5; ++k) {
    int const b = threadIdx.y + 32 * k;
    v[k] = b < blocks ? __ldcg(partial + b * (elements / 4) + i) : make_float4(0, 0, 0, 0);
  }
#pragma unroll
  for (int k = 0; k < 5; ++k) sum.x += v[k].x, sum.y += v[k].y, sum.z += v[k].z, sum.w += v[k].w;
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  int const t = threadIdx.y * 32 + threadIdx.x;
  if (t >= 128) return;
  float all = 0;
#pragma unroll
  for (int row = 0; row < 32; ++row) all += reinterpret_cast<float const*>(sums[row])[t];
  int const at = blockIdx.x * 128 + t, c = at % channels;
  if (c < real) put(dw[at / channels * real + c], all);
}

// ---------------------------------------------------------------- host

int padded(int channels) { return channels < 16 ? 16 : channels; }
int elements_of(ConvProblem const& p) { return p.k * p.r * p.s * padded(p.c); }
int groups_of(ConvProblem const& p) {
  int const roles = p.k == 16 ? 1 : p.r * (p.k / 32);
  return roles == 1 ? (p.r == 3 ? 16 : 8) : roles == 2 ? 8 : roles == 3 ? 4 : 2;
}

struct Layout4 {
  Tiles tiles;
  int blocks, stages, shared;
};
// kib: of shared memory that a block may have where that is less than Hopper's.
Layout4 layout_of(ConvProblem const& p, Config const& config) {
  int const most = config.get("kib", most_shared >> 10) << 10;
  Layout4 l{};
  for (int pixels : {512, 256, 128, 64, 32}) {
    l.tiles = tiles_of(p.n, p.p(), p.q(), p.r, p.stride_h, pixels);
    l.blocks = std::min(l.tiles.count, config.get("blocks", most_blocks));
    int const inside = l.tiles.group * l.tiles.rows * l.tiles.columns, steps = (inside + 15) / 16;
    int const slot = steps * 16 * (p.k * 2 + 16) + l.tiles.group * l.tiles.in_rows * l.tiles.in_columns * (padded(p.c) * 2 + 16);
    l.stages =
        l.blocks == l.tiles.count ? 1 : std::clamp(most / slot, 2, std::min(4, 1 + (l.tiles.count + l.blocks - 1) / l.blocks));
    l.shared = std::max(l.stages * slot, groups_of(p) * elements_of(p) * 4);
    if (l.shared <= most && (l.tiles.count >= (pixels == 512 ? 200 : 60) || pixels == 32)) break;
  }
  return l;
}

std::vector<Config> configs(ConvProblem const&, DeviceFacts const& facts) {
  if (facts.shared_memory_bytes >= most_shared + own_shared) return {Config{}};
  return {Config{{"kib", int(facts.shared_memory_bytes - own_shared) >> 10}}};
}

// kib: what a block's stages may take of shared memory.
std::vector<LaunchRange> ranges(ConvProblem const& p, DeviceFacts const& facts) {
  int const most = int(std::min<std::int64_t>(most_shared, facts.shared_memory_bytes - own_shared) >> 10);
  int least = most;
  for (int kib = most; kib > 0 && layout_of(p, {{"kib", kib}, {"blocks", 1}}).shared <= kib << 10; --kib) least = kib;   // one block has most stages
  return {{"kib", least, most, false}, {"blocks", 1, most_blocks, false}};
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (facts.compute_capability < 80) return "products in bf16 need compute capability 8.0";
  if (p.direction != Direction::bwd_filter) return "filter gradient only";
  if (p.x_type != DType::bf16 || p.y_type != DType::bf16 || p.layout != Layout::nhwc) return "bf16 and nhwc only";
  if (p.w_type != DType::bf16 && p.w_type != DType::f32) return "dw in bf16 or f32 only";
  if (p.groups != 1 || p.dilation_h != 1 || p.dilation_w != 1) return "groups or dilation";
  if (p.r != p.s || (p.r != 3 && p.r != 1)) return "3x3 and 1x1 filters only";
  if (p.stride_h != p.stride_w || p.stride_h > 2) return "strides 1 and 2 only";
  int const c = padded(p.c);
  if (p.r == 3 ? !(c == 16 && p.k == 16) && !(c == 16 && p.k == 32) && !(c == 32 && p.k == 32)
               : !(c == 16 && p.k == 32) && !(c == 32 && p.k == 64))
    return "3x3 of 16 to 16 or 32, 32 to 32 channels, 1x1 of 16 to 32 or 32 to 64 only";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots on load";
  if (p.store != OnStore{}) return "slots of the filter gradient";
  if (std::int64_t(p.n) * p.h * p.w >= std::int64_t(1) << 30) return "2^30 pixels or more";
  if (layout_of(p, configs(p, facts).front()).shared > std::min<std::int64_t>(most_shared, facts.shared_memory_bytes - own_shared)) return "a tile does not fit in shared memory";
  return {};
}

std::size_t scratch(ConvProblem const& p, Config const& config) {
  return std::size_t(layout_of(p, config).blocks) * std::size_t(elements_of(p)) * sizeof(float);
}

// Constants measured on an H200.
double seconds(ConvProblem const& p, DeviceFacts const& facts) {
  Layout4 const l = layout_of(p, configs(p, facts).front());
  double const waves = (l.tiles.count + l.blocks - 1) / l.blocks, pixels = double(l.tiles.group) * l.tiles.rows * l.tiles.columns;
  double const product = waves * pixels * 2.0 * elements_of(p) / 1.9e12;
  return 4.5e-6 + 2.0 * l.blocks * elements_of(p) * 4 / 4e12 + std::max(product, bytes_of(p.operands()) / 3.5e12);
}

template <class F>
void launch_form(Work const& w, Layout4 const& l, cudaStream_t stream) {
  static bool const allowed = (allow_shared_memory(halo_mma_filter<F>, most_shared), true);
  (void)allowed;
  launch_ahead(halo_mma_filter<F>, dim3(unsigned(l.blocks)), dim3(F::threads), std::size_t(l.shared), 1, stream, w);
}

void run(ConvProblem const& p, Config const& config, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Layout4 const l = layout_of(p, config);
  Work w;
  w.x = args.x.as<bf16>(), w.dy = args.y.as<bf16>();
  w.tiles = l.tiles, w.stages = l.stages;
  w.n = p.n, w.height = p.h, w.width = p.w, w.real = p.c, w.rows = p.p(), w.columns = p.q();
  w.stride = p.stride_h, w.pad_top = p.pad_top, w.pad_left = p.pad_left;
  w.partial = memory.as<float>();
  int const c = padded(p.c);
  if (p.r == 3 && c == 16)
    p.k == 16 ? launch_form<Form<16, 16, 3>>(w, l, stream) : launch_form<Form<32, 16, 3>>(w, l, stream);
  else if (p.r == 3)
    launch_form<Form<32, 32, 3>>(w, l, stream);
  else
    c == 16 ? launch_form<Form<32, 16, 1>>(w, l, stream) : launch_form<Form<64, 32, 1>>(w, l, stream);
  auto const* partial = reinterpret_cast<float4 const*>(w.partial);
  unsigned const grid = unsigned(elements_of(p) / 128);  // every form has a multiple of 128 elements
  if (p.w_type == DType::f32)
    launch_ahead(add_blocks<float>, dim3(grid), dim3(32, 32), 0, 1, stream, partial, l.blocks, elements_of(p), c, p.c, args.w.as<float>());
  else
    launch_ahead(add_blocks<bf16>, dim3(grid), dim3(32, 32), 0, 1, stream, partial, l.blocks, elements_of(p), c, p.c, args.w.as<bf16>());
  check_launch("conv halo_mma_filter", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_halo_mma_filter{
    .name = "halo_mma_filter", .target = DeviceKind::cuda, .reject = reject, .configs = configs, .scratch = scratch, .seconds = seconds, .run = run,
    .ranges = ranges};

}  // namespace falconet
