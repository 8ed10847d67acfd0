#include "falconet/ops/gemm/problem.h"

#include <algorithm>
#include <charconv>

#include "falconet/base/error.h"
#include "falconet/ops/operand_visit.h"
#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {

constexpr std::string_view activation_names[] = {"none", "relu", "leaky_relu", "relu6", "gelu", "silu", "sigmoid", "tanh"};

std::string text_of(OnStore const& s) {
  std::string out;
  auto item = [&](std::string_view name) { (out += out.empty() ? "" : "+") += name; };
  if (s.bias) item("bias");
  if (s.residual) item("residual");
  if (s.act != Activation::none) item(activation_names[int(s.act)]);
  if (s.mask == Mask::relu) item("mask");
  return out;
}
OnStore read_store(std::string_view text) {
  OnStore s;
  for (auto item : split(text, '+')) {
    if (item == "bias")
      s.bias = true;
    else if (item == "residual")
      s.residual = true;
    else if (item == "mask")
      s.mask = Mask::relu;
    else {
      for (int i = 1; i < 8; ++i)
        if (activation_names[i] == item) s.act = Activation(i);
      if (s.act == Activation::none || item != activation_names[int(s.act)])
        fail(ErrorKind::usage, "matrix product: unknown store slot '" + std::string(item) + "'");
    }
  }
  return s;
}

// Which views a problem has, in the order of its launch.
template <class Visit>
void visit_operands(GemmProblem const& p, Visit visit) {
  auto const type = [&](DType t, GemmImage::Which which, std::int64_t rows, std::int64_t columns) {
    if (p.image.which != which) return TensorType{t, Shape{rows, columns}};
    return TensorType{t, Shape{rows, p.image.c, p.image.h, p.image.w}, Layout::nhwc};
  };
  TensorType const yt = type(p.y_type, GemmImage::y, p.m, p.n);
  visit(&GemmArgs::a, Operand{"a", p.trans_a ? type(p.a_type, GemmImage::a, p.k, p.m) : type(p.a_type, GemmImage::a, p.m, p.k)});
  visit(&GemmArgs::b, Operand{"b", p.trans_b ? type(p.b_type, GemmImage::b, p.n, p.k) : type(p.b_type, GemmImage::b, p.k, p.n)});
  if (p.store.bias) visit(&GemmArgs::bias, Operand{"bias", {p.a_type == DType::f64 ? DType::f64 : DType::f32, Shape{p.n}}});
  if (p.store.residual) visit(&GemmArgs::residual, Operand{"residual", yt});
  if (p.store.mask != Mask::none) visit(&GemmArgs::mask, Operand{"mask", yt});
  visit(&GemmArgs::y, Operand{"y", yt, true});
}

}  // namespace

std::string GemmProblem::text() const {
  ProblemText t;
  t.add("m", m).add("n", n).add("k", k).add("ta", trans_a).add("tb", trans_b);
  std::string types(name(a_type));
  if (!one_type(a_type)) types.append(",").append(name(b_type)).append(",").append(name(y_type));
  t.add("types", types);
  if (image.which != GemmImage::none)
    t.add("image", std::string(1, "-aby"[image.which]) + ":" + std::to_string(image.c) + "x" + std::to_string(image.h) + "x" + std::to_string(image.w));
  if (store != OnStore{}) t.add("store", text_of(store));
  return t.text();
}

GemmProblem GemmProblem::parse(std::string_view text) {
  ProblemText t(text);
  GemmProblem p;
  auto bad = [&](std::string const& why) { fail(ErrorKind::usage, "matrix product '" + std::string(text) + "': " + why); };
  p.m = t.take_int("m");
  p.n = t.take_int("n");
  p.k = t.take_int("k");
  for (auto size : {p.m, p.n, p.k})
    if (size < 1 || size >= std::int64_t(1) << 31) bad("every size is at least 1 and below 2^31");
  auto flag = [&](std::string_view key) {
    auto v = t.take_int(key, 0);
    if (v != 0 && v != 1) bad(std::string(key) + " is 0 or 1");
    return v == 1;
  };
  p.trans_a = flag("ta");
  p.trans_b = flag("tb");
  auto const text_of_types = t.take("types", "f32");
  auto const types = split(text_of_types, ',');
  if (types.size() != 1 && types.size() != 3) bad("types are one or three (a,b,y)");
  p.a_type = parse_dtype(types[0]);
  p.b_type = types.size() == 3 ? parse_dtype(types[1]) : p.a_type;
  p.y_type = types.size() == 3 ? parse_dtype(types[2]) : p.a_type;
  for (auto type : {p.a_type, p.b_type, p.y_type})
    if (type == DType::u8 || type == DType::i32) bad("matrix products are of f64, f32 or bf16");
  if ((p.a_type == DType::f64) != (p.b_type == DType::f64) || (p.a_type == DType::f64) != (p.y_type == DType::f64))
    bad("f64 does not mix with other types");
  if (std::string const image = t.take("image", ""); !image.empty()) {
    auto const sizes = split(std::string_view(image).substr(std::min<std::size_t>(image.size(), 2)), 'x');
    int numbers[3] = {};
    for (std::size_t i = 0; i < 3 && sizes.size() == 3; ++i) std::from_chars(sizes[i].data(), sizes[i].data() + sizes[i].size(), numbers[i]);
    auto const which = std::string_view("-aby").find(image[0]);
    p.image = {GemmImage::Which(which < 4 ? which : 0), numbers[0], numbers[1], numbers[2]};
    std::int64_t const columns = p.image.which == GemmImage::a ? p.k : p.n;
    if (p.image.which == GemmImage::none || image.size() < 2 || image[1] != ':' || p.image.c < 1 || p.image.h < 1 || p.image.w < 1) bad("image is a, b or y and three sizes: image=a:8x10x10");
    if (double(p.image.c) * p.image.h * p.image.w != double(columns)) bad("the image's elements are not the " + std::to_string(columns) + " columns");
    if ((p.image.which == GemmImage::a && p.trans_a) || (p.image.which == GemmImage::b && p.trans_b)) bad("a transposed operand is no image");
  }
  p.store = read_store(t.take("store", ""));
  t.finish();
  return p;
}

std::vector<Operand> GemmProblem::operands() const {
  return list_operands([&](auto const& visit) { visit_operands(*this, visit); });
}
GemmArgs GemmProblem::args(GemmProblem const& p, std::span<View const> operands) {
  return bind_operands<GemmArgs>([&](auto const& visit) { visit_operands(p, visit); }, operands);
}

}  // namespace falconet
