#include "falconet/ops/algorithms.h"

#include "falconet/base/error.h"
#include "falconet/ops/batch_norm/algorithms.h"
#include "falconet/ops/conv/algorithms.h"
#include "falconet/ops/conv_norm/algorithms.h"
#include "falconet/ops/copy/algorithms.h"
#include "falconet/ops/dropout/algorithms.h"
#include "falconet/ops/elementwise/algorithms.h"
#include "falconet/ops/gemm/algorithms.h"
#include "falconet/ops/loss/algorithms.h"
#include "falconet/ops/optimizer/algorithms.h"
#include "falconet/ops/pool/algorithms.h"
#include "falconet/ops/reduce/algorithms.h"
#include "falconet/ops/softmax/algorithms.h"

namespace falconet {
namespace {

struct Entry {
  std::string_view operation;
  AlgorithmTable const& (*table)();
};
template <class Problem, TableOf<Problem> const& (*Table)()>
AlgorithmTable const& table_of() { return Table(); }

// One line per operation: its name and its table.
constexpr Entry tables[] = {
    {"batch_norm", table_of<BatchNormProblem, batch_norm_algorithms>},
    {"conv", table_of<ConvProblem, conv_algorithms>},
    {"conv_norm", table_of<ConvNormProblem, conv_norm_algorithms>},
    {"copy", table_of<CopyProblem, copy_algorithms>},
    {"dropout", table_of<DropoutProblem, dropout_algorithms>},
    {"elementwise", table_of<ElementwiseProblem, elementwise_algorithms>},
    {"gemm", table_of<GemmProblem, gemm_algorithms>},
    {"loss", table_of<LossProblem, loss_algorithms>},
    {"optimizer", table_of<OptimizerProblem, optimizer_algorithms>},
    {"pool", table_of<PoolProblem, pool_algorithms>},
    {"reduce", table_of<ReduceProblem, reduce_algorithms>},
    {"softmax", table_of<SoftmaxProblem, softmax_algorithms>},
};

}  // namespace

AlgorithmTable const& algorithms_of(std::string_view operation) {
  for (auto const& e : tables)
    if (e.operation == operation) return e.table();
  fail(ErrorKind::internal, "no table of algorithms for operation '" + std::string(operation) + "'");
}

std::vector<std::string_view> operations_with_algorithms() {
  std::vector<std::string_view> out;
  for (auto const& e : tables) out.push_back(e.operation);
  return out;
}

}  // namespace falconet
