#include "falconet/device/cuda/tensor_map.h"

#include <cudaTypedefs.h>

#include <string>

#include "falconet/base/error.h"
#include "falconet/device/cuda/check.h"

namespace falconet {
namespace {

template <class Function>
Function entry_point(char const* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  check_cuda(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &result), "cudaGetDriverEntryPointByVersion", name);
  if (!function || result != cudaDriverEntryPointSuccess) fail(ErrorKind::device, std::string("the NVIDIA driver has no ") + name + " (CUDA 12.0 and later have it)");
  return reinterpret_cast<Function>(function);
}

CUtensorMapSwizzle swizzle_of(int bytes) {
  return bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : bytes == 32 ? CU_TENSOR_MAP_SWIZZLE_32B : CU_TENSOR_MAP_SWIZZLE_NONE;
}

void check_encoded(CUresult result, char const* what) {
  if (result != CUDA_SUCCESS) fail(ErrorKind::internal, std::string(what) + " refused a tensor map (CUresult " + std::to_string(int(result)) + ")");
}

}  // namespace

CUtensorMap tiled_map(void const* data, std::initializer_list<std::int64_t> dims, std::initializer_list<std::int64_t> strides, std::initializer_list<int> box,
                      int swizzle_bytes, bool promotes) {
  static auto const encode = entry_point<PFN_cuTensorMapEncodeTiled_v12000>("cuTensorMapEncodeTiled");
  cuuint64_t size[5] = {}, pitch[5] = {};
  cuuint32_t extent[5] = {}, step[5] = {1, 1, 1, 1, 1};
  int i = 0;
  for (auto d : dims) size[i++] = cuuint64_t(d);
  i = 0;
  for (auto s : strides) pitch[i++] = cuuint64_t(s) * 2;
  i = 0;
  for (auto b : box) extent[i++] = cuuint32_t(b);
  CUtensorMap map{};
  check_encoded(encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, cuuint32_t(dims.size()), const_cast<void*>(data), size, pitch, extent, step,
                       CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(swizzle_bytes), promotes ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B : CU_TENSOR_MAP_L2_PROMOTION_NONE,
                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
                "cuTensorMapEncodeTiled");
  return map;
}

CUtensorMap im2col_map(void const* data, PixelWalk const& walk, int channels, int pixels, int swizzle_bytes) {
  static auto const encode = entry_point<PFN_cuTensorMapEncodeIm2col_v12000>("cuTensorMapEncodeIm2col");
  cuuint64_t const size[4] = {cuuint64_t(walk.c), cuuint64_t(walk.w), cuuint64_t(walk.h), cuuint64_t(walk.n)};
  cuuint64_t const pitch[3] = {cuuint64_t(walk.stride_w) * 2, cuuint64_t(walk.stride_h) * 2, cuuint64_t(walk.stride_n) * 2};
  int const lower[2] = {walk.lower_w, walk.lower_h}, upper[2] = {walk.upper_w, walk.upper_h};   // innermost first
  cuuint32_t const step[4] = {1, cuuint32_t(walk.step_w), cuuint32_t(walk.step_h), 1};
  CUtensorMap map{};
  check_encoded(encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(data), size, pitch, lower, upper, cuuint32_t(channels), cuuint32_t(pixels), step,
                       CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(swizzle_bytes), CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
                "cuTensorMapEncodeIm2col");
  return map;
}

}  // namespace falconet
