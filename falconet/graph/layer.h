// A layer is a value: a function from Var to Var. Apply it by call or by `|`; `|` between layers composes them.
#pragma once
#include <functional>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <vector>

#include "falconet/graph/graph.h"

namespace falconet {

class Layer {
 public:
  Layer() = default;                                   // the identity
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
