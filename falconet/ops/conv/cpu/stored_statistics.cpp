#include "falconet/ops/conv/cpu/stored_statistics.h"

#include <algorithm>

#include "falconet/device/cpu/threads.h"

namespace falconet {
namespace {

std::int64_t channels_of(ConvProblem const& p) { return p.direction == Direction::bwd_data ? p.c : p.k; }
std::int64_t rounded(ConvProblem const& p) { return (channels_of(p) + 15) / 16 * 16; }

}  // namespace

std::string stored_rows_refusal(ConvProblem const& p) {
  OnStore const& s = p.store;
  if (s.affine != Affine::none || s.pool.kind != PoolSlot::none) return "store slots are bias, residual, relu, relu6, masks and statistics";
  if (s.act != Activation::none && s.act != Activation::relu && s.act != Activation::relu6) return "of the activations it has relu and relu6";
  return {};
}

StoredRows stored_rows_of(ConvProblem const& p, ConvArgs const& args, double* totals) {
  OnStore const& slot = p.store;
  StoredRows s{};
  s.bias = slot.bias ? args.bias.as<float const>() : nullptr;
  s.residual = slot.residual ? args.residual.data : nullptr;
  s.bf16 = (p.direction == Direction::bwd_data ? p.x_type : p.y_type) == DType::bf16;
  s.converts = s.bf16 && has_bf16_products();
  s.relu = slot.act == Activation::relu ? 1 : slot.act == Activation::relu6 ? 6 : 0;
  s.mask_on = slot.mask == Mask::relu ? 1 : slot.mask == Mask::relu6 ? 6 : 0;
  s.mask = s.mask_on ? args.mask.data : nullptr;
  if (slot.stats == Stats::none) return s;
  s.squares = slot.stats == Stats::squares;
  s.other = s.squares ? nullptr : (slot.stats == Stats::dot ? args.mask : args.other).data;
  s.totals = totals;
  s.second = rounded(p);
  return s;
}

std::size_t statistics_bytes(ConvProblem const& p, int tasks) {
  return p.store.stats == Stats::none ? 0 : std::size_t(2 * rounded(p)) * std::size_t(tasks) * sizeof(double);
}

void clear_statistics(ConvProblem const& p, int tasks, double* totals, Stream& stream) {
  std::int64_t const each = 2 * rounded(p);
  stream.threads().run(tasks, [&](int task) { std::fill_n(totals + task * each, each, 0.0); });
}

void add_statistics(ConvProblem const& p, int tasks, double const* totals, ConvArgs const& args, Stream& stream) {
  std::int64_t const channels = channels_of(p), wide = rounded(p);
  float* const to = args.stats.as<float>();
  stream.threads().run(int((channels + 127) / 128), [&](int block) {
    for (int which = 0; which < 2; ++which)
      for (std::int64_t c = block * 128; c < std::min<std::int64_t>(channels, (block + 1) * 128); ++c) {
        double sum = 0;
        for (int task = 0; task < tasks; ++task) sum += totals[(2 * task + which) * wide + c];
        to[which * channels + c] = float(sum);
      }
  });
}

}  // namespace falconet
