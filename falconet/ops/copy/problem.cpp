#include "falconet/ops/copy/problem.h"

#include "falconet/base/error.h"
#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {
constexpr std::string_view kind_names[] = {"copy", "concat", "slice", "each"};
std::string list_of(std::vector<std::int64_t> const& numbers) {
  std::string list;
  for (auto n : numbers) list += (list.empty() ? "" : ",") + std::to_string(n);
  return list;
}
}  // namespace

std::string_view name(CopyKind k) { return kind_names[int(k)]; }

TensorType CopyProblem::part(std::size_t i) const {
  TensorType t = to;
  t.shape[1] = channels[i];
  return t;
}

std::string CopyProblem::text() const {
  ProblemText t;
  t.add("kind", name(kind));
  if (kind == CopyKind::each) {
    t.add("from", falconet::name(from.dtype));
    t.add("to", falconet::name(to.dtype));
    t.add("sizes", list_of(channels));
    return t.text();
  }
  if (kind != CopyKind::concat) t.add("from", from.text());
  t.add("to", to.text());
  if (kind == CopyKind::concat) t.add("channels", list_of(channels));
  if (kind == CopyKind::slice) t.add("begin", begin);
  return t.text();
}

CopyProblem CopyProblem::parse(std::string_view text) {
  ProblemText t(text);
  CopyProblem p;
  auto bad = [&](std::string const& why) { fail(ErrorKind::usage, "copy problem '" + std::string(text) + "': " + why); };
  auto const kind = t.take("kind");
  if (kind == "copy") p.kind = CopyKind::copy;
  else if (kind == "concat") p.kind = CopyKind::concat;
  else if (kind == "slice") p.kind = CopyKind::slice;
  else if (kind == "each") p.kind = CopyKind::each;
  else bad("kind is copy, concat, slice or each");
  if (p.kind == CopyKind::each) {
    p.from.dtype = parse_dtype(t.take("from"));
    p.to.dtype = parse_dtype(t.take("to"));
    auto const sizes = t.take("sizes");
    std::int64_t all = 0;
    for (auto size : split(sizes, ',')) {
      p.channels.push_back(parse_int(size, "sizes"));
      if (p.channels.back() < 0) bad("a size is negative");
      all += p.channels.back();
    }
    t.finish();
    if (p.channels.empty()) bad("sizes is empty");
    p.from.shape = p.to.shape = Shape{all};
    return p;
  }
  if (p.kind != CopyKind::concat) p.from = TensorType::parse(t.take("from"));
  p.to = TensorType::parse(t.take("to"));
  if (p.kind == CopyKind::concat) {
    auto const list = t.take("channels");
    for (auto c : split(list, ',')) p.channels.push_back(parse_int(c, "channels"));
  }
  if (p.kind == CopyKind::slice) p.begin = t.take_int("begin");
  t.finish();

  if (p.kind == CopyKind::copy && p.from.shape.elements() != p.to.shape.elements()) bad("from and to differ in their number of elements");
  if (p.kind != CopyKind::copy && p.to.shape.rank() < 2) bad("there is no channel axis");
  if (p.kind == CopyKind::concat) {
    std::int64_t sum = 0;
    for (auto c : p.channels) {
      if (c < 1) bad("every input has at least one channel");
      sum += c;
    }
    if (p.channels.empty() || sum != p.to.shape[1]) bad("the channels do not add up");
  }
  if (p.kind == CopyKind::slice) {
    TensorType like = p.from;
    if (like.shape.rank() == p.to.shape.rank()) like.shape[1] = p.to.shape[1];
    if (like != p.to) bad("from and to differ in more than their channels");
    if (p.begin < 0 || p.to.shape[1] < 1 || p.begin + p.to.shape[1] > p.from.shape[1]) bad("the slice lies outside of its tensor");
  }
  return p;
}

std::vector<Operand> CopyProblem::operands() const {
  std::vector<Operand> out;
  if (kind == CopyKind::each) {
    for (std::size_t i = 0; i < channels.size(); ++i) out.push_back({"x" + std::to_string(i), {from.dtype, Shape{channels[i]}, Layout::nchw}});
    for (std::size_t i = 0; i < channels.size(); ++i) out.push_back({"y" + std::to_string(i), {to.dtype, Shape{channels[i]}, Layout::nchw}, true});
    return out;
  }
  if (kind == CopyKind::concat)
    for (std::size_t i = 0; i < channels.size(); ++i) out.push_back({"x" + std::to_string(i), part(i)});
  else out.push_back({"from", from});
  out.push_back({"to", to, true});
  return out;
}
CopyArgs CopyProblem::args(CopyProblem const& p, std::span<View const> operands) {
  CopyArgs args;
  if (p.kind == CopyKind::each) {
    auto const half = std::ptrdiff_t(operands.size() / 2);
    args.parts.assign(operands.begin(), operands.begin() + half);
    args.results.assign(operands.begin() + half, operands.end());
    return args;
  }
  if (p.kind == CopyKind::concat) args.parts.assign(operands.begin(), operands.end() - 1);
  else args.from = operands.front();
  args.to = operands.back();
  return args;
}

}  // namespace falconet
