#include "falconet/ops/conv/problem.h"

#include <cctype>

#include "falconet/base/error.h"
#include "falconet/ops/operand_visit.h"
#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {

constexpr std::string_view direction_names[] = {"fwd", "bwd_data", "bwd_filter", "bwd"};
constexpr std::string_view activation_names[] = {"none", "relu", "leaky_relu", "relu6", "gelu", "silu", "sigmoid", "tanh"};

void append(std::string& out, std::string_view item) { (out += out.empty() || out.back() == '=' ? "" : "+") += item; }

std::string pool_word(PoolSlot const& p) { return p.kind == PoolSlot::max ? "max_" : "average_"; }

std::string text_of(OnLoad const& l) {
  std::string out;
  if (l.affine == Affine::scale_shift) append(out, "scale_shift");
  if (l.affine == Affine::two_operand) append(out, "two_operand");
  if (l.act != Activation::none) append(out, activation_names[int(l.act)]);
  if (l.unpool.kind != PoolSlot::none) append(out, pool_word(l.unpool) + "unpool" + std::to_string(l.unpool.size));
  return out;
}
std::string text_of(OnStore const& s) {
  std::string out;
  if (s.affine == Affine::scale_shift) append(out, "scale_shift");
  if (s.bias) append(out, "bias");
  if (s.residual) append(out, "residual");
  if (s.act != Activation::none) append(out, activation_names[int(s.act)]);
  if (s.mask == Mask::relu) append(out, "mask");
  if (s.mask == Mask::relu6) append(out, "mask6");
  if (s.mask == Mask::of_x) append(out, "mask_x");
  if (s.mask == Mask::bits) append(out, "mask_bits");
  if (s.pool.kind != PoolSlot::none) append(out, pool_word(s.pool) + "pool" + std::to_string(s.pool.size));
  if (s.stats == Stats::squares) append(out, "squares");
  if (s.stats == Stats::dot) append(out, "dot");
  if (s.stats == Stats::dot_other) append(out, "dot_other");
  if (s.stats == Stats::dot_x) append(out, "dot_x");
  return out;
}
bool read_activation(std::string_view item, Activation& act) {
  for (int i = 1; i < 8; ++i)
    if (activation_names[i] == item) return act = Activation(i), true;
  return false;
}
bool read_pool(std::string_view item, std::string_view word, PoolSlot& pool) {
  for (auto kind : {PoolSlot::max, PoolSlot::average}) {
    std::string const prefix = pool_word({kind, 0}) + std::string(word);
    if (!item.starts_with(prefix)) continue;
    auto const size = parse_int(item.substr(prefix.size()), prefix), most = std::int64_t(kind == PoolSlot::max ? 15 : 2);
    if (size < 2 || size > most)
      fail(ErrorKind::usage, "a fused pooling window is " + std::string(kind == PoolSlot::max ? "2 to 15 wide" : "2 wide, or 2 to 15 of the maximum") + ", not " + std::to_string(size));
    pool = {kind, std::uint8_t(size)};
    return true;
  }
  return false;
}
OnLoad read_load(std::string_view text) {
  OnLoad l;
  for (auto item : split(text, '+')) {
    if (item == "scale_shift") l.affine = Affine::scale_shift;
    else if (item == "two_operand") l.affine = Affine::two_operand;
    else if (!read_activation(item, l.act) && !read_pool(item, "unpool", l.unpool))
      fail(ErrorKind::usage, "unknown load slot '" + std::string(item) + "'");
  }
  return l;
}
OnStore read_store(std::string_view text) {
  OnStore s;
  for (auto item : split(text, '+')) {
    if (item == "scale_shift") s.affine = Affine::scale_shift;
    else if (item == "bias") s.bias = true;
    else if (item == "residual") s.residual = true;
    else if (item == "mask") s.mask = Mask::relu;
    else if (item == "mask6") s.mask = Mask::relu6;
    else if (item == "mask_x") s.mask = Mask::of_x;
    else if (item == "mask_bits") s.mask = Mask::bits;
    else if (item == "squares") s.stats = Stats::squares;
    else if (item == "dot") s.stats = Stats::dot;
    else if (item == "dot_other") s.stats = Stats::dot_other;
    else if (item == "dot_x") s.stats = Stats::dot_x;
    else if (!read_activation(item, s.act) && !read_pool(item, "pool", s.pool))
      fail(ErrorKind::usage, "unknown store slot '" + std::string(item) + "'");
  }
  return s;
}

void pair(std::string& out, std::string_view both, std::string_view first, std::string_view second, int a, int b) {
  out += ' ';
  if (a == b) (out += both) += std::to_string(a);
  else ((out += first) += std::to_string(a)) += ' ', (out += second) += std::to_string(b);
}

// Sizes that one operand order serves: which views a problem has, in the order of its launch.
template <class Visit>
void visit_operands(ConvProblem const& p, Visit visit) {
  Shape const x{p.n, p.c, p.h, p.w}, w{p.k, p.c / p.groups, p.r, p.s}, y{p.n, p.k, p.stored_p(), p.stored_q()};
  TensorType const xt{p.x_type, x, p.layout}, wt{p.w_type, w, p.layout}, yt{p.y_type, y, p.layout};
  DType const vector = p.x_type == DType::f64 ? DType::f64 : DType::f32;   // per-channel vectors
  bool const fwd = p.direction == Direction::fwd, data = p.direction == Direction::bwd_data;
  bool const filter = p.direction == Direction::bwd_filter, both = p.direction == Direction::bwd;
  std::int64_t const channels = data || both ? p.c : p.k;
  TensorType const result = fwd ? yt : xt;
  auto vec = [&](std::int64_t rows, std::int64_t cols) { return TensorType{vector, Shape{rows, cols}, Layout::nchw}; };
  TensorType const winner{DType::u8, y, p.layout};

  if (!data) visit(&ConvArgs::x, Operand{"x", xt});
  if (!filter) visit(&ConvArgs::w, Operand{"w", wt});
  if (!fwd) visit(&ConvArgs::y, Operand{"dy", yt});
  if (p.load_x.affine != Affine::none) visit(&ConvArgs::load_x, Operand{"load_x", vec(2, p.c)});
  if (p.load_dy.affine != Affine::none) {
    visit(&ConvArgs::load_dy, Operand{"load_dy", vec(3, p.k)});
    visit(&ConvArgs::load_dy_other, Operand{"load_dy_other", yt});
  }
  if (p.load_dy.unpool.kind != PoolSlot::none)
    visit(&ConvArgs::winner, Operand{"winner", winner, false, Fill::choice, p.average_pooled() ? 1 << p.pool_size() * p.pool_size() : p.pool_size() * p.pool_size()});
  if (p.store.affine != Affine::none) visit(&ConvArgs::store_affine, Operand{"store_affine", vec(2, channels)});
  if (p.store.bias && !filter) visit(&ConvArgs::bias, Operand{"bias", TensorType{vector, Shape{channels}, Layout::nchw}});
  if (p.store.residual) visit(&ConvArgs::residual, Operand{"residual", result});
  if (p.store.mask == Mask::bits) visit(&ConvArgs::mask, Operand{"mask", {DType::u8, Shape{p.n, p.c / 8, p.h, p.w}, p.layout}, false, Fill::choice, 256});
  else if ((p.store.mask != Mask::none && p.store.mask != Mask::of_x) || p.store.stats == Stats::dot) visit(&ConvArgs::mask, Operand{"mask", result});
  if (p.store.stats == Stats::dot_other) visit(&ConvArgs::other, Operand{"other", result});
  if (data && p.store.stats == Stats::dot_x) visit(&ConvArgs::other, Operand{"x", result});
  if (p.store.stats != Stats::none || (both && p.load_dy.affine == Affine::two_operand)) visit(nullptr, Operand{"step", step_state_type(), false, Fill::step_state, p.n});

  if (fwd) visit(&ConvArgs::y, Operand{"y", yt, true});
  if (data) visit(&ConvArgs::x, Operand{"dx", xt, true});
  if (filter) visit(&ConvArgs::w, Operand{"dw", wt, true});
  if (both) visit(&ConvArgs::dx, Operand{"dx", xt, true});
  if (filter && p.store.bias) visit(&ConvArgs::bias, Operand{"db", TensorType{vector, Shape{p.k}, Layout::nchw}, true});
  if (p.store.pool.kind != PoolSlot::none) visit(&ConvArgs::winner, Operand{"winner", winner, true});
  if (p.store.stats != Stats::none) visit(&ConvArgs::stats, Operand{"stats", vec(2, channels), true});
  if (both) visit(&ConvArgs::dw, Operand{"dw", TensorType{vector, w, p.layout}, true});
}

}  // namespace

std::string_view name(Direction d) { return direction_names[int(d)]; }

std::string ConvProblem::attributes() const {
  std::string out;
  if (pad_top == pad_left && pad_top == pad_bottom && pad_top == pad_right) {
    if (pad_top) out += " p" + std::to_string(pad_top);
  } else {
    out += " p" + std::to_string(pad_top) + "." + std::to_string(pad_left) + "." + std::to_string(pad_bottom) + "." + std::to_string(pad_right);
  }
  auto optional_pair = [&](char const* key, int a, int b) {
    if (a == 1 && b == 1) return;
    out += std::string(" ") + key + std::to_string(a);
    if (a != b) out += "." + std::to_string(b);
  };
  optional_pair("st", stride_h, stride_w);
  optional_pair("d", dilation_h, dilation_w);
  if (groups != 1) out += " g" + std::to_string(groups);
  return out;
}
std::string ConvProblem::slots() const {
  std::string out;
  if (math == Math::tf32) out += " math=tf32";
  if (load_x != OnLoad{}) out += " load_x=" + text_of(load_x);
  if (load_dy != OnLoad{}) out += " load_dy=" + text_of(load_dy);
  if (store != OnStore{}) out += " store=" + text_of(store);
  return out;
}
std::string ConvProblem::text() const {
  std::string out(name(direction));
  out += " n" + std::to_string(n) + " c" + std::to_string(c);
  pair(out, "hw", "h", "w", h, this->w);
  out += " k" + std::to_string(k);
  pair(out, "rs", "r", "s", r, s);
  (out += attributes()) += ' ';
  out += name(x_type);
  if (!one_type(x_type)) ((out += ',') += name(w_type)) += ',', out += name(y_type);
  (out += ' ') += name(layout);
  return out += slots();
}

ConvProblem ConvProblem::parse(std::string_view text) {
  ConvProblem p;
  std::string given;   // the sizes' letters
  auto bad = [&](std::string const& why) { fail(ErrorKind::usage, "convolution problem '" + std::string(text) + "': " + why); };
  for (auto token : split(text, ' ')) {
    if (token.empty()) continue;
    if (auto equals = token.find('='); equals != std::string_view::npos) {
      auto key = token.substr(0, equals), value = token.substr(equals + 1);
      if (key == "math") {
        if (value != "tf32") bad("math is tf32, or left out");
        p.math = Math::tf32;
      } else if (key == "load_x") p.load_x = read_load(value);
      else if (key == "load_dy") p.load_dy = read_load(value);
      else if (key == "store") p.store = read_store(value);
      else bad("unknown slot '" + std::string(key) + "'");
      continue;
    }
    bool known = false;
    for (int i = 0; i < 4; ++i)
      if (token == direction_names[i]) p.direction = Direction(i), known = true;
    if (known) continue;
    if (token == "nchw" || token == "nhwc") { p.layout = parse_layout(token); continue; }
    auto digit = token.find_first_of("0123456789");
    auto key = token.substr(0, digit);
    if (token.find(',') != std::string_view::npos || key == "bf" || (key == "f" && digit != std::string_view::npos)) {
      auto types = split(token, ',');
      if (types.size() != 1 && types.size() != 3) bad("types are one or three (x,w,y)");
      p.x_type = parse_dtype(types[0]);
      p.w_type = types.size() == 3 ? parse_dtype(types[1]) : p.x_type;
      p.y_type = types.size() == 3 ? parse_dtype(types[2]) : p.x_type;
      continue;
    }
    if (digit == std::string_view::npos) bad("'" + std::string(token) + "' is not understood");
    if (key == "n" || key == "c" || key == "h" || key == "w" || key == "hw" || key == "k" || key == "r" || key == "s" || key == "rs") given += key;
    int v[4] = {0, 0, 0, 0}, count = 0;
    for (auto part : split(token.substr(digit), '.')) {
      if (count == 4) bad("'" + std::string(token) + "' has too many numbers");
      if (part.empty() || part.find_first_not_of("0123456789") != part.npos) bad("'" + std::string(token) + "' should hold whole numbers");
      auto const value = part.size() > 9 ? most + 1 : parse_int(part, key);
      if (value < 0 || value > most) bad("'" + std::string(token) + "' is out of range");
      v[count++] = int(value);
    }
    auto one = [&](int& field) { count == 1 ? void(field = v[0]) : bad("'" + std::string(token) + "' should hold one number"); };
    auto two = [&](int& a, int& b) {
      if (count > 2) bad("'" + std::string(token) + "' should hold one or two numbers");
      a = v[0], b = count == 2 ? v[1] : v[0];
    };
    if (key == "n") one(p.n);
    else if (key == "c") one(p.c);
    else if (key == "h") one(p.h);
    else if (key == "w") one(p.w);
    else if (key == "hw") one(p.h), p.w = p.h;
    else if (key == "k") one(p.k);
    else if (key == "r") one(p.r);
    else if (key == "s") one(p.s);
    else if (key == "rs") one(p.r), p.s = p.r;
    else if (key == "st") two(p.stride_h, p.stride_w);
    else if (key == "d") two(p.dilation_h, p.dilation_w);
    else if (key == "g") one(p.groups);
    else if (key == "p" && count == 1) p.pad_top = p.pad_left = p.pad_bottom = p.pad_right = v[0];
    else if (key == "p" && count == 2) p.pad_top = p.pad_bottom = v[0], p.pad_left = p.pad_right = v[1];
    else if (key == "p" && count == 4) p.pad_top = v[0], p.pad_left = v[1], p.pad_bottom = v[2], p.pad_right = v[3];
    else bad("'" + std::string(token) + "' is not understood");
  }
  std::string missing;
  for (char size : std::string_view("nchwkrs"))
    if (given.find(size) == std::string::npos) (missing += missing.empty() ? "" : ", ") += size;
  if (!missing.empty()) bad("it does not say " + missing + "; a whole one: fwd n1 c3 hw8 k4 rs3 p1 f32 nhwc");
  for (int v : {p.n, p.c, p.h, p.w, p.k, p.r, p.s, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, p.groups})
    if (v < 1) bad("every size is at least 1");
  if (p.c % p.groups || p.k % p.groups) bad("groups must divide c and k");
  if (p.h + p.pad_top + p.pad_bottom < p.span_h() || p.w + p.pad_left + p.pad_right < p.span_w())
    bad("the filter is larger than the padded image");
  if (p.stored_p() < 1 || p.stored_q() < 1) bad("the pooling window is larger than the map");
  if (p.math == Math::tf32 && !p.one_type(DType::f32)) bad("math=tf32 is for f32 tensors");
  // A slot means something only where its operand is read or its result written.
  bool const of_x = p.store.mask == Mask::of_x && p.store.stats == Stats::dot_x && p.load_x.affine == Affine::scale_shift;
  if (p.direction == Direction::bwd_data && p.load_x != OnLoad{} && !of_x) bad("bwd_data has load_x=scale_shift with mask_x and dot_x alone, which read x");
  if (p.direction == Direction::fwd && p.load_dy != OnLoad{}) bad("fwd reads no dy: it has no load_dy");
  if (p.load_x.affine == Affine::two_operand || p.load_x.unpool.kind != PoolSlot::none) bad("load_x is scale_shift and an activation at most");
  if (p.load_dy.affine == Affine::scale_shift) bad("the affine of load_dy is two_operand");
  if (p.store.affine == Affine::two_operand) bad("the affine of store is scale_shift");
  if (p.direction != Direction::fwd && p.store.pool.kind != PoolSlot::none) bad("only fwd stores a pooled map");
  if (p.store.pool.kind != PoolSlot::none && (p.store.residual || p.store.mask != Mask::none))
    bad("residual and mask lie like the result, so they cannot be applied before a pool");
  OnStore bias_alone;
  bias_alone.bias = p.store.bias;
  if (p.direction == Direction::bwd_filter && p.store != bias_alone) bad("bwd_filter stores dw and at most the bias gradient");
  if (p.direction == Direction::bwd && p.store.bias) bad("bwd stores no bias gradient");
  if (p.direction != Direction::bwd && !(p.direction == Direction::bwd_data && of_x) && (p.store.mask == Mask::of_x || p.store.stats == Stats::dot_x))
    bad("x is read beside the result by bwd, and by bwd_data with load_x=scale_shift, mask_x and dot_x together");
  if (p.store.mask == Mask::bits && (p.direction != Direction::bwd_data || p.store.stats != Stats::dot_other || p.x_type != DType::bf16 || p.layout != Layout::nhwc || p.c % 8))
    bad("mask_bits is for bwd_data with dot_other in bf16, nhwc, of a multiple of 8 channels");
  if (p.store.mask == Mask::of_x && p.load_x.act != Activation::none && p.load_x.act != Activation::relu && p.load_x.act != Activation::relu6)
    bad("mask_x is for relu and relu6");
  return p;
}

std::vector<Operand> ConvProblem::operands() const {
  return list_operands([&](auto const& visit) { visit_operands(*this, visit); });
}
ConvArgs ConvProblem::args(ConvProblem const& p, std::span<View const> operands) {
  return bind_operands<ConvArgs>([&](auto const& visit) { visit_operands(p, visit); }, operands);
}
double ConvProblem::operations() const { return (direction == Direction::bwd ? 4.0 : 2.0) * n * k * p() * q() * (c / groups) * r * s; }

}  // namespace falconet
