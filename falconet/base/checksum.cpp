#include "falconet/base/checksum.h"

#include <array>

namespace falconet {
namespace {

// table[k][b]: what byte b contributes when k more bytes follow it ("slicing by eight").
using Tables = std::array<std::array<std::uint64_t, 256>, 8>;
constexpr Tables make_tables() {
  Tables table{};
  for (std::uint64_t b = 0; b < 256; ++b) {
    std::uint64_t v = b;
    for (int bit = 0; bit < 8; ++bit) v = v & 1 ? v >> 1 ^ 0xC96C5795D7870F42ull : v >> 1;
    table[0][b] = v;
  }
  for (std::size_t k = 1; k < 8; ++k)
    for (std::size_t b = 0; b < 256; ++b) table[k][b] = table[k - 1][b] >> 8 ^ table[0][table[k - 1][b] & 255];
  return table;
}
constexpr Tables table = make_tables();

}  // namespace

std::uint64_t crc64(std::span<std::byte const> bytes, std::uint64_t before) {
  std::uint64_t crc = ~before;
  auto const* at = reinterpret_cast<unsigned char const*>(bytes.data());
  std::size_t left = bytes.size();
  for (; left >= 8; left -= 8, at += 8) {
    std::uint64_t v = 0;
    for (int i = 0; i < 8; ++i) v |= std::uint64_t(at[i]) << 8 * i;
    v ^= crc;
    crc = 0;
    for (int i = 0; i < 8; ++i) crc ^= table[7 - i][v >> 8 * i & 255];
  }
  for (; left > 0; --left, ++at) crc = crc >> 8 ^ table[0][(crc ^ *at) & 255];
  return ~crc;
}

}  // namespace falconet
