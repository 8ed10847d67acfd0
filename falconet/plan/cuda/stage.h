// A step's inputs and outputs between pinned host memory and a GPU, all in one launch: for small ones, where a copy each costs more than the bytes.
#pragma once
#include <cstddef>
#include <vector>

#include "falconet/device/device.h"

namespace falconet {

struct Piece {
  void* to;
  void const* from;
  std::size_t bytes;
};
constexpr std::size_t most_staged_pieces = 8, most_staged_bytes = std::size_t(1) << 20;

// Whether copy_together should be given these: few enough, small enough, every address 16-byte aligned.
bool can_copy_together(std::vector<Piece> const&);
// Addresses in device memory or pinned host memory.
void copy_together(std::vector<Piece> const&, Stream&);

}  // namespace falconet
