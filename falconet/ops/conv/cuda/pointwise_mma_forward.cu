// 1x1 convolution forward between few and many channels: y[pixel][k] = sum over c of z[pixel][c] w[k][c], z = act(scale x + shift) as it is read (load_x), or x;
// and the sums of y and y*y. A tile of pixels comes to shared memory, z replaces x there, a warp multiplies 16 pixels by the filter, and y passes shared
// memory so that it is stored, and summed, by whole vectors.
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/ops/conv/cuda/pointwise_mma.cuh"

namespace falconet::pointwise_mma {
namespace {

struct Work {
  bf16 const* x = nullptr;
  bf16* y = nullptr;
  void const* filter = nullptr;
  bool filter_f32 = false, sums = false;
  float const* load_x = nullptr;                                      // [2][c]
  float least = -INFINITY, most = INFINITY;                           // of the activation
  StepState const* step = nullptr;
  std::int64_t pixels = 0;
  int of_image = 0, tiles = 0;
  float* partial = nullptr;                                           // [blocks][2][k]
};

template <int C, int K>
struct Shape {
  static constexpr int pixels = C * K > 512 ? 64 : 128, threads = 256, warps = threads / 32;
  using X = Vectors<pixels, threads, C>;
  using Y = Vectors<pixels, threads, K>;
  static constexpr int x = pixels * pitch(C), y = pixels * pitch(K), filter = whole(K) * pitch(C);
  static constexpr int total = 2 * x + y + filter + 4 * 2 * C, sums = 2 * threads * 32, shared = total > sums ? total : sums;
  static constexpr int fit = most_shared / (shared + 1024), blocks = fit > 4 ? 4 : fit;
};

template <int C, int K>
__global__ void __launch_bounds__(Shape<C, K>::threads, Shape<C, K>::blocks) forward(const __grid_constant__ Work w) {
  using F = Shape<C, K>;
  using X = typename F::X;
  using Y = typename F::Y;
  using namespace ptx;
  constexpr int pixels = F::pixels, row_blocks = pixels / 16, parts = F::warps / row_blocks;
  extern __shared__ __align__(128) char memory[];
  std::uint32_t const stages = shared_address(memory), y = stages + 2 * F::x, filter = y + F::y;
  float* const vectors = reinterpret_cast<float*>(memory + 2 * F::x + F::y + F::filter);
  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  wait_for_work_ahead();
  place_filter<C, K>(memory + 2 * F::x + F::y, w.filter, w.filter_f32);
  if (w.load_x)
    for (int i = threadIdx.x; i < 2 * C; i += F::threads) vectors[i] = w.load_x[i];
  clear_rest<C, pixels>(stages), clear_rest<C, pixels>(stages + F::x);
  std::int64_t const valid = w.sums ? std::int64_t(w.step->valid_count) * w.of_image : 0, counted = valid < w.pixels ? valid : w.pixels;
  float sum[2][8] = {};
  X const of_x;
  Y const of_y;

  auto const start = [&](int tile, std::uint32_t to) {
    if (tile < w.tiles) fetch<X>(to, w.x, std::int64_t(tile) * pixels, w.pixels);
    copies_end();
  };
  std::uint32_t x = stages;
  start(blockIdx.x, x);

#pragma unroll 1
  for (int tile = blockIdx.x; tile < w.tiles; tile += gridDim.x, x = 2 * stages + F::x - x) {
    std::int64_t const pixel = std::int64_t(tile) * pixels;
    copies_wait<0>();
    __syncthreads();                     // the tile is there, and nobody reads the last one
    start(tile + gridDim.x, 2 * stages + F::x - x);
    if (w.load_x) {
      if (of_x.first < pixels) {
        float scale[8], shift[8];
        read_8(vectors + of_x.vector * 8, scale), read_8(vectors + C + of_x.vector * 8, shift);
        for_vectors(of_x, x, [&](int row, uint4 raw) {
          float v[8];
          unpack(raw, v);
#pragma unroll
          for (int e = 0; e < 8; ++e) v[e] = clip(fmaf(scale[e], v[e], shift[e]), w.least, w.most);
          write_16(x + row * pitch(C) + of_x.vector * 16, packed(v));
        });
      }
      __syncthreads();
    }
    constexpr int k16 = whole(K) / 16, share = (k16 + parts - 1) / parts, most = share < 3 ? share : 3;
    int const begin = warp / row_blocks * share, end = begin + share < k16 ? begin + share : k16, of_warp = warp % row_blocks * 16;
#pragma unroll
    for (int chunk = 0; chunk < share; chunk += most) {
      int const first = begin + chunk;
      float d[most][2][4] = {};
#pragma unroll
      for (int c = 0; c < whole(C) / 16; ++c) {
        std::uint32_t a[4];
        load_matrices(a, x + rows_first(pitch(C)) + of_warp * pitch(C) + c * 32);
#pragma unroll
        for (int j = 0; j < most; ++j) {
          if (first + j >= end || chunk + j >= share) continue;
          std::uint32_t b[4];
          load_matrices(b, filter + columns_first(pitch(C)) + (first + j) * 16 * pitch(C) + c * 32);
          mma_bf16(d[j][0], a, b[0], b[1]), mma_bf16(d[j][1], a, b[2], b[3]);
        }
      }
#pragma unroll
      for (int j = 0; j < most; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          int const k = (first + j) * 16 + h * 8;
          if (first + j >= end || chunk + j >= share || k >= K) continue;
#pragma unroll
          for (int half = 0; half < 2; ++half)
            asm volatile("st.shared.u32 [%0], %1;" ::"r"(y + (of_warp + lane / 4 + 8 * half) * pitch(K) + (k + lane % 4 * 2) * 2),
                         "r"(pack_bf16(d[j][h][2 * half], d[j][h][2 * half + 1]))
                         : "memory");
        }
    }
    __syncthreads();
    if (of_y.first < pixels) {
      int const here = int(w.pixels - pixel < pixels ? w.pixels - pixel : pixels), count = int(counted - pixel < pixels ? counted - pixel : pixels);
      for_vectors(of_y, y, [&](int row, uint4 result) {
        if (row >= here) return;
        *reinterpret_cast<uint4*>(w.y + (pixel + row) * K + of_y.vector * 8) = result;
        if (row >= count) return;
        float v[8];
        unpack(result, v);
#pragma unroll
        for (int e = 0; e < 8; ++e) sum[0][e] += v[e], sum[1][e] = fmaf(v[e], v[e], sum[1][e]);
      });
    }
  }
  if (w.sums) add_rows<Y>(sum, reinterpret_cast<float*>(memory), w.partial + std::int64_t(blockIdx.x) * 2 * K);
}

template <int C, int K>
void launch(ConvProblem const& p, Work const& w, cudaStream_t stream) {
  using F = Shape<C, K>;
  static bool const allowed = (allow_shared_memory(forward<C, K>, F::shared), true);
  (void)allowed;
  launch_ahead(forward<C, K>, dim3(unsigned(blocks_of(p))), dim3(F::threads), std::size_t(F::shared), 1, stream, w);
}

// Every pair of channels that is built: visit(C, K) as constants.
template <class Visit>
void visit(int c, int k, Visit const& visit) {
  auto const one = [&]<int C, int K>() {
    if (c == C && k == K) visit.template operator()<C, K>();
  };
  one.template operator()<16, 96>(), one.template operator()<24, 144>(), one.template operator()<32, 192>();
  one.template operator()<32, 16>(), one.template operator()<96, 24>(), one.template operator()<144, 24>();
  one.template operator()<144, 32>(), one.template operator()<192, 32>();
}

}  // namespace

bool has_forward(int c, int k) {
  bool has = false;
  visit(c, k, [&]<int C, int K>() { has = true; });
  return has;
}
Launch forward_launch(ConvProblem const& p) {
  Launch l{64, 1};
  visit(p.c, p.k, [&]<int C, int K>() { l = {Shape<C, K>::pixels, Shape<C, K>::blocks}; });
  return l;
}

void launch_forward(ConvProblem const& p, ConvArgs const& a, float* partial, cudaStream_t stream) {
  Work w;
  w.x = a.x.as<bf16>(), w.y = a.y.as<bf16>();
  w.filter = a.w.data, w.filter_f32 = p.w_type == DType::f32;
  if (p.load_x.affine != Affine::none) w.load_x = a.load_x.as<float>();
  if (p.load_x.act != Activation::none) w.least = 0;
  if (p.load_x.act == Activation::relu6) w.most = 6;
  w.step = a.step;
  w.of_image = p.h * p.w, w.pixels = std::int64_t(p.n) * w.of_image, w.tiles = tiles_of(p, forward_launch(p));
  w.sums = partial != nullptr, w.partial = partial;
  visit(p.c, p.k, [&]<int C, int K>() { launch<C, K>(p, w, stream); });
}

}  // namespace falconet::pointwise_mma
