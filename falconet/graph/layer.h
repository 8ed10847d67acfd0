// A layer is a value: a function from Var to Var. Apply it by call or by `|`; `|` between layers composes them.
#pragma once
#include <functional>
#include <initializer_list>
#include <source_location>
#include <string>
#include <type_traits>
#include <vector>

#include "falconet/graph/graph.h"

namespace falconet {

// A Var and the line on which it was handed over: a parameter of this type takes a Var and knows its caller's line.
struct VarAt {
  Var var;
  std::source_location at;
  VarAt(Var v, std::source_location at = std::source_location::current()) : var(v), at(at) {}   // NOLINT: implicit on purpose
};

// A layer that has no options: a constant, ready before any global is initialised, so that a global of type Layer may be built from it.
// Its errors name the line on which it is applied to a Var or becomes a Layer.
class PlainLayer {
 public:
  using Function = Var (*)(Var x, std::source_location at);
  constexpr explicit PlainLayer(Function f) : f_(f) {}
  Var operator()(VarAt x) const { return f_(x.var, x.at); }

 private:
  friend class Layer;
  Function f_;
};

class Layer {
 public:
  Layer() = default;                                   // the identity
  Layer(PlainLayer plain, std::source_location at = std::source_location::current())   // NOLINT: implicit on purpose
      : f_([f = plain.f_, at](Var x) { return f(x, at); }) {}
  template <class F, class = std::enable_if_t<!std::is_same_v<std::decay_t<F>, Layer> && std::is_invocable_r_v<Var, F const&, Var>>>
  Layer(F f) : f_(std::move(f)) {}                     // NOLINT: implicit on purpose, a custom layer is a lambda
  Var operator()(Var x) const { return f_ ? f_(x) : x; }

 private:
  std::function<Var(Var)> f_;
};

inline Var operator|(Var x, Layer const& layer) { return layer(x); }
inline Layer operator|(Layer first, Layer second) {
  return [first = std::move(first), second = std::move(second)](Var x) { return second(first(x)); };
}

// Prefixes every key inside with "name.".
Layer scope(std::string name, Layer layer);
// Layers one after another, keyed "name.0", "name.1", ...
Layer stage(std::string name, std::vector<Layer> layers);

}  // namespace falconet
