// What the two halves of direct.cpp, direct_filter.cpp and direct_unpool.cpp share: plain data that the host half works out and the kernels read.
#pragma once
#include <cstddef>
#include <cstdint>

#include "falconet/device/cpu/isa.h"
#include "falconet/ops/conv/cpu/store_rows.h"

namespace falconet {

// One axis (rows or columns) of a convolution in which every result position gathers input positions: forward, where the input
// is x, and the data gradient (transposed), where the input is dy. A strided data gradient falls into `stride` classes of result
// positions, position mod stride, each of which meets its own taps; forward has one class.
struct GatherAxis {
  int in, out;                            // extents
  int taps, stride, dilation, pad;
  int transposed;
};
// The taps that a class meets, in the order of the input positions: position(i, t) = i * step_in + first + t * step.
struct GatherTaps {
  int count, first, step;
  int tap, tap_step;                      // filter row or column of the first, and from one to the next
};
static inline int classes_of(GatherAxis const& a) { return a.transposed ? a.stride : 1; }
static inline int step_in(GatherAxis const& a) { return a.transposed ? 1 : a.stride; }
static inline int floor_div(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
static inline int ceil_div(int a, int b) { return -floor_div(-a, b); }
static inline int positions_of(GatherAxis const& a, int cls) { return cls < a.out ? (a.out - cls + classes_of(a) - 1) / classes_of(a) : 0; }
static inline GatherTaps taps_of(GatherAxis const& a, int cls) {
  if (!a.transposed) return {a.taps, -a.pad, a.dilation, 0, 1};
  GatherTaps t{0, 0, 1, 0, 0};
  for (int r = a.taps - 1; r >= 0; --r) {
    int const at = cls + a.pad - r * a.dilation;
    if (floor_div(at, a.stride) * a.stride != at) continue;
    if (t.count == 0) t.first = at / a.stride, t.tap = r;
    if (t.count == 1) t.step = at / a.stride - t.first, t.tap_step = r - t.tap;
    ++t.count;
  }
  return t;
}
// First and last input position that results [begin, end) meet, not clipped to the input.
static inline int first_input(GatherAxis const& a, int begin) {
  return a.transposed ? ceil_div(begin + a.pad - (a.taps - 1) * a.dilation, a.stride) : begin * a.stride - a.pad;
}
static inline int last_input(GatherAxis const& a, int end) {
  return a.transposed ? floor_div(end - 1 + a.pad, a.stride) : (end - 1) * a.stride - a.pad + (a.taps - 1) * a.dilation;
}

constexpr std::size_t direct_far_floats = 1 << 20;       // of a result: it comes from memory or a distant cache

constexpr std::size_t direct_stream_floats = 6 << 20;    // of a result of which no cache keeps much until it is read

constexpr int direct_max_classes = 8;                    // strides of a data gradient

// Two buffers of a task lie on the stack of the thread that runs it, 384 KiB at most, the caller's among them: they stay in its L2 from
// task to task, and scratch memory, whose size may not depend on the number of threads, would have to hold a pair for every task. Hence
// falconet asks for threads with stacks of 512 KiB at least (README.md).
constexpr std::size_t direct_stage_floats = 64 << 10;    // on the stack of each thread: input rows of one task
constexpr std::size_t direct_row_floats = 32 << 10;      // on the stack: result rows that cannot be written where they belong

// Images of bf16, whose sums are of f32 in a buffer until store_rows.h rounds them. `pairs` (AVX512-BF16): two neighbouring channels are one
// 32-bit element of `in`, so that in_c counts pairs, and nothing but the tile and the packed filter knows it. Else rows are widened as they are staged.
struct DirectGather {
  GatherAxis row, col;
  int images, in_c, out_c;
  // Result channels lie across the lanes of a vector. If they fill at most half of it, `group` input channels lie side by side
  // for each: lanes = (vector lanes) / group. A block of result channels is 1 .. max_vectors vectors.
  int group, lanes, vectors, blocks, max_tile;
  int band, bands;                                       // result rows of a task; tasks of an image
  int row_chunk, run_chunk;                              // filter rows, and floats of a run of a single row, per pass over a
                                                         // band: so few that their weights stay in L2
  int staged, first_col;                                 // input rows are copied, padded; first input column that is met
  long pitch;                                            // floats from one (staged) input row to the next
  int unpool, pool;                                      // window size or 0
  int splits;                                            // tasks among which the blocks are dealt: with few pixels weights are read once
  int bias_on, relu, mask_on, residual_on;               // relu: 1, or 6 for relu6
  int bf16, pairs, valid_images;                         // images that statistics count
  int odd_c;                                             // pairs of an odd number of channels, to which a zero is staged; else 0
  int far, heavy, stream;                                // the result exceeds the caches, the weights exceed L2; the result may pass by the caches
  float const *in, *filter, *bias, *residual, *mask;
  std::uint8_t const* in_winner;
  std::uint8_t* out_winner;
  float *out, *packed;
  StoredRows slots;                                      // bf16: of the whole result
};

struct DirectFilter {
  int images, h, w, c, p, q, k, r, s;
  int stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  // x and dy are of bf16, staged as floats or (pairs) as pairs of neighbouring pixels, see direct_pairs.h; dw is of bf16. A row of dy then is so
  // many pixels, or pairs of them, which lie x_step floats apart in x.
  int bf16, pairs, dw_bf16, pixels;
  long x_step;
  // A run: (s,c) as one where columns lie side by side (dilation 1), else one per filter column.
  int runs, run;
  // lanes_over_k = 0: vectors along the run of x, dy broadcast; 1: vectors along k of dy, x broadcast.
  int lanes_over_k, lanes;
  int max_vectors, max_scalars;                          // of one register tile
  int k_block, k_blocks;                                 // filters of one task
  int band, bands, parts;                                // rows of y in a band; bands of the batch are dealt to the parts
  int stage_x, stage_y, unpool, bias_on;
  int x_rows;                                            // staged rows of x for one band
  int every_h, every_w, image_h, image_w;                // 1x1 with a stride: what is staged is every so many rows and columns of the image,
                                                         //   and h, w and the strides above are those of the stage; else 0
  long x_pitch, y_pitch, y_step;                         // floats between rows of x and dy as read, and between pixels of dy
  long row_floats, part_floats;                          // of partial sums: one filter row's run or one tap's k; one part
  int in_place;                                          // one part, laid out like dw: summed there
  float const *x, *dy;
  std::uint8_t const* winner;
  float *dw, *db, *partial;
};

constexpr int direct_max_shares = 64;                    // filters whose tables are read together
constexpr int direct_max_pieces = 64;                    // register tiles of a window's field

struct DirectUnpool {
  int images, h, w, c, k, r, s, pad_top, pad_left;
  int size, p, q;                                        // windows and how many there are
  int lanes, tile_rows, tile_vectors, k_chunk;
  long row_floats, filter_floats, pitch;                 // of the table's rows and filters; of the padded image's rows
  int bf16;                                              // dy, filter, residual, mask and dx, else f32
  void const *dy, *filter, *residual, *mask;             // residual and mask: null where unused
  std::uint8_t const* winner;
  void* dx;
  float* table;
};

struct DirectGatherKernels {
  int vector_lanes, registers;
  void (*pack)(DirectGather const&, int block);          // weights of one block of result channels
  void (*task)(DirectGather const&, int task);           // one band of one image
};
struct DirectFilterKernels {
  int vector_lanes, registers;
  void (*task)(DirectFilter const&, int task);           // one part and block of filters into its partial sums
  void (*sum)(DirectFilter const&, int k);               // the parts of one filter, in order, into dw and db
};
struct DirectUnpoolKernels {
  int vector_lanes, sums;
  void (*pack)(DirectUnpool const&, int k);              // the table of one filter
  void (*task)(DirectUnpool const&, int image);
};
FALCONET_DECLARE_KERNELS(DirectGatherKernels, direct_gather)
FALCONET_DECLARE_KERNELS(DirectFilterKernels, direct_filter)
FALCONET_DECLARE_KERNELS(DirectUnpoolKernels, direct_unpool)

}  // namespace falconet
