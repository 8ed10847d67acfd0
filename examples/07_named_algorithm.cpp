// A named algorithm of one's own: look at a problem, refuse it with a reason or run it, and be compared with all the others. Inside
// falconet it would be one file in ops/conv/cpu/ and one line in ops/conv/algorithms.cpp; here it stands beside the built-in table.
#include <cmath>
#include <cstdio>
#include <vector>

#include "falconet/device/cpu/threads.h"
#include "falconet/ops/conv/algorithms.h"

using namespace falconet;

// 1x1 convolutions as a plain product over the channels of each pixel.
std::string reject(ConvProblem const& p, DeviceFacts const&) {
  if (p.direction != Direction::fwd) return "forward only";
  if (p.r != 1 || p.s != 1 || p.stride_h != 1 || p.stride_w != 1 || p.p() != p.h || p.q() != p.w) return "1x1 filters with stride 1 and no padding only";
  if (p.groups != 1 || p.layout != Layout::nhwc || !p.one_type(DType::f32) || !p.plain()) return "f32 nhwc without groups and slots only";
  return {};
}
void run(ConvProblem const& p, Config const&, ConvArgs const& a, View, Stream& stream) {
  float const *x = a.x.as<float const>(), *w = a.w.as<float const>();
  float* y = a.y.as<float>();
  stream.threads().run(p.n * p.h * p.w, [&](int pixel) {
    for (int k = 0; k < p.k; ++k) {
      float sum = 0;
      for (int c = 0; c < p.c; ++c) sum += x[std::int64_t(pixel) * p.c + c] * w[k * p.c + c];
      y[std::int64_t(pixel) * p.k + k] = sum;
    }
  });
}

int main() {
  TableOf<ConvProblem> const mine({{"pixelwise", DeviceKind::cpu, reject, nullptr, nullptr, nullptr, run}});
  ThreadPool threads(2);
  Stream stream(threads, detected_isa());
  for (auto text : {"fwd n2 c16 hw7 k8 rs1 f32 nhwc", "fwd n2 c16 hw7 k8 rs3 p1 f32 nhwc"}) {
    auto const candidate = mine.candidates(text, facts_of(Device{}))[0];
    if (!candidate.refusal.empty()) {
      std::printf("%s: refused: %s\n", text, candidate.refusal.c_str());
      continue;
    }
    std::vector<Tensor> tensors;
    std::vector<View> views, reference;
    for (auto const& o : mine.operands(text)) views.push_back(tensors.emplace_back(o.type).view());
    for (int t = 0; t < 2; ++t)
      for (std::int64_t i = 0; i < views[t].type.shape.elements(); ++i) views[t].as<float>()[i] = float((i * 37 + t) % 11) - 5;
    Tensor truth(views[2].type);
    reference = {views[0], views[1], truth.view()};
    mine.bind(text, {"pixelwise", {}}, DeviceKind::cpu, views, {})(stream);
    std::int64_t const scratch = std::int64_t(conv_algorithms().scratch(text, {"reference", {}}, DeviceKind::cpu));
    Tensor memory({DType::u8, Shape{scratch}, Layout::nchw});
    conv_algorithms().bind(text, {"reference", {}}, DeviceKind::cpu, reference, memory.view())(stream);
    for (std::int64_t i = 0; i < truth.shape().elements(); ++i)
      if (truth.as<float>()[i] != views[2].as<float>()[i]) return std::printf("%s: wrong at %lld\n", text, static_cast<long long>(i)), 1;
    std::printf("%s: equal to the reference\n", text);
  }
}
