// Copies whose elements keep their order: contiguous rows moved by memcpy. Concatenation and slices move one row per sample (nchw) or
// per pixel (nhwc); a copy between types of the same order is one row.
// Limits: one element type; a copy must not change the order of elements. Cost: every byte read once and written once.
#include <algorithm>
#include <cstring>

#include "falconet/ops/copy/algorithms.h"

namespace falconet {
namespace {

// Whether elements lie in their logical order N,C,H,W.
bool in_order(TensorType const& t) {
  return t.layout == Layout::nchw || t.shape[1] == 1 || t.shape[2] * t.shape[3] == 1;
}

std::string reject(CopyProblem const& p, DeviceFacts const&) {
  if (p.kind == CopyKind::each) return "many tensors at once";
  if (p.kind != CopyKind::copy) return {};
  if (p.from.dtype != p.to.dtype) return "needs equal element types";
  if (!(p.from == p.to) && !(in_order(p.from) && in_order(p.to))) return "needs elements that keep their order";
  return {};
}

double seconds(CopyProblem const& p, DeviceFacts const&) {
  return double(p.to.bytes()) / 5e9 + (p.kind == CopyKind::copy ? 0 : 5e-9 * double(p.to.shape.elements() / p.to.shape[1]));
}

// Rows [begin, end) of `count` rows that lie `from_step` and `to_step` bytes apart.
void move_rows(char const* from, std::int64_t from_step, char* to, std::int64_t to_step, std::int64_t bytes, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) std::memcpy(to + row * to_step, from + row * from_step, std::size_t(bytes));
}

constexpr std::int64_t task_bytes = 128 << 10;

void run(CopyProblem const& p, Config const&, CopyArgs const& args, View, Stream& stream) {
  auto const total = std::int64_t(p.to.bytes());
  if (total == 0) return;
  int const tasks = int((total + task_bytes - 1) / task_bytes);
  auto* const to = args.to.as<char>();
  if (p.kind == CopyKind::copy) {
    auto const* const from = args.from.as<char const>();
    stream.threads().run(tasks, [&](int task) {
      std::int64_t const begin = task * task_bytes;
      std::memcpy(to + begin, from + begin, std::size_t(std::min(task_bytes, total - begin)));
    });
    return;
  }
  // Bytes of one channel within a row: a pixel's element, or the sample's whole plane.
  Shape const& s = p.to.shape;
  bool const pixels = p.to.layout == Layout::nhwc;
  std::int64_t const rows = pixels ? s[0] * s[2] * s[3] : s[0];
  std::int64_t const channel = total / (rows * s[1]), to_row = channel * s[1];
  stream.threads().run(tasks, [&](int task) {
    std::int64_t const begin = rows * task / tasks, end = rows * (task + 1) / tasks;
    if (p.kind == CopyKind::slice) {
      move_rows(args.from.as<char const>() + p.begin * channel, channel * p.from.shape[1], to, to_row, to_row, begin, end);
      return;
    }
    std::int64_t at = 0;
    for (std::size_t i = 0; i < args.parts.size(); ++i) {
      std::int64_t const bytes = channel * p.channels[i];
      move_rows(args.parts[i].as<char const>(), bytes, to + at, to_row, bytes, begin, end);
      at += bytes;
    }
  });
}

}  // namespace

Algorithm<CopyProblem> copy_rows() {
  return {.name = "rows", .target = DeviceKind::cpu, .reject = reject, .seconds = seconds, .run = run};
}

}  // namespace falconet
