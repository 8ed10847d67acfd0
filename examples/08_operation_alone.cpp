// One operation alone: a convolution from data in host memory by every algorithm on every device here, compared with the plain loops.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "falconet/falconet.h"
#include "falconet/ops/conv/algorithms.h"

using namespace falconet;

int main() {
  std::string const problem = "fwd n2 c8 hw14 k16 rs3 p1 f32 nhwc";   // parameters by hand: batch, channels, size, filters, padding, type
  auto truth = operands_of("conv", problem);                          // x, w, y
  for (int t = 0; t < 2; ++t)
    for (std::int64_t i = 0; i < truth[t].shape().elements(); ++i) truth[t].as<float>()[i] = float((i * 37 + t * 11) % 17) / 8 - 1;
  run_alone("conv", problem, {"reference", {}}, Device{}, views(truth));

  std::vector<Device> devices = {Device{}};
  if (Device const best = Device::parse("auto"); best.kind == DeviceKind::cuda) devices.push_back(best);
  ThreadPool threads(2);
  for (Device device : devices)
    for (auto const& candidate : conv_algorithms().candidates(problem, facts_of(device))) {
      if (!candidate.refusal.empty()) continue;
      auto mine = operands_of("conv", problem);
      for (int t = 0; t < 2; ++t) std::memcpy(mine[t].as<float>(), truth[t].as<float>(), mine[t].type().bytes());
      Alone alone("conv", problem, {candidate.algorithm, {}}, device, views(mine), threads);
      alone.run();
      double worst = 0;
      for (std::int64_t i = 0; i < mine[2].shape().elements(); ++i) worst = std::max(worst, std::abs(double(mine[2].as<float>()[i]) - truth[2].as<float>()[i]));
      std::printf("%-8s %-20s %8.1f us, farthest from the loops: %.1e\n", device.text().c_str(), alone.choice().text().c_str(), alone.time() * 1e6, worst);
      if (!(worst < 1e-4)) return 1;
    }
}
