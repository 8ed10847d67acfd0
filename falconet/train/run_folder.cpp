#include "falconet/train/run_folder.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>

#include "falconet/base/error.h"
#include "falconet/io/checkpoint.h"
#include "falconet/ops/problem_text.h"

namespace falconet {
namespace {

constexpr char const* header = "epoch,step,train_loss,train_accuracy,val_loss,val_accuracy,learning_rate,seconds\n";

std::string number(double v) { return std::isnan(v) ? "" : exact(v); }

std::string csv(std::vector<EpochResult> const& epochs) {
  std::string out = header;
  for (auto const& e : epochs)
    out += std::to_string(e.epoch) + "," + std::to_string(e.step) + "," + number(e.train_loss) + "," + number(e.train_accuracy) + "," + number(e.val_loss) + "," +
           number(e.val_accuracy) + "," + number(e.learning_rate) + "," + number(e.seconds) + "\n";
  return out;
}

std::vector<EpochResult> read_csv(std::string const& text) {
  std::vector<EpochResult> out;
  auto lines = split(text, '\n');
  for (std::size_t i = 1; i < lines.size(); ++i) {
    std::vector<std::string> f;
    for (std::string_view rest = lines[i];;) {            // unlike split, keeps an empty last field
      auto comma = rest.find(',');
      f.emplace_back(rest.substr(0, comma));
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
    if (f.size() != 8) fail(ErrorKind::data, "checkpoint: a row of results has " + std::to_string(f.size()) + " fields instead of 8");
    auto real = [](std::string const& t) { return t.empty() ? std::nan("") : std::strtod(t.c_str(), nullptr); };
    EpochResult e;
    e.epoch = int(parse_int(f[0], "epoch"));
    e.step = parse_int(f[1], "step");
    e.train_loss = real(f[2]), e.train_accuracy = real(f[3]), e.val_loss = real(f[4]), e.val_accuracy = real(f[5]);
    e.learning_rate = real(f[6]), e.seconds = real(f[7]);
    out.push_back(e);
  }
  return out;
}

void rename_file(std::string const& from, std::string const& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) fail(ErrorKind::file, "cannot rename " + from + " to " + to + ": " + std::strerror(errno));
}

bool exists(std::string const& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

}  // namespace

void check_run_folder(std::string const& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  for (fs::path at(path); !at.empty(); at = at.parent_path()) {
    if (fs::exists(at, ignored)) {
      if (fs::is_directory(at, ignored)) return;
      fail(ErrorKind::file, path + ": no run folder can be made here, " + at.string() + " is a file");
    }
    if (at == at.parent_path()) return;
  }
}

RunFolder::RunFolder(std::string path) : path_(std::move(path)) {
  make_folders(path_);
  lock_ = std::make_unique<FileLock>(file("lock"));
}

bool RunFolder::has_checkpoint() const { return exists(file("last.ckpt")) || exists(file("previous.ckpt")); }

void RunFolder::write_checkpoint(Model const& model, RunPosition const& p) {
  io::CheckpointParts parts;
  for (auto const& e : model.parameters()->entries()) parts.tensors.push_back({e.name, e.tensor.view()});
  parts.texts = {{"plan", p.plan},
                 {"settings", p.settings},
                 {"results", csv(p.epochs)},
                 {"learning_rate", exact(p.state.learning_rate)},
                 {"loss_sum", exact(p.loss_sum)},
                 {"first_loss", exact(p.first_loss)},
                 {"right", exact(p.right)},
                 {"best_accuracy", exact(p.best_accuracy)}};
  parts.integers = {{"step", p.state.step},   {"sample", p.state.sample}, {"seed", std::int64_t(p.state.seed)}, {"epoch", p.epoch}, {"batch", p.batch}, {"seen", p.seen},
                    {"best_epoch", p.best_epoch}, {"finished", p.finished}, {"batch_size", p.batch_size}, {"set_size", p.set_size}};
  // The new file is complete before the old ones move.
  io::write_checkpoint(file("next.ckpt"), parts);
  if (exists(file("last.ckpt"))) rename_file(file("last.ckpt"), file("previous.ckpt"));
  rename_file(file("next.ckpt"), file("last.ckpt"));
}

namespace {
io::Checkpoint read_best_checkpoint(std::string const& last, std::string const& previous, std::function<void(std::string const&)> const& say) {
  if (!exists(last) && !exists(previous)) fail(ErrorKind::file, last + ": there is no checkpoint to go on from");
  try {
    return io::read_checkpoint(last);
  } catch (Error const& e) {
    if (!exists(previous)) throw;
    try {
      auto checkpoint = io::read_checkpoint(previous);
      say(e.message + "; going on from " + previous);
      return checkpoint;
    } catch (Error const& older) {
      fail(ErrorKind::data, "there is no checkpoint to go on from: " + e.message + "; " + older.message);
    }
  }
}
}  // namespace

RunPosition RunFolder::read_checkpoint(Model& model, RunPosition const& now, std::function<void(std::string const&)> const& say) {
  auto const c = read_best_checkpoint(file("last.ckpt"), file("previous.ckpt"), say);
  auto real = [&](char const* key) { return std::strtod(c.text(key).c_str(), nullptr); };
  auto of_before = [&](char const* key, std::int64_t otherwise) { return c.integers.contains(key) ? c.integer(key) : otherwise; };   // older ones lack it
  if (c.integer("batch") > 0) {
    std::string where = path_ + " stopped within epoch " + std::to_string(c.integer("epoch") + 1) + " and goes on with that epoch's own batches: ";
    auto same = [&](char const* what, std::string const& then, std::string const& wanted) {
      if (then != wanted) fail(ErrorKind::usage, where + what + " should be " + then + " as before, not " + wanted + "; it may change between epochs");
    };
    same("batch", std::to_string(of_before("batch_size", now.batch_size)), std::to_string(now.batch_size));
    same("seed", std::to_string(std::uint64_t(c.integer("seed"))), std::to_string(now.state.seed));
    same("the number of training images", std::to_string(of_before("set_size", now.set_size)), std::to_string(now.set_size));
  }
  for (auto& e : model.parameters()->entries()) {
    auto const& t = c.tensor(e.name);
    if (!(t.type() == e.tensor.type()))
      fail(ErrorKind::model, e.name + ": the checkpoint holds " + t.type().text() + ", the network wants " + e.tensor.type().text());
  }
  for (auto& e : model.parameters()->entries()) convert(c.tensor(e.name).view(), e.tensor.view());
  RunPosition p;
  p.plan = now.plan;
  p.settings = now.settings;
  p.batch_size = now.batch_size;
  p.set_size = now.set_size;
  p.state.seed = now.state.seed;
  p.epochs = read_csv(c.text("results"));
  p.state.learning_rate = float(real("learning_rate"));
  p.loss_sum = real("loss_sum");
  if (c.texts.contains("first_loss")) p.first_loss = real("first_loss");   // checkpoints of before have none
  p.right = real("right");
  p.best_accuracy = real("best_accuracy");
  p.state.step = c.integer("step");
  p.state.sample = c.integer("sample");
  p.epoch = int(c.integer("epoch"));
  p.batch = c.integer("batch");
  p.seen = c.integer("seen");
  p.best_epoch = int(c.integer("best_epoch"));
  p.finished = c.integer("finished") != 0;
  return p;
}

void RunFolder::write_results(std::vector<EpochResult> const& epochs) {
  auto const text = csv(epochs);
  if (!exists(file("results.csv")) || read_file(file("results.csv")).text() != text) write_atomically(file("results.csv"), text);
}
void RunFolder::write_plan(Plan const& plan) { write_atomically(file("plan.tsv"), plan.text()); }

RunRecord record_of_run(std::string const& path, std::function<void(std::string const&)> const& say) {
  auto const c = read_best_checkpoint(path + "/last.ckpt", path + "/previous.ckpt", say);
  return {c.text("settings"), Plan::parse(c.text("plan"))};
}

}  // namespace falconet
