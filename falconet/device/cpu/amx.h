// Intel's Advanced Matrix Extensions, bf16: eight tiles of up to 16 rows of 64 bytes, and one instruction, TDPBF16PS, that adds the product of two of
// them to a third (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, "TDPBF16PS", and volume 1, chapter 18).
//
//   sums[m][n] += sum over k of  a[m][2k] b[k][2n] + a[m][2k+1] b[k][2n+1]          m < 16 rows, n < 16 columns of f32, k < 16 pairs of bf16
//
// One interface twice: HardwareTiles is the instructions, EmulatedTiles plain C++ with the same meaning down to the order of the sums, for machines
// without them. Tile numbers are constants, as the instructions want them. The hardware half has been assembled, but no machine with AMX has run it
// yet.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "falconet/tensor/bf16.h"

namespace falconet::amx {

// What LDTILECFG reads: palette 1, and the shape of each tile.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
  void set(int tile, int tile_rows, int bytes) { rows[tile] = std::uint8_t(tile_rows), row_bytes[tile] = std::uint16_t(bytes); }
};
static_assert(sizeof(TileConfig) == 64);

class EmulatedTiles {
 public:
  void configure(TileConfig const& config) {   // all tiles become zero
    config_ = config;
    std::memset(tiles_, 0, sizeof tiles_);
  }
  void release() { config_ = {}; }
  template <int tile>
  void zero() { std::memset(tiles_[tile], 0, sizeof tiles_[tile]); }
  template <int tile>
  void load(void const* from, std::int64_t stride) {   // bytes between rows
    zero<tile>();
    for (int row = 0; row < config_.rows[tile]; ++row) std::memcpy(tiles_[tile] + row * 64, static_cast<char const*>(from) + row * stride, config_.row_bytes[tile]);
  }
  template <int tile>
  void store(void* to, std::int64_t stride) const {
    for (int row = 0; row < config_.rows[tile]; ++row) std::memcpy(static_cast<char*>(to) + row * stride, tiles_[tile] + row * 64, config_.row_bytes[tile]);
  }
  // Products of even and of odd elements have a sum each, of fused multiply-adds in the order of k; both are added, then to what is there. Rounded to
  // nearest even; subnormals are zero, read or written. Tiles whose shapes do not fit each other, at which the processor faults, give NaN.
  template <int sums, int a, int b>
  void multiply() {
    int const rows = config_.rows[sums], columns = config_.row_bytes[sums] / 4, pairs = config_.row_bytes[a] / 4;
    bool const fit = config_.rows[a] == rows && config_.rows[b] == pairs && config_.row_bytes[b] == 4 * columns;
    float first[16][16] = {}, second[16][16] = {};         // of each pair of b
    for (int k = 0; k < pairs; ++k)
      for (int n = 0; n < columns; ++n) first[k][n] = factor(b, k, 2 * n), second[k][n] = factor(b, k, 2 * n + 1);
    for (int m = 0; m < 16; ++m) {
      float even[16] = {}, odd[16] = {};
      for (int k = 0; m < rows && k < pairs; ++k) {
        float const a0 = factor(a, m, 2 * k), a1 = factor(a, m, 2 * k + 1);
        for (int n = 0; n < 16; ++n) even[n] = multiply_add(a0, first[k][n], even[n]), odd[n] = multiply_add(a1, second[k][n], odd[n]);
      }
      for (int n = 0; n < 16; ++n) {
        char* const at = tiles_[sums] + m * 64 + n * 4;
        float sum = 0;                         // rows and columns beyond the shape become zero
        std::memcpy(&sum, at, 4);
        sum = m < rows && n < columns ? fit ? flushed(flushed(sum) + flushed(even[n] + odd[n])) : NAN : 0;
        std::memcpy(at, &sum, 4);
      }
    }
  }

 private:
  static float flushed(float v) {
    std::uint32_t bits;
    std::memcpy(&bits, &v, 4);
    bits &= (bits & 0x7f800000u) == 0 ? 0x80000000u : 0xffffffffu;
    std::memcpy(&v, &bits, 4);
    return v;
  }
  // In f64 the product is exact, and the sum is exact wherever its rounding to f64 could change that to f32.
  static float multiply_add(float a, float b, float sum) { return flushed(float(double(a) * double(b) + double(sum))); }
  float factor(int tile, int row, int element) const {
    bf16 v;
    std::memcpy(&v, tiles_[tile] + row * 64 + element * 2, 2);
    return flushed(to_float(v));
  }
  TileConfig config_;
  char tiles_[8][16 * 64] = {};
};

#if defined(__x86_64__)
// Only where has_amx() says so (device/cpu/isa.h): it also asks the system for the tiles' room.
class HardwareTiles {
 public:
  void configure(TileConfig const& config) { __asm__ volatile("ldtilecfg %0" ::"m"(config)); }
  void release() { __asm__ volatile("tilerelease"); }
  template <int tile>
  void zero() { __asm__ volatile("tilezero %%tmm%c0" ::"i"(tile)); }
  template <int tile>
  void load(void const* from, std::int64_t stride) { __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(tile) : "memory"); }
  template <int tile>
  void store(void* to, std::int64_t stride) { __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(tile) : "memory"); }
  template <int sums, int a, int b>
  void multiply() { __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(a), "i"(b)); }
};
#endif

}  // namespace falconet::amx
