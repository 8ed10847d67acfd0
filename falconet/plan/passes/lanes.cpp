// lanes: which launches may run side by side on a GPU, by the memory that they touch. A launch waits for the earlier ones that write what it
// reads or writes, or read what it writes; it continues the lane of a launch that it waits for anyway, else it opens another. Only where
// `place` lets memory rest before it is used again: memory taken over at once would order most launches as before. A pin may say the lane
// (pin.conv2:bwd_filter=naive:lane=2): what a launch waits for stays the same, so any lane gives the same bytes.
#include <algorithm>
#include <string>

#include "falconet/base/error.h"
#include "falconet/ops/algorithms.h"
#include "falconet/plan/compile.h"

namespace falconet {
namespace {

struct Access {
  std::string parameter;                  // its name, or memory [begin, end)
  std::int64_t begin = 0, end = 0;
  bool written = false;
};

std::vector<Access> accesses_of(Launch const& l) {
  auto const operands = algorithms_of(l.op).operands(l.problem);
  std::vector<Access> out;
  for (std::size_t i = 0; i < l.operands.size(); ++i) {
    auto const& s = l.operands[i];
    if (s.kind == Slot::parameter) out.push_back({s.name, 0, 0, operands[i].written});
    else out.push_back({{}, s.offset, s.offset + std::int64_t(s.type.bytes()), operands[i].written});
  }
  if (l.scratch_bytes > 0) out.push_back({{}, l.scratch_offset, l.scratch_offset + l.scratch_bytes, true});
  return out;
}
bool ordered(std::vector<Access> const& a, std::vector<Access> const& b) {
  for (auto const& x : a)
    for (auto const& y : b)
      if ((x.written || y.written) && x.parameter == y.parameter && (!x.parameter.empty() || (x.begin < y.end && y.begin < x.end))) return true;
  return false;
}

}  // namespace

void pass_lanes(Graph&, CompileContext& context) {
  auto& launches = context.plan.step;
  if (!context.side_by_side) {
    for (auto const& l : launches)
      if (l.choice.config.get("lane", -1) >= 0)
        fail_in_layer(ErrorKind::usage, l.layer, l.choice.text() + ": the launches of this step run one after another, so they have no lanes; small steps on a GPU have", std::source_location::current());
    return;
  }
  constexpr auto nothing = std::size_t(-1);
  std::size_t const count = launches.size();
  std::vector<std::vector<Access>> accesses;
  for (auto const& l : launches) accesses.push_back(accesses_of(l));
  std::vector<std::vector<bool>> before(count, std::vector<bool>(count));   // before[i][j]: i waits for j, directly or not
  std::vector<std::size_t> last;                                            // of each lane, or nothing where a pin left one out
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<std::size_t> waits;
    for (std::size_t j = i; j-- > 0;) {
      if (before[i][j] || !ordered(accesses[i], accesses[j])) continue;
      waits.push_back(j);
      before[i][j] = true;
      for (std::size_t k = 0; k < j; ++k)
        if (before[j][k]) before[i][k] = true;
    }
    std::size_t lane = last.size();
    for (std::size_t l = 0; l < last.size(); ++l)
      if (last[l] != nothing && before[i][last[l]] && (lane == last.size() || last[l] > last[lane])) lane = l;
    if (lane == last.size() && last.size() == most_lanes) lane = std::size_t(std::min_element(last.begin(), last.end()) - last.begin());
    if (int const pinned = launches[i].choice.config.get("lane", -1); pinned >= 0) lane = std::size_t(pinned);
    if (lane >= last.size()) last.resize(lane + 1, nothing);
    // What runs earlier in this lane is now waited for, too.
    std::size_t const ahead = last[lane];
    if (ahead != nothing) {
      before[i][ahead] = true;
      for (std::size_t k = 0; k < ahead; ++k)
        if (before[ahead][k]) before[i][k] = true;
    }
    last[lane] = i;
    launches[i].lane = int(lane);
    for (std::size_t w : waits)
      if (launches[w].lane != int(lane)) launches[i].waits.push_back(int(w));
    std::sort(launches[i].waits.begin(), launches[i].waits.end());
  }
}

}  // namespace falconet
