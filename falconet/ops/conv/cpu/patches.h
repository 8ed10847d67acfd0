// The matrix of patches (im2col) of a convolution, never written as a whole: parts of it are copied into the form in which the
// packed matrix product reads them. One row per pixel of a grid, one column per tap and channel:
//   element(pixel (n,i,j), tap (t,u), channel c) = image(n, i*step_h + first_h + t*tap_step_h, j*step_w + first_w + u*tap_step_w, c)
// and zero outside the image. Forward and filter gradient use it on x; the data gradient uses it on dy, one grid for each
// residue of a dx pixel modulo the stride, with the taps that reach it. Plain data only.
#pragma once
#include <cstdint>

#include "falconet/device/cpu/isa.h"

namespace falconet {

struct PatchSource {
  void const* data = nullptr;  // of the first channel
  bool is_bf16 = false;
  bool channels_last = true;                // nhwc; else nchw
  int height = 0, width = 0, channels = 0;  // of the image; channels of the group
  std::int64_t image_stride = 0;            // elements
  std::int64_t pixel_stride = 1;            // nhwc: channels of the whole image; nchw: 1
  int rows = 0, columns = 0;                // of the grid
  int step_h = 1, step_w = 1, first_h = 0, first_w = 0;
  int tap_rows = 0, tap_columns = 0, tap_step_h = 1, tap_step_w = 1;

  std::int64_t grid() const { return std::int64_t(rows) * columns; }
  std::int64_t depth() const { return std::int64_t(tap_rows) * tap_columns * channels; }  // columns of the patch matrix
};

// The order of the patch matrix's columns l is (t, u, c) for nhwc and (c, t, u) for nchw. Pixels count through all images.
struct PatchKernels {
  // nhwc: columns [l, l + count) of `rows` pixels, transposed: packed[(column - l) * rows + row], an A panel.
  void (*pack_pixels)(PatchSource const&, std::int64_t pixel, int rows, std::int64_t l, std::int64_t count, float* packed);
  // nhwc: the same as rows: out[row * stride + column - l].
  void (*copy_pixels)(PatchSource const&, std::int64_t pixel, std::int64_t rows, std::int64_t l, std::int64_t count, float* out,
                      std::int64_t stride);
  // nchw: columns [l, l + count) of `pixels` pixels of one image as rows: out[(column - l) * stride + pixel].
  void (*copy_taps)(PatchSource const&, std::int64_t image, std::int64_t pixel, std::int64_t pixels, std::int64_t l, std::int64_t count,
                    float* out, std::int64_t stride);
};

FALCONET_DECLARE_KERNELS(PatchKernels, patch_kernels)
PatchKernels const& patch_kernels_of(Isa);

}  // namespace falconet
