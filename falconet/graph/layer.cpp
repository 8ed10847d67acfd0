#include "falconet/graph/layer.h"

namespace falconet {

Layer scope(std::string name, Layer layer) {
  return [name = std::move(name), layer = std::move(layer)](Var x) {
    x.graph().push_scope(name);
    Var y = layer(x);
    x.graph().pop_scope();
    return y;
  };
}

Layer stage(std::string name, std::vector<Layer> layers) {
  return scope(std::move(name), [layers = std::move(layers)](Var x) {
    for (std::size_t i = 0; i < layers.size(); ++i) x = scope(std::to_string(i), layers[i])(x);
    return x;
  });
}

}  // namespace falconet
