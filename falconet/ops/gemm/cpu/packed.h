// falconet's own matrix product in parts: packing, the register tile, and the store with its slots, one table of kernels per
// instruction set. ops/gemm/cpu/blocked.cpp drives it for matrices, ops/conv/cpu/im2col_gemm.cpp for images. Plain data only.
//
// The form of a block product, y[rows, columns] += A[rows, k] * B[k, columns]:
//   A panel    up to `rows[v]` rows of A, k-major: a[l * a_stride + i]; its elements are broadcast
//   B block    packed: vectors of `lanes` columns, grouped into panels of at most `max_vectors` vectors; within a panel of v vectors
//              element (l, column c of the panel) lies at l * v * lanes + c. Columns are padded to whole vectors with anything.
//   tile       one A panel times one B panel, summed in registers
#pragma once
#include <cstdint>

#include "falconet/device/cpu/isa.h"

namespace falconet {

// Where results go, and the store slots in their order: bias, residual, activation, mask.
struct GemmStore {
  void* y = nullptr;
  std::int64_t stride = 0;    // elements between rows of y, residual and mask
  bool y_bf16 = false;        // so are residual and mask
  bool bias_of_rows = false;  // one bias per row of y instead of one per column
  float const* bias = nullptr;
  void const* residual = nullptr;
  void const* mask = nullptr;
  int act = 0;  // an Activation
};

// Where the elements of a matrix block lie: element (l, j), l along k, at l * k_stride + j * stride; one of the strides is 1.
struct GemmSource {
  void const* data = nullptr;
  bool is_bf16 = false;
  std::int64_t k_stride = 1, stride = 1;
};

// One A panel times one B block.
struct GemmPanel {
  int rows = 0;  // 1 .. rows[vectors of the widest B panel]
  std::int64_t k = 0, columns = 0;
  float const* a = nullptr;
  std::int64_t a_stride = 0;
  float const* b = nullptr;   // packed, or with b_stride > 0 the matrix itself: element (l, j) at l * b_stride + j,
  std::int64_t b_stride = 0;  //   columns then a multiple of the lanes
  float* sums = nullptr;      // partial sums of the block, if k comes in several pieces
  std::int64_t sums_stride = 0;
  bool first = true;                 // false: start from sums
  GemmStore const* store = nullptr;  // null: leave the result in sums
  std::int64_t row = 0, column = 0;  // of the panel's upper left corner in y
};

// Adds up `parts` partial results in order and stores them.
struct GemmFinish {
  float const* values = nullptr;  // rows x columns, `stride` apart
  std::int64_t stride = 0, part_stride = 0;
  int parts = 1;
  std::int64_t rows = 0, columns = 0;
  float* sums = nullptr;  // as in GemmPanel
  std::int64_t sums_stride = 0;
  bool first = true;
  GemmStore const* store = nullptr;
  std::int64_t row = 0, column = 0;
};

struct GemmKernels {
  int lanes;        // f32 elements of a vector
  int max_vectors;  // of a B panel
  int rows[4];      // rows[v]: of a tile v vectors wide
  // Consecutive panels of panel_rows rows, the last one of what is left; the panel from row i lies at packed + i * k, a_stride = its rows.
  void (*pack_a)(GemmSource const&, std::int64_t rows, int panel_rows, std::int64_t k, float* packed);
  // Rows first_k .. first_k + k of a packed block of block_k rows.
  void (*pack_b)(GemmSource const&, std::int64_t columns, std::int64_t k, float* packed, std::int64_t block_k, std::int64_t first_k);
  void (*multiply)(GemmPanel const&);
  void (*finish)(GemmFinish const&);
  // Null, or operands that are both of bf16 are multiplied in pairs along k (AVX512-BF16: two products a lane and instruction). What was packed is
  // then brought into pairs where it lies, once all of it is there: k rows of `width` floats become (k + 1) / 2 rows at the same start, two bf16
  // an element, the even k in the lower half. An A panel is such rows, a B block of `columns` one for each of its panels.
  void (*pair)(float* rows, std::int64_t width, std::int64_t k) = nullptr;
  void (*pair_b)(float* block, std::int64_t columns, std::int64_t k) = nullptr;
};

// The panels of a B block of `vectors` vectors: as even as possible, wider ones first.
struct GemmPanels {
  int count, narrow, wide;  // `wide` panels of narrow + 1 vectors, then count - wide of narrow
  static GemmPanels of(int vectors, int max_vectors) {
    int const count = (vectors + max_vectors - 1) / max_vectors;
    return {count, vectors / count, vectors % count};
  }
  int vectors(int panel) const { return panel < wide ? narrow + 1 : narrow; }
  int widest() const { return wide ? narrow + 1 : narrow; }
};

FALCONET_DECLARE_KERNELS(GemmKernels, gemm_kernels)
GemmKernels const& gemm_kernels_of(Isa);
// The same for operands that are both of bf16: in pairs if the processor has AVX512-BF16 and avx512 may be used.
GemmKernels const& gemm_bf16_kernels_of(Isa);
#if defined(__x86_64__)
namespace avx512 { extern GemmKernels const gemm_pair_kernels; }
#endif

struct GemmProblem;
struct GemmArgs;
GemmStore gemm_store_of(GemmProblem const&, GemmArgs const&);

// A fixed bound on what any instruction set needs, so that the size of scratch memory does not depend on it.
constexpr int gemm_max_lanes = 16, gemm_max_rows = 16;

}  // namespace falconet
