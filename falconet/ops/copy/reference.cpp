// The definition of copies, concatenation and slices, element by element, between any element types and layouts.
#include "falconet/ops/copy/algorithms.h"
#include "falconet/tensor/element.h"

namespace falconet {
namespace {

std::string reject(CopyProblem const&, DeviceFacts const&) { return {}; }

// The number of element (n, c, rest) in the logical order, `rest` counting everything past the channels.
std::int64_t logical(Shape const& s, std::int64_t n, std::int64_t c, std::int64_t rest) {
  return (n * s[1] + c) * (s.elements() / (s[0] * s[1])) + rest;
}

// Channels [0, count) from channel `source` of `from` on go to channel `target` of `to` on.
void copy_channels(View const& from, std::int64_t source, View const& to, std::int64_t target, std::int64_t count) {
  auto const& s = to.type.shape;
  auto const rest = s.elements() / (s[0] * s[1]);
  for (std::int64_t n = 0; n < s[0]; ++n)
    for (std::int64_t c = 0; c < count; ++c)
      for (std::int64_t i = 0; i < rest; ++i)
        store_element(to, position(to.type, logical(s, n, target + c, i)),
                      load_element(from, position(from.type, logical(from.type.shape, n, source + c, i))));
}

void run(CopyProblem const& p, Config const&, CopyArgs const& args, View, Stream&) {
  if (p.to.shape.elements() == 0) return;
  if (p.kind == CopyKind::each) {
    for (std::size_t part = 0; part < p.channels.size(); ++part)
      for (std::int64_t i = 0; i < p.channels[part]; ++i) store_element(args.results[part], i, load_element(args.parts[part], i));
  } else if (p.kind == CopyKind::copy) {
    for (std::int64_t i = 0; i < p.to.shape.elements(); ++i)
      store_element(args.to, position(p.to, i), load_element(args.from, position(p.from, i)));
  } else if (p.kind == CopyKind::slice) {
    copy_channels(args.from, p.begin, args.to, 0, p.to.shape[1]);
  } else {
    std::int64_t target = 0;
    for (auto const& part : args.parts) {
      copy_channels(part, 0, args.to, target, part.type.shape[1]);
      target += part.type.shape[1];
    }
  }
}

}  // namespace

Algorithm<CopyProblem> copy_reference() {
  return {.name = "reference", .target = DeviceKind::cpu, .reject = reject, .run = run, .baseline = true};
}

}  // namespace falconet
