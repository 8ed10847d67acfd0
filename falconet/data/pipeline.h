// A data set with what is done to it on the way into a batch: train | data::shuffle() | data::random_crop(4) | data::random_flip().
// Everything random is a pure function of (seed, epoch, index of the sample in the data set, place in the pipeline).
#pragma once
#include <concepts>
#include <functional>
#include <memory>

#include "falconet/base/random.h"
#include "falconet/data/dataset.h"

namespace falconet::data {

// The pixels of one sample, to be altered in place. They are raw: normalisation comes last, in the Loader.
struct Pixels {
  int height, width, channels;
  std::span<std::uint8_t> u8;   // one of the two, in H, W, C order
  std::span<float> f32;
};

// A value. Either it changes which samples come in which order, or it alters pixels; `alter` makes one of one's own:
// data::Transform{.name = "invert", .alter = [](data::Pixels p, RandomBits) { for (auto& v : p.u8) v = 255 - v; }}
struct Transform {
  std::string name;                                             // as it is written: "random_crop(4)"
  std::int64_t begin = 0, end = INT64_MAX;                      // the samples that are kept, counted in the order so far
  bool shuffles = false;
  std::function<void(Pixels, RandomBits)> alter = nullptr;
  // What `alter` does, said so that a GPU can do it too (train/feeds.h); `unknown` is done on the CPU.
  enum Kind : std::uint8_t { unknown, crop, flip } kind = unknown;
  int padding = 0;                                              // of crop
  std::int64_t drawn = 0;                                       // 0, or so many samples are drawn by the seed, and only they or only the others kept
  std::uint64_t seed = 0;
  bool others = false;
};

Transform shuffle();                                            // a new order every epoch
Transform take(std::int64_t count);                             // the first `count`, or all if there are fewer
Transform subset(std::int64_t begin, std::int64_t end);         // [begin, end); to hold out a part of a training set
// `count` samples drawn evenly over the set: one from each of `count` parts of it of (nearly) the same size, which one by the seed alone; in
// the order of the set. So a set that is sorted by class keeps the shares of its classes. All if there are fewer.
Transform sample_evenly(std::int64_t count, std::uint64_t seed);
Transform without_sample(std::int64_t count, std::uint64_t seed);   // the others: to train on what is not held out
Transform random_crop(int padding);                             // shifts by up to `padding` pixels each way, black comes in
Transform random_flip();                                        // left to right, every second image

template <class T>
concept DatasetClass = std::derived_from<T, Dataset>;

class Pipeline {
 public:
  explicit Pipeline(std::shared_ptr<Dataset const> dataset);
  template <DatasetClass D>
  Pipeline(D dataset) : Pipeline(std::shared_ptr<Dataset const>(std::make_shared<D>(std::move(dataset)))) {}

  std::int64_t size() const { return size_; }                   // samples of an epoch
  DataSpec const& spec() const { return dataset_->spec(); }
  Dataset const& dataset() const { return *dataset_; }
  Pipeline plain() const { return Pipeline(dataset_); }         // all of the data set, with nothing done to it
  std::vector<Transform> const& transforms() const { return transforms_; }
  std::string text() const;                                     // "shuffle random_crop(4) random_flip"

  // The indices into dataset() that epoch `epoch` visits, in that order. Allocates nothing once `order` has been filled before.
  void order(std::vector<std::uint32_t>& order, std::uint64_t seed, std::int64_t epoch) const;
  // Sample `index` of dataset() with its pixels altered; checked against the spec.
  void sample(std::int64_t index, std::uint64_t seed, std::int64_t epoch, Sample& out) const;

  friend Pipeline operator|(Pipeline pipeline, Transform transform);

 private:
  std::shared_ptr<Dataset const> dataset_;
  std::vector<Transform> transforms_;
  std::int64_t size_;
};
Pipeline operator|(Pipeline pipeline, Transform transform);
// The key of the bits that the transform at `place` gets: draw(key, epoch, index of the sample in the data set).
RandomKey alter_key(std::uint64_t seed, std::size_t place);

struct Split {
  Pipeline train, test;
};

// images: u8 (0..255) or f32 (0..1), [N,C,H,W] in either layout; labels: i32 [N]. Without a spec, mean and std are computed from
// these images and the labels are named by their numbers; hand a test set the spec of its training set.
Pipeline in_memory(Tensor images, Tensor labels);
Pipeline in_memory(Tensor images, Tensor labels, DataSpec spec);

}  // namespace falconet::data
