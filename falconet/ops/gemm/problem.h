// One matrix product, y = store(op_a(a) * op_b(b)); all matrices row-major:
// y[m,n], op_a(a)[m,k], op_b(b)[k,n]; a transposed operand lies in memory as a[k,m] or b[n,k].
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/ops/algorithm.h"
#include "falconet/ops/fusion.h"

namespace falconet {

struct GemmArgs {
  View a, b;      // [m,k] or [k,m]; [k,n] or [n,k]
  View bias;      // [n], added to every row; f32, or f64 where a is
  View residual;  // [m,n] like y, added before the activation
  View mask;      // [m,n] like y: the result is kept where it is positive
  View y;         // [m,n]
};

// A matrix whose rows lie as images, channels last: its columns count channel, row, column, as flatten does, so column j lies at
// j % (h * w) * c + j / (h * w). Saves the copy that flatten is.
struct GemmImage {
  enum Which : std::uint8_t { none, a, b, y } which = none;   // a and b not transposed
  int c = 1, h = 1, w = 1;
  int pixels() const { return h * w; }
  std::int64_t at(std::int64_t column) const { return column % pixels() * c + column / pixels(); }
  bool operator==(GemmImage const&) const = default;
};

struct GemmProblem {
  std::int64_t m = 1, n = 1, k = 1;
  bool trans_a = false, trans_b = false;
  DType a_type = DType::f32, b_type = DType::f32, y_type = DType::f32;
  OnStore store;  // of its slots: bias, residual, act, mask
  GemmImage image;

  bool one_type(DType t) const { return a_type == t && b_type == t && y_type == t; }

  // "m=64 n=128 k=800 ta=0 tb=1 types=f32 store=bias+relu"; mixed types read types=bf16,bf16,f32 (a,b,y); an empty store is left out.
  // "image=a:8x10x10": the operand a lies as images of 8 channels.
  std::string text() const;
  static GemmProblem parse(std::string_view);  // throws a usage error; every size is at least 1
  bool operator==(GemmProblem const&) const = default;

  using Args = GemmArgs;
  std::vector<Operand> operands() const;  // a, b, [bias], [residual], [mask], y
  static GemmArgs args(GemmProblem const&, std::span<View const> operands);
  double operations() const { return 2.0 * double(m) * double(n) * double(k); }
};

}  // namespace falconet
