// Convolutions of few channels (16 and 32, forward also fewer than 16 in) with 3x3 or 1x1 filters in bf16 by mma.sync,
// channels-last: forward with stride 1 or 2, data gradient with stride 1.
//   result[pixel][n] = sum over taps, c of in[pixel * stride + tap][c] * filter[tap][c][n]
// These layers are bound by memory and by latency; im2col into 64-channel tiles (implicit_gemm_wgmma) wastes three quarters of both. Here a
// tile of the image lies in shared memory with its halo, once; the pixels are the rows of m16n8k16, sixteen channels of one tap its depth.
// The filter lies in shared memory in the order of the instruction's operand, its columns permuted so that a lane holds n/4 neighbouring
// channels of a pixel: results, residuals and masks are moved 8 or 16 bytes at a time without passing shared memory. A data gradient is the
// same product with the filter turned round. Channel sums are kept in registers, added in a block in a fixed order, and the blocks' sums
// are added in order by the block that comes last. Cost: 2 c k r s operations per pixel of the tiles; bytes: in (with the halo from L2) and
// out once.
#include <algorithm>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"
#include "falconet/ops/conv/cuda/algorithms.h"
#include "falconet/ops/conv/cuda/halo_mma.cuh"

namespace falconet {
namespace {

using namespace small_channels;
constexpr int multiprocessors = 132;  // of the H100 and H200; fixed, so that results do not depend on the card

struct Work {
  bf16 const *in = nullptr, *residual = nullptr, *mask = nullptr, *other = nullptr;  // other: what the sums are taken with
  bf16* out = nullptr;
  void const* filter = nullptr;
  bool filter_f32 = false, gradient = false;
  Tiles tiles;
  int n = 0, height = 0, width = 0, real = 0;  // of `in`; real: its channels in memory
  int rows = 0, columns = 0;                   // of `out`
  int stride = 1, pad_top = 0, pad_left = 0;
  float const *affine = nullptr, *bias = nullptr;
  Activation act = Activation::none;
  StepState const* step = nullptr;  // with sums
  bool squares = false;
  float* partial = nullptr;  // [blocks][2][N]
  float* stats = nullptr;
  unsigned* arrivals = nullptr;
};

template <int C, int N, int side>
struct Form {
  static constexpr int taps = side * side, filter_bytes = taps * C * N * 2;
  static constexpr int blocks_per_multiprocessor = N == 16 ? 4 : 2;
};

// slots: any store slot but squares alone.
template <int C, int N, int side, bool slots>
__global__ void __launch_bounds__(256, Form<C, N, side>::blocks_per_multiprocessor) halo_mma(const __grid_constant__ Work w) {
  using namespace ptx;
  constexpr int pixel = pixel_bytes<C>, across = N / 4, words = N / 8;
  extern __shared__ __align__(128) char dynamic[];
  __shared__ float sums[8][2 * N];
  __shared__ bool last;
  char* const filter = dynamic;
  std::uint32_t const images = shared_address(dynamic) + Form<C, N, side>::filter_bytes;
  Tiles const& t = w.tiles;
  int const image_bytes = t.group * t.in_rows * t.in_columns * pixel;
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int const tile_pixels = t.group * t.rows * t.columns, of_image = t.rows * t.columns;

  auto const start = [&](int tile, int slot) {
    Place const at = place_of(t, tile);
    fetch<C>(images + slot * image_bytes, w.in, t.group, t.in_rows, t.in_columns, at.n, at.row * w.stride - w.pad_top,
             at.column * w.stride - w.pad_left, w.n, w.height, w.width, w.real);
    copies_done();
  };
  wait_for_work_ahead();
  start(blockIdx.x, 0);
  place_filter<C, N, side>(filter, w.filter, w.filter_f32, w.gradient, w.real);

  // This lane's rows of the two blocks of 16 pixels: where the matrix loads begin, and which pixels its results are.
  std::uint32_t from[2];
  int where[4], displacement[4];  // group << 20 | row << 10 | column, -1 for none; in `out` from the tile's first pixel
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    int const p = min((warp * 2 + m) * 16 + (lane & 15), tile_pixels - 1), g = p / of_image, row = (p - g * of_image) / t.columns,
              column = p - g * of_image - row * t.columns;
    from[m] = ((g * t.in_rows + row * w.stride) * t.in_columns + column * w.stride) * pixel + (lane >> 4) * 16;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int const q = (warp * 2 + m) * 16 + lane / 4 + 8 * half, qg = q / of_image, qr = (q - qg * of_image) / t.columns;
      int const qc = q - qg * of_image - qr * t.columns;
      where[2 * m + half] = q < tile_pixels ? qg << 20 | qr << 10 | qc : -1;
      displacement[2 * m + half] = ((qg * w.rows + qr) * w.columns + qc) * N;
    }
  }
  int const channel = (lane & 3) * across;  // the first of this lane's
  float first[across], second[across];
#pragma unroll
  for (int i = 0; i < across; ++i) first[i] = second[i] = 0;
  int const valid = w.step ? w.step->valid_count : 0;

  int slot = 0;
  for (int tile = blockIdx.x; tile < t.count; tile += gridDim.x) {
    copies_wait<0>();
    __syncthreads();  // the tile is there, and nobody reads the last one
    if (tile + int(gridDim.x) < t.count) start(tile + gridDim.x, slot ^ 1);
    std::uint32_t const image = images + slot * image_bytes;
    float d[2][N / 8][4];
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int j = 0; j < N / 8; ++j) d[m][j][0] = d[m][j][1] = d[m][j][2] = d[m][j][3] = 0;
    if (warp * 32 < tile_pixels) {
#pragma unroll
      for (int r = 0; r < side; ++r) {
        std::uint32_t const line = image + r * t.in_columns * pixel;
#pragma unroll
        for (int s = 0; s < side; ++s)
#pragma unroll
          for (int kk = 0; kk < C / 16; ++kk) {
            uint4 b[N / 16];
#pragma unroll
            for (int j = 0; j < N / 16; ++j)
              b[j] = reinterpret_cast<uint4 const*>(filter)[(((r * side + s) * (C / 16) + kk) * (N / 16) + j) * 32 + lane];
#pragma unroll
            for (int m = 0; m < 2; ++m) {
              std::uint32_t a[4];
              load_matrices(a, line + from[m] + s * pixel + kk * 32);
#pragma unroll
              for (int j = 0; j < N / 16; ++j) mma_bf16(d[m][2 * j], a, b[j].x, b[j].y), mma_bf16(d[m][2 * j + 1], a, b[j].z, b[j].w);
            }
          }
      }
      Place const at = place_of(t, tile);
      bool const inside =
          tile_pixels == int(blockDim.x) && at.n + t.group <= w.n && at.row + t.rows <= w.rows && at.column + t.columns <= w.columns;
      bool const all_count = at.n + t.group <= valid;
      std::int64_t const base = ((std::int64_t(at.n) * w.rows + at.row) * w.columns + at.column) * N + channel;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int const n = at.n + (where[i] >> 20);
        if (!inside &&
            (where[i] < 0 || n >= w.n || at.row + (where[i] >> 10 & 1023) >= w.rows || at.column + (where[i] & 1023) >= w.columns))
          continue;
        std::int64_t const to = base + displacement[i];
        std::uint32_t result[words], residual[words], mask[words], other[words];
        if constexpr (slots) {
          if (w.residual) read_words(residual, w.residual + to);
          if (w.mask) read_words(mask, w.mask + to);
          if (w.other) read_words(other, w.other + to);
        }
        bool const counts = all_count || n < valid;
#pragma unroll
        for (int j = 0; j < words; ++j) {
          float low = d[i / 2][j][i % 2 * 2], high = d[i / 2][j][i % 2 * 2 + 1];
          if constexpr (slots) {
            int const c = channel + 2 * j;
            if (w.affine)
              low = fmaf(__ldg(w.affine + c), low, __ldg(w.affine + N + c)),
              high = fmaf(__ldg(w.affine + c + 1), high, __ldg(w.affine + N + c + 1));
            if (w.bias) low += __ldg(w.bias + c), high += __ldg(w.bias + c + 1);
            if (w.residual) low += low_bf16(residual[j]), high += high_bf16(residual[j]);
            if (w.act != Activation::none) {
              float const most = w.act == Activation::relu6 ? 6.f : HUGE_VALF;
              low = low < 0 ? 0.f : low > most ? most : low, high = high < 0 ? 0.f : high > most ? most : high;
            }
            if (w.mask) low = low_bf16(mask[j]) > 0 ? low : 0.f, high = high_bf16(mask[j]) > 0 ? high : 0.f;
          }
          result[j] = pack_bf16(low, high);
          if (counts) {
            low = low_bf16(result[j]), high = high_bf16(result[j]);
            if (!slots || w.squares) {
              first[2 * j] += low, first[2 * j + 1] += high;
              second[2 * j] = fmaf(low, low, second[2 * j]), second[2 * j + 1] = fmaf(high, high, second[2 * j + 1]);
            } else {
              first[2 * j] = fmaf(low, low_bf16(other[j]), first[2 * j]),
                        first[2 * j + 1] = fmaf(high, high_bf16(other[j]), first[2 * j + 1]);
              second[2 * j] += low, second[2 * j + 1] += high;
            }
          }
        }
        write_words(w.out + to, result);
      }
    }
    slot ^= 1;
  }
  if (!w.stats) return;

    // Lanes of one channel, then the warps, in order.
#pragma unroll
  for (int i = 0; i < across; ++i) {
#pragma unroll
    for (int step = 4; step < 32; step *= 2)
      first[i] += __shfl_xor_sync(~0u, first[i], step), second[i] += __shfl_xor_sync(~0u, second[i], step);
    if (lane < 4) sums[warp][channel + i] = first[i], sums[warp][N + channel + i] = second[i];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * N; i += blockDim.x) {
    float sum = 0;
    for (int k = 0; k < int(blockDim.x / 32); ++k) sum += sums[k][i];
    w.partial[blockIdx.x * 2 * N + i] = sum;
  }
  __syncthreads();  // the block's sums are written; thread 0 publishes them
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(w.arrivals, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  // The last block: a thread adds the blocks of one residue for four elements, in f32; the residues are added in f64, a warp per element.
  __threadfence();
  constexpr int columns = 2 * N / 4;
  int const column = threadIdx.x % columns, residue = threadIdx.x / columns, residues = blockDim.x / columns;
  float4 total = make_float4(0, 0, 0, 0);
  for (int first_block = residue; first_block < int(gridDim.x); first_block += 8 * residues) {
    float4 v[8];  // all under way before the first is added
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      int const b = first_block + i * residues;
      v[i] = b < int(gridDim.x) ? __ldcg(reinterpret_cast<float4 const*>(w.partial) + b * columns + column) : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) total.x += v[i].x, total.y += v[i].y, total.z += v[i].z, total.w += v[i].w;
  }
  reinterpret_cast<float4*>(dynamic)[residue * columns + column] = total;
  __syncthreads();
  float const* const table = reinterpret_cast<float const*>(dynamic);  // [residues][2 N]
#pragma unroll 4
  for (int i = warp; i < 2 * N; i += blockDim.x / 32) {
    double sum = lane < residues ? double(table[lane * 2 * N + i]) : 0;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (lane == 0) w.stats[i] = float(sum);
  }
}

// ---------------------------------------------------------------- host

struct Layout4 {
  Tiles tiles;
  int threads, shared, blocks;
};
// The largest tile of 256, 128 or 64 pixels that keeps the multiprocessors busy and fits.
Layout4 layout_of(ConvProblem const& p) {
  Shape4 const s = shape_of(p);
  int const C = padded(s.in_channels), filter = p.r * p.r * C * s.out_channels * 2, pixel = C * 2 + 16;
  Layout4 l{};
  for (int pixels : {256, 128, 64}) {
    l.tiles = tiles_of(p.n, s.rows, s.columns, p.r, p.stride_h, pixels);
    l.threads = pixels;
    int const image = l.tiles.group * l.tiles.in_rows * l.tiles.in_columns * pixel;
    int const resident = std::min((s.out_channels == 16 ? 1024 : 512) / l.threads, std::max(1, 220 * 1024 / (filter + image + 2048)));
    l.blocks = std::min(l.tiles.count, multiprocessors * resident);
    l.shared = std::max(filter + (l.blocks < l.tiles.count ? 2 : 1) * image, l.threads / (s.out_channels / 2) * 2 * s.out_channels * 8);
    if (l.shared <= 200 * 1024 && (pixels == 64 || l.tiles.count >= 120)) break;
  }
  return l;
}

std::string reject(ConvProblem const& p, DeviceFacts const& facts) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (facts.compute_capability < 80) return "products in bf16 need compute capability 8.0";
  if (p.direction == Direction::bwd_filter) return "forward and data gradient only";
  if (p.x_type != DType::bf16 || p.y_type != DType::bf16 || p.layout != Layout::nhwc) return "bf16 and nhwc only";
  if (p.w_type != DType::bf16 && p.w_type != DType::f32) return "a filter in bf16 or f32 only";
  if (p.groups != 1 || p.dilation_h != 1 || p.dilation_w != 1) return "groups or dilation";
  if (p.r != p.s || (p.r != 3 && p.r != 1)) return "3x3 and 1x1 filters only";
  if (p.stride_h != p.stride_w || p.stride_h > 2) return "strides 1 and 2 only";
  bool const forward = p.direction == Direction::fwd;
  Shape4 const s = shape_of(p);
  if (!forward && s.in_channels < 16) return "a data gradient of fewer than 16 channels";
  int const in = padded(s.in_channels), out = s.out_channels;
  if (!(in == 16 && out == 32) && !(p.r == 3 && in == 16 && out == 16) && !(p.r == 3 && in == 32 && out == 32))
    return "3x3 of 16 to 16, 16 to 32 or 32 to 32 channels, 1x1 of 16 to 32 only";
  if (!forward && p.stride_h != 1) return "a data gradient with stride";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots on load";
  if (p.store.mask == Mask::relu6 || p.store.mask == Mask::bits) return "a mask of relu6, or as bits";
  auto const& o = p.store;
  if (o.pool.kind != PoolSlot::none) return "pooling";
  if (o.affine == Affine::two_operand) return "a result has no second operand";
  if (o.act != Activation::none && o.act != Activation::relu && o.act != Activation::relu6) return "only relu and relu6";
  if (std::int64_t(p.n) * p.h * p.w >= std::int64_t(1) << 30 || p.h > 60000 || p.w > 60000) return "2^30 pixels or more";
  if (layout_of(p).shared > std::min<std::int64_t>(200 * 1024, facts.shared_memory_bytes - 4096)) return "a tile does not fit in shared memory";
  return {};
}

std::size_t scratch(ConvProblem const& p, Config const&) {
  return p.store.stats == Stats::none ? 0 : std::size_t(layout_of(p).blocks) * 2 * std::size_t(shape_of(p).out_channels) * sizeof(float);
}

// Constants measured on an H200.
double seconds(ConvProblem const& p, DeviceFacts const&) {
  Shape4 const s = shape_of(p);
  Layout4 const l = layout_of(p);
  int const C = padded(s.in_channels);
  double const waves = (l.tiles.count + l.blocks - 1) / l.blocks, resident = double(l.blocks) / multiprocessors;
  double const product = std::max(resident, 1.0) * waves * l.threads * (2.0 * C * s.out_channels * p.r * p.r) / 1.9e12;
  return 2.5e-6 + std::max(product, bytes_of(p.operands()) / 3.5e12);
}

template <int C, int N, int side, bool slots>
void launch_form(Work const& w, Layout4 const& l, cudaStream_t stream) {
  static bool const allowed = (allow_shared_memory(halo_mma<C, N, side, slots>, 200 * 1024), true);
  (void)allowed;
  launch_ahead(halo_mma<C, N, side, slots>, dim3(unsigned(l.blocks)), dim3(unsigned(l.threads)), std::size_t(l.shared), 1, stream, w);
}
template <int C, int N, int side>
void launch_slots(Work const& w, Layout4 const& l, bool slots, cudaStream_t stream) {
  slots ? launch_form<C, N, side, true>(w, l, stream) : launch_form<C, N, side, false>(w, l, stream);
}

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View memory, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Shape4 const s = shape_of(p);
  Layout4 const l = layout_of(p);
  auto const& o = p.store;
  Work w;
  w.gradient = p.direction == Direction::bwd_data;
  w.in = (w.gradient ? args.y : args.x).as<bf16>();
  w.out = (w.gradient ? args.x : args.y).as<bf16>();
  w.filter = args.w.data, w.filter_f32 = p.w_type == DType::f32;
  w.tiles = l.tiles;
  w.n = p.n, w.real = s.in_channels, w.rows = s.rows, w.columns = s.columns;
  w.height = w.gradient ? p.p() : p.h, w.width = w.gradient ? p.q() : p.w;
  w.stride = p.stride_h;
  w.pad_top = w.gradient ? p.r - 1 - p.pad_top : p.pad_top, w.pad_left = w.gradient ? p.s - 1 - p.pad_left : p.pad_left;
  if (o.affine != Affine::none) w.affine = args.store_affine.as<float>();
  if (o.bias) w.bias = args.bias.as<float>();
  if (o.residual) w.residual = args.residual.as<bf16>();
  w.act = o.act;
  if (o.mask != Mask::none) w.mask = args.mask.as<bf16>();
  if (o.stats != Stats::none) {
    w.step = args.step, w.partial = memory.as<float>(), w.stats = args.stats.as<float>(), w.arrivals = on.arrivals();
    w.squares = o.stats == Stats::squares;
    if (!w.squares) w.other = (o.stats == Stats::dot ? args.mask : args.other).as<bf16>();
  }
  OnStore alone;
  alone.stats = o.stats == Stats::squares ? Stats::squares : Stats::none;
  bool const slots = o != alone;
  int const C = padded(s.in_channels);
  if (p.r == 1)
    launch_slots<16, 32, 1>(w, l, slots, stream);
  else if (C == 32)
    launch_slots<32, 32, 3>(w, l, slots, stream);
  else
    s.out_channels == 16 ? launch_slots<16, 16, 3>(w, l, slots, stream) : launch_slots<16, 32, 3>(w, l, slots, stream);
  check_launch("conv halo_mma", p, stream);
}

}  // namespace

Algorithm<ConvProblem> const conv_cuda_halo_mma{
    .name = "halo_mma", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run};

}  // namespace falconet
