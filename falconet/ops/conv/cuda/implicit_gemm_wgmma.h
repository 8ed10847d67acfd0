// What the parts of implicit_gemm_wgmma share on the host: which tile a config names, and the launch of each direction.
#pragma once
#include "falconet/ops/conv/problem.h"

namespace falconet::wgmma_conv {

struct Tile {
  int pixels, channels;
  bool alternate;
  bool operator==(Tile const&) const = default;
};
Tile tile_of(Config const&);
[[noreturn]] void fail_unknown(Tile);   // a usage error
int blocks_for(int tiles, int channel_tiles, bool keeps_channels);   // of the persistent grid; keeps_channels: each block stays with its channels

void launch_forward(ConvProblem const&, Tile, ConvArgs const&, View scratch, void* stream);
void launch_data(ConvProblem const&, Tile, ConvArgs const&, View scratch, void* stream);

}  // namespace falconet::wgmma_conv
