// recompute: a training step that must fit a given memory forgets results of the forward pass and makes them again, right before the backward
// pass first reads them (Chen et al. 2016, "Training deep nets with sublinear memory cost"; here by measured bytes and estimated seconds, one result
// at a time, not by segments). Made again by the same node on the same operands, a result has the same bytes, so memory changes no loss.
//
// A candidate is a result that rests: its last reader of the forward pass and its first of the backward pass lie on either side of the node at
// which most is alive. Of those the one is taken that frees most bytes there for a second of work, until the plan fits.
#include <algorithm>

#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/ops/algorithms.h"
#include "falconet/plan/compile.h"

namespace falconet {
namespace {

class Recompute {
 public:
  Recompute(Graph& graph, CompileContext const& context) : graph_(graph), context_(context) {}

  void run(std::int64_t limit) {
    std::int64_t kept = 0;                       // parameters and states lie beside the plan's memory
    for (auto const& v : graph_.values)
      if (v.from < 0 && (v.role == Role::parameter || v.role == Role::state) && v.name != "(removed)") kept += std::int64_t(v.type.bytes());
    std::int64_t excess = placed_bytes() + kept - limit;
    // The gaps that place leaves between values are known only once they are placed: down to what seems enough without looking, from there on
    // one by one.
    for (std::int64_t const seems_enough = peak().bytes - excess; excess > 0; excess = placed_bytes() + kept - limit) {
      bool more = forget_one();
      while (more && peak().bytes > seems_enough) more = forget_one();
      if (std::int64_t const least = more ? 0 : placed_bytes() + kept; least > limit)
        fail(ErrorKind::usage, format("memory={} bytes: a training step of batch {} needs at least {} bytes, {} of them for weights and optimizer states", limit, batch(), least, kept));
    }
  }

 private:
  struct Life {
    int first, last;                             // nodes
  };
  struct Peak {
    int node;
    std::int64_t bytes;
  };

  std::int64_t placed_bytes() const {
    Graph graph = graph_;
    CompileContext context = context_;
    pass_choose(graph, context);
    pass_place(graph, context);
    return context.plan.memory_bytes;
  }

  std::int64_t batch() const {
    for (auto const& v : graph_.values)
      if (v.role == Role::input && v.type.shape.rank() > 1) return v.type.shape[0];
    return 0;
  }

  bool in_memory(ValueId v) const {
    auto const& value = graph_.values[std::size_t(v)];
    return value.alias < 0 && value.from >= 0;
  }

  // Of each value that a node makes: from its maker to its last reader.
  std::vector<Life> lives() const {
    std::vector<Life> out(graph_.values.size(), {-1, -1});
    for (int n = 0; n < int(graph_.nodes.size()); ++n) {
      for (ValueId v : graph_.nodes[std::size_t(n)].out) out[std::size_t(v)] = {n, n};
      for (ValueId v : graph_.nodes[std::size_t(n)].in)
        if (in_memory(v)) out[std::size_t(v)].last = n;
    }
    for (auto const& [name, id] : context_.outputs) out[std::size_t(id)].last = int(graph_.nodes.size());
    return out;
  }

  Peak peak() const {
    auto const life = lives();
    std::vector<std::int64_t> change(graph_.nodes.size() + 2, 0);
    for (std::size_t v = 0; v < life.size(); ++v) {
      if (life[v].first < 0 || !in_memory(ValueId(v))) continue;
      auto const bytes = std::int64_t(graph_.values[v].type.bytes());
      change[std::size_t(life[v].first)] += bytes;
      change[std::size_t(life[v].last) + 1] -= bytes;
    }
    Peak best{0, 0};
    std::int64_t alive = 0;
    for (int n = 0; n < int(graph_.nodes.size()); ++n) {
      alive += change[std::size_t(n)];
      if (auto const bytes = alive + cost(graph_.nodes[std::size_t(n)]).scratch; bytes > best.bytes) best = {n, bytes};
    }
    return best;
  }

  struct Cost {
    double seconds;
    std::int64_t scratch;
  };
  // Of the algorithm with the lowest estimate.
  Cost const& cost(Node const& node) const {
    auto const problem = problem_of(graph_, node);
    auto const [known, fresh] = costs_.try_emplace(std::string(node.op->name()) + " " + problem, Cost{0, 0});
    if (!fresh) return known->second;
    auto const& table = algorithms_of(node.op->name());
    Candidate const* best = nullptr;
    auto const candidates = table.candidates(problem, context_.options.facts);
    for (auto const& c : candidates)
      if (c.refusal.empty() && !c.rival && (!best || c.seconds < best->seconds)) best = &c;
    if (best) known->second = {best->seconds, std::int64_t(table.scratch(problem, {best->algorithm, best->configs.front()}, context_.options.facts.device.kind))};
    return known->second;
  }

  // The op that makes the node's first result (one without updates: all results) and changes nothing else; null if there is none.
  static std::shared_ptr<Op const> maker(Node const& node) {
    for (int i = 0; i < int(node.out.size()); ++i)
      if (node.op->alias(i) >= 0) return node.op->without_updates();
    return node.op;
  }

  // The operand that the second maker reads: what was updated in place as it is now.
  static ValueId operand(Node const& node, std::size_t i) {
    for (std::size_t o = 0; o < node.out.size(); ++o)
      if (node.op->alias(int(o)) == int(i)) return node.out[o];
    return node.in[i];
  }

  bool forget_one() {
    auto const life = lives();
    Peak const at = peak();
    ValueId best = -1;
    double best_rate = 0;
    int best_reader = 0;
    for (ValueId v = 0; v < ValueId(graph_.values.size()); ++v) {
      auto const& value = graph_.values[std::size_t(v)];
      if (!in_memory(v) || life[std::size_t(v)].last <= at.node || life[std::size_t(v)].last >= int(graph_.nodes.size())) continue;
      Node const& made = graph_.nodes[std::size_t(value.from)];
      if (made.direction != "fwd" || value.from >= at.node || !maker(made) || (value.output != 0 && maker(made) == made.op)) continue;
      int reader = -1;                           // the first after the peak
      bool rests = true;
      for (NodeId user : graph_.users(v)) {
        if (user == at.node) rests = false;
        if (user > at.node && (reader < 0 || user < reader)) reader = user;
      }
      if (!rests || reader < 0) continue;
      std::int64_t freed = std::int64_t(value.type.bytes());
      for (std::size_t i = 0; i < made.in.size(); ++i)
        if (ValueId const x = made.in[i]; in_memory(x) && life[std::size_t(x)].last < at.node) freed -= std::int64_t(graph_.values[std::size_t(x)].type.bytes());
      if (freed <= 0) continue;
      double const time = cost(made).seconds;
      if (time <= 0 || double(freed) / time <= best_rate) continue;
      best = v, best_rate = double(freed) / time, best_reader = reader;
    }
    if (best < 0) return false;
    make_again(best, best_reader);
    return true;
  }

  // Puts a second maker of v before node `reader` and gives what it makes to all readers from there on.
  void make_again(ValueId v, int reader) {
    Node const made = graph_.nodes[std::size_t(graph_.values[std::size_t(v)].from)];
    Node again = made;
    again.op = maker(made);
    again.direction = "recompute";
    for (std::size_t i = 0; i < made.in.size(); ++i) again.in[i] = operand(made, i);
    for (auto& value : graph_.values)
      if (value.from >= reader) ++value.from;
    for (std::size_t o = 0; o < made.out.size(); ++o) {
      Value fresh = graph_.values[std::size_t(made.out[o])];
      fresh.from = reader;
      int const updated = made.op->alias(int(o));
      if (updated >= 0) fresh.alias = again.in[std::size_t(updated)];
      again.out[o] = ValueId(graph_.values.size());
      graph_.values.push_back(std::move(fresh));
    }
    for (std::size_t n = std::size_t(reader); n < graph_.nodes.size(); ++n)
      for (ValueId& x : graph_.nodes[n].in)
        for (std::size_t o = 0; o < made.out.size(); ++o)   // with it whatever else its maker makes
          if (x == made.out[o] && made.op->alias(int(o)) < 0 && (x == v || made.op != again.op)) x = again.out[o];
    graph_.nodes.insert(graph_.nodes.begin() + reader, std::move(again));
  }

  Graph& graph_;
  CompileContext const& context_;
  mutable std::map<std::string, Cost> costs_;    // by operation and problem
};

}  // namespace

void pass_recompute(Graph& graph, CompileContext& context) {
  if (context.options.memory > 0 && context.loss) Recompute(graph, context).run(context.options.memory);
}

}  // namespace falconet
