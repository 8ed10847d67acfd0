// Convolution by im2col and OpenBLAS's sgemm, in all directions, as a rival (Chellapilla et al. 2006, as Caffe does it): the patches of a few
// images at a time are written out as a matrix [pixels, r s c] and multiplied. A 1x1 filter of stride 1 without padding needs no copy.
//   y[pixels, k] = patches w^T      dpatches = dy w, then added up where they overlap      dw[k, r s c] = sum over pixels of dy^T patches
// Limits: f32, NHWC, no slots. Cost: the patches are written and read once more.
#include "falconet/device/cpu/openblas.h"

#include <algorithm>
#include <cstring>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"

namespace falconet {
namespace {

constexpr std::int64_t most_patches = std::int64_t(16) << 20;   // bytes written out at a time, but always an image at least

std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction == Direction::bwd) return "both gradients at once";
  if (openblas::found().empty()) return std::string("OpenBLAS is not found: ") + openblas::library_files;
  if (!p.one_type(DType::f32)) return "needs f32";
  if (p.layout != Layout::nhwc) return "needs nhwc";
  if (!p.plain()) return "slots";
  if (double(p.n) * p.p() * p.q() >= 1 << 30 || double(p.r) * p.s * p.c >= 1 << 30) return "a matrix beyond 2^30 rows or columns";
  return {};
}

bool copies(ConvProblem const& p) {
  return p.r > 1 || p.s > 1 || p.stride_h > 1 || p.stride_w > 1 || p.pad_top || p.pad_left || p.pad_bottom || p.pad_right || p.groups > 1;
}
std::int64_t patch(ConvProblem const& p) { return std::int64_t(p.r) * p.s * (p.c / p.groups); }
std::int64_t images(ConvProblem const& p) {
  return copies(p) ? std::clamp<std::int64_t>(most_patches / (4 * patch(p) * p.p() * p.q()), 1, p.n) : p.n;
}
std::size_t scratch(ConvProblem const& p, Config const&) { return copies(p) ? std::size_t(4 * images(p) * p.p() * p.q() * patch(p)) : 0; }

double seconds(ConvProblem const& p, DeviceFacts const&) {
  return p.operations() / 100e9 + (copies(p) ? 2.0 * 4 * double(p.n) * p.p() * p.q() * double(patch(p)) * p.groups / 8e9 : 0) + 10e-6;
}

// One group's patches of output row `row` (counted over the batch) from x.
void write_row(ConvProblem const& p, float const* x, int group, std::int64_t row, float* to) {
  std::int64_t const c = p.c / p.groups;
  float const* const image = x + row / p.p() * p.h * p.w * p.c + group * c;
  std::int64_t const top = row % p.p() * p.stride_h - p.pad_top;
  for (int q = 0; q < p.q(); ++q)
    for (int r = 0; r < p.r; ++r)
      for (int s = 0; s < p.s; ++s, to += c) {
        std::int64_t const h = top + r * p.dilation_h, w = std::int64_t(q) * p.stride_w - p.pad_left + s * p.dilation_w;
        if (h < 0 || h >= p.h || w < 0 || w >= p.w) std::memset(to, 0, std::size_t(c) * 4);
        else std::memcpy(to, image + (h * p.w + w) * p.c, std::size_t(c) * 4);
      }
}

// Row h of dx (of one image and group) from that image's gradients of patches.
void gather_row(ConvProblem const& p, float const* patches, int group, int h, float* dx) {
  std::int64_t const c = p.c / p.groups, width = patch(p);
  dx += std::int64_t(h) * p.w * p.c + group * c;
  for (int w = 0; w < p.w; ++w)
    for (std::int64_t i = 0; i < c; ++i) dx[std::int64_t(w) * p.c + i] = 0;
  for (int r = 0; r < p.r; ++r) {
    std::int64_t const at = h + p.pad_top - std::int64_t(r) * p.dilation_h;
    if (at < 0 || at % p.stride_h || at / p.stride_h >= p.p()) continue;
    for (int q = 0; q < p.q(); ++q)
      for (int s = 0; s < p.s; ++s) {
        std::int64_t const w = std::int64_t(q) * p.stride_w - p.pad_left + s * p.dilation_w;
        if (w < 0 || w >= p.w) continue;
        float const* const from = patches + (at / p.stride_h * p.q() + q) * width + (std::int64_t(r) * p.s + s) * c;
        float* const to = dx + w * p.c;
        for (std::int64_t i = 0; i < c; ++i) to[i] += from[i];
      }
  }
}

void run(ConvProblem const& p, Config const&, ConvArgs const& args, View scratch_view, Stream& stream) {
  auto& pool = stream.threads();
  int const threads = pool.size();
  std::int64_t const width = patch(p), k = p.k / p.groups, pixels = std::int64_t(p.p()) * p.q();
  bool const copy = copies(p);
  float* const x = args.x.as<float>();
  float* const w = args.w.as<float>();
  float* const y = args.y.as<float>();
  for (std::int64_t n = 0; n < p.n; n += images(p)) {
    std::int64_t const count = std::min(images(p), p.n - n), rows = count * pixels;
    float* const images_x = x + n * p.h * p.w * p.c;
    for (int g = 0; g < p.groups; ++g) {
      float* const patches = copy ? scratch_view.as<float>() : images_x;
      float* const y_of = y + n * pixels * p.k + g * k;
      float* const w_of = w + g * k * width;
      if (copy && p.direction != Direction::bwd_data)
        pool.run(int(count) * p.p(), [&](int row) { write_row(p, images_x, g, row, patches + row * std::int64_t(p.q()) * width); });
      if (p.direction == Direction::fwd) openblas::sgemm(threads, false, true, rows, k, width, patches, width, w_of, width, 0, y_of, p.k);
      else if (p.direction == Direction::bwd_filter) openblas::sgemm(threads, true, false, k, width, rows, y_of, p.k, patches, width, n > 0, w_of, width);
      else {
        openblas::sgemm(threads, false, false, rows, width, k, y_of, p.k, w_of, width, 0, patches, width);
        if (copy)
          pool.run(int(count) * p.h, [&](int row) {
            std::int64_t const image = row / p.h;
            gather_row(p, patches + image * pixels * width, g, row % p.h, images_x + image * p.h * p.w * p.c);
          });
      }
    }
  }
}

}  // namespace

Algorithm<ConvProblem> const conv_openblas{.name = "openblas", .target = DeviceKind::cpu, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run, .rival = true};

}  // namespace falconet
