#include "falconet/ops/pool/problem.h"

#include "falconet/base/error.h"
#include "falconet/ops/operand_visit.h"
#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {

constexpr std::string_view kind_names[] = {"max", "average"};

// "2.3" into as many numbers as `out` has room for, exactly.
void take_numbers(ProblemText& fields, std::string_view key, std::span<int*> out, std::string_view otherwise) {
  auto const text = fields.take(key, otherwise);
  auto const parts = split(text, '.');
  if (parts.size() != out.size()) fail(ErrorKind::usage, "problem '" + fields.text() + "': " + std::string(key) + " takes " + std::to_string(out.size()) + " numbers");
  for (std::size_t i = 0; i < out.size(); ++i) *out[i] = int(parse_int(parts[i], key));
}

template <class Visit>
void visit_operands(PoolProblem const& p, Visit visit) {
  TensorType const x{p.type, Shape{p.n, p.c, p.h, p.w}, p.layout}, y{p.type, Shape{p.n, p.c, p.p, p.q}, p.layout};
  TensorType const winner{PoolProblem::winner_type(p.r, p.s), y.shape, p.layout};
  bool const max = p.kind == PoolKind::max;
  if (p.gradient) {
    visit(&PoolArgs::y, Operand{"dy", y});
    if (max) visit(&PoolArgs::winner, Operand{"winner", winner, false, Fill::choice, std::int64_t(p.r) * p.s});
    auto const vectors = [&](std::int64_t rows) { return TensorType{p.type == DType::f64 ? DType::f64 : DType::f32, Shape{rows, p.c}, Layout::nchw}; };
    if (p.result != PoolResult::plain) visit(&PoolArgs::other, Operand{"x", x});
    if (p.result == PoolResult::two_operand) {
      visit(&PoolArgs::vectors, Operand{"vectors", vectors(3)});
      visit(nullptr, Operand{"step", step_state_type(), false, Fill::step_state, p.n});
    }
    if (p.result == PoolResult::sums) visit(&PoolArgs::sums, Operand{"sums", vectors(2), true});
    else visit(&PoolArgs::x, Operand{"dx", x, true});
  } else {
    visit(&PoolArgs::x, Operand{"x", x});
    if (p.load_x != OnLoad{}) visit(&PoolArgs::load_x, Operand{"load_x", {p.type == DType::f64 ? DType::f64 : DType::f32, Shape{2, p.c}, Layout::nchw}});
    visit(&PoolArgs::y, Operand{"y", y, true});
    if (max && p.winner) visit(&PoolArgs::winner, Operand{"winner", winner, true});
  }
}

}  // namespace

std::string_view name(PoolKind k) { return kind_names[int(k)]; }

int PoolProblem::extent(int size, int window, int stride, int pad_before, int pad_after, bool ceil) {
  int const room = size + pad_before + pad_after - window;
  if (room < 0) return 0;
  int count = (room + (ceil ? stride - 1 : 0)) / stride + 1;
  if (ceil && (count - 1) * stride >= size + pad_before) --count;
  return count;
}

std::string PoolProblem::text() const {
  ProblemText t;
  t.add("kind", name(kind));
  if (gradient) t.add("dir", "bwd");
  t.add("n", n).add("c", c).add("h", h).add("w", this->w).add("p", p).add("q", q).add("r", r).add("s", s);
  t.add("stride", std::to_string(stride_h) + "." + std::to_string(stride_w));
  if (pad_top || pad_left || pad_bottom || pad_right)
    t.add("pad", std::to_string(pad_top) + "." + std::to_string(pad_left) + "." + std::to_string(pad_bottom) + "." + std::to_string(pad_right));
  if (!count_include_pad) t.add("include_pad", 0);
  if (!winner) t.add("winner", 0);
  if (load_x != OnLoad{}) t.add("load_x", load_x.act == Activation::relu ? "scale_shift+relu" : "scale_shift");
  if (result != PoolResult::plain) t.add("norm", result == PoolResult::sums ? "sums" : "two_operand");
  return t.add("type", falconet::name(type)).add("layout", falconet::name(layout)).text();
}

PoolProblem PoolProblem::parse(std::string_view text) {
  ProblemText t(text);
  PoolProblem p;
  auto bad = [&](std::string const& why) { fail(ErrorKind::usage, "pool problem '" + std::string(text) + "': " + why); };
  auto const kind = t.take("kind"), dir = t.take("dir", "fwd");
  if (kind != "max" && kind != "average") bad("kind is max or average");
  if (dir != "fwd" && dir != "bwd") bad("dir is fwd or bwd");
  p.kind = kind == "max" ? PoolKind::max : PoolKind::average;
  p.gradient = dir == "bwd";
  for (auto [key, field] : {std::pair{"n", &p.n}, {"c", &p.c}, {"h", &p.h}, {"w", &p.w}, {"p", &p.p}, {"q", &p.q}, {"r", &p.r}, {"s", &p.s}}) {
    auto const value = t.take_int(key);
    if (value < 1 || value > 1 << 24) bad(std::string(key) + " is out of range");
    *field = int(value);
  }
  int* stride[] = {&p.stride_h, &p.stride_w};
  int* pad[] = {&p.pad_top, &p.pad_left, &p.pad_bottom, &p.pad_right};
  take_numbers(t, "stride", stride, "1.1");
  take_numbers(t, "pad", pad, "0.0.0.0");
  p.count_include_pad = t.take_int("include_pad", 1) != 0;
  p.winner = t.take_int("winner", 1) != 0;
  auto const load = t.take("load_x", "none");
  if (load != "none" && load != "scale_shift" && load != "scale_shift+relu") bad("load_x is scale_shift or scale_shift+relu");
  if (load != "none") p.load_x.affine = Affine::scale_shift;
  if (load == "scale_shift+relu") p.load_x.act = Activation::relu;
  auto const norm = t.take("norm", "none");
  if (norm != "none" && norm != "sums" && norm != "two_operand") bad("norm is sums or two_operand");
  if (norm != "none") p.result = norm == "sums" ? PoolResult::sums : PoolResult::two_operand;
  p.type = parse_dtype(t.take("type"));
  p.layout = parse_layout(t.take("layout"));
  t.finish();
  if (p.result != PoolResult::plain && (!p.gradient || p.kind != PoolKind::max)) bad("norm is for the gradient of maximum pooling");
  if (p.load_x != OnLoad{} && (p.gradient || p.kind != PoolKind::max)) bad("load_x is for maximum pooling forward");
  if (p.stride_h < 1 || p.stride_w < 1) bad("a stride is at least 1");
  for (int* v : pad)
    if (*v < 0) bad("padding is not negative");
  if (p.pad_top >= p.r || p.pad_bottom >= p.r || p.pad_left >= p.s || p.pad_right >= p.s) bad("padding must be smaller than the window");
  if (std::int64_t(p.p - 1) * p.stride_h - p.pad_top >= p.h || std::int64_t(p.q - 1) * p.stride_w - p.pad_left >= p.w)
    bad("the last window lies outside the image");
  return p;
}

std::vector<Operand> PoolProblem::operands() const {
  return list_operands([&](auto const& visit) { visit_operands(*this, visit); });
}
PoolArgs PoolProblem::args(PoolProblem const& p, std::span<View const> operands) {
  return bind_operands<PoolArgs>([&](auto const& visit) { visit_operands(p, visit); }, operands);
}

}  // namespace falconet
