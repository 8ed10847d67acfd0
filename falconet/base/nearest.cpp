#include "falconet/base/nearest.h"

#include <algorithm>
#include <vector>

#include "falconet/base/format.h"

namespace falconet {
namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before_last(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
    before_last.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

std::string nearest(std::string_view name, std::span<std::string const> known) {
  if (name.empty()) return "";
  std::string const wanted = lower(name);
  std::string const* best = nullptr;
  std::size_t best_distance = std::max<std::size_t>(1, (wanted.size() + 1) / 3) + 1;
  for (std::string const& candidate : known) {
    std::size_t const distance = edit_distance(wanted, lower(candidate));
    if (distance < best_distance) {
      best = &candidate;
      best_distance = distance;
    }
  }
  if (best) return *best;
  for (std::string const& candidate : known) {
    if (wanted.size() >= 2 && lower(candidate).starts_with(wanted)) return candidate;
  }
  return "";
}

std::string did_you_mean(std::string_view name, std::span<std::string const> known) {
  if (std::string const guess = nearest(name, known); !guess.empty()) return format("; did you mean '{}'?", guess);
  std::string list;
  for (std::string const& candidate : known) list += (list.empty() ? "" : ", ") + candidate;
  return list.empty() ? "" : "; known are " + list;
}

std::string unknown_name(std::string_view kind_of_thing, std::string_view name, std::span<std::string const> known) {
  return format("unknown {} '{}'{}", kind_of_thing, name, did_you_mean(name, known));
}

void fail_unknown(std::string_view kind_of_thing, std::string_view name, std::span<std::string const> known, std::source_location where) {
  fail(ErrorKind::usage, unknown_name(kind_of_thing, name, known), where);
}

}  // namespace falconet
