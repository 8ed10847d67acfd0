// Every algorithm of every operation against its reference, over the lists in problems/. An operation whose table is listed
// in ops/algorithms.cpp is found here by itself.
#include "agreement.h"

namespace {
using namespace falconet;
using namespace falconet::agreement;

// Operations whose results are not sums of products: exponentials, roots and quotients round differently from the reference.
Bounds bounds_of(std::string_view operation) {
  Bounds b;
  b.exact_integers = operation == "gemm" || operation == "conv" || operation == "reduce";
  if (!b.exact_integers) b.f32 = 3e-5;
  return b;
}

class EveryAlgorithm : public testing::TestWithParam<std::string> {};

TEST_P(EveryAlgorithm, agrees_with_its_reference) {
  auto const problems = problems_of(GetParam());
  EXPECT_FALSE(problems.empty()) << "problems/" << GetParam() << "/*.txt lists no problem that is small enough";
  for (auto const& problem : problems) expect_agreement(GetParam(), problem, bounds_of(GetParam()));
}

std::vector<std::string> operations() {
  std::vector<std::string> out;
  for (auto name : operations_with_algorithms()) out.emplace_back(name);
  return out;
}
INSTANTIATE_TEST_SUITE_P(of, EveryAlgorithm, testing::ValuesIn(operations()), [](auto const& info) { return info.param; });

}  // namespace
