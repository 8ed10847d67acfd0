// What the two halves of depthwise.cpp and depthwise_filter.cpp share.
#pragma once
#include <cstddef>

#include "falconet/ops/conv/cpu/direct.h"
#include "falconet/ops/conv/cpu/store_rows.h"

namespace falconet {

struct DepthwiseGather {
  GatherAxis row, col;
  int images, channels;
  int band, bands;                                       // result rows of a task; tasks of an image
  int lanes;                                             // of a vector of channels: all, or 4 where there are fewer channels
  int finishes, valid_images;                            // rows pass through `slots` once they are complete; images that statistics count
  int relu, bf16;                                        // bf16: in and out, else f32
  int stream;                                            // rows are made in a buffer and written past the caches: of a result that no cache keeps
  void const* in;
  float const *packed, *bias;                            // packed: [r][s][channels]
  void* out;
  int far;                                               // inputs come from beyond the caches: the next row's are asked for
  StoredRows slots;                                      // of the whole result
};

struct DepthwiseFilter {
  int images, h, w, c, p, q, r, s;
  int stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  int lanes, parts;                                      // rows of dy are dealt to the parts
  int band;                                              // rows of dy that L2 holds with their rows of x
  int bf16, rounded;                                     // x and dy are bf16, else f32; so is dw
  void const *x, *dy;
  void* dw;
  float* partial;                                        // parts x [r][s][c]
};

struct DepthwiseKernels {
  int vector_lanes;
  void (*task)(DepthwiseGather const&, int task);
};
struct DepthwiseFilterKernels {
  int vector_lanes;
  void (*task)(DepthwiseFilter const&, int part);
  void (*sum)(DepthwiseFilter const&, int block);        // of vector_lanes channels, over the parts
};
FALCONET_DECLARE_KERNELS(DepthwiseKernels, depthwise_kernels)
FALCONET_DECLARE_KERNELS(DepthwiseFilterKernels, depthwise_filter_kernels)

// Where the last vector of `lanes` channels begins is moved back, so that it is whole: channels in the overlap are computed twice.
static inline int depthwise_lanes(int channels, int vector_lanes) { return channels < vector_lanes ? 4 : vector_lanes; }

}  // namespace falconet
