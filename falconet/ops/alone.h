// One operation alone, from operands in host memory, by any algorithm on any device: to compare algorithms and devices with each other.
//
//   std::string const problem = "fwd n1 c3 hw8 k4 rs3 p1 f32 nhwc";
//   std::vector<Tensor> on_cpu = operands_of("conv", problem), on_gpu = ...;          // as many as the problem has, in its order; fill the inputs
//   run_alone("conv", problem, {"reference", {}}, {}, views(on_cpu));                 // on the CPU
//   run_alone("conv", problem, {"naive", {}}, Device::parse("cuda"), views(on_gpu));  // on the GPU: the same outputs, to rounding
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/algorithm.h"

namespace falconet {

// Tensors for every operand of a problem (ops/algorithms.h lists them with their names and which are written), filled with zeros. An operand
// that is updated in place (alias) is empty: it lies where its input does.
std::vector<Tensor> operands_of(std::string_view operation, std::string const& problem);
std::vector<View> views(std::vector<Tensor> const&);

// An operation bound to host operands; with a GPU, copies of them lie in its memory.
class Alone {
 public:
  // Throws usage errors: no such operation or algorithm there, an algorithm that refuses (with its reason), launch parameters that it does not
  // have, operands that are not the problem's. An empty view stands for an operand that lies in its alias.
  Alone(std::string_view operation, std::string const& problem, Choice choice, Device device, std::span<View const> host, ThreadPool& threads,
        Isa isa = detected_isa());
  Alone(Alone&&) noexcept;
  ~Alone();
  Choice const& choice() const;            // with the launch parameters that run
  void run();                              // from the inputs as they are now; outputs are complete on return
  // Seconds of one run on what was there last: the CPU's clock, or the mean of ten launches in one graph by the GPU's. calls: on a GPU the mean
  // of ten launches one by one by the host's clock, so that what the host does for each of them counts.
  double time(bool calls = false);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Alone, once. threads: of the CPU; nullptr: one thread.
void run_alone(std::string_view operation, std::string const& problem, Choice const& choice, Device device, std::span<View const> operands, ThreadPool* threads = nullptr);

}  // namespace falconet
