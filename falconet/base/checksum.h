// CRC-64/XZ (polynomial of ECMA-182, reflected): finds every flipped bit and every damaged run of up to 64 bits.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace falconet {

// Checksum of `bytes` appended to a text whose checksum is `before` (0 for the empty text).
std::uint64_t crc64(std::span<std::byte const> bytes, std::uint64_t before = 0);

}  // namespace falconet
