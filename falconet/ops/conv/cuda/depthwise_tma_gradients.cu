// Both gradients of a depthwise convolution between two batch norms, from one reading of four tensors:
//   dy = a g + b y + c        gradient of the batch norm behind it, from the gradient g of its result and its input y (load_dy)
//   z  = act(scale x + shift) what the convolution read, from the input x of the batch norm before it (load_x)
//   dx(h, w) = mask * sum over r, s of dy(p, q) w(r, s),   dw(r, s) = sum of z(h, w) dy(p, q),   h = p st - 1 + r, w = q st - 1 + s
//   sums of dx x and dx       for the gradient of the batch norm before it
// A pixel of x meets the same dy in both gradients: 3 rows of dy (2 with stride 2) are kept in registers, and each pixel is used and left as it comes.
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/ops/conv/cuda/depthwise_tma.cuh"

namespace falconet::depthwise_tma {
namespace {

struct Work {
  CUtensorMap g, y, x;
  Walk walk;
  float const *load_x = nullptr, *load_dy = nullptr;   // [2, channels], [3, channels]
  float most = INFINITY;                                // of the activation
  void const* filter = nullptr;
  bool filter_f32 = false;
  StepState const* step = nullptr;
  bf16* dx = nullptr;
  int channels = 0, height = 0, width = 0;
  float* partial = nullptr;                             // [slots][9 taps, dx x, dx][channels]
};

constexpr int sets = 11;

template <int lanes, int stride>
struct Shape {
  static constexpr int strips = 32 / lanes, before = stride == 1 ? 2 : 1, kept = before + 1;
  static constexpr int halo = stride == 1 ? 1 : 0, dy_columns = columns + 1 + halo, dy_wide = strips * columns + 1 + halo;   // of a lane, of a warp
  static constexpr int x_columns = stride * columns, x_wide = strips * x_columns;
  static constexpr int pixel = 4 * lanes, dy_box = dy_wide * pixel, dy_bytes = (dy_box + 127) / 128 * 128, x_bytes = stride * x_wide * pixel;
  static constexpr int stage = 2 * dy_bytes + x_bytes, depth = stride == 1 ? 4 : 3;
  using Queue = Rows<lanes, before, stage, depth>;
};

template <int lanes, int stride, bool ragged>
__global__ void __launch_bounds__(threads, blocks_per_multiprocessor) gradients(const __grid_constant__ Work w) {
  if (ptx::lacks_hopper()) return;
  using F = Shape<lanes, stride>;
  extern __shared__ __align__(128) char memory[];
  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = lane % lanes, strip = lane / lanes;
  int group;
  int const slot = w.walk.by_groups(blockIdx.x * warps + warp, group), first_channel = group * 2 * lanes, c = first_channel + 2 * pair;
  if (slot >= w.walk.slots) return;
  bool const exists = c < w.channels;
  wait_for_work_ahead();
  auto const fetch = [&](Item const& at, int step, std::uint32_t to, std::uint32_t barrier) {
    bool const with_x = step >= F::before;
    ptx::barrier_expect(barrier, 2 * F::dy_box + (with_x ? F::x_bytes : 0));
    int const row = at.begin + step - F::halo;
    ptx::load_4d(to, &w.g, first_channel, at.first - F::halo, row, at.n, barrier);
    ptx::load_4d(to + F::dy_bytes, &w.y, first_channel, at.first - F::halo, row, at.n, barrier);
    if (with_x) ptx::load_4d(to + 2 * F::dy_bytes, &w.x, first_channel, at.first * stride, (at.begin + step - F::before) * stride, at.n, barrier);
  };
  typename F::Queue rows(w.walk, ptx::shared_address(memory), warp, slot);
#pragma unroll 1
  for (int i = 0; i < F::depth; ++i) rows.ask(fetch);

  float filter[9][2], sum[sets][2] = {}, scale[2], shift[2];
  read_filter(filter, w.filter, w.filter_f32, c, w.channels);
#pragma unroll
  for (int e = 0; e < 2; ++e) scale[e] = exists ? w.load_x[c + e] : 0.f, shift[e] = exists ? w.load_x[w.channels + c + e] : 0.f;
  int const valid = w.step ? w.step->valid_count : 1 << 30;
  float const most = kept(w.most);
  std::uint32_t const dy_at = (strip * columns * 2 * lanes + 2 * pair) * 2, x_at = 2 * F::dy_bytes + (strip * F::x_columns * 2 * lanes + 2 * pair) * 2;

#pragma unroll 1
  for (int item = slot; item < w.walk.items; item += w.walk.slots) {
    Item const at = item_of<lanes>(w.walk, item);
    int const q = at.first + strip * columns;             // of y: this lane's first column
    bool const works = exists && q < w.walk.columns, counts = works && at.n < valid;
    float a[2], b[2], add[3][2];                          // add: of the column to the left of the strip, of the strip, to its right
    unsigned inside = 0;                                  // columns of dy
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      a[e] = counts ? w.load_dy[c + e] : 0.f, b[e] = counts ? w.load_dy[w.channels + c + e] : 0.f;
      add[1][e] = counts ? w.load_dy[2 * w.channels + c + e] : 0.f;
      add[0][e] = q > 0 ? add[1][e] : 0.f, add[2][e] = q + columns < w.walk.columns ? add[1][e] : 0.f;
    }
    if constexpr (ragged)
#pragma unroll
      for (int j = 0; j < F::dy_columns; ++j) inside |= unsigned(q - F::halo + j) < unsigned(w.walk.columns) ? 1u << j : 0u;
    float dy[F::kept][F::dy_columns][2];
    bf16* to = w.dx + ((std::int64_t(at.n) * w.height + at.begin * stride) * w.width + q * stride) * w.channels + c;
    int const steps = at.end - at.begin + F::before;
#pragma unroll 1
    for (int step = 0; step < steps;) {
#pragma unroll
      for (int phase = 0; phase < F::kept; ++phase, ++step) {
        if (step >= steps) break;
        std::uint32_t const from = rows.take();
        // What is outside arrives as 0, and stays 0 if nothing is added to it.
        bool const row_inside = unsigned(at.begin + step - F::halo) < unsigned(w.walk.rows);
        float plus[3][2];
#pragma unroll
        for (int k = 0; k < 3; ++k)
#pragma unroll
          for (int e = 0; e < 2; ++e) plus[k][e] = row_inside ? add[k][e] : 0.f;
#pragma unroll
        for (int j = 0; j < F::dy_columns; ++j) {
          std::uint32_t const g = read_pair(from + dy_at + j * F::pixel), y = read_pair(from + dy_at + F::dy_bytes + j * F::pixel);
          bool const left = F::halo && j == 0, right = j == F::dy_columns - 1;
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float const constant = ragged ? (inside >> j & 1 ? plus[1][e] : 0.f) : plus[left ? 0 : right ? 2 : 1][e];
            dy[phase][j][e] = fmaf(a[e], e ? ptx::high_bf16(g) : ptx::low_bf16(g), fmaf(b[e], e ? ptx::high_bf16(y) : ptx::low_bf16(y), constant));
          }
        }
        if (step >= F::before) {
          int const row = (at.begin + step - F::before) * stride;
#pragma unroll
          for (int i = 0; i < stride; ++i) {
            if (stride > 1 && row + i >= w.height) break;
            std::uint32_t of_row[F::x_columns];
#pragma unroll
            for (int t = 0; t < F::x_columns; ++t) {
              std::uint32_t const x = read_pair(from + x_at + (i * F::x_wide + t) * F::pixel);
              bool const here = !ragged || q * stride + t < w.width;
              float result[2];
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                float const before_act = fmaf(scale[e], e ? ptx::high_bf16(x) : ptx::low_bf16(x), shift[e]);
                float const z = ragged && !here ? 0.f : clip(before_act, 0.f, most);
                float v = 0;
#pragma unroll
                for (int r = 0; r < 3; ++r)
#pragma unroll
                  for (int s = 0; s < 3; ++s) {
                    if ((i + 1 - r) % stride || (t % stride + 1 - s) % stride) continue;
                    int const down = (i + 1 - r) / stride, right = (t % stride + 1 - s) / stride;   // rows and columns of dy from the pixel's own
                    float const d = dy[(phase + F::kept - 1 + down) % F::kept][t / stride + F::halo + right][e];
                    v = fmaf(d, filter[r * 3 + s][e], v);
                    sum[r * 3 + s][e] = fmaf(z, d, sum[r * 3 + s][e]);
                  }
                result[e] = before_act > 0.f && before_act < most ? v : 0.f;
              }
              std::uint32_t const stored = ptx::pack_bf16(result[0], result[1]);
              of_row[t] = stored;
              if (!ragged || here) {
                sum[9][0] = fmaf(ptx::low_bf16(stored), ptx::low_bf16(x), sum[9][0]), sum[9][1] = fmaf(ptx::high_bf16(stored), ptx::high_bf16(x), sum[9][1]);
                sum[10][0] += ptx::low_bf16(stored), sum[10][1] += ptx::high_bf16(stored);
              }
            }
            if (works) {                                  // one branch a row
#pragma unroll
              for (int t = 0; t < F::x_columns; ++t)
                if (!ragged || q * stride + t < w.width) *reinterpret_cast<std::uint32_t*>(to + t * w.channels) = of_row[t];
            }
            to += std::int64_t(w.width) * w.channels;
          }
        }
        rows.give_back(fetch);
      }
    }
  }
  write_sums<lanes>(sum, c, w.channels, w.partial + std::int64_t(slot) * sets * w.channels);
}

template <int lanes, int stride>
void launch(ConvProblem const& p, Work& w, ConvArgs const& a, cudaStream_t stream) {
  using F = Shape<lanes, stride>;
  w.g = map_of(a.y.data, p, p.p(), p.q(), lanes, F::dy_wide, 1), w.y = map_of(a.load_dy_other.data, p, p.p(), p.q(), lanes, F::dy_wide, 1);
  w.x = map_of(a.x.data, p, p.h, p.w, lanes, F::x_wide, stride);
  bool const ragged = p.q() % columns || p.w != stride * p.q();
  auto const kernel = ragged ? gradients<lanes, stride, true> : gradients<lanes, stride, false>;
  static bool const allowed = (allow_shared_memory(gradients<lanes, stride, true>, F::Queue::memory), allow_shared_memory(gradients<lanes, stride, false>, F::Queue::memory), true);
  (void)allowed;
  launch_ahead(kernel, dim3(unsigned(w.walk.blocks)), dim3(threads), F::Queue::memory, 1, stream, w);
}

}  // namespace

void launch_gradients(ConvProblem const& p, Way const& way, ConvArgs const& a, float* partial, cudaStream_t stream) {
  Work w;
  w.walk = walk_of(p, way);
  w.load_x = a.load_x.as<float>(), w.load_dy = a.load_dy.as<float>();
  if (p.load_x.act == Activation::relu6) w.most = 6;
  w.filter = a.w.data, w.filter_f32 = p.w_type == DType::f32;
  w.step = a.step, w.dx = a.dx.as<bf16>(), w.partial = partial;
  w.channels = p.c, w.height = p.h, w.width = p.w;
  if (way.lanes == 16) p.stride_h == 1 ? launch<16, 1>(p, w, a, stream) : launch<16, 2>(p, w, a, stream);
  else p.stride_h == 1 ? launch<32, 1>(p, w, a, stream) : launch<32, 2>(p, w, a, stream);
}

}  // namespace falconet::depthwise_tma
