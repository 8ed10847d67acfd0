// OpenBLAS as a rival: loaded with dlopen when first asked for, never needed.
#pragma once
#include <cstdint>
#include <string>

namespace falconet::openblas {

// Where the library was found and what it says of itself; empty where it is not.
std::string found();
constexpr char const* library_files = "libopenblas.so.0, libopenblas.so, libscipy_openblas.so";   // what is sought, in this order

// y[m,n] = op_a(a) op_b(b) + beta y, f32, row-major, rows of a, b and y lda, ldb, ldy elements apart, on `threads` threads.
void sgemm(int threads, bool trans_a, bool trans_b, std::int64_t m, std::int64_t n, std::int64_t k, float const* a, std::int64_t lda, float const* b, std::int64_t ldb, float beta,
           float* y, std::int64_t ldy);

}  // namespace falconet::openblas
