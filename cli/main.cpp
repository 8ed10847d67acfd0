// falconet VERB key=value ... [paths]: picks the verb, reads its settings, and turns an Error into one `error:` line.
#include <csignal>
#include <cstdio>
#include <cstring>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/inputs.h"
#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/nn/models.h"
#include "falconet/ops/algorithms.h"

namespace falconet::cli {
namespace {

constexpr struct {
  std::string_view name;
  int (*run)(Settings&);
} commands[] = {{"train", train}, {"eval", evaluate}, {"predict", predict}, {"summary", summary}, {"checks", checks}};

std::string page_of(std::string_view verb) {
  std::string networks;
  for (auto const& known : models::known()) networks.append(networks.empty() ? "" : ", ").append(known.name);
  return help_text(verb, networks);
}

int help(std::span<std::string const> words) {
  std::string topic;
  for (auto const& word : words) topic.append(topic.empty() ? "" : " ").append(word);
  if (topic == "bench") {
    for (auto const& verb : verbs_table())
      if (verb.name.starts_with("bench ")) std::printf("%s\n", page_of(verb.name).c_str());
    return 0;
  }
  std::fputs((topic.empty() ? help_text() : page_of(topic)).c_str(), stdout);
  return 0;
}

int bench(std::span<std::string const> words) {
  std::vector<std::string> known = {"train", "predict"};
  for (auto operation : operations_with_algorithms()) known.emplace_back(operation);
  if (words.empty() || words[0].find('=') != std::string::npos || words[0].starts_with("-")) {
    std::string list;
    for (auto const& name : known) list += (list.empty() ? "" : ", ") + name;
    fail(ErrorKind::usage, "bench needs to know what: one of " + list);
  }
  std::string const what = words[0];
  bool found = false;
  for (auto const& name : known) found |= name == what;
  if (!found) fail_unknown("benchmark", what, known);
  auto const rest = words.subspan(1);
  bool const steps = what == "train" || what == "predict";
  Settings settings(steps ? "bench " + what : std::string("bench conv"));
  read_settings(settings, rest);
  return what == "train" ? bench_train(settings) : what == "predict" ? bench_predict(settings) : bench_algorithms(settings, what);
}

int run(std::span<std::string const> words) {
  if (words.empty()) {
    std::fputs(help_text().c_str(), stderr);
    return 2;
  }
  std::string const& verb = words[0];
  auto const rest = words.subspan(1);
  if (verb == "--version") {
    std::puts("falconet " FALCONET_VERSION);
    return 0;
  }
  if (verb == "help" || verb == "--help" || verb == "-h") return help(rest);
  for (auto const& word : rest)
    if (word == "--help" || word == "-h") return help(words.subspan(0, verb == "bench" && rest[0] != word ? 2 : 1));
  if (verb == "bench") return bench(rest);
  for (auto const& command : commands) {
    if (command.name != verb) continue;
    Settings settings(verb);
    read_settings(settings, rest);
    return command.run(settings);
  }
  std::vector<std::string> known = {"bench", "help"};
  for (auto const& command : commands) known.emplace_back(command.name);
  fail_unknown("verb", verb, known);
}

int report(std::string_view what, int code) {
  std::fflush(stdout);
  std::fprintf(stderr, "error: %.*s\n", int(what.size()), what.data());
  return code;
}

}  // namespace
}  // namespace falconet::cli

int main(int count, char** words) {
  using falconet::ErrorKind;
  std::signal(SIGXFSZ, SIG_IGN);  // a write beyond the file size limit fails like one on a full disk
  try {
    std::vector<std::string> const all(words + 1, words + count);
    int const code = falconet::cli::run(all);
    if (std::fflush(stdout) != 0 || std::ferror(stdout))
      falconet::fail(ErrorKind::file, std::string("standard output: ") + std::strerror(errno));
    return code;
  } catch (falconet::Error const& e) {
    return falconet::cli::report(e.what(), e.kind == ErrorKind::usage ? 2 : e.kind == ErrorKind::interrupted ? 130 : 1);
  } catch (std::bad_alloc const&) {
    return falconet::cli::report("out of memory", 1);
  } catch (std::exception const& e) {
    return falconet::cli::report(e.what(), 1);
  }
}
