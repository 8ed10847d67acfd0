// What the problems of several operations share. A problem.cpp names its operands once, in a function
//   visit_operands(problem, visit)     which calls visit(member of its Args or null for the StepState, Operand) for each in order;
// the list of operands and the Args that a kernel reads both follow from it.
#pragma once
#include <span>
#include <utility>
#include <vector>

#include "falconet/ops/algorithm.h"

namespace falconet {

// all(visit) visits the operands of one problem.
template <class All>
std::vector<Operand> list_operands(All const& all) {
  std::vector<Operand> out;
  all([&](auto, Operand o) { out.push_back(std::move(o)); });
  return out;
}

// The Args of these operands, which lie in the order of list_operands().
template <class Args, class All>
Args bind_operands(All const& all, std::span<View const> operands) {
  Args args;
  std::size_t i = 0;
  all([&](View Args::*member, Operand const&) {
    View const& v = operands[i++];
    if constexpr (requires { args.step; })
      if (!member) return void(args.step = v.as<StepState const>());
    args.*member = v;
  });
  return args;
}

}  // namespace falconet
