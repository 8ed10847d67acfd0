// Both gradients of a 1x1 convolution between few and many channels, from one reading of its tensors:
//   dy = a g + b y + c          gradient of the batch norm behind it, from the gradient g of its result and its input y (load_dy)
//   z  = act(scale x + shift)   what the convolution read, from the input x of the batch norm before it (load_x); or z = x
//   dx[pixel][c] = mask * (sum over k of dy[pixel][k] w[k][c] + residual),   dw[k][c] = sum over pixels of dy[pixel][k] z[pixel][c]
//   sums of dx o and dx         for a batch norm's gradient, o = x or another tensor
// Memory is the limit: 2 c k operations for c + k elements a pixel, and with c or k of 32 at most that is little. A tile of pixels comes to shared memory, dy
// replaces g there, and both products read it by mma.sync: dx by rows of 16 pixels a warp, dw by blocks of channels a warp, kept in registers over all tiles of
// a block. dx passes shared memory, so that its slots and its store work on whole vectors. Blocks' sums are added in a fixed order by a second kernel.
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/ops/conv/cuda/pointwise_mma.cuh"

namespace falconet::pointwise_mma {
namespace {

struct Work {
  bf16 const *x = nullptr, *g = nullptr, *y = nullptr, *residual = nullptr, *other = nullptr;
  bf16* dx = nullptr;
  void const* filter = nullptr;
  bool filter_f32 = false;
  float const *load_x = nullptr, *load_dy = nullptr;                  // [2][c], [3][k]
  float most = INFINITY;                                              // of the activation
  StepState const* step = nullptr;
  std::int64_t pixels = 0;
  int of_image = 0, tiles = 0;
  bool sums = false;
  float* partial = nullptr;                                           // [blocks][dw, then 2 c of sums]
};

template <int C, int K, bool loads>
struct Shape {
  static constexpr bool wide_x = C > K;
  static constexpr int pixels = C * K > 512 ? 64 : 128, threads = 256, warps = threads / 32;   // more where channels are few
  using X = Vectors<pixels, threads, C>;
  using Y = Vectors<pixels, threads, K>;
  static constexpr int k16 = whole(K) / 16, c16 = whole(C) / 16;
  static constexpr int along = wide_x ? c16 : k16, beside = wide_x ? k16 : c16, each = (along + warps - 1) / warps;   // 16x16 blocks of dw: dealt to warps, and of all
  static constexpr int g = pixels * pitch(K), x = pixels * pitch(C), filter = whole(K) * pitch(C);
  static constexpr int staged = loads ? pitch(C) : C * 4 + 16;         // bytes of a row of dx: bf16 in place of z, or f32 in place of y
  static constexpr int y_bytes = loads ? g : (g > pixels * staged ? g : pixels * staged);
  static constexpr int vectors = 4 * (3 * K + (loads ? 2 * C : 0));
  static constexpr int stage = g + y_bytes + x, rest = (loads ? x : 0) + filter + vectors;
  static constexpr int depth = 2 * (2 * stage + rest + 1024) <= most_shared ? 2 : 1;   // tiles on their way, or being worked on
  static constexpr int shared = depth * stage + rest, fit = most_shared / (shared + 1024), blocks = fit < 3 || along > 2 ? 2 : 3;
};

template <int C, int K, bool loads>
__global__ void __launch_bounds__(Shape<C, K, loads>::threads, Shape<C, K, loads>::blocks) gradients(const __grid_constant__ Work w) {
  using F = Shape<C, K, loads>;
  using X = typename F::X;
  using Y = typename F::Y;
  using namespace ptx;
  constexpr int pixels = F::pixels, threads = F::threads, warps = F::warps;
  extern __shared__ __align__(128) char memory[];
  std::uint32_t const stages = shared_address(memory), made = stages + F::depth * F::stage, filter = made + (loads ? F::x : 0);
  float* const vectors = reinterpret_cast<float*>(memory + (filter - stages) + F::filter);   // of dy, then of x
  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  wait_for_work_ahead();
  place_filter<C, K>(memory + (filter - stages), w.filter, w.filter_f32);
  for (int i = threadIdx.x; i < 3 * K; i += threads) vectors[i] = w.load_dy[i];
  if (loads)
    for (int i = threadIdx.x; i < 2 * C; i += threads) vectors[3 * K + i] = w.load_x[i];
#pragma unroll
  for (int d = 0; d < F::depth; ++d) clear_rest<K, pixels>(stages + d * F::stage), clear_rest<C, pixels>(stages + d * F::stage + F::g + F::y_bytes);
  if (loads) clear_rest<C, pixels>(made);
  std::int64_t const valid = std::int64_t(w.step->valid_count) * w.of_image, counted = valid < w.pixels ? valid : w.pixels;

  float dw[F::each][F::beside][2][4] = {}, sum[2][8] = {};
  X const of_x;
  Y const of_y;
  constexpr int row_blocks = pixels / 16, parts = warps / row_blocks;
  int const of_warp = warp % row_blocks * 16, part = warp / row_blocks, from_rows = rows_first(pitch(K)) + of_warp * pitch(K);
  auto const start = [&](int tile, std::uint32_t to) {
    std::int64_t const pixel = std::int64_t(tile) * pixels;
    if (tile < w.tiles) {
      fetch<Y>(to, w.g, pixel, w.pixels);
      fetch<Y>(to + F::g, w.y, pixel, w.pixels);
      fetch<X>(to + F::g + F::y_bytes, w.x, pixel, w.pixels);
    }
    copies_end();
  };
  std::uint32_t g = stages;
  if (F::depth == 2) start(blockIdx.x, g);

#pragma unroll 1
  for (int tile = blockIdx.x; tile < w.tiles; tile += gridDim.x) {
    std::int64_t const pixel = std::int64_t(tile) * pixels;
    std::uint32_t const y = g + F::g, x = y + F::y_bytes, z = loads ? made : x, staged = loads ? z : y;
    if constexpr (F::depth == 2) start(tile + gridDim.x, 2 * stages + F::stage - g);   // into the other stage
    else start(tile, g);
    copies_wait<F::depth - 1>();
    __syncthreads();
    int const here = int(w.pixels - pixel < pixels ? w.pixels - pixel : pixels), count = int(counted - pixel < pixels ? counted - pixel : pixels);
    if (of_y.first < pixels) {
      float a[8], b[8], c[8];
      read_8(vectors + of_y.vector * 8, a), read_8(vectors + K + of_y.vector * 8, b), read_8(vectors + 2 * K + of_y.vector * 8, c);
      for_pairs(of_y, g, y, [&](int row, uint4 of_g, uint4 beside_g) {
        float u[8], v[8];
        unpack(of_g, u), unpack(beside_g, v);
#pragma unroll
        for (int e = 0; e < 8; ++e) u[e] = fmaf(a[e], u[e], fmaf(b[e], v[e], c[e]));
        write_16(g + row * pitch(K) + of_y.vector * 16, row < count ? packed(u) : make_uint4(0, 0, 0, 0));
      });
    }
    if (loads && of_x.first < pixels) {
      float scale[8], shift[8];
      read_8(vectors + 3 * K + of_x.vector * 8, scale), read_8(vectors + 3 * K + C + of_x.vector * 8, shift);
      for_vectors(of_x, x, [&](int row, uint4 raw) {
        float v[8];
        unpack(raw, v);
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] = clip(fmaf(scale[e], v[e], shift[e]), 0.f, w.most);
        write_16(z + row * pitch(C) + of_x.vector * 16, packed(v));
      });
    }
    uint4 residual[loads ? 1 : X::turns], other[loads ? 1 : X::turns];
    if constexpr (!loads)
      for_rows(of_x, [&](int row, int i) {
        std::int64_t const at = (pixel + row) * C + of_x.vector * 8;
        if (w.residual && row < here) residual[i] = *reinterpret_cast<uint4 const*>(w.residual + at);
        if (w.other && row < here) other[i] = *reinterpret_cast<uint4 const*>(w.other + at);
      });
    __syncthreads();

    // dw: columns of dy by columns of z.
#pragma unroll
    for (int p = 0; p < pixels / 16; ++p) {
      std::uint32_t short_side[F::beside][4];
#pragma unroll
      for (int i = 0; i < F::beside; ++i)
        load_matrices_transposed(short_side[i], F::wide_x ? g + columns_first(pitch(K)) + p * 16 * pitch(K) + i * 32 : z + rows_first(pitch(C)) + p * 16 * pitch(C) + i * 32);
#pragma unroll
      for (int j = 0; j < F::each; ++j) {
        int const block = warp + warps * j;
        if (block >= F::along) continue;
        std::uint32_t long_side[4];
        load_matrices_transposed(long_side, F::wide_x ? z + rows_first(pitch(C)) + p * 16 * pitch(C) + block * 32 : g + columns_first(pitch(K)) + p * 16 * pitch(K) + block * 32);
#pragma unroll
        for (int i = 0; i < F::beside; ++i) {
          auto const& a = F::wide_x ? short_side[i] : long_side;
          auto const& b = F::wide_x ? long_side : short_side[i];
          mma_bf16(dw[j][i][0], a, b[0], b[1]), mma_bf16(dw[j][i][1], a, b[2], b[3]);
        }
      }
    }
    if (loads) __syncthreads();          // dx takes z's place
    // dx: rows of dy by the filter, some columns at a time.
    constexpr bool narrow = F::c16 * 2 == parts;         // a warp has 8 columns, not 16 or more
    constexpr int share = (F::c16 + parts - 1) / parts, most = share < 3 ? share : 3;
    int const begin = narrow ? part / 2 : part * share, end = begin + share < F::c16 ? begin + share : F::c16;
#pragma unroll
    for (int chunk = 0; chunk < share; chunk += most) {
      int const first = begin + chunk;
      float d[most][2][4] = {};
#pragma unroll
      for (int k = 0; k < F::k16; ++k) {
        std::uint32_t a[4];
        load_matrices(a, g + from_rows + k * 32);
#pragma unroll
        for (int j = 0; j < most; ++j) {
          if (first + j >= end || chunk + j >= share) continue;
          std::uint32_t b[4];
          load_matrices_transposed(b, filter + rows_first(pitch(C)) + k * 16 * pitch(C) + (first + j) * 32);
          if (!narrow || part % 2 == 0) mma_bf16(d[j][0], a, b[0], b[1]);
          if (!narrow || part % 2 == 1) mma_bf16(d[j][1], a, b[2], b[3]);
        }
      }
#pragma unroll
      for (int j = 0; j < most; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          int const c = (first + j) * 16 + h * 8;
          if (first + j >= end || chunk + j >= share || c >= C || (narrow && h != part % 2)) continue;
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            std::uint32_t const at = staged + (of_warp + lane / 4 + 8 * half) * F::staged;
            float const low = d[j][h][2 * half], high = d[j][h][2 * half + 1];
            if (loads) asm volatile("st.shared.u32 [%0], %1;" ::"r"(at + (c + lane % 4 * 2) * 2), "r"(pack_bf16(low, high)) : "memory");
            else asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at + (c + lane % 4 * 2) * 4), "f"(low), "f"(high) : "memory");
          }
        }
    }
    __syncthreads();
    if (of_x.first < pixels) {
      float scale[8], shift[8];
      auto const store = [&](int row, float (&v)[8], float (&o)[8]) {
        uint4 const result = packed(v);
        *reinterpret_cast<uint4*>(w.dx + (pixel + row) * C + of_x.vector * 8) = result;
        if (!w.sums || row >= count) return;
        unpack(result, v);
#pragma unroll
        for (int e = 0; e < 8; ++e) sum[0][e] = fmaf(v[e], o[e], sum[0][e]), sum[1][e] += v[e];
      };
      if constexpr (loads) {
        read_8(vectors + 3 * K + of_x.vector * 8, scale), read_8(vectors + 3 * K + C + of_x.vector * 8, shift);
        for_pairs(of_x, staged, x, [&](int row, uint4 of_dx, uint4 raw) {
          if (row >= here) return;
          float v[8], o[8];
          unpack(of_dx, v), unpack(raw, o);
#pragma unroll
          for (int e = 0; e < 8; ++e) {
            float const before = fmaf(scale[e], o[e], shift[e]);
            v[e] = before > 0.f && before < w.most ? v[e] : 0.f;
          }
          store(row, v, o);
        });
      } else {
        for_rows(of_x, [&](int row, int i) {
          if (row >= here) return;
          float v[8], o[8];
          read_8(reinterpret_cast<float const*>(memory + (staged - stages) + row * F::staged) + of_x.vector * 8, v);
          if (w.residual) {
            unpack(residual[i], o);
#pragma unroll
            for (int e = 0; e < 8; ++e) v[e] += o[e];
          }
          if (w.other) unpack(other[i], o);
          store(row, v, o);
        });
      }
    }
    __syncthreads();
    if (F::depth == 2) g = 2 * stages + F::stage - g;
  }

  float* const partial = w.partial + std::int64_t(blockIdx.x) * (K * C + (w.sums ? 2 * C : 0));
#pragma unroll
  for (int j = 0; j < F::each; ++j)
#pragma unroll
    for (int i = 0; i < F::beside; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          int const block = warp + warps * j, k = (F::wide_x ? i : block) * 16 + lane / 4 + 8 * half, c = (F::wide_x ? block : i) * 16 + h * 8 + lane % 4 * 2;
          if (block < F::along && k < K && c < C) *reinterpret_cast<float2*>(partial + k * C + c) = make_float2(dw[j][i][h][2 * half], dw[j][i][h][2 * half + 1]);
        }
  if (w.sums) add_rows<X>(sum, reinterpret_cast<float*>(memory), partial + K * C);
}

template <int C, int K, bool loads>
void launch(ConvProblem const& p, Work const& w, cudaStream_t stream) {
  using F = Shape<C, K, loads>;
  static_assert(2 * F::threads * 32 <= F::shared && F::fit >= F::blocks);
  static bool const allowed = (allow_shared_memory(gradients<C, K, loads>, F::shared), true);
  (void)allowed;
  launch_ahead(gradients<C, K, loads>, dim3(unsigned(blocks_of(p))), dim3(F::threads), std::size_t(F::shared), 1, stream, w);
}

// Every pair of channels that is built: visit(C, K, loads) as constants.
template <class Visit>
void visit(int c, int k, bool loads, Visit const& visit) {
  auto const one = [&]<int C, int K, bool L>() {
    if (c == C && k == K && loads == L) visit.template operator()<C, K, L>();
  };
  one.template operator()<16, 96, false>(), one.template operator()<24, 144, false>(), one.template operator()<32, 192, false>();
  one.template operator()<32, 16, true>(), one.template operator()<96, 24, true>(), one.template operator()<144, 24, true>();
  one.template operator()<144, 32, true>(), one.template operator()<192, 32, true>();
}

}  // namespace

bool has_gradients(int c, int k, bool loads_x) {
  bool has = false;
  visit(c, k, loads_x, [&]<int C, int K, bool L>() { has = true; });
  return has;
}
Launch gradients_launch(ConvProblem const& p) {
  Launch l{64, 1};
  visit(p.c, p.k, p.load_x != OnLoad{}, [&]<int C, int K, bool L>() { l = {Shape<C, K, L>::pixels, Shape<C, K, L>::blocks}; });
  return l;
}

void launch_gradients(ConvProblem const& p, ConvArgs const& a, float* partial, cudaStream_t stream) {
  Work w;
  w.x = a.x.as<bf16>(), w.g = a.y.as<bf16>(), w.y = a.load_dy_other.as<bf16>(), w.dx = a.dx.as<bf16>();
  if (p.store.residual) w.residual = a.residual.as<bf16>();
  if (p.store.stats == Stats::dot_other) w.other = a.other.as<bf16>();
  w.filter = a.w.data, w.filter_f32 = p.w_type == DType::f32;
  if (p.load_x != OnLoad{}) w.load_x = a.load_x.as<float>();
  w.load_dy = a.load_dy.as<float>();
  if (p.load_x.act == Activation::relu6) w.most = 6;
  w.step = a.step;
  w.of_image = p.h * p.w, w.pixels = std::int64_t(p.n) * w.of_image, w.tiles = tiles_of(p, gradients_launch(p));
  w.sums = p.store.stats != Stats::none, w.partial = partial;
  visit(p.c, p.k, p.load_x != OnLoad{}, [&]<int C, int K, bool L>() { launch<C, K, L>(p, w, stream); });
}

}  // namespace falconet::pointwise_mma
