#include "falconet/plan/plan.h"

#include "falconet/base/error.h"
#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {

std::string text_of(Slot const& s) { return (s.kind == Slot::memory ? "@" + std::to_string(s.offset) : "$" + s.name) + ":" + s.type.text(); }

Slot parse_slot(std::string_view text) {
  auto colon = text.rfind(':');
  if (text.size() < 2 || colon == std::string_view::npos || (text[0] != '@' && text[0] != '$')) fail(ErrorKind::data, "'" + std::string(text) + "' is not an operand");
  Slot s;
  auto where = text.substr(1, colon - 1);
  s.type = TensorType::parse(text.substr(colon + 1));
  if (text[0] == '@') s.offset = parse_int(where, "offset");
  else s.kind = Slot::parameter, s.name = where;
  return s;
}

std::string bytes_at(std::int64_t offset, std::int64_t bytes) { return std::to_string(offset) + "+" + std::to_string(bytes); }
void parse_bytes_at(std::string_view text, char const* what, std::int64_t& offset, std::int64_t& bytes) {
  auto const plus = text.find('+');
  if (plus == std::string_view::npos) fail(ErrorKind::data, std::string(what) + " should read offset+bytes");
  offset = parse_int(text.substr(0, plus), what);
  bytes = parse_int(text.substr(plus + 1), what);
}

std::string launch_text(std::string_view section, Launch const& l) {
  std::string out = std::string(section) + "\t" + l.layer + "\t" + l.direction + "\t" + l.op + "\t" + l.problem + "\t" + l.choice.text() + "\t";
  for (std::size_t i = 0; i < l.operands.size(); ++i) out += (i ? " " : "") + text_of(l.operands[i]);
  out += "\t" + bytes_at(l.scratch_offset, l.scratch_bytes) + (l.prepared_bytes ? " " + bytes_at(l.prepared_offset, l.prepared_bytes) : "");
  out += "\t" + std::to_string(l.lane) + "\t";
  for (std::size_t i = 0; i < l.waits.size(); ++i) out += (i ? "," : "") + std::to_string(l.waits[i]);
  return out + "\n";
}

}  // namespace

std::string Plan::text() const {
  std::string out = "falconet plan 1\t" + device.text() + "\tmemory " + std::to_string(memory_bytes) + "\n";
  for (auto const& i : inputs) out += "input\t" + i.name + "\t" + text_of(i.slot) + "\n";
  for (auto const& o : outputs) out += "output\t" + o.name + "\t" + text_of(o.slot) + "\n";
  for (auto const& l : prepare) out += launch_text(l.packs ? "pack" : "prepare", l);
  for (auto const& l : step) out += launch_text("step", l);
  return out;
}

Plan Plan::parse(std::string_view text) {
  Plan plan;
  int number = 0;
  try {
    for (auto line : split(text, '\n')) {
      ++number;
      if (line.empty()) continue;
      std::vector<std::string_view> f;
      for (std::string_view rest = line;;) {                 // unlike split, keeps an empty last field
        auto tab = rest.find('\t');
        f.push_back(rest.substr(0, tab));
        if (tab == std::string_view::npos) break;
        rest.remove_prefix(tab + 1);
      }
      auto want = [&](std::size_t n) { if (f.size() != n) fail(ErrorKind::data, "expected " + std::to_string(n) + " fields"); };
      if (number == 1) {
        want(3);
        if (f[0] != "falconet plan 1" || !f[2].starts_with("memory ")) fail(ErrorKind::data, "not a falconet plan");
        plan.device = f[1] == "cpu" ? Device{} : Device{DeviceKind::cuda, int(parse_int(f[1].substr(f[1].find(':') + 1), "device"))};
        plan.memory_bytes = parse_int(f[2].substr(7), "memory");
      } else if (f[0] == "input" || f[0] == "output") {
        want(3);
        (f[0] == "input" ? plan.inputs : plan.outputs).push_back({std::string(f[1]), parse_slot(f[2])});
      } else {
        want(10);
        if (f[0] != "step" && f[0] != "prepare" && f[0] != "pack") fail(ErrorKind::data, "unknown section '" + std::string(f[0]) + "'");
        Launch l;
        l.layer = f[1], l.direction = f[2], l.op = f[3], l.problem = f[4];
        l.choice = Choice::parse(f[5]);
        for (auto operand : split(f[6], ' ')) l.operands.push_back(parse_slot(operand));
        auto const memory = split(f[7], ' ');
        if (memory.empty() || memory.size() > 2) fail(ErrorKind::data, "scratch should read offset+bytes, and so what is prepared");
        parse_bytes_at(memory[0], "scratch", l.scratch_offset, l.scratch_bytes);
        if (memory.size() == 2) parse_bytes_at(memory[1], "prepared", l.prepared_offset, l.prepared_bytes);
        l.packs = f[0] == "pack";
        l.lane = int(parse_int(f[8], "lane"));
        for (auto w : split(f[9], ',')) l.waits.push_back(int(parse_int(w, "wait")));
        (f[0] == "step" ? plan.step : plan.prepare).push_back(std::move(l));
      }
    }
  } catch (Error const& e) {
    fail(ErrorKind::data, "plan, line " + std::to_string(number) + ": " + e.message);
  }
  if (number == 0) fail(ErrorKind::data, "the plan is empty");
  return plan;
}

}  // namespace falconet
