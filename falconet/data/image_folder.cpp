#include "falconet/data/image_folder.h"

#include <algorithm>
#include <filesystem>

#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/data/normalise.h"

namespace falconet::data {
namespace {

namespace fs = std::filesystem;

struct Entry {
  std::string path;
  int label;
};

class ImageFolder : public Dataset {
 public:
  ImageFolder(std::vector<Entry> entries, DataSpec spec, bool crop) : entries_(std::move(entries)), spec_(std::move(spec)), crop_(crop) {}
  std::int64_t size() const override { return std::int64_t(entries_.size()); }
  DataSpec const& spec() const override { return spec_; }
  void sample(std::int64_t index, Sample& out) const override {
    auto const& entry = entries_[std::size_t(index)];
    int const channels = int(spec_.image[0]), height = int(spec_.image[1]), width = int(spec_.image[2]);
    Image const image = with_channels(read_image(entry.path), channels);
    Image const fitted = crop_ ? resize_and_crop(image, height, width) : resize(image, height, width);
    std::ranges::copy(fitted.pixels, out.bytes(fitted.pixels.size()).begin());
    out.label = entry.label;
  }

 private:
  std::vector<Entry> entries_;
  DataSpec spec_;
  bool crop_;
};

bool is_image(fs::path const& path) {
  auto ending = path.extension().string();
  std::ranges::transform(ending, ending.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; });
  return ending == ".jpg" || ending == ".jpeg" || ending == ".png";
}

// Names in a folder, sorted: folders or images.
std::vector<std::string> names_in(std::string const& folder, bool folders) {
  std::error_code code;
  std::vector<std::string> names;
  fs::directory_iterator at(folder, code);
  for (; !code && at != fs::directory_iterator(); at.increment(code)) {
    auto const name = at->path().filename().string();
    if (name.starts_with('.')) continue;
    std::error_code ignored;
    if (folders ? at->is_directory(ignored) : at->is_regular_file(ignored) && is_image(at->path())) names.push_back(name);
  }
  if (code) fail(ErrorKind::file, format("{}: the folder cannot be read: {}", folder, code.message()));
  std::ranges::sort(names);
  return names;
}

std::vector<Entry> entries_in(std::string const& folder, std::vector<std::string> const& labels) {
  std::vector<Entry> entries;
  for (auto const& name : class_names(folder)) {
    auto const label = std::ranges::find(labels, name) - labels.begin();
    auto const class_folder = folder + "/" + name;
    if (label == std::ptrdiff_t(labels.size())) fail(ErrorKind::data, format("{}: the training set has no class '{}'", class_folder, name));
    auto const images = names_in(class_folder, false);
    if (images.empty()) fail(ErrorKind::data, class_folder + ": expected .jpg, .jpeg or .png images, found none");
    for (auto const& image : images) entries.push_back({class_folder + "/" + image, int(label)});
  }
  return entries;
}

std::string test_folder(std::string const& root) {
  for (char const* name : {"/val", "/test", "/valid"})
    if (std::error_code ignored; fs::is_directory(root + name, ignored)) return root + name;
  fail(ErrorKind::file, root + ": expected a folder 'val' or 'test' beside 'train'");
}

// Mean and std from some images, spread evenly over the set.
void measure(DataSpec& spec, std::vector<Entry> const& entries, ImageFolderOptions const& options) {
  spec.mean.assign(std::size_t(options.channels), 0.0f);
  spec.std.assign(std::size_t(options.channels), 1.0f);
  ImageFolder const images(entries, spec, options.crop);
  ChannelStatistics statistics(options.channels);
  Sample sample;
  std::int64_t const count = std::min<std::int64_t>(images.size(), std::max(options.measured, 1));
  for (std::int64_t i = 0; i < count; ++i) {
    images.sample(i * images.size() / count, sample);
    statistics.add(sample.u8);
  }
  spec.mean = statistics.mean();
  spec.std = statistics.std();
}

}  // namespace

std::vector<std::string> class_names(std::string const& folder) {
  auto names = names_in(folder, true);
  if (names.empty()) fail(ErrorKind::data, folder + ": expected a folder for each class, found none");
  return names;
}

Split image_folder(std::string const& root, ImageFolderOptions options) {
  if (options.channels != 1 && options.channels != 3) fail(ErrorKind::usage, format("channels is {}, expected 1 or 3", options.channels));
  if (options.height < 1 || options.width < 1) fail(ErrorKind::usage, format("images of {}x{} are not possible", options.height, options.width));
  auto const folder = root + "/train";
  DataSpec spec{{options.channels, options.height, options.width}, options.mean, options.std, class_names(folder)};
  auto entries = entries_in(folder, spec.labels);
  auto const test = test_folder(root);
  if (options.mean.empty() || options.std.empty()) measure(spec, entries, options);
  if (!options.mean.empty()) spec.mean = options.mean;
  if (!options.std.empty()) spec.std = options.std;
  auto held_out = image_folder_part(test, spec, options.crop);
  return {Pipeline(std::make_shared<ImageFolder>(std::move(entries), std::move(spec), options.crop)), std::move(held_out)};
}

Pipeline image_folder_part(std::string const& folder, DataSpec const& spec, bool crop) {
  check(spec);
  return Pipeline(std::make_shared<ImageFolder>(entries_in(folder, spec.labels), spec, crop));
}

}  // namespace falconet::data
