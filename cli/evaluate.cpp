// eval: loss, accuracy and recall per class of a trained network. predict: labels of image files, or of samples of a test set.
#include "falconet/train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <numeric>
#include <optional>

#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/measure.h"
#include "cli/table.h"
#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/data/image.h"
#include "falconet/train/predictor.h"

namespace falconet::cli {
namespace {

namespace fs = std::filesystem;

std::string share(double v) { return std::isnan(v) ? "" : format("{:.4f}", v); }

// The files of the given paths, folders by name order and without their subfolders' other kinds of files.
std::vector<std::string> image_files(std::vector<std::string> const& paths) {
  std::vector<std::string> out;
  for (auto const& path : paths) {
    std::error_code error;
    if (!fs::is_directory(path, error)) {
      out.push_back(path);
      continue;
    }
    std::vector<std::string> inside;
    for (auto const& entry : fs::recursive_directory_iterator(path, fs::directory_options::skip_permission_denied)) {
      auto extension = entry.path().extension().string();
      std::transform(extension.begin(), extension.end(), extension.begin(), [](unsigned char c) { return char(std::tolower(c)); });
      if (entry.is_regular_file() && (extension == ".png" || extension == ".jpg" || extension == ".jpeg"))
        inside.push_back(entry.path().string());
    }
    if (inside.empty()) fail(ErrorKind::data, path + ": holds no .png, .jpg or .jpeg file");
    std::sort(inside.begin(), inside.end());
    out.insert(out.end(), inside.begin(), inside.end());
  }
  return out;
}

data::Image image_of(data::Sample const& sample, Shape const& shape) {
  data::Image image{int(shape[1]), int(shape[2]), int(shape[0]), {}};
  image.pixels.assign(sample.u8.begin(), sample.u8.end());
  for (float v : sample.f32) image.pixels.push_back(std::uint8_t(std::clamp(std::lround(v * 255), 0L, 255L)));
  return image;
}

struct Shown {
  std::string name, truth;
  std::vector<Prediction> best;  // the most probable first
};

// Collects images to a batch, predicts them together, and hands each on with its most probable labels.
class Batches {
 public:
  Batches(Model& model, PredictorOptions const& options, std::size_t top, std::function<void(Shown const&)> show)
      : model_(model), predictor_(model, options), batch_(std::size_t(options.batch)), top_(top), show_(std::move(show)) {}

  void add(data::Image image, std::string name, std::string truth = "") {
    images_.push_back(std::move(image));
    shown_.push_back({std::move(name), std::move(truth), {}});
    if (images_.size() == batch_) flush();
  }
  void flush() {
    if (images_.empty()) return;
    auto const best = predictor_(images_);
    std::size_t const classes = predictor_.probabilities().size() / images_.size();
    for (std::size_t i = 0; i < images_.size(); ++i) {
      float const* p = predictor_.probabilities().data() + i * classes;
      std::vector<int> order(classes);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return p[a] > p[b]; });
      shown_[i].best = {best[i]};
      for (std::size_t k = 1; k < std::min(top_, classes); ++k)
        shown_[i].best.push_back({model_.spec().labels[std::size_t(order[k])], p[order[k]], order[k]});
      show_(shown_[i]);
    }
    images_.clear();
    shown_.clear();
  }

 private:
  Model& model_;
  Predictor predictor_;
  std::size_t batch_, top_;
  std::function<void(Shown const&)> show_;
  std::vector<data::Image> images_;
  std::vector<Shown> shown_;
};

// Labels of the data set that the network does not have, or has in other places, make its figures those of another task.
void note_other_labels(Model const& model, TestData const& data) {
  auto const &ours = model.spec().labels, &theirs = data.set.spec().labels;
  if (ours == theirs || ours.empty() || theirs.empty()) return;
  std::size_t i = 0;
  while (i < ours.size() && i < theirs.size() && ours[i] == theirs[i]) ++i;
  auto const at = [&](auto const& labels) { return i < labels.size() ? "'" + labels[i] + "'" : std::string("none"); };
  std::fprintf(stderr, "note: the network's labels are not those of %s: label %zu is %s, there %s\n", data.kind.c_str(), i, at(ours).c_str(), at(theirs).c_str());
}

}  // namespace

int evaluate(Settings& settings) {
  auto const model = trained_model(settings);
  if (!settings.has("data")) fail(ErrorKind::usage, "eval needs data=KIND:FOLDER, such as data=mnist:data/mnist");
  TestData const data = open_test_data(settings.text("data"), model->spec());
  auto const& set = data.set;
  if (set.size() < 1) fail(ErrorKind::data, data.folder + ": the test set is empty");
  note_other_labels(*model, data);
  EvaluateOptions const options{.batch = int(settings.whole("batch")), .precision = parse_precision(settings.text("precision"))};
  Evaluator evaluator(*model, options);
  int const batch = evaluator.prepare(set.size());
  double const start = now();
  auto const e = evaluator(set);
  double const seconds = now() - start;
  auto const& labels = model->spec().labels;
  if (settings.flag("json")) {
    JsonRow row;
    row.add("what", "eval")
        .add("model", model->name)
        .add("file", run_file(settings.text(settings.has("weights") ? "weights" : "model")))
        .add("data", data.kind)
        .add("samples", e.samples)
        .add("loss", e.loss)
        .add("accuracy", e.accuracy);
    row.add("batch", batch)
        .add("precision", name(options.precision))
        .add("device", model->device().text())
        .add("threads", model->threads()->size());
    row.add("seconds", seconds).add("peak_bytes", peak_resident_bytes());
    std::fputs(row.text().c_str(), stdout);
    for (int c = 0; c < e.classes; ++c) {
      JsonRow line;
      line.add("what", "class").add("label", labels[std::size_t(c)]).add("recall", e.recall(c)).add("precision", e.precision(c));
      std::fputs(line.text().c_str(), stdout);
    }
    return 0;
  }
  Table table({"label", ">samples", ">recall", ">precision", "mostly taken for"});
  for (int c = 0; c < e.classes; ++c) {
    std::int64_t samples = 0, most = 0;
    int other = -1;
    for (int p = 0; p < e.classes; ++p) {
      auto const count = e.confusion[std::size_t(c * e.classes + p)];
      samples += count;
      if (p != c && count > most) most = count, other = p;
    }
    table.row({labels[std::size_t(c)], with_commas(samples), share(e.recall(c)), share(e.precision(c)),
               other < 0 ? "" : format("{} ({}x)", labels[std::size_t(other)], most)});
  }
  std::fputs(table.text().c_str(), stdout);
  std::printf("\n%s images of %s in %s s: loss %.4f, accuracy %.4f\n", with_commas(e.samples).c_str(), data.kind.c_str(),
              short_number(seconds).c_str(), e.loss, e.accuracy);
  return 0;
}

int predict(Settings& settings) {
  auto const model = trained_model(settings);
  auto const& paths = settings.paths();
  if (paths.empty() && !settings.has("data"))
    fail(ErrorKind::usage, "predict needs PNG or JPEG files, folders of them, or data=KIND:FOLDER");
  auto const& labels = model->spec().labels;
  std::size_t const top = std::size_t(settings.whole("top"));
  std::int64_t right = 0, known = 0;

  std::size_t width = 5;
  auto const show = [&](Shown const& s) {
    if (!s.truth.empty()) ++known, right += s.truth == s.best[0].label;
    if (settings.flag("json")) {
      JsonRow row;
      row.add("what", "prediction").add("image", s.name).add("label", s.best[0].label).add("probability", s.best[0].probability);
      if (!s.truth.empty()) row.add("truth", s.truth).add("right", s.truth == s.best[0].label);
      for (std::size_t i = 1; i < s.best.size(); ++i)
        row.add("label" + std::to_string(i + 1), s.best[i].label).add("probability" + std::to_string(i + 1), s.best[i].probability);
      std::fputs(row.text().c_str(), stdout);
      return;
    }
    std::string line = format("{:<{}}", s.name, width);
    for (auto const& p : s.best) line += format("  {} {:.4f}", p.label, p.probability);
    if (!s.truth.empty()) line += s.truth == s.best[0].label ? "  right" : "  wrong, it is " + s.truth;
    std::puts(line.c_str());
  };

  auto const files = image_files(paths);
  std::optional<TestData> data;
  if (settings.has("data")) data = open_test_data(settings.text("data"), model->spec());
  if (data) note_other_labels(*model, *data);
  std::int64_t count = data ? data->set.size() : 0;
  if (settings.has("count")) count = std::min(settings.whole("count"), count);
  for (auto const& file : files) width = std::max(width, file.size());
  int const batch = int(std::clamp(std::int64_t(files.size()) + count, std::int64_t(1), settings.whole("batch")));  // no larger than need be
  Batches batches(*model, {.batch = batch, .precision = parse_precision(settings.text("precision"))}, top, show);
  std::size_t unread = 0;
  for (auto const& file : files) {
    data::Image image;
    try {
      image = data::read_image(file);
    } catch (Error const& e) {  // said at its place among the others, which go on
      batches.flush();
      std::fflush(stdout);
      std::fprintf(stderr, "error: %s\n", e.what());
      ++unread;
      continue;
    }
    batches.add(std::move(image), file);
  }

  if (data) {
    auto const& set = data->set;
    width = std::max(width, data->kind.size() + 7);
    data::Sample sample;
    for (std::int64_t i = 0; i < count; ++i) {
      set.sample(i, 0, 0, sample);
      batches.add(image_of(sample, set.spec().image), format("{} {}", data->kind, i),
                  std::size_t(sample.label) < labels.size() ? labels[std::size_t(sample.label)] : std::to_string(sample.label));
    }
  }
  batches.flush();
  if (data) {
    if (!settings.flag("json")) std::printf("%lld of %lld right\n", static_cast<long long>(right), static_cast<long long>(known));
  }
  if (unread > 0 && files.size() > 1) std::fprintf(stderr, "note: %zu of %zu files could not be read\n", unread, files.size());
  return unread > 0 ? 1 : 0;
}

}  // namespace falconet::cli
