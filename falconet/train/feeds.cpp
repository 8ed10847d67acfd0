#include "falconet/train/feeds.h"

#include "falconet/base/error.h"

namespace falconet {

Feeding parse_feeding(std::string_view text) {
  if (text == "auto") return Feeding::automatic;
  if (text == "resident") return Feeding::resident;
  if (text == "staged") return Feeding::staged;
  fail(ErrorKind::usage, "the feed is auto, resident or staged, not '" + std::string(text) + "'");
}

Consumer resident_bytes(data::Pipeline const& pipeline) {
  auto const& image = pipeline.spec().image;
  std::int64_t const all = pipeline.dataset().size();
  data::Sample first;
  pipeline.plain().sample(0, 0, 0, first);
  return {"the data set (" + std::to_string(all) + " images of " + image.text() + ")", all * (image.elements() * (first.u8.empty() ? 4 : 1) + 8)};
}

std::string resident_refusal(data::Pipeline const& pipeline, std::size_t free_bytes) {
  int altered = 0;
  for (auto const& t : pipeline.transforms()) {
    if (!t.alter) continue;
    ++altered;
    if (t.kind == data::Transform::unknown) return "the GPU does not know the transform " + t.name;
  }
  if (altered > 8) return "more than 8 transforms of pixels";
  std::int64_t const all = pipeline.dataset().size(), used = pipeline.size();
  if (used < all / 4) return "only " + std::to_string(used) + " of " + std::to_string(all) + " samples are used";
  if (auto const bytes = resident_bytes(pipeline).bytes; bytes > room_for_data(free_bytes))
    return "it takes " + std::to_string(bytes) + " bytes, more than half of the " + std::to_string(free_bytes) + " free";
  return {};
}

}  // namespace falconet
