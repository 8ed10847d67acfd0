// The matrix product by NVIDIA's cuBLASLt, found when it is asked for. f32 products without TF32 (CUBLAS_COMPUTE_32F), by the algorithm that the library's
// own heuristic puts first; descriptors are made once for each product. cuBLASLt counts columns first: y[m,n] by rows is y^T by columns, so
// y^T = b^T a^T.
#include "falconet/ops/gemm/cuda/cublaslt.h"

#include <cuda_runtime.h>

#include <cstdint>
#include <list>
#include <mutex>

#include "falconet/base/error.h"
#include "falconet/device/cuda/vendor_library.h"

namespace falconet {
namespace {

// The few facts of cublasLt.h that are needed, as NVIDIA documents them; they are a part of its stable interface.
using Status = int;                            // 0: success
using Handle = struct LtHandle*;
using Operation = struct LtOperation*;
using Matrix = struct LtMatrix*;
using Preference = struct LtPreference*;
enum : int { r_32f = 0, compute_32f = 68, transpose_a = 3, transpose_b = 4, most_workspace = 1 };
struct Method {
  std::uint64_t data[8];
};
struct Found {
  Method method;
  std::size_t workspace;
  Status state;
  float waves;
  int reserved[4];
};

struct Library : VendorLibrary {
  Library() : VendorLibrary({"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}) {
    if (!missing().empty()) return;
    find(create, "cublasLtCreate");
    find(operation_create, "cublasLtMatmulDescCreate");
    find(operation_set, "cublasLtMatmulDescSetAttribute");
    find(matrix_create, "cublasLtMatrixLayoutCreate");
    find(preference_create, "cublasLtMatmulPreferenceCreate");
    find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
    find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    find(matmul, "cublasLtMatmul");
    if (missing().empty() && create(&handle) != 0) refuse("cublasLtCreate failed");
  }
  Status (*create)(Handle*) = nullptr;
  Status (*operation_create)(Operation*, int compute, int scale) = nullptr;
  Status (*operation_set)(Operation, int attribute, void const*, std::size_t) = nullptr;
  Status (*matrix_create)(Matrix*, int type, std::uint64_t rows, std::uint64_t columns, std::int64_t leading) = nullptr;
  Status (*preference_create)(Preference*) = nullptr;
  Status (*preference_set)(Preference, int attribute, void const*, std::size_t) = nullptr;
  Status (*heuristic)(Handle, Operation, Matrix, Matrix, Matrix, Matrix, Preference, int wanted, Found*, int* found) = nullptr;
  Status (*matmul)(Handle, Operation, void const* alpha, void const* a, Matrix, void const* b, Matrix, void const* beta, void const* c, Matrix, void* d, Matrix,
                   Method const*, void* workspace, std::size_t, cudaStream_t) = nullptr;
  Handle handle = nullptr;
};
Library& library() {
  static Library one;
  return one;
}

constexpr std::size_t workspace = std::size_t(32) << 20;

struct Bound {
  GemmProblem problem;
  Operation operation = nullptr;
  Matrix left = nullptr, right = nullptr, result = nullptr;   // of y^T = left * right: b^T, a^T
  Found found{};
  bool good = false;
};
// Kept for the life of the process: one for each product that was ever asked for.
Bound const& bound(GemmProblem const& p) {
  static std::mutex guard;
  static std::list<Bound> all;
  std::lock_guard lock(guard);
  for (auto const& b : all)
    if (b.problem == p) return b;
  auto& l = library();
  Bound& b = all.emplace_back(Bound{p});
  int const yes = 1;
  Preference preference = nullptr;
  int found = 0;
  b.good = l.operation_create(&b.operation, compute_32f, r_32f) == 0 && l.preference_create(&preference) == 0 &&
           (!p.trans_b || l.operation_set(b.operation, transpose_a, &yes, sizeof yes) == 0) && (!p.trans_a || l.operation_set(b.operation, transpose_b, &yes, sizeof yes) == 0) &&
           l.matrix_create(&b.left, r_32f, std::uint64_t(p.trans_b ? p.k : p.n), std::uint64_t(p.trans_b ? p.n : p.k), p.trans_b ? p.k : p.n) == 0 &&
           l.matrix_create(&b.right, r_32f, std::uint64_t(p.trans_a ? p.m : p.k), std::uint64_t(p.trans_a ? p.k : p.m), p.trans_a ? p.m : p.k) == 0 &&
           l.matrix_create(&b.result, r_32f, std::uint64_t(p.n), std::uint64_t(p.m), p.n) == 0 && l.preference_set(preference, most_workspace, &workspace, sizeof workspace) == 0 &&
           l.heuristic(l.handle, b.operation, b.left, b.right, b.result, b.result, preference, 1, &b.found, &found) == 0 && found == 1;
  return b;
}

std::string reject(GemmProblem const& p, DeviceFacts const&) {
  if (p.image.which != GemmImage::none) return "an operand that lies as images";
  if (!p.one_type(DType::f32)) return "f32 only";
  if (!(p.store == OnStore{})) return "slots";
  if (!library().missing().empty()) return library().missing();
  return bound(p).good ? "" : "cuBLASLt finds no algorithm";
}
std::size_t scratch(GemmProblem const&, Config const&) { return workspace; }
double seconds(GemmProblem const& p, DeviceFacts const&) { return 4e-6 + p.operations() / 40e12; }
void run(GemmProblem const& p, Config const&, GemmArgs const& args, View memory, Stream& on) {
  Bound const& b = bound(p);
  float const one = 1, zero = 0;
  Status const status = b.good ? library().matmul(library().handle, b.operation, &one, args.b.data, b.left, args.a.data, b.right, &zero, args.y.data, b.result, args.y.data,
                                                  b.result, &b.found.method, memory.data, workspace, static_cast<cudaStream_t>(on.cuda()))
                               : -1;
  if (status != 0) fail(ErrorKind::device, "cublasLtMatmul failed (status " + std::to_string(status) + "); problem '" + p.text() + "'");
}

}  // namespace

Algorithm<GemmProblem> gemm_cuda_cublaslt() {
  return {.name = "cublaslt", .target = DeviceKind::cuda, .reject = reject, .scratch = scratch, .seconds = seconds, .run = run, .rival = true};
}

}  // namespace falconet
