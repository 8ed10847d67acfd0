// The output of a known network for given weights and images, for tools/check_torchvision.py to compare with PyTorch's.
// Usage: network_output MODEL WEIGHTS.safetensors IMAGES.safetensors OUTPUT.safetensors [DEVICE] [PRECISION]
// IMAGES holds "images", f32 [N,C,H,W], normalised; OUTPUT gets "output", f32 [N,classes].
#include <cstdio>

#include "falconet/base/error.h"
#include "falconet/io/safetensors.h"
#include "falconet/nn/models.h"
#include "falconet/plan/step.h"
#include "falconet/train/model_file.h"

int main(int argc, char** argv) {
  using namespace falconet;
  if (argc < 5 || argc > 7) {
    std::fprintf(stderr, "usage: network_output MODEL WEIGHTS IMAGES OUTPUT [DEVICE] [PRECISION]\n");
    return 2;
  }
  try {
    auto const& network = models::find(argv[1]);
    auto const given = io::read_safetensors(argv[3]);
    auto const at = given.tensors.find("images");
    if (at == given.tensors.end() || at->second.shape().rank() != 4) fail(ErrorKind::data, std::string(argv[3]) + ": expected a tensor 'images' of [N,C,H,W]");
    Shape const& shape = at->second.shape();
    auto spec = network.spec(network.classes);
    spec.image = Shape{shape[1], shape[2], shape[3]};
    Model model(spec, network.make(network.classes), {.device = argc > 5 ? argv[5] : "cpu"});
    load_weights(model, argv[2]);
    InferenceStep step(model, {.batch = int(shape[0]), .precision = parse_precision(argc > 6 ? argv[6] : "f32")});
    convert(at->second.view(), step.images());
    step.run();
    Tensor output({DType::f32, step.output().type.shape, Layout::nchw});
    convert(step.output(), output.view());
    io::NamedView const views[] = {{"output", output.view()}};
    io::write_safetensors(argv[4], views);
    return 0;
  } catch (Error const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
