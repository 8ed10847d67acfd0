// A layer of one's own is a function from Var to Var: here squeeze and excitation (Hu et al. 2018), which scales each channel by a
// number between 0 and 1 that two small linear maps compute from the channels' means.
#include <cstdio>

#include "falconet/falconet.h"

using namespace falconet;

Layer squeeze_and_excitation(int reduction) {
  return [=](Var x) {
    int const channels = int(x.shape()[1]);
    Var gate = x | global_avg_pool | conv("squeeze", channels / reduction, 1) | relu | conv("excite", channels, 1) | sigmoid;
    return x * gate;                                 // [N,C,1,1] is broadcast over [N,C,H,W]
  };
}

int main() try {
  Layer const net = conv("conv1", 16, 3, {.padding = 1}) | relu | scope("se", squeeze_and_excitation(4)) | global_avg_pool | linear("fc", 10);
  ImageSpec const spec{{3, 32, 32}, {0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}, std::vector<std::string>(10, "class")};
  Model model(spec, net);
  for (auto const& entry : model.parameters()->entries()) std::printf("%-20s %s\n", entry.name.c_str(), entry.tensor.shape().text().c_str());

  try {                                              // what does not fit is said with the layer and this file's line
    Model wrong(spec, conv("conv1", 16, 3) | conv("conv2", 6, 3, {.groups = 3}));
  } catch (Error const& e) {
    std::printf("as expected: %s\n", e.what());
  }
} catch (Error const& e) {
  std::fprintf(stderr, "error: %s\n", e.what());
  return 1;
}
