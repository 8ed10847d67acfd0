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
#include "cli/table.h"
#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/nn/models.h"
#include "falconet/ops/algorithms.h"
#include "falconet/ops/problem_text.h"

namespace falconet::cli {
namespace {

constexpr struct {
  std::string_view name;
  int (*run)(Settings&);
} commands[] = {{"train", train}, {"eval", evaluate}, {"predict", predict}, {"summary", summary}, {"tune", tune}, {"checks", checks}};

std::string networks() {
  std::string out;
  for (auto const& known : models::known()) out.append(out.empty() ? "" : ", ").append(known.name);
  return out;
}
std::string page_of(std::string_view verb) { return help_text(verb, networks()); }

// A row for every verb that the topic names (all without one), and for each of its settings.
int help_rows(std::string const& topic) {
  bool any = false;
  for (auto const& verb : verbs_table()) {
    if (!topic.empty() && verb.name != topic && !verb.name.starts_with(topic + " ")) continue;
    any = true;
    JsonRow row;
    row.add("what", "verb").add("verb", verb.name).add("help", verb.help).add("example", "falconet " + std::string(verb.example)).add("paths", verb.paths);
    std::fputs(row.text().c_str(), stdout);
    for (auto const& setting : settings_table()) {
      if (!belongs_to(setting, verb.name)) continue;
      JsonRow line;
      line.add("what", "setting").add("verb", verb.name).add("name", setting.name).add("default", setting.fallback).add("help", help_of(setting, networks()));
      line.add("expected", expected(setting));
      std::fputs(line.text().c_str(), stdout);
    }
  }
  if (!any) (void)page_of(topic);   // says which verbs there are
  return 0;
}

std::string data_help() {
  std::string out = "data=KIND:FOLDER: the data set; FOLDER may be left out where it lies in the usual place, here or below FALCONET_DATA\n\n";
  for (auto const& kind : data_kinds()) {
    std::string const usual = kind.folder.empty() ? std::string(kind.name) + ":PATH" : std::string(kind.name) + ":" + std::string(kind.folder);
    out += format("  {:<36}{}\n", usual, kind.help);
  }
  return out +
         "\nfolder: images of your own, PNG or JPEG, as PATH/train/CLASS/x.png and PATH/val/CLASS/y.png (or PATH/test/...). The class folders' names, sorted,\n"
         "are the labels. Images are resized (and cut at the longer side) to what the network was made for, and made gray or RGB as it wants. eval\n"
         "and predict need only PATH/val or PATH/test, or class folders right in PATH.\n"
         "\nOf the others the validation set of `train` is the test set; validation=0.1 holds out a tenth of the training set instead, drawn by the seed.\n"
         "\nfor example: falconet train model=resnet18 data=folder:PATH epochs=20\n";
}

int help(std::span<std::string const> words) {
  std::string topic;
  bool json = false;
  for (auto const& word : words)
    if (word == "json=true" || word == "--json") json = true;
    else topic.append(topic.empty() ? "" : " ").append(word);
  if (json) return help_rows(topic);
  if (topic == "data") {
    std::fputs(data_help().c_str(), stdout);
    return 0;
  }
  if (topic.starts_with("bench ") && topic != "bench conv")
    for (auto operation : operations_with_algorithms())
      if (topic.substr(6) == operation) {
        std::printf("falconet %s: like bench conv, on problems of its own (lists: %s)\n\n%s", topic.c_str(), problem_lists(operation).c_str(), page_of("bench conv").c_str());
        return 0;
      }
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
