// A convolution problem with its operands in memory, for the tests of ops/conv: inputs filled, outputs poisoned.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"
#include "falconet/tensor/element.h"

namespace falconet {

enum class Filling { normal, magnitude, integer };   // standard normal, its absolute value, whole numbers -2..2

struct ConvCase {
  ConvProblem problem;
  std::vector<Operand> operands;
  std::vector<Tensor> tensors;

  ConvCase(ConvProblem const& p, Filling filling, unsigned seed = 1) : problem(p), operands(p.operands()) {
    std::mt19937 bits(seed);
    std::normal_distribution<double> normal;
    for (auto const& o : operands) {
      auto const& t = tensors.emplace_back(o.type);
      if (o.written) continue;
      if (o.fill == Fill::step_state) {
        StepState state;
        state.valid_count = std::max(1, int(o.limit) - 1);              // the last row is padding
        std::memcpy(t.as<void>(), &state, sizeof state);
        continue;
      }
      for (std::int64_t i = 0; i < o.type.shape.elements(); ++i) {
        double const v = normal(bits);
        if (o.fill == Fill::choice) store_element(t.view(), i, v > 1 ? no_winner : double(bits() % std::uint64_t(o.limit)));
        else store_element(t.view(), i, filling == Filling::integer ? double(bits() % 5) - 2 : filling == Filling::magnitude ? std::abs(v) : v);
      }
    }
    poison();
  }
  void poison() {
    for (std::size_t i = 0; i < operands.size(); ++i)
      if (operands[i].written && operands[i].type.bytes()) std::memset(tensors[i].as<void>(), 0xff, operands[i].type.bytes());
  }
  View operand(std::string_view name) const {
    for (std::size_t i = 0; i < operands.size(); ++i)
      if (operands[i].name == name) return tensors[i].view();
    return {};
  }
  void run(Algorithm<ConvProblem> const& algorithm, int threads, Isa isa, Config const& config = {}) {
    std::size_t const bytes = algorithm.scratch ? algorithm.scratch(problem, config) : 0;
    Tensor scratch(TensorType{DType::u8, Shape{std::int64_t(bytes)}, Layout::nchw});
    if (bytes) std::memset(scratch.as<void>(), 0xff, bytes);
    std::vector<View> views;
    for (auto const& t : tensors) views.push_back(t.view());
    poison();
    ThreadPool pool(threads);
    Stream stream(pool, isa);
    algorithm.run(problem, config, ConvProblem::args(problem, views), scratch.view(), stream);
  }
  // The results, in order, as copies.
  std::vector<Tensor> results() const {
    std::vector<Tensor> out;
    for (std::size_t i = 0; i < operands.size(); ++i)
      if (operands[i].written) out.push_back(tensors[i].copy());
    return out;
  }
};

// The same kind of problem, small enough for the reference: at most 3 images, then rows and columns halved down to 8 (while the
// filter still fits), then channels halved down to 32 (never below what the groups need), until it has 4e6 operations at most.
inline ConvProblem within_reach(ConvProblem p) {
  p.n = std::min(p.n, 3);
  auto const too_large = [&] { return p.operations() > 4e6; };
  auto const fits = [&] { return p.h >= 16 && p.w >= 16 && p.h / 2 >= p.dilation_h * (p.r - 1) + 1 && p.w / 2 >= p.dilation_w * (p.s - 1) + 1; };
  while (too_large() && fits()) p.h /= 2, p.w /= 2;
  while (too_large() && p.groups == 1 && (p.c > 32 || p.k > 32)) (p.c >= p.k ? p.c : p.k) /= 2;
  while (too_large() && p.groups == p.c && p.c == p.k && p.c > 32 && p.c % 2 == 0) p.c /= 2, p.k = p.groups = p.c;
  if (too_large()) p.n = 1;
  return p;
}

inline std::vector<Isa> isas_here() {
  std::vector<Isa> out;
  for (Isa isa : {Isa::plain, Isa::avx2, Isa::avx512})
    if (isa <= detected_isa()) out.push_back(isa);
  return out;
}

}  // namespace falconet
