// Depthwise convolution forward, 3x3, between two batch norms: y(p, q) = sum over r, s of z(p st - 1 + r, q st - 1 + s) w(r, s) with z = act(scale x + shift)
// as it is read (load_x), and the sums of y and y*y for the batch norm that follows. Three rows of z are kept in registers.
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/ops/conv/cuda/depthwise_tma.cuh"

namespace falconet::depthwise_tma {
namespace {

struct Work {
  CUtensorMap x;
  Walk walk;
  float const* load_x = nullptr;                       // [2, channels], or nothing
  float least = -INFINITY, most = INFINITY;             // of the activation
  void const* filter = nullptr;
  bool filter_f32 = false;
  StepState const* step = nullptr;
  bf16* y = nullptr;
  int channels = 0, height = 0, width = 0;
  float* partial = nullptr;                             // [slots][y, y*y][channels], or nothing
};

template <int lanes, int stride>
struct Shape {
  static constexpr int strips = 32 / lanes, before = stride == 1 ? 2 : 1;
  static constexpr int x_columns = stride * (columns - 1) + 3, x_wide = stride * (strips * columns - 1) + 3;   // of a lane, of a warp
  static constexpr int pixel = 4 * lanes, box = stride * x_wide * pixel, stage = (box + 127) / 128 * 128, depth = stride == 1 ? 6 : 4;
  using Queue = Rows<lanes, before, stage, depth>;
};

template <int lanes, int stride, bool ragged>
__global__ void __launch_bounds__(threads, blocks_per_multiprocessor) forward(const __grid_constant__ Work w) {
  if (ptx::lacks_hopper()) return;
  using F = Shape<lanes, stride>;
  extern __shared__ __align__(128) char memory[];
  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = lane % lanes, strip = lane / lanes;
  int group;
  int const slot = w.walk.by_groups(blockIdx.x * warps + warp, group), first_channel = group * 2 * lanes, c = first_channel + 2 * pair;
  if (slot >= w.walk.slots) return;
  bool const exists = c < w.channels;
  wait_for_work_ahead();
  // A step brings the `stride` last rows of x under the filter of result begin - before + step.
  auto const fetch = [&](Item const& at, int step, std::uint32_t to, std::uint32_t barrier) {
    ptx::barrier_expect(barrier, F::box);
    ptx::load_4d(to, &w.x, first_channel, at.first * stride - 1, (at.begin + step - F::before) * stride + (stride == 1), at.n, barrier);
  };
  typename F::Queue rows(w.walk, ptx::shared_address(memory), warp, slot);
#pragma unroll 1
  for (int i = 0; i < F::depth; ++i) rows.ask(fetch);

  float filter[9][2], sum[2][2] = {}, scale[2], shift[2];
  read_filter(filter, w.filter, w.filter_f32, c, w.channels);
#pragma unroll
  for (int e = 0; e < 2; ++e)
    scale[e] = exists && w.load_x ? w.load_x[c + e] : 1.f, shift[e] = exists && w.load_x ? w.load_x[w.channels + c + e] : 0.f;
  int const valid = w.step ? w.step->valid_count : 0;
  float const least = kept(w.least), most = kept(w.most);
  std::uint32_t const x_at = (strip * stride * columns * 2 * lanes + 2 * pair) * 2;

#pragma unroll 1
  for (int item = slot; item < w.walk.items; item += w.walk.slots) {
    Item const at = item_of<lanes>(w.walk, item);
    int const q = at.first + strip * columns;
    bool const works = exists && q < w.walk.columns, counts = works && at.n < valid;
    float add[3][2];                                      // shift: of the column to the left, of the strip, of the last column
    unsigned inside = 0;                                  // columns of x
#pragma unroll
    for (int e = 0; e < 2; ++e)
      add[0][e] = q > 0 ? shift[e] : 0.f, add[1][e] = shift[e], add[2][e] = stride > 1 || q + columns < w.walk.columns ? shift[e] : 0.f;
    if constexpr (ragged)
#pragma unroll
      for (int j = 0; j < F::x_columns; ++j) inside |= unsigned(q * stride - 1 + j) < unsigned(w.width) ? 1u << j : 0u;
    float of_item[2][2] = {};                             // sums: of all that is made here, counted or not
    float z[3][F::x_columns][2];                          // stride 1: in turn; stride 2: row 2p - 1 of the last step and of this one in turn, and row 2p
    bf16* to = w.y + ((std::int64_t(at.n) * w.walk.rows + at.begin) * w.walk.columns + q) * w.channels + c;
    int const steps = at.end - at.begin + F::before;
    constexpr int phases = F::before + 1;
#pragma unroll 1
    for (int step = 0; step < steps;) {
#pragma unroll
      for (int phase = 0; phase < phases; ++phase, ++step) {
        if (step >= steps) break;
        std::uint32_t const from = rows.take();
#pragma unroll
        for (int i = 0; i < stride; ++i) {
          int const row = (at.begin + step - F::before) * stride + (stride == 1) + i, slot = stride == 1 ? phase : i == 0 ? 2 : phase;
          // What is outside arrives as 0, and is 0 after the activation if nothing is added to it.
          bool const row_inside = unsigned(row) < unsigned(w.height);
          float plus[3][2];
#pragma unroll
          for (int k = 0; k < 3; ++k)
#pragma unroll
            for (int e = 0; e < 2; ++e) plus[k][e] = row_inside ? add[k][e] : 0.f;
#pragma unroll
          for (int j = 0; j < F::x_columns; ++j) {
            std::uint32_t const x = read_pair(from + x_at + (i * F::x_wide + j) * F::pixel);
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float const constant = ragged ? (inside >> j & 1 ? plus[1][e] : 0.f) : plus[j == 0 ? 0 : j == F::x_columns - 1 ? 2 : 1][e];
              z[slot][j][e] = clip(fmaf(scale[e], e ? ptx::high_bf16(x) : ptx::low_bf16(x), constant), least, most);
            }
          }
        }
        rows.give_back(fetch);
        if (step < F::before) continue;
        std::uint32_t stored[columns];
#pragma unroll
        for (int t = 0; t < columns; ++t) {
          float result[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float v = 0;
#pragma unroll
            for (int r = 0; r < 3; ++r) {
              int const slot = stride == 1 ? (phase + 1 + r) % 3 : r == 0 ? 1 - phase : r == 1 ? 2 : phase;
#pragma unroll
              for (int s = 0; s < 3; ++s) v = fmaf(z[slot][t * stride + s][e], filter[r * 3 + s][e], v);
            }
            result[e] = v;
          }
          stored[t] = ptx::pack_bf16(result[0], result[1]);
          bool const here = !ragged || q + t < w.walk.columns;
          float const low = here ? ptx::low_bf16(stored[t]) : 0.f, high = here ? ptx::high_bf16(stored[t]) : 0.f;
          of_item[0][0] += low, of_item[0][1] += high;
          of_item[1][0] = fmaf(low, low, of_item[1][0]), of_item[1][1] = fmaf(high, high, of_item[1][1]);
        }
        if (works) {                                      // one branch a row
#pragma unroll
          for (int t = 0; t < columns; ++t)
            if (!ragged || q + t < w.walk.columns) *reinterpret_cast<std::uint32_t*>(to + t * w.channels) = stored[t];
        }
        to += std::int64_t(w.walk.columns) * w.channels;
      }
    }
    if (counts)
#pragma unroll
      for (int set = 0; set < 2; ++set)
#pragma unroll
        for (int e = 0; e < 2; ++e) sum[set][e] += of_item[set][e];
  }
  if (w.partial) write_sums<lanes>(sum, c, w.channels, w.partial + std::int64_t(slot) * 2 * w.channels);
}

template <int lanes, int stride>
void launch(ConvProblem const& p, Work& w, ConvArgs const& a, cudaStream_t stream) {
  using F = Shape<lanes, stride>;
  w.x = map_of(a.x.data, p, p.h, p.w, lanes, F::x_wide, stride);
  bool const ragged = p.q() % columns || p.w != stride * p.q();
  auto const kernel = ragged ? forward<lanes, stride, true> : forward<lanes, stride, false>;
  static bool const allowed = (allow_shared_memory(forward<lanes, stride, true>, F::Queue::memory), allow_shared_memory(forward<lanes, stride, false>, F::Queue::memory), true);
  (void)allowed;
  launch_ahead(kernel, dim3(unsigned(w.walk.blocks)), dim3(threads), F::Queue::memory, 1, stream, w);
}

}  // namespace

void launch_forward(ConvProblem const& p, Way const& way, ConvArgs const& a, float* partial, cudaStream_t stream) {
  Work w;
  w.walk = walk_of(p, way);
  if (p.load_x.affine != Affine::none) w.load_x = a.load_x.as<float>();
  if (p.load_x.act != Activation::none) w.least = 0;
  if (p.load_x.act == Activation::relu6) w.most = 6;
  w.filter = a.w.data, w.filter_f32 = p.w_type == DType::f32;
  w.y = a.y.as<bf16>(), w.partial = partial;
  if (partial) w.step = a.step;
  w.channels = p.c, w.height = p.h, w.width = p.w;
  if (way.lanes == 16) p.stride_h == 1 ? launch<16, 1>(p, w, a, stream) : launch<16, 2>(p, w, a, stream);
  else p.stride_h == 1 ? launch<32, 1>(p, w, a, stream) : launch<32, 2>(p, w, a, stream);
}

}  // namespace falconet::depthwise_tma
