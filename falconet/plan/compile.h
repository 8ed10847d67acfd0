// From a traced graph to a plan, through one named list of passes.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/graph/graph.h"
#include "falconet/ops/optimizer/op.h"
#include "falconet/plan/plan.h"
#include "falconet/tensor/precision.h"

namespace falconet {

class ThreadPool;
class Tuner;                                     // plan/tune.h

struct CompileOptions {
  DeviceFacts facts;
  Precision precision = DType::f32;             // of activations and arithmetic: f32, tf32 (GPU), bf16 (f32 masters), f64
  bool rivals = false;                          // let vendor libraries be chosen
  bool fuse = true;
  bool fuse_baselines = false;                  // take fusions that only a baseline runs, whatever they cost: to prove the rules
  std::map<std::string, std::string> pins = {};      // "layer" or "layer:direction" -> algorithm[:config]; on a GPU lane:N is part of any config
  std::int64_t memory = 0;                      // training: bytes that plan, parameters and states may take, by pass recompute; 0: no limit
  Plan const* recorded = nullptr;               // choices to repeat where layer, direction and problem agree
  Tuner* tuner = nullptr;                       // measured choices, before estimates, for so many threads as these:
  ThreadPool* threads = nullptr;
  std::string stop_after = {};                     // summary: stop after this pass
};

// What a compilation works on.
struct CompileContext {
  CompileOptions options;
  Var loss;                                     // training: the loss to minimise; empty otherwise
  std::optional<OptimizerOptions> optimizer;    // training: how
  std::vector<std::pair<std::string, ValueId>> outputs;   // kept and readable after a step: "loss", "correct", "output"
  std::vector<Choice> choices;                  // per node, by the pass choose
  Plan plan;                                    // by the passes place and emit
  std::vector<std::int64_t> offset;             // per value in memory, -1 for none, by place
  std::vector<std::int64_t> scratch;            // per node: bytes, by choose; offsets by place
  std::vector<std::int64_t> scratch_offset;
  int constant_nodes = 0;                       // the first so many depend on parameters alone, by constants (inference only)
  std::vector<Preparation> prepared;            // per node: what Algorithm::prepare does once for it, by choose; offsets by place
  std::vector<std::int64_t> prepared_offset;
  bool side_by_side = false;                    // by place: values share memory seldom enough for launches to run side by side
};

struct Pass {
  char const* name;
  void (*run)(Graph&, CompileContext&);
};
std::vector<Pass> const& passes();

// Compiles the graph (which the passes rewrite). Throws usage errors for pins that match nothing or cannot run.
Plan compile(Graph& graph, CompileContext& context);

// The node right after which the filter of node n is packed: its maker, or the first.
int packed_at(Graph const&, CompileContext const&, NodeId n);

// Node n changes the shape of an operand that lies in memory as its result would: the result is the operand's memory, and nothing is launched.
bool is_view(Graph const&, CompileContext const&, NodeId n);

// The problem's text of a node, from the types that its operands have now.
std::string problem_of(Graph const&, Node const&);

// The passes, in plan/passes/.
void pass_gradients(Graph&, CompileContext&);   // adds d loss / d parameters
void pass_update(Graph&, CompileContext&);      // adds the optimizer's launch
void pass_precision(Graph&, CompileContext&);   // chooses element types, inserts conversions
void pass_layout(Graph&, CompileContext&);      // turns images and filters into nhwc
void pass_fold(Graph&, CompileContext&);        // inference: batch norm into the filters and biases before it
void pass_fuse(Graph&, CompileContext&);        // merges neighbours where an algorithm accepts it
void pass_recompute(Graph&, CompileContext&);   // training within a given memory: forgets results and makes them again
void pass_constants(Graph&, CompileContext&);   // inference: what depends on parameters alone comes first
void pass_choose(Graph&, CompileContext&);      // an algorithm and config for every node
void pass_place(Graph&, CompileContext&);       // offsets in the arena
void pass_emit(Graph&, CompileContext&);        // the launches
void pass_lanes(Graph&, CompileContext&);       // on a GPU: which launches may run side by side
constexpr int most_lanes = 8;

}  // namespace falconet
