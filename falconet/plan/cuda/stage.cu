#include "falconet/plan/cuda/stage.h"

#include <cstdint>
#include <string>

#include "falconet/device/cuda/check.h"
#include "falconet/device/cuda/launch.cuh"

namespace falconet {
namespace {

constexpr int threads = 256, unit = 16;   // unit: bytes moved by one thread

struct Work {
  Piece piece[most_staged_pieces];
  int first_block[most_staged_pieces + 1];
  int count;
};

__global__ void __launch_bounds__(threads) move_pieces(Work const w) {
  wait_for_work_ahead();
  int i = 0;
  while (i + 1 < w.count && int(blockIdx.x) >= w.first_block[i + 1]) ++i;
  Piece const& p = w.piece[i];
  std::size_t const at = (std::size_t(blockIdx.x) - w.first_block[i]) * threads * unit + threadIdx.x * unit;
  if (at + unit <= p.bytes) {
    *reinterpret_cast<uint4*>(static_cast<char*>(p.to) + at) = *reinterpret_cast<uint4 const*>(static_cast<char const*>(p.from) + at);
  } else {
    for (std::size_t b = at; b < p.bytes; ++b) static_cast<char*>(p.to)[b] = static_cast<char const*>(p.from)[b];
  }
}

}  // namespace

bool can_copy_together(std::vector<Piece> const& pieces) {
  std::size_t bytes = 0;
  for (auto const& p : pieces) {
    bytes += p.bytes;
    if (reinterpret_cast<std::uintptr_t>(p.to) % unit || reinterpret_cast<std::uintptr_t>(p.from) % unit) return false;
  }
  return !pieces.empty() && pieces.size() <= most_staged_pieces && bytes <= most_staged_bytes;
}

void copy_together(std::vector<Piece> const& pieces, Stream& on) {
  auto const stream = static_cast<cudaStream_t>(on.cuda());
  Work w{};
  for (auto const& p : pieces) {
    w.piece[w.count] = p;
    w.first_block[w.count + 1] = w.first_block[w.count] + int((p.bytes + threads * unit - 1) / (threads * unit));
    ++w.count;
  }
  int const blocks = w.first_block[w.count];
  if (blocks == 0) return;
  launch_ahead(move_pieces, dim3(unsigned(blocks)), dim3(threads), 0, 1, stream, w);
  check_cuda(launch_result(stream), "copy_together", std::to_string(pieces.size()) + " pieces");
}

}  // namespace falconet
