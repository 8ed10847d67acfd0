#include "falconet/train/run_folder.h"

#include <cmath>
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
    if (f.size() != 8) fail(ErrorKind::data, "a row of its results has " + std::to_string(f.size()) + " fields instead of 8");
    auto real = [](std::string const& t) { return t.empty() ? std::nan("") : parse_real(t, "its results"); };
    EpochResult e;
    e.epoch = int(parse_int(f[0], "epoch"));
    e.step = parse_int(f[1], "step");
    e.train_loss = real(f[2]), e.train_accuracy = real(f[3]), e.val_loss = real(f[4]), e.val_accuracy = real(f[5]);
    e.learning_rate = real(f[6]), e.seconds = real(f[7]);
    out.push_back(e);
  }
  return out;
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

bool RunFolder::has_checkpoint() const { return exists(file("next.ckpt")) || exists(file("last.ckpt")) || exists(file("previous.ckpt")); }

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
  promote_next();
}

void RunFolder::promote_next() {
  if (exists(file("last.ckpt"))) replace_file(file("last.ckpt"), file("previous.ckpt"));
  replace_file(file("next.ckpt"), file("last.ckpt"));
}

namespace {
struct Found {
  io::Checkpoint checkpoint;
  std::string path;
};

// The newest that is whole. A process that was killed while it renamed them has left next.ckpt, written before either moved.
Found read_best_checkpoint(std::string const& folder, std::function<void(std::string const&)> const& say) {
  auto const next = folder + "/next.ckpt", last = folder + "/last.ckpt", previous = folder + "/previous.ckpt";
  if (exists(next)) {
    try {
      return {io::read_checkpoint(next), next};
    } catch (Error const& e) {
      if (!exists(last) && !exists(previous)) throw;
      if (exists(next)) say(e.message + "; going on without it");   // else its own process has just renamed it
    }
  }
  if (!exists(last) && !exists(previous)) fail(ErrorKind::file, last + ": there is no checkpoint to go on from");
  try {
    return {io::read_checkpoint(last), last};
  } catch (Error const& e) {
    if (!exists(previous)) throw;
    try {
      Found found{io::read_checkpoint(previous), previous};
      say(e.message + "; going on from " + previous);
      return found;
    } catch (Error const& older) {
      fail(ErrorKind::data, "there is no checkpoint to go on from: " + e.message + "; " + older.message);
    }
  }
}

RunPosition position_of(io::Checkpoint const& c) {
  auto real = [&](std::string const& key) { return parse_real(c.text(key), "its " + key); };
  auto of_late = [&](char const* key) { return c.integers.contains(key) ? c.integer(key) : 0; };   // checkpoints of before have none
  RunPosition p;
  p.plan = c.text("plan");
  p.settings = c.text("settings");
  p.epochs = read_csv(c.text("results"));
  p.state.learning_rate = float(real("learning_rate"));
  p.loss_sum = real("loss_sum");
  if (c.texts.contains("first_loss")) p.first_loss = real("first_loss");   // nor this
  p.right = real("right");
  p.best_accuracy = real("best_accuracy");
  p.state.step = c.integer("step");
  p.state.sample = c.integer("sample");
  p.state.seed = std::uint64_t(c.integer("seed"));
  p.epoch = int(c.integer("epoch"));
  p.batch = c.integer("batch");
  p.seen = c.integer("seen");
  p.best_epoch = int(c.integer("best_epoch"));
  p.finished = c.integer("finished") != 0;
  p.batch_size = of_late("batch_size");
  p.set_size = of_late("set_size");
  return p;
}

// The rest of an epoch is made of the batches that its beginning left.
void require_same_batches(std::string const& folder, RunPosition const& then, RunPosition const& now) {
  auto same = [&](char const* what, std::uint64_t before, std::uint64_t wanted) {
    if (before == wanted) return;
    fail(ErrorKind::usage, folder + " stopped within epoch " + std::to_string(then.epoch + 1) + " and goes on with that epoch's own batches: " + what + " should be " +
                               std::to_string(before) + " as before, not " + std::to_string(wanted) + "; it may change between epochs");
  };
  if (then.batch_size) same("batch", std::uint64_t(then.batch_size), std::uint64_t(now.batch_size));
  same("seed", then.state.seed, now.state.seed);
  if (then.set_size) same("the number of training images", std::uint64_t(then.set_size), std::uint64_t(now.set_size));
}
}  // namespace

RunPosition RunFolder::read_checkpoint(Model& model, RunPosition const& now, std::function<void(std::string const&)> const& say) {
  auto const [c, path] = read_best_checkpoint(path_, say);
  RunPosition p;
  try {
    p = position_of(c);
  } catch (Error const& e) {
    fail(ErrorKind::data, path + ": " + e.message);
  }
  if (p.batch > 0) require_same_batches(path_, p, now);
  for (auto& e : model.parameters()->entries()) {
    auto const& t = c.tensor(e.name);
    if (!(t.type() == e.tensor.type()))
      fail(ErrorKind::model, e.name + ": the checkpoint holds " + t.type().text() + ", the network wants " + e.tensor.type().text());
  }
  if (path == file("next.ckpt")) promote_next();          // ends what was begun
  for (auto& e : model.parameters()->entries()) convert(c.tensor(e.name).view(), e.tensor.view());
  p.plan = now.plan, p.settings = now.settings, p.state.seed = now.state.seed;
  p.batch_size = now.batch_size, p.set_size = now.set_size;
  return p;
}

void RunFolder::write_results(std::vector<EpochResult> const& epochs) {
  auto const text = csv(epochs);
  if (!exists(file("results.csv")) || read_file(file("results.csv")).text() != text) write_atomically(file("results.csv"), text);
}
void RunFolder::write_plan(Plan const& plan) { write_atomically(file("plan.tsv"), plan.text()); }

RunRecord record_of_run(std::string const& path, std::function<void(std::string const&)> const& say) {
  auto const c = read_best_checkpoint(path, say).checkpoint;
  return {c.text("settings"), Plan::parse(c.text("plan"))};
}

}  // namespace falconet
