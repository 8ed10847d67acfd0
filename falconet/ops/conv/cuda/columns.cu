#include "falconet/ops/conv/cuda/columns.h"

#include <algorithm>
#include <cmath>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/divide.cuh"

namespace falconet::columns {
namespace {

// What the kernels see of the problem. Channels-last or channels-first is a matter of strides.
struct Strides {
  int n, c, h, w;
  __device__ int at(int i, int j, int y, int x) const { return i * n + j * c + y * h + x * w; }
};
struct Geometry {
  int n, c, h, w, k, r, s, p, q, padded_h, padded_w, pad_h, pad_w, st_h, st_w, d_h, d_w;
  bool taps_first;                                         // rows in the order (r,s,c): nhwc
  Strides x, y;
  FastDivide by_n, by_c, by_h, by_w, by_k, by_r, by_s, by_p, by_q, by_padded_h, by_padded_w, by_st_h, by_st_w;
  __device__ int row(int channel, int i, int j) const { return taps_first ? (i * s + j) * c + channel : (channel * r + i) * s + j; }
  __device__ int columns() const { return p * q * n; }
};
struct Store {
  float const *scale_shift, *bias, *residual, *mask_of;
  Activation act;
  Mask mask;
};

#define FALCONET_GRID_STRIDE(i, elements) \
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < unsigned(elements); i += gridDim.x * blockDim.x)

__device__ float finished(Store const& s, float v, int channel, int channels, int at) {
  if (s.scale_shift) v = s.scale_shift[channel] * v + s.scale_shift[channels + channel];
  if (s.bias) v += s.bias[channel];
  if (s.residual) v += s.residual[at];
  v = activate(s.act, v);
  return s.mask == Mask::none || passes(s.mask, s.mask_of[at]) ? v : 0;
}

// A thread for every element of the padded images. Writes are coalesced; reads are, too, where x is nchw.
__global__ void pad(Geometry const g, float const* x, float* padded, int elements) {
  FALCONET_GRID_STRIDE(i, elements) {
    int w, h, c;
    int const n = g.by_c(g.by_padded_h(g.by_padded_w(int(i), w), h), c);
    h -= g.pad_h, w -= g.pad_w;
    padded[i] = unsigned(h) < unsigned(g.h) && unsigned(w) < unsigned(g.w) ? x[g.x.at(n, c, h, w)] : 0;
  }
}

// A thread for every place of the filter, (n,c,p,q): it copies the patch under it, r*s elements, to as many rows of one column.
__global__ void im2col_per_position(Geometry const g, float const* padded, float* columns, int positions) {
  FALCONET_GRID_STRIDE(i, positions) {
    int q, p, c;
    int const n = g.by_c(g.by_p(g.by_q(int(i), q), p), c);
    float const* const corner = padded + ((n * g.c + c) * g.padded_h + p * g.st_h) * g.padded_w + q * g.st_w;
    int const column = (p * g.q + q) * g.n + n;
    for (int r = 0; r < g.r; ++r)
      for (int s = 0; s < g.s; ++s) columns[g.row(c, r, s) * g.columns() + column] = corner[r * g.d_h * g.padded_w + s * g.d_w];
  }
}

// A thread for every element of the matrix, neighbours in a row: writes are coalesced, and there are r*s times as many threads.
__global__ void im2col_per_element(Geometry const g, float const* padded, float* columns, FastDivide by_columns, int elements) {
  FALCONET_GRID_STRIDE(i, elements) {
    int column, n, q, p, c, s, r;
    int const row = by_columns(int(i), column);
    p = g.by_q(g.by_n(column, n), q);
    if (g.taps_first) r = g.by_s(g.by_c(row, c), s);
    else c = g.by_r(g.by_s(row, s), r);
    columns[i] = padded[((n * g.c + c) * g.padded_h + p * g.st_h + r * g.d_h) * g.padded_w + q * g.st_w + s * g.d_w];
  }
}

// [k][p][q][n] -> y, whose first dimension is n: a turn by one place, the last dimension to the front. A thread for every element of y.
__global__ void transpose_3012(Geometry const g, float const* products, Store const store, float* y, int elements) {
  FALCONET_GRID_STRIDE(i, elements) {
    int n, k, p, q;
    if (g.taps_first) n = g.by_p(g.by_q(g.by_k(int(i), k), q), p);
    else n = g.by_k(g.by_p(g.by_q(int(i), q), p), k);
    y[i] = finished(store, products[((k * g.p + p) * g.q + q) * g.n + n], k, g.k, int(i));
  }
}
// dy -> [k][p][q][n], the turn back. A thread for every element of the result.
__global__ void transpose_1230(Geometry const g, float const* dy, float* turned, int elements) {
  FALCONET_GRID_STRIDE(i, elements) {
    int n, q, p;
    int const k = g.by_p(g.by_q(g.by_n(int(i), n), q), p);
    turned[i] = dy[g.y.at(n, k, p, q)];
  }
}

// What tap (r,s) of channel c owes to pixel (h,w) of image n: the element of the matrix that this pixel was copied to, if there is one.
__device__ float owed(Geometry const& g, float const* columns, int n, int c, int h, int w, int r, int s) {
  int const up = h + g.pad_h - r * g.d_h, left = w + g.pad_w - s * g.d_w;
  if (up < 0 || left < 0) return 0;
  int off_h, off_w;
  int const p = g.by_st_h(up, off_h), q = g.by_st_w(left, off_w);
  return off_h || off_w || p >= g.p || q >= g.q ? 0 : columns[g.row(c, r, s) * g.columns() + (p * g.q + q) * g.n + n];
}
__device__ int pixel_of(Geometry const& g, int i, int& n, int& c, int& h, int& w) {   // n fastest: neighbours read neighbouring columns
  c = g.by_h(g.by_w(g.by_n(i, n), w), h);
  return g.x.at(n, c, h, w);
}

// By gathering, a thread for every pixel of dx: it adds the r*s elements that it is owed, in order.
__global__ void col2im_per_position(Geometry const g, float const* columns, Store const store, float* dx, int pixels) {
  FALCONET_GRID_STRIDE(i, pixels) {
    int n, c, h, w;
    int const at = pixel_of(g, int(i), n, c, h, w);
    float sum = 0;
    for (int r = 0; r < g.r; ++r)
      for (int s = 0; s < g.s; ++s) sum += owed(g, columns, n, c, h, w, r, s);
    dx[at] = finished(store, sum, c, g.c, at);
  }
}
// By gathering, a thread for every tap of a pixel (every `shares`-th, if there are more): the block adds them up in order.
__global__ void col2im_per_element(Geometry const g, float const* columns, Store const store, float* dx, int pixels, int shares) {
  extern __shared__ float parts[];                         // [shares][pixels of the block]
  int const each = int(blockDim.x) / shares, mine = int(threadIdx.x) % each, share = int(threadIdx.x) / each, taps = g.r * g.s;
  for (int first = int(blockIdx.x) * each; first < pixels; first += int(gridDim.x) * each) {
    int n = 0, c = 0, h = 0, w = 0, at = 0;
    bool const in = share < shares && first + mine < pixels;
    float sum = 0;
    if (in) {
      at = pixel_of(g, first + mine, n, c, h, w);
      for (int tap = share; tap < taps; tap += shares) {
        int s;
        int const r = g.by_s(tap, s);
        sum += owed(g, columns, n, c, h, w, r, s);
      }
      parts[share * each + mine] = sum;
    }
    __syncthreads();
    if (in && share == 0) {
      for (int i = 1; i < shares; ++i) sum += parts[i * each + mine];
      dx[at] = finished(store, sum, c, g.c, at);
    }
    __syncthreads();
  }
}
// The report's form: every element of the matrix adds itself to its pixel of a padded gradient. The order of the additions changes from run to run.
__global__ void col2im_atomic(Geometry const g, float const* columns, float* padded, FastDivide by_columns, int elements) {
  FALCONET_GRID_STRIDE(i, elements) {
    int column, n, q, p, c, s, r;
    int const row = by_columns(int(i), column);
    p = g.by_q(g.by_n(column, n), q);
    if (g.taps_first) r = g.by_s(g.by_c(row, c), s);
    else c = g.by_r(g.by_s(row, s), r);
    atomicAdd(padded + ((n * g.c + c) * g.padded_h + p * g.st_h + r * g.d_h) * g.padded_w + q * g.st_w + s * g.d_w, columns[i]);
  }
}
__global__ void remove_padding(Geometry const g, float const* padded, Store const store, float* dx, int elements) {
  FALCONET_GRID_STRIDE(i, elements) {
    int n, c, h, w;
    int const at = pixel_of(g, int(i), n, c, h, w);
    dx[at] = finished(store, padded[((n * g.c + c) * g.padded_h + h + g.pad_h) * g.padded_w + w + g.pad_w], c, g.c, at);
  }
}

Strides strides_of(Layout layout, int channels, int height, int width) {
  if (layout == Layout::nhwc) return {channels * height * width, 1, width * channels, channels};
  return {channels * height * width, height * width, width, 1};
}
Geometry geometry_of(ConvProblem const& p) {
  int const padded_h = p.h + p.pad_top + p.pad_bottom, padded_w = p.w + p.pad_left + p.pad_right;
  return {p.n, p.c, p.h, p.w, p.k, p.r, p.s, p.p(), p.q(), padded_h, padded_w, p.pad_top, p.pad_left, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w,
          p.layout == Layout::nhwc, strides_of(p.layout, p.c, p.h, p.w), strides_of(p.layout, p.k, p.p(), p.q()),
          FastDivide(p.n), FastDivide(p.c), FastDivide(p.h), FastDivide(p.w), FastDivide(p.k), FastDivide(p.r), FastDivide(p.s), FastDivide(p.p()),
          FastDivide(p.q()), FastDivide(padded_h), FastDivide(padded_w), FastDivide(p.stride_h), FastDivide(p.stride_w)};
}

// Elements of what lies between the stages.
struct Extents {
  std::int64_t padded, columns, results;                   // results: of y, and of the product beside it
};
Extents extents_of(ConvProblem const& p) {
  std::int64_t const pixels = std::int64_t(p.n) * p.p() * p.q();
  return {std::int64_t(p.n) * p.c * (p.h + p.pad_top + p.pad_bottom) * (p.w + p.pad_left + p.pad_right), pixels * p.c * p.r * p.s, pixels * p.k};
}
std::size_t rounded(std::int64_t elements) { return (std::size_t(elements) * sizeof(float) + 255) / 256 * 256; }

}  // namespace

std::string reject(ConvProblem const& p, Gathering gathering) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (!p.one_type(DType::f32)) return "f32 only";
  if (p.groups != 1) return "groups";
  if (gathering == Gathering::atomic && p.direction != Direction::bwd_data) return "only col2im differs: im2col_v2 runs the other directions";
  if (p.load_x != OnLoad{} || p.load_dy != OnLoad{}) return "slots of x or dy";
  auto const& s = p.store;
  if (s.pool.kind != PoolSlot::none || s.stats != Stats::none || s.affine == Affine::two_operand) return "pooling or statistics of the result";
  if (p.direction == Direction::bwd_filter && !(s == OnStore{})) return "slots of the filter gradient";
  if (p.direction == Direction::bwd_data && s.bias) return "the data gradient has no bias";
  auto const e = extents_of(p);
  constexpr std::int64_t most = std::int64_t(1) << 31;
  if (e.padded >= most || e.columns >= most || e.results >= most) return "a matrix of patches of 2^31 elements or more";
  if (p.direction != Direction::bwd_filter && std::int64_t(p.n) * p.p() * p.q() > std::int64_t(65535) * 32) return "more than 2 million columns";
  return {};
}

GemmProblem product(ConvProblem const& p) {
  std::int64_t const taps = std::int64_t(p.c) * p.r * p.s, pixels = std::int64_t(p.n) * p.p() * p.q();
  GemmProblem g;
  if (p.direction == Direction::fwd) g.m = p.k, g.n = pixels, g.k = taps;
  else if (p.direction == Direction::bwd_data) g.m = taps, g.n = pixels, g.k = p.k, g.trans_a = true;
  else g.m = p.k, g.n = taps, g.k = pixels, g.trans_b = true;
  return g;
}

std::size_t scratch(ConvProblem const& p, Gathering gathering, Multiply const& multiply) {
  auto const e = extents_of(p);
  bool const padded = p.direction != Direction::bwd_data || gathering == Gathering::atomic;
  return rounded(e.columns) + rounded(e.results) + (padded ? rounded(e.padded) : 0) + multiply.scratch(product(p));
}

// The kernels beside the product: bytes at the rate of scattered reads, and launches.
double seconds(ConvProblem const& p, Mapping mapping, double product_seconds) {
  auto const e = extents_of(p);
  double const bytes = 4 * (double(e.padded) * 2 + double(e.columns) * 2 + double(e.results) * 2), rate = mapping == Mapping::per_element ? 0.6e12 : 0.4e12;
  return 8e-6 + 1.3 * product_seconds + bytes / rate;
}

std::vector<Config> configs(ConvProblem const&, DeviceFacts const&) {
  return {Config{{"threads", 256}, {"blocks", 0}}, Config{{"threads", 128}, {"blocks", 0}}, Config{{"threads", 256}, {"blocks", 64}}};
}
std::vector<LaunchRange> ranges(ConvProblem const&, DeviceFacts const&) { return {{"threads", 32, 1024, true}, {"blocks", 0, 65535, false}}; }

void run(char const* name, ConvProblem const& p, Config const& config, ConvArgs const& args, View scratch, Stream& on, Mapping mapping, Gathering gathering,
         Multiply const& multiply) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  auto const g = geometry_of(p);
  auto const e = extents_of(p);
  int const threads = config.get("threads", 256), wanted = config.get("blocks", 0);
  auto const blocks = [&](std::int64_t elements, int each) { return unsigned(wanted > 0 ? wanted : std::min<std::int64_t>((elements + each - 1) / each, 1 << 20)); };
  auto const over = [&](std::int64_t elements, auto kernel, auto... arguments) { kernel<<<blocks(elements, threads), threads, 0, stream>>>(g, arguments..., int(elements)); };
  char* memory = static_cast<char*>(scratch.data);
  auto const take = [&](std::size_t bytes) { return reinterpret_cast<float*>(std::exchange(memory, memory + bytes)); };
  float *const matrix = take(rounded(e.columns)), *const results = take(rounded(e.results));
  bool const data = p.direction == Direction::bwd_data, per_element = mapping == Mapping::per_element;
  float* const padded = !data || gathering == Gathering::atomic ? take(rounded(e.padded)) : nullptr;
  auto const& s = p.store;
  Store const store{s.affine != Affine::none ? args.store_affine.as<float>() : nullptr, s.bias ? args.bias.as<float>() : nullptr,
                    s.residual ? args.residual.as<float>() : nullptr, args.mask.as<float>(), s.act, s.mask};
  FastDivide const by_columns(p.n * p.p() * p.q());
  std::int64_t const pixels = std::int64_t(p.n) * p.c * p.h * p.w;

  GemmArgs product_args;
  auto const view = [](float* at) { return View{at, {DType::f32, Shape{1}, Layout::nchw}}; };
  if (!data) {
    over(e.padded, pad, static_cast<float const*>(args.x.as<float>()), padded);
    if (per_element) over(e.columns, im2col_per_element, static_cast<float const*>(padded), matrix, by_columns);
    else over(std::int64_t(p.n) * p.c * p.p() * p.q(), im2col_per_position, static_cast<float const*>(padded), matrix);
  }
  if (p.direction != Direction::fwd) over(e.results, transpose_1230, static_cast<float const*>(args.y.as<float>()), results);
  if (p.direction == Direction::fwd) product_args.a = args.w, product_args.b = view(matrix), product_args.y = view(results);
  else if (data) product_args.a = args.w, product_args.b = view(results), product_args.y = view(matrix);
  else product_args.a = view(results), product_args.b = view(matrix), product_args.y = args.w;
  multiply.run(product(p), product_args, {memory, {}}, on);
  if (p.direction == Direction::fwd) {
    over(e.results, transpose_3012, static_cast<float const*>(results), store, args.y.as<float>());
  } else if (data && gathering == Gathering::atomic) {
    check_cuda(cudaMemsetAsync(padded, 0, std::size_t(e.padded) * sizeof(float), stream), "cudaMemsetAsync");
    over(e.columns, col2im_atomic, static_cast<float const*>(matrix), padded, by_columns);
    over(pixels, remove_padding, static_cast<float const*>(padded), store, args.x.as<float>());
  } else if (data && per_element) {
    int const shares = std::min(p.r * p.s, threads / 8), each = threads / shares;
    col2im_per_element<<<blocks(pixels, each), unsigned(threads), std::size_t(threads) * sizeof(float), stream>>>(g, matrix, store, args.x.as<float>(), int(pixels), shares);
  } else if (data) {
    over(pixels, col2im_per_position, static_cast<float const*>(matrix), store, args.x.as<float>());
  }
  check_launch(name, p, stream);
}

}  // namespace falconet::columns
