#include "falconet/plan/footprint.h"

#include <algorithm>

#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/ops/algorithms.h"

namespace falconet {
namespace {

std::string bytes_text(std::int64_t bytes) { return format("{} bytes ({:.2f} GiB)", bytes, double(bytes) / double(1 << 30)); }

}  // namespace

std::vector<Consumer> largest_consumers(Plan const& plan, Parameters const& parameters, std::vector<Consumer> const& beside, std::size_t count) {
  std::vector<Consumer> out = beside;
  auto const add = [&](Launch const& l) {
    auto const operands = algorithms_of(l.op).operands(l.problem);
    std::int64_t written = 0;
    for (std::size_t i = 0; i < operands.size(); ++i)
      if (operands[i].written && operands[i].alias < 0 && l.operands[i].kind == Slot::memory) written += std::int64_t(l.operands[i].type.bytes());
    std::string const who = l.layer + " (" + l.direction + ")";
    if (written) out.push_back({who, written});
    if (l.scratch_bytes) out.push_back({"scratch of " + who, l.scratch_bytes});
    if (l.prepared_bytes) out.push_back({"packed weights of " + who, l.prepared_bytes});
  };
  for (auto const& l : plan.prepare)
    if (!l.packs) add(l);
  for (auto const& l : plan.step) add(l);
  for (auto const& input : plan.inputs) out.push_back({"input " + input.name, std::int64_t(input.slot.type.bytes())});
  Consumer weights{"weights", 0}, states{"optimizer states", 0};
  for (auto const& e : parameters.entries()) (e.name.starts_with("optimizer.") ? states : weights).bytes += std::int64_t(e.tensor.type().bytes());
  for (auto const& c : {weights, states})
    if (c.bytes) out.push_back(c);
  std::stable_sort(out.begin(), out.end(), [](Consumer const& a, Consumer const& b) { return a.bytes > b.bytes; });
  if (out.size() > count) out.resize(count);
  return out;
}

namespace {

[[noreturn]] void fail_for_memory(Plan const& plan, Parameters const& parameters, std::vector<Consumer> const& beside, std::string const& wanted, std::string const& help) {
  std::string largest;
  for (auto const& c : largest_consumers(plan, parameters, beside, 3)) largest += (largest.empty() ? "" : ", ") + c.what + " " + bytes_text(c.bytes);
  fail(ErrorKind::device, "out of memory on " + plan.device.text() + ": " + wanted + "; the largest: " + largest + "; " + help);
}

}  // namespace

void require_memory(Plan const& plan, Parameters const& parameters, std::vector<Consumer> const& beside, std::int64_t free) {
  std::int64_t values = 0;
  for (auto const& e : parameters.entries())
    if (!parameters.lies_on_device(e.name)) values += std::int64_t(e.tensor.type().bytes());
  std::int64_t const needed = plan.memory_bytes + values;
  if (needed <= free) return;
  fail_for_memory(plan, parameters, beside, bytes_text(needed) + " needed, " + bytes_text(free) + " free", "a smaller batch needs less, and so does memory=...");
}

void require_room(Consumer const& data, std::int64_t room, Plan const& plan, Parameters const& parameters, std::int64_t free) {
  if (data.bytes <= room) return;
  fail_for_memory(plan, parameters, {data}, bytes_text(data.bytes) + " needed for " + data.what + ", " + bytes_text(free) + " free, of which it may take " + bytes_text(room),
                  "feed=staged leaves it on the host");
}

}  // namespace falconet
