#include <algorithm>

#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/data/normalise.h"
#include "falconet/data/pipeline.h"

namespace falconet::data {
namespace {

class InMemory : public Dataset {
 public:
  InMemory(Tensor images, Tensor labels, DataSpec spec) : images_(std::move(images)), labels_(std::move(labels)), spec_(std::move(spec)) {}
  std::int64_t size() const override { return labels_.shape()[0]; }
  DataSpec const& spec() const override { return spec_; }
  void sample(std::int64_t index, Sample& out) const override {
    auto const values = std::size_t(spec_.image.elements());
    if (images_.type().dtype == DType::u8) out.u8 = {images_.as<std::uint8_t>() + std::size_t(index) * values, values};
    else out.f32 = {images_.as<float>() + std::size_t(index) * values, values};
    out.label = labels_.as<std::int32_t>()[index];
  }

 private:
  Tensor images_, labels_;   // images with channels innermost
  DataSpec spec_;
};

void check_tensors(Tensor const& images, Tensor const& labels) {
  auto const& i = images.type();
  auto const& l = labels.type();
  if (i.shape.rank() != 4 || (i.dtype != DType::u8 && i.dtype != DType::f32))
    fail(ErrorKind::data, format("images are {}, expected u8 or f32 [N,C,H,W]", i.text()));
  if (l.shape.rank() != 1 || l.dtype != DType::i32) fail(ErrorKind::data, format("labels are {}, expected i32 [N]", l.text()));
  if (i.shape[0] != l.shape[0]) fail(ErrorKind::data, format("there are {} images, but {} labels", i.shape[0], l.shape[0]));
  if (i.shape.elements() < 1) fail(ErrorKind::data, format("images are {}, expected at least one", i.text()));
}

template <class T>
void channels_innermost(Tensor const& from, Tensor const& to) {
  auto const& s = from.shape();
  std::int64_t const channels = s[1], area = s[2] * s[3];
  T const* in = from.as<T>();
  T* out = to.as<T>();
  for (std::int64_t n = 0; n < s[0]; ++n)
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t i = 0; i < area; ++i) out[(n * area + i) * channels + c] = *in++;
}

Tensor channels_innermost(Tensor images) {
  if (images.type().layout == Layout::nhwc || images.shape()[1] == 1) return images;
  Tensor out(TensorType{images.type().dtype, images.shape(), Layout::nhwc});
  if (images.type().dtype == DType::u8) channels_innermost<std::uint8_t>(images, out);
  else channels_innermost<float>(images, out);
  return out;
}

}  // namespace

Pipeline in_memory(Tensor images, Tensor labels, DataSpec spec) {
  check_tensors(images, labels);
  check(spec);
  auto const& s = images.shape();
  if (Shape const image{s[1], s[2], s[3]}; !(image == spec.image))
    fail(ErrorKind::data, format("images are {}, but the data set's are {}", image.text(), spec.image.text()));
  for (std::int64_t i = 0; i < s[0]; ++i) {
    int const label = labels.as<std::int32_t>()[i];
    if (label < 0 || label >= std::int64_t(spec.labels.size()))
      fail(ErrorKind::data, format("label {} is {}, expected 0 to {}", i, label, std::int64_t(spec.labels.size()) - 1));
  }
  return Pipeline(std::make_shared<InMemory>(channels_innermost(std::move(images)), std::move(labels), std::move(spec)));
}

Pipeline in_memory(Tensor images, Tensor labels) {
  check_tensors(images, labels);
  images = channels_innermost(std::move(images));
  auto const& s = images.shape();
  auto const elements = std::size_t(s.elements());
  ChannelStatistics statistics{int(s[1])};
  if (images.type().dtype == DType::u8) statistics.add(std::span<std::uint8_t const>(images.as<std::uint8_t>(), elements));
  else statistics.add(std::span<float const>(images.as<float>(), elements));
  std::int32_t const* first = labels.as<std::int32_t>();
  std::int32_t const largest = *std::max_element(first, first + s[0]);
  if (largest > 1 << 20) fail(ErrorKind::data, format("a label is {}, expected the number of a class, from 0", largest));
  DataSpec spec{{s[1], s[2], s[3]}, statistics.mean(), statistics.std(), {}};
  for (std::int32_t label = 0; label <= largest; ++label) spec.labels.push_back(std::to_string(label));
  return in_memory(std::move(images), std::move(labels), std::move(spec));
}

}  // namespace falconet::data
