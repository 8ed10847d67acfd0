// choose: an algorithm and a config for every node. Order: a pin, then the choice of a recorded plan, then what the tuner measured, then the lowest
// estimate of those that accept; a tie goes to the table's order.
#include <algorithm>
#include <set>

#include "falconet/base/error.h"
#include "falconet/base/settings.h"
#include "falconet/ops/algorithms.h"
#include "falconet/plan/compile.h"
#include "falconet/plan/tune.h"

namespace falconet {
namespace {

Candidate const* find(std::vector<Candidate> const& candidates, std::string const& name) {
  for (auto const& c : candidates)
    if (c.algorithm == name) return &c;
  return nullptr;
}

// What a user's launch parameters mean. The lane belongs to the launch, not to its algorithm: it stands behind the algorithm's own (pass_lanes reads it).
Config config_by_hand(Candidate const& c, Config const& wanted, Device device) {
  int const lane = wanted.get("lane", -1);
  if (lane == wanted.get("lane", -2)) {
    if (device.kind == DeviceKind::cpu) fail(ErrorKind::usage, "launches on the CPU run one after another, so they have no lanes");
    if (lane < 0 || lane >= most_lanes) fail(ErrorKind::usage, "lane cannot be " + std::to_string(lane) + ", only 0.." + std::to_string(most_lanes - 1));
  }
  std::string own;
  for (auto const& [key, value] : wanted.values())
    if (key != "lane") own += (own.empty() ? "" : ",") + key + ":" + std::to_string(value);
  Config const config = config_by_hand(c, own.empty() ? Config{} : Config::parse(own));
  return lane < 0 ? config : Config::parse(config.text() + (config.empty() ? "" : ",") + "lane:" + std::to_string(lane));
}
// Whether these launch parameters are offered here; those of a plan that was recorded on another card may not be.
bool offers(Candidate const& c, Config const& config, Device device) {
  try {
    if (std::find(c.configs.begin(), c.configs.end(), config) != c.configs.end()) return true;
    return !config.empty() && config_by_hand(c, config, device) == config;
  } catch (Error const&) {
    return false;
  }
}

// A recorded plan lists launches in node order; the n-th of equal (layer, direction, op, problem) meets the n-th.
class Recorded {
 public:
  explicit Recorded(Plan const* plan) {
    if (!plan) return;
    for (auto const* launches : {&plan->prepare, &plan->step})
      for (auto const& l : *launches)
        if (!l.packs) launches_.push_back(&l);
    used_.resize(launches_.size());
  }
  Choice const* take(Node const& node, std::string const& problem) {
    for (std::size_t i = 0; i < used_.size(); ++i) {
      auto const& l = *launches_[i];
      if (used_[i] || l.layer != node.layer || l.direction != node.direction || l.op != node.op->name() || l.problem != problem) continue;
      used_[i] = true;
      return &l.choice;
    }
    return nullptr;
  }

 private:
  std::vector<Launch const*> launches_;
  std::vector<bool> used_;
};

// In inference: the operand is a parameter, or made of parameters alone.
bool constant(Graph const& graph, CompileContext const& context, ValueId v) {
  auto const& value = graph.values[std::size_t(v)];
  return value.from < 0 ? value.role == Role::parameter : value.from < context.constant_nodes;
}

}  // namespace

void pass_choose(Graph& graph, CompileContext& context) {
  auto const& options = context.options;
  Recorded recorded(options.recorded);
  std::set<std::string> pins_used;
  context.choices.clear();
  context.scratch.clear();
  context.prepared.assign(graph.nodes.size(), {});
  for (auto const& node : graph.nodes) {
    auto const problem = problem_of(graph, node);
    auto const& table = algorithms_of(node.op->name());
    auto candidates = table.candidates(problem, options.facts, options.rivals);
    bool rivals_asked = options.rivals;
    auto const named = [&](std::string const& name) {       // a rival that is named is asked
      Candidate const* c = find(candidates, name);
      if (!c || !c->rival || rivals_asked) return c;
      candidates = table.candidates(problem, options.facts, rivals_asked = true);
      return find(candidates, name);
    };
    std::optional<Choice> choice;
    std::string const direction = node.direction == "recompute" ? "fwd" : node.direction;   // the same launch again
    for (auto const& key : {node.layer + ":" + direction, node.layer}) {
      auto pin = options.pins.find(key);
      if (pin == options.pins.end() || choice) continue;
      Choice wanted = Choice::parse(pin->second);
      Candidate const* c = named(wanted.algorithm);
      if (!c) continue;                                     // another launch of this layer, of another operation
      pins_used.insert(key);
      if (!c->refusal.empty()) fail(ErrorKind::usage, "pin." + key + "=" + pin->second + ": " + wanted.algorithm + " refuses: " + c->refusal);
      try {
        wanted.config = config_by_hand(*c, wanted.config, options.facts.device);
      } catch (Error const& e) {
        fail(e.kind, "pin." + key + "=" + pin->second + ": " + e.message);
      }
      if (!is_deterministic(wanted.config))
        fail(ErrorKind::usage, "pin." + key + "=" + pin->second + ": " + wanted.algorithm + " runs in bench alone: it adds by atomicAdd in an order that changes, and the same seed would give other bytes");
      choice = wanted;
    }
    if (!choice)
      if (Choice const* old = recorded.take(node, problem))
        if (Candidate const* c = named(old->algorithm); c && c->refusal.empty() && is_deterministic(old->config) && offers(*c, old->config, options.facts.device)) choice = *old;
    auto const number = context.choices.size();
    if (!choice && options.tuner) {
      bool prepared = false;                                // as below, by any of them: they agree on the operand
      if (!context.loss && int(number) >= context.constant_nodes)
        for (auto const& c : candidates)
          if (c.refusal.empty() && !prepared)
            if (auto const once = table.preparation(problem, {c.algorithm, c.configs.front()}, options.facts.device.kind); once.bytes > 0)
              prepared = constant(graph, context, node.in[std::size_t(once.operand)]);
      choice = options.tuner->choose(node.op->name(), problem, prepared, candidates, options.facts, options.rivals, options.threads);
    }
    if (!choice) {
      Candidate const* best = nullptr;
      for (auto const& c : candidates)
        if (c.refusal.empty() && c.unasked.empty() && (!c.rival || options.rivals) && is_deterministic(c.configs.front()) && (!best || c.seconds < best->seconds)) best = &c;
      if (!best) {
        std::string why;
        for (auto const& c : candidates) why += "; " + c.algorithm + ": " + c.refusal;
        fail_in_layer(ErrorKind::model, node.layer, "nothing on " + options.facts.device.text() + " runs " + std::string(node.op->name()) + " '" + problem + "'" + why, node.at);
      }
      choice = Choice{best->algorithm, best->configs.front()};
    }
    context.scratch.push_back(std::int64_t(table.scratch(problem, *choice, options.facts.device.kind)));
    if (!context.loss && int(number) >= context.constant_nodes)
      if (auto const once = table.preparation(problem, *choice, options.facts.device.kind);
          once.bytes > 0 && constant(graph, context, node.in[std::size_t(once.operand)])) {
        context.prepared[number] = once;
        context.scratch.back() -= std::int64_t(once.bytes);
      }
    context.choices.push_back(std::move(*choice));
  }
  if (options.tuner) options.tuner->save();
  for (auto const& [key, algorithm] : options.pins) {
    if (pins_used.contains(key)) continue;
    std::vector<std::string> layers, algorithms;
    bool known = false;
    for (auto const& node : graph.nodes) {
      if (std::find(layers.begin(), layers.end(), node.layer) == layers.end()) layers.push_back(node.layer);
      if (key != node.layer && key != node.layer + ":" + node.direction) continue;
      known = true;
      for (auto const& c : algorithms_of(node.op->name()).candidates(problem_of(graph, node), options.facts)) {
        if (std::find(algorithms.begin(), algorithms.end(), c.algorithm) == algorithms.end()) algorithms.push_back(c.algorithm);
      }
    }
    auto const name = Choice::parse(algorithm).algorithm;
    if (known) fail(ErrorKind::usage, "pin." + key + ": unknown algorithm '" + name + "'" + did_you_mean(name, algorithms));
    auto const colon = key.find(':');
    if (std::vector<std::string> ways; colon != std::string::npos && std::find(layers.begin(), layers.end(), key.substr(0, colon)) != layers.end()) {
      for (auto const& node : graph.nodes)
        if (node.layer == key.substr(0, colon) && node.direction != "recompute" && std::find(ways.begin(), ways.end(), node.direction) == ways.end()) ways.push_back(node.direction);
      fail_unknown("direction of " + key.substr(0, colon), key.substr(colon + 1), ways);
    }
    fail(ErrorKind::usage, "pin." + key + ": no launch of that layer and direction" + did_you_mean(key, layers));
  }
}

}  // namespace falconet
