// A plan: the flat list of kernel launches that a network, its gradient and its optimizer compile to, over memory laid out
// beforehand. Plain data without pointers, streams or times: it prints, parses, compares, goes into run folders and checkpoints,
// and a CUDA plan compiles where no GPU is.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "falconet/ops/algorithm.h"

namespace falconet {

// Where an operand lies.
struct Slot {
  enum Kind : std::uint8_t { memory, parameter } kind = memory;
  std::int64_t offset = 0;             // memory: bytes from the start of the plan's arena
  std::string name;                    // parameter: its key
  TensorType type;
  bool operator==(Slot const&) const = default;
};

struct Launch {
  std::string layer;                   // "layer1.0.conv1"
  std::string direction;               // "fwd", "bwd", "bwd_data", "bwd_filter", "recompute", "update"
  std::string op;                      // the operation whose table has the algorithm
  std::string problem;                 // its text
  Choice choice;
  std::vector<Slot> operands;          // in the problem's order
  std::int64_t scratch_offset = 0, scratch_bytes = 0;
  std::int64_t prepared_offset = 0, prepared_bytes = 0;   // what Algorithm::prepare has left for this launch, if anything
  bool packs = false;                  // in Plan::prepare: only that preparation, of a launch of the step
  int lane = 0;                        // launches of one lane run in order
  std::vector<int> waits;              // launches of other lanes that must have ended
  bool operator==(Launch const&) const = default;
};

struct NamedSlot {
  std::string name;
  Slot slot;
  bool operator==(NamedSlot const&) const = default;
};

// An inference plan may begin with launches whose results depend on the parameters alone (folded and packed filters, converted weights). They
// run before the first step and again only after parameters have changed; no step writes where their results lie.
struct Plan {
  Device device;
  std::vector<Launch> prepare;
  std::vector<Launch> step;
  std::vector<NamedSlot> inputs;       // what the caller writes before a step
  std::vector<NamedSlot> outputs;      // what the caller may read after it
  std::int64_t memory_bytes = 0;       // of the arena
  std::string text() const;            // tab-separated, one line per launch
  static Plan parse(std::string_view); // of text(); throws a data error naming the line
  bool operator==(Plan const&) const = default;
};

}  // namespace falconet
