// Feeds for GPUs in a build without CUDA.
#include "falconet/base/error.h"
#include "falconet/train/feeds.h"

namespace falconet {
namespace {
[[noreturn]] void absent() { fail(ErrorKind::device, "this falconet was built without CUDA; FALCONET_CUDA=on make build brings it"); }
}  // namespace

std::unique_ptr<EpochFeed> resident_feed(data::Pipeline const&, FeedOptions const&, Device, ThreadPool&) { absent(); }
std::unique_ptr<EpochFeed> staged_feed(data::Pipeline const&, FeedOptions const&, Device) { absent(); }

}  // namespace falconet
