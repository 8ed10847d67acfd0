// train: from settings to a run folder with weights, results and a report.
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/measure.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "falconet/base/format.h"
#include "falconet/nn/models.h"
#include "falconet/train/model_file.h"
#include "falconet/train/report.h"
#include "falconet/train/run_folder.h"
#include "falconet/train/trainer.h"

namespace falconet::cli {
namespace {

namespace fs = std::filesystem;

// Defaults that depend on other settings, so that args.toml says what was used.
void settle_defaults(Settings& s) {
  bool const adaptive = s.text("optimizer") != "sgd", decoupled = s.text("optimizer") == "adamw";
  std::string const of = "default of " + s.text("optimizer");
  auto const otherwise = [&](char const* name, char const* value, std::string const& source) {
    if (!s.has(name)) s.set(name, value, SettingSource::fallback, source);
  };
  otherwise("lr", adaptive ? "0.001" : "0.01", of);
  otherwise("weight_decay", decoupled ? "0.01" : "0", of);
  otherwise("warmup", s.text("schedule") == "one_cycle" ? "0.3" : "0", "default of " + s.text("schedule"));
}

// What was written on the command line and changes nothing.
void note_settings_without_effect(Settings const& s) {
  auto const note = [&](char const* name, char const* with) {
    if (s.has(name) && s.source(name) == "command line")
      std::fprintf(stderr, "note: %s= has no effect with %s=%s\n", name, with, s.text(with).c_str());
  };
  if (s.text("optimizer") != "sgd") note("momentum", "optimizer"), note("nesterov", "optimizer");
  if (s.text("schedule") != "step") note("step_epochs", "schedule"), note("step_factor", "schedule");
}

Optimizer optimizer_of(Settings const& s) {
  auto const kind = s.text("optimizer");
  double const lr = s.real("lr"), decay = s.real("weight_decay");
  if (kind == "adam") return adam({.lr = lr, .weight_decay = decay});
  if (kind == "adamw") return adamw({.lr = lr, .weight_decay = decay});
  return sgd({.lr = lr, .momentum = s.real("momentum"), .weight_decay = decay, .nesterov = s.flag("nesterov")});
}

Schedule schedule_of(Settings const& s) {
  auto const kind = s.text("schedule");
  double const warmup = s.real("warmup");
  if (kind == "cosine") return cosine({.warmup = warmup});
  if (kind == "one_cycle") return one_cycle({.peak_at = warmup});
  if (kind == "step") {
    StepScheduleOptions options{.gamma = s.real("step_factor"), .warmup = warmup};
    if (s.has("step_epochs"))
      for (auto epoch : s.wholes("step_epochs")) options.at_epochs.push_back(int(epoch));
    return step_decay(options);
  }
  return constant_rate(warmup);
}

data::Pipeline augmented(data::Pipeline pipeline, Settings const& s) {
  pipeline = pipeline | data::shuffle();
  if (!s.has("augment")) return pipeline;
  for (auto const& item : s.texts("augment")) {
    auto const digits = item.starts_with("crop") ? item.substr(4) : std::string();
    bool const number = !digits.empty() && digits.size() < 4 && digits.find_first_not_of("0123456789") == std::string::npos;
    if (item == "flip")
      pipeline = pipeline | data::random_flip();
    else if (number && std::stoi(digits) > 0)
      pipeline = pipeline | data::random_crop(std::stoi(digits));
    else
      fail(ErrorKind::usage, format("augment should be a list of cropN (N pixels, such as crop4) and flip, not '{}'", item));
  }
  return pipeline;
}

// What is trained on and what is measured after each epoch: the training and the test set, or a part of the training set that is held out by
// validation=, and of each as many as examples= says.
struct Sets {
  data::Pipeline train, validation;
};
Sets sets_of(data::Split const& split, Settings const& s) {
  auto const seed = std::uint64_t(s.whole("seed"));
  Sets sets{split.train, split.test};
  if (double const share = s.real("validation"); share > 0) {
    auto const count = std::max<std::int64_t>(1, std::llround(share * double(split.train.size())));
    sets = {split.train | data::without_sample(count, seed), split.train | data::sample_evenly(count, seed)};
  }
  if (s.has("examples"))
    for (auto* set : {&sets.train, &sets.validation})
      if (s.whole("examples") < set->size()) *set = *set | data::sample_evenly(s.whole("examples"), seed);
  return sets;
}

// The next free runs/trainN, made at once so that no other process takes it.
std::string claim_run_folder() {
  make_folders("runs");
  for (int n = 1;; ++n) {
    auto const path = "runs/train" + std::to_string(n);
    std::error_code error;
    if (fs::create_directory(path, error)) return path;
    if (error) fail(ErrorKind::file, format("{}: {}", path, error.message()));
  }
}

// args.toml without what belongs to one start of the program alone.
std::string kept_settings(Settings const& settings) {
  std::string out, text = settings.toml();
  for (std::size_t at = 0; at < text.size();) {
    std::size_t const end = std::min(text.find('\n', at), text.size() - 1) + 1;
    auto const line = text.substr(at, end - at);
    if (!line.starts_with("resume =") && !line.starts_with("run =") && !line.starts_with("json =")) out += line;
    at = end;
  }
  return out;
}

// Whether two such texts have the same values, whatever their sources.
bool same_values(std::string const& a, std::string const& b) {
  auto const values = [](std::string text) {
    for (std::size_t at; (at = text.find("  # ")) != std::string::npos;) {
      std::size_t const end = std::min(text.find('\n', at), text.size());
      while (at > 0 && text[at - 1] == ' ') --at;
      text.erase(at, end - at);
    }
    return text;
  };
  return values(a) == values(b);
}

// The accuracy that the run has to reach in its last epoch, or 0, and who says so.
struct Promise {
  double accuracy = 0;
  std::string who;
  bool reached(EpochResult const& last) const { return last.val_accuracy >= accuracy; }
};

// A recipe's promise holds for its own model, epochs and all of its data only.
Promise promise_of(Settings const& settings) {
  if (!settings.has("accuracy")) return {};
  double const accuracy = settings.real("accuracy");
  Promise const asked{accuracy, "accuracy= asks for"};
  if (!settings.has("recipe")) return asked;
  try {
    auto const name = settings.text("recipe");
    auto const text = program_text("recipes", name, ".toml", "recipe");
    Settings recipe("train");
    recipe.read_toml(text.text, text.where, SettingSource::recipe, name);
    bool const from_recipe = recipe.has("accuracy") && recipe.real("accuracy") == accuracy;
    if (!from_recipe) return asked;
    auto const kind = [](Settings const& s) { return s.has("data") ? s.text("data").substr(0, s.text("data").find(':')) : std::string(); };
    bool const another_run = settings.has("examples") || settings.real("validation") > 0 || recipe.whole("epochs") != settings.whole("epochs") ||
                             kind(recipe) != kind(settings) || (recipe.has("model") && recipe.text("model") != settings.text("model"));
    return another_run ? Promise{} : Promise{accuracy, "recipe " + name + " promises"};
  } catch (Error const&) {  // a resumed run's recipe may be gone
    return {};
  }
}

bool has_pictures(std::string const& run) {
  for (char const* file : {"/report.html", "/results.svg", "/confusion.svg"})
    if (!fs::exists(run + file)) return false;
  return true;
}

// Opened with the first line; a run folder that another process holds is never touched.
class Log {
 public:
  explicit Log(std::string path) : path_(std::move(path)) {}
  ~Log() {
    if (file_) std::fclose(file_);
  }
  Log(Log const&) = delete;
  Log& operator=(Log const&) = delete;
  void line(std::string const& text) {
    if (!file_) file_ = std::fopen(path_.c_str(), "a");
    if (!file_) return;  // what matters is in the checkpoint; its own failure is reported
    std::fprintf(file_, "%s\n", text.c_str());
    std::fflush(file_);
  }
  bool open() const { return file_ != nullptr; }

 private:
  std::string path_;
  std::FILE* file_ = nullptr;
};

}  // namespace

int train(Settings& settings) {
  double const started = now();
  bool const resume = settings.given("resume");
  settle_defaults(settings);
  check_run_folder(settings.has("run") ? settings.text("run") : "runs/train1");
  auto const options = step_options(settings);
  auto const optimizer = optimizer_of(settings);
  auto const schedule = schedule_of(settings);
  note_settings_without_effect(settings);
  NamedData const data = open_data(settings.text("data"), models::find(settings.text("model")));
  auto const sets = sets_of(data.split, settings);
  auto const training = augmented(sets.train, settings);
  auto const& d = data.split.train.spec();
  ImageSpec const spec{d.image, d.mean, d.std, d.labels};
  auto const model = make_model(settings, &spec);
  if (!resume) read_weights(settings, *model);

  ProgressLine progress(options.batch);
  std::optional<RunRecord> before;
  if (resume) before = record_of_run(settings.text("run"), [](std::string const&) {});  // fit says what is wrong with the checkpoint
  Trainer trainer(*model, {.batch = options.batch,
                           .precision = options.precision,
                           .loss = cross_entropy({.label_smoothing = settings.real("label_smoothing")}),
                           .optimizer = optimizer,
                           .schedule = schedule,
                           .rivals = options.rivals,
                           .memory = options.memory,
                           .pins = options.pins,
                           .recorded = before ? &before->plan : nullptr,
                           .tuner = options.tuner});

  bool const own_folder = !settings.has("run");
  if (own_folder) settings.set("run", claim_run_folder(), SettingSource::fallback, "next free");
  std::string const run = settings.text("run");
  std::string const kept = kept_settings(settings);
  bool const made = own_folder || !fs::exists(run);
  auto const folder = std::make_shared<RunFolder>(run);   // its lock is held until the report and the last line of the log are written
  Log log(run + "/log.txt");
  Progress last;
  std::string fed;
  catch_signals();
  FitOptions fit;
  fit.epochs = int(settings.whole("epochs"));
  fit.validate = sets.validation;
  fit.folder = folder;
  fit.resume = resume;
  fit.settings = kept;
  fit.validation_batch = 250;
  fit.feed = parse_feeding(settings.text("feed"));
  fit.on_feed = [&](std::string const& text) { fed = text; };
  fit.on_step = [&](Progress const& p) {
    if (!log.open()) {  // the first step
      if (!fs::exists(run + "/args.toml") || !same_values(kept, std::string(read_file(run + "/args.toml").text())))
        write_atomically(run + "/args.toml", kept);
      auto const& facts = model->facts();
      auto const place = format("{} ({})", model->device().text(), facts.device.kind == DeviceKind::cpu ? std::string(name(facts.isa)) : facts.name);
      log.line(format("{} {} on {}, {} images, batch {}, {}, {}, {} threads, data {}, falconet {}", resume ? "resumed:" : "training",
                      model->name, data.kind, training.size(), options.batch, name(options.precision), place,
                      model->threads()->size(), fed, FALCONET_VERSION));
    }
    last = p;
    progress.step(p);
    return !stop_requested();
  };
  fit.on_epoch = [&](EpochResult const& r) {
    log.line(progress.epoch(r, last));
    if (settings.flag("json")) {
      JsonRow row;
      row.add("what", "epoch").add("epoch", r.epoch).add("epochs", last.epochs).add("step", r.step);
      row.add("train_loss", r.train_loss).add("train_accuracy", r.train_accuracy).add("val_loss", r.val_loss).add("val_accuracy", r.val_accuracy);
      row.add("learning_rate", r.learning_rate).add("seconds", r.seconds);
      std::fputs(row.text().c_str(), stdout);
      std::fflush(stdout);
    }
    return !stop_requested();
  };
  fit.on_message = [&](std::string const& text) { progress.message(text); };

  FitResult result;
  try {
    result = trainer.fit(training, fit);
  } catch (Error const& e) {
    progress.clear();
    if (log.open()) log.line(std::string("error: ") + e.what());
    if (made && !log.open()) {  // nothing was trained: leave nothing behind
      std::error_code ignored;
      fs::remove_all(run, ignored);
    }
    throw;
  }
  progress.clear();
  if (result.stopped) {
    log.line(format("stopped in epoch {}, batch {}", last.epoch, last.batch));
    fail(ErrorKind::interrupted,
         format("stopped in epoch {}, batch {} of {}; `falconet train resume={}` goes on", last.epoch, last.batch, last.batches, run));
  }

  bool const written_again = result.was_finished && !has_pictures(run);
  auto const promise = promise_of(settings);
  if (!result.was_finished || written_again) {
    Report report;
    report.title = model->name + " on " + data.kind;
    report.epochs = result.epochs;
    report.best_epoch = result.best_epoch;
    report.labels = spec.labels;
    report.settings = kept;
    report.plan = trainer.step().session().plan();
    report.promised_accuracy = promise.accuracy;
    if (result.best_epoch != result.epochs.back().epoch) load_weights(*model, run + "/best.safetensors");
    auto const& measured = settings.real("validation") > 0 ? data.split.test : sets.validation;   // a held-out part is for choosing, the test set for the figure
    report.evaluation = Evaluator(*model, {.batch = fit.validation_batch, .precision = options.precision})(measured);
    write_report(run, report);
  }
  auto const& end = result.epochs.back();
  if (settings.flag("json")) {
    JsonRow row;
    row.add("what", "train_run")
        .add("model", model->name)
        .add("data", data.kind)
        .add("batch", options.batch)
        .add("precision", name(options.precision));
    row.add("device", model->device().text())
        .add("threads", model->threads()->size())
        .add("seed", settings.whole("seed"))
        .add("epochs", end.epoch)
        .add("steps", end.step);
    row.add("train_loss", end.train_loss)
        .add("train_accuracy", end.train_accuracy)
        .add("val_loss", end.val_loss)
        .add("last_val", end.val_accuracy);
    row.add("best_val", result.best_accuracy)
        .add("best_epoch", result.best_epoch)
        .add("seconds", now() - started)
        .add("peak_bytes", peak_resident_bytes())
        .add("run", run);
    if (promise.accuracy > 0) row.add("promised", promise.accuracy).add("reached", promise.reached(end));
    std::fputs(row.text().c_str(), stdout);
    return 0;
  }
  if (result.was_finished)
    std::printf("%s is finished: %d epochs are trained; epochs=N with a larger N goes on%s\n", run.c_str(), end.epoch,
                written_again ? "; its report and pictures were missing and are written again" : "");
  else
    std::printf("%s: report.html, best.safetensors\n", run.c_str());
  std::printf("last val %.4f, loss %.4f (epoch %d)\nbest val %.4f\n", end.val_accuracy, end.val_loss, end.epoch, result.best_accuracy);
  if (promise.accuracy > 0)
    std::printf("%s %.4f: %s\n", promise.who.c_str(), promise.accuracy, promise.reached(end) ? "reached" : "not reached");
  return 0;
}

}  // namespace falconet::cli
