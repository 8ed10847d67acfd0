// Elementwise functions, reductions, batch norm's vectors, dropout and the optimizer against their references; the accuracy of the
// vectorised activations.
#include "agreement.h"
#include "falconet/ops/batch_norm/algorithms.h"
#include "falconet/ops/dropout/algorithms.h"
#include "falconet/ops/elementwise/algorithms.h"
#include "falconet/ops/optimizer/algorithms.h"
#include "falconet/ops/reduce/algorithms.h"

namespace {
using namespace falconet;
using namespace falconet::agreement;

template <class Problem>
void expect_all(std::string_view operation, Bounds const& bounds) {
  auto const problems = problems_of(operation);
  ASSERT_FALSE(problems.empty());
  for (auto const& p : problems) {
    expect_round_trip<Problem>(p);
    expect_agreement(operation, p, bounds);
  }
}

Bounds bounds(double f32, bool exact_integers = false) {
  Bounds b;
  b.f32 = f32;
  b.bf16 = 1e-2;
  b.exact_integers = exact_integers;
  return b;
}
TEST(elementwise, every_algorithm_agrees_with_the_reference) { expect_all<ElementwiseProblem>("elementwise", bounds(1e-6)); }
TEST(reduce, every_algorithm_agrees_with_the_reference) { expect_all<ReduceProblem>("reduce", bounds(1e-6, true)); }
TEST(batch_norm, every_algorithm_agrees_with_the_reference) { expect_all<BatchNormProblem>("batch_norm", bounds(1e-6)); }
TEST(dropout, every_algorithm_agrees_with_the_reference) { expect_all<DropoutProblem>("dropout", bounds(2e-7)); }
TEST(optimizer, every_algorithm_agrees_with_the_reference) { expect_all<OptimizerProblem>("optimizer", bounds(1e-6)); }

}  // namespace
