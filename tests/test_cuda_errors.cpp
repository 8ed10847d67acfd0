// What falconet says when a GPU cannot be used, for every answer that driver and runtime may give: the answers are made up here, so no GPU is
// needed. One line each, and device=auto goes on without the GPU.
#include <gtest/gtest.h>

#include "falconet/base/error.h"
#include "falconet/device/cuda_status.h"
#include "falconet/device/device.h"
#include "falconet/nn/model.h"
#include "falconet/nn/models.h"
#include "falconet/plan/footprint.h"
#include "falconet/plan/step.h"
#include "falconet/train/feeds.h"
#include "error_text.h"

namespace falconet {
namespace {

struct Answers {
  int driver = 13000, driver_code = 0, runtime = 13000, count = 1, count_code = 0, device_code = 0;
};

class Probed {
 public:
  explicit Probed(Answers a) {
    probe_.built = true;
    probe_.architectures = "sm_90a";
    probe_.driver_version = [a](int& v) { return v = a.driver, a.driver_code; };
    probe_.runtime_version = [a](int& v) { return v = a.runtime, 0; };
    probe_.device_count = [a](int& n) { return n = a.count, a.count_code; };
    probe_.try_device = [a](int) { return a.device_code; };
    probe_.device_name = [](int) { return std::string("Some GPU (compute capability 8.6)"); };
    probe_.describe = [](int code) { return "code " + std::to_string(code); };
    set_cuda_probe(&probe_);
  }
  ~Probed() { set_cuda_probe(nullptr); }

 private:
  CudaProbe probe_;
};

std::string refusal_of(std::string const& device) {
  try {
    (void)Device::parse(device);
  } catch (Error const& e) {
    EXPECT_EQ(e.kind, ErrorKind::device);
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << "more than one line";
    return e.what();
  }
  return {};
}

void expect_refused(Answers a, std::vector<std::string> const& words) {
  Probed const probed(a);
  auto const text = refusal_of("cuda");
  for (auto const& w : words) EXPECT_NE(text.find(w), std::string::npos) << "'" << w << "' is not in: " << text;
  EXPECT_EQ(Device::parse("auto"), Device{}) << "auto takes the CPU";
}

}  // namespace

TEST(CudaErrors, a_gpu_that_answers_well_is_taken) {
  Probed const probed({});
  EXPECT_EQ(Device::parse("auto"), (Device{DeviceKind::cuda, 0}));
  EXPECT_EQ(Device::parse("cuda:0"), (Device{DeviceKind::cuda, 0}));
  EXPECT_NE(refusal_of("cuda:1").find("there is 1 GPU"), std::string::npos);
}
TEST(CudaErrors, no_driver) {
  expect_refused({.driver = 0, .count = 0, .count_code = 35}, {"no NVIDIA driver"});
  expect_refused({.driver = 0, .count = 0, .count_code = 34}, {"no NVIDIA driver"});
}
TEST(CudaErrors, a_driver_that_is_too_old_names_both_versions) { expect_refused({.driver = 12040, .count = 0, .count_code = 35}, {"too old", "CUDA 12.4", "needs 13.0"}); }
TEST(CudaErrors, a_driver_but_no_gpu) {
  expect_refused({.count = 0, .count_code = 100}, {"no NVIDIA GPU"});
  expect_refused({.count = 0}, {"no NVIDIA GPU"});
}
TEST(CudaErrors, driver_and_kernel_module_differ) { expect_refused({.count = 0, .count_code = 803}, {"different versions"}); }
TEST(CudaErrors, a_gpu_that_is_not_ready) {
  expect_refused({.count = 0, .count_code = 802}, {"not ready", "fabric manager"});
  expect_refused({.device_code = 802}, {"GPU 0", "not ready", "fabric manager"});
}
TEST(CudaErrors, a_driver_that_cannot_serve_this_runtime) { expect_refused({.driver = 12080, .count = 0, .count_code = 804}, {"too old", "CUDA 12.8"}); }
TEST(CudaErrors, no_kernel_for_this_architecture_names_both) {
  for (int code : {209, 98}) expect_refused({.device_code = code}, {"Some GPU", "8.6", "sm_90a", "FALCONET_CUDA_ARCHITECTURES", "80-ptx"});
}
TEST(CudaErrors, ptx_that_the_driver_does_not_compile) {
  expect_refused({.device_code = 222}, {"Some GPU", "8.6", "sm_90a", "PTX", "driver is older", "CUDA 13.0"});
  for (int code : {221, 223}) expect_refused({.device_code = code}, {std::string("Some GPU"), std::string("PTX"), "code " + std::to_string(code)});
}
TEST(CudaErrors, a_busy_gpu) { expect_refused({.device_code = 46}, {"GPU 0", "busy"}); }
TEST(CudaErrors, a_full_gpu) { expect_refused({.device_code = 2}, {"GPU 0", "memory"}); }
TEST(CudaErrors, anything_else_is_quoted) {
  expect_refused({.device_code = 999}, {"code 999"});
  expect_refused({.count = 0, .count_code = 999}, {"code 999"});
}

TEST(CudaErrors, a_failed_call_names_it_and_an_asynchronous_fault_says_how_to_find_its_kernel) {
  auto const launch = cuda_failure("launching kernel conv naive", 9, "invalid configuration argument (cudaErrorInvalidConfiguration)", "problem 'fwd n1'", false);
  EXPECT_EQ(launch, "launching kernel conv naive failed: invalid configuration argument (cudaErrorInvalidConfiguration); problem 'fwd n1'");
  EXPECT_NE(cuda_failure("cudaStreamSynchronize", 700, "an illegal memory access", "", false).find("cuda.check=sync"), std::string::npos);
  EXPECT_EQ(cuda_failure("cudaStreamSynchronize", 700, "an illegal memory access", "", true).find("cuda.check"), std::string::npos);
}

TEST(CudaErrors, too_little_memory_is_said_before_the_first_step_with_the_three_largest_consumers) {
  auto const& d = models::find("resnet20");
  Model model({d.image, {0, 0, 0}, {1, 1, 1}, std::vector<std::string>(10, "c")}, d.make(10), {.device = "cpu"});
  TrainStep step(model, {.batch = 8}, cross_entropy(), OptimizerOptions{});
  auto const& plan = step.session().plan();
  require_memory(plan, *model.parameters(), {}, std::int64_t(1) << 40);
  auto const largest = largest_consumers(plan, *model.parameters(), {}, 3);
  ASSERT_EQ(largest.size(), 3u);
  EXPECT_GE(largest[0].bytes, largest[1].bytes);
  EXPECT_GE(largest[1].bytes, largest[2].bytes);
  try {
    require_memory(plan, *model.parameters(), {}, 1000);
    FAIL() << "1000 bytes were enough";
  } catch (Error const& e) {
    std::string const text = e.what();
    EXPECT_EQ(e.kind, ErrorKind::device);
    for (std::string const& w : {std::string("out of memory"), std::string("bytes (0."), std::string(" needed, 1000 bytes"), largest[0].what, largest[1].what, largest[2].what})
      EXPECT_NE(text.find(w), std::string::npos) << w << " is not in: " << text;
  }
}

// A data set that lies on the GPU is named, be it in the way of a plan or without room itself.
TEST(CudaErrors, a_data_set_is_among_the_consumers_by_its_name) {
  auto const& d = models::find("lenet5");
  Model model({d.image, {0}, {1}, std::vector<std::string>(10, "c")}, d.make(10), {.device = "cpu"});
  TrainStep step(model, {.batch = 8}, cross_entropy(), OptimizerOptions{});
  auto const& plan = step.session().plan();
  Device const gpu{DeviceKind::cuda, 0};
  Tensor images({DType::u8, {3, 1, 28, 28}, Layout::nhwc}), labels({DType::i32, {3}});
  std::fill_n(images.as<std::uint8_t>(), 3 * 28 * 28, std::uint8_t(7)), std::fill_n(labels.as<std::int32_t>(), 3, 0);
  auto const digits = data::in_memory(std::move(images), std::move(labels), {d.image, {0}, {1}, std::vector<std::string>(10, "c")});
  auto const data = resident_bytes(digits);
  EXPECT_EQ(data.what, "the data set (3 images of 1x28x28)");
  EXPECT_EQ(data.bytes, 3 * (28 * 28 + 8));
  EXPECT_TRUE(named_memory(gpu).empty());
  {
    NamedMemory const first(gpu, data.what, std::int64_t(9) << 30), other({DeviceKind::cuda, 1}, "another", 5);
    NamedMemory moved(gpu, "small", 7);
    NamedMemory const kept = std::move(moved);
    auto const beside = named_memory(gpu);
    ASSERT_EQ(beside.size(), 2u);
    EXPECT_EQ(beside[1].what, "small");
    auto const largest = largest_consumers(plan, *model.parameters(), beside, 3);
    EXPECT_EQ(largest[0].what, data.what);
    auto const text = text_of_error([&] { require_memory(plan, *model.parameters(), beside, 1000); }, ErrorKind::device);
    EXPECT_EQ(text.find("out of memory on "), 0u) << text;
    for (std::string const& w : {std::string(" needed, 1000 bytes (0.00 GiB) free; the largest: the data set (3 images of 1x28x28) 9663676416 bytes (9.00 GiB), "), largest[1].what, largest[2].what})
      EXPECT_NE(text.find(w), std::string::npos) << w << " is not in: " << text;
  }
  EXPECT_TRUE(named_memory(gpu).empty());
  require_room(data, data.bytes, plan, *model.parameters(), 2 * data.bytes);
  auto const text = text_of_error([&] { require_room({data.what, std::int64_t(3) << 30}, std::int64_t(2) << 30, plan, *model.parameters(), std::int64_t(4) << 30); }, ErrorKind::device);
  for (char const* w : {"3221225472 bytes (3.00 GiB) needed for the data set (3 images of 1x28x28), 4294967296 bytes (4.00 GiB) free, of which it may take 2147483648",
                        "the largest: the data set (3 images of 1x28x28) 3221225472", "feed=staged"})
    EXPECT_NE(text.find(w), std::string::npos) << w << " is not in: " << text;
  EXPECT_EQ(text.find('\n'), std::string::npos) << text;
}

TEST(Pins, launch_parameters_by_hand) {
  Candidate listed{"tiles", "", {Config{{"tile_m", 128}, {"tile_n", 64}}, Config{{"tile_m", 64}, {"tile_n", 64}}}};
  EXPECT_EQ(config_by_hand(listed, {}).text(), "tile_m:128,tile_n:64");
  EXPECT_EQ(config_by_hand(listed, Config::parse("tile_m=64")).text(), "tile_m:64,tile_n:64");
  Candidate free{"naive", "", {Config{}}};
  free.ranges = {{"threads", 32, 1024, true}, {"blocks", 1, 1 << 20, false}};
  EXPECT_EQ(config_by_hand(free, Config::parse("threads=128,blocks=7")).text(), "threads:128,blocks:7");
  EXPECT_EQ(config_by_hand(free, Config::parse("blocks=7,threads=128")).text(), "threads:128,blocks:7") << "in the algorithm's order";
  EXPECT_EQ(config_by_hand(free, Config::parse("blocks=7")).text(), "blocks:7") << "the kernel knows its own default of the rest";
  Candidate mixed{"parts", "", {Config{{"tile", 128}, {"deterministic", 0}}, Config{{"tile", 64}, {"deterministic", 0}}}};
  mixed.ranges = {{"parts", 1, 9, false}, {"rows", 2, 2, false}, {"rows", 4, 4, false}};
  EXPECT_EQ(config_by_hand(mixed, Config::parse("parts=3")).text(), "tile:128,deterministic:0,parts:3") << "what is compiled in comes from the best guess";
  EXPECT_EQ(config_by_hand(mixed, Config::parse("rows=4,parts=3,tile=64")).text(), "tile:64,deterministic:0,parts:3,rows:4");
  Candidate many{"bands", "", {Config{}}};
  for (int rows = 2; rows <= 30; rows += 2) many.ranges.push_back({"rows", rows, rows, false});
  Candidate none{"plain", "", {Config{}}};
  Candidate two{"tiles", "", {Config{{"m", 128}, {"n", 128}}, Config{{"m", 64}, {"n", 64}}}};
  for (auto const& [candidate, config, message] :
       {std::tuple{&listed, "tile_m=32", "tiles: tile_m cannot be 32 here, only 64, 128"}, std::tuple{&free, "threads=100", "naive: threads cannot be 100 here, only 32..1024 (a power of two)"},
        std::tuple{&free, "blocks=-1", "naive: blocks cannot be -1 here, only 1..1048576"}, std::tuple{&free, "thread=64", "naive has no launch parameter 'thread' here; it takes blocks:1..1048576, threads:32..1024 (a power of two)"},
        std::tuple{&mixed, "tile=32,parts=3", "parts: tile cannot be 32 here, only 64, 128"}, std::tuple{&mixed, "rows=3", "parts: rows cannot be 3 here, only 2, 4"},
        std::tuple{&many, "rows=32", "bands: rows cannot be 32 here, only 2, 4 .. 30"}, std::tuple{&none, "threads=64", "plain has no launch parameter 'threads' here; it takes none"},
        std::tuple{&two, "m=128,n=64", "tiles is not compiled for 'm:128,n:64'; it has m:128,n:128 | m:64,n:64"}, std::tuple{&free, "threads=99999999999", "launch parameter 'threads=99999999999' is out of range"},
        std::tuple{&free, "threads=64,threads=128", "launch parameter 'threads' stands twice in 'threads=64,threads=128'"}, std::tuple{&free, "threads", "launch parameter 'threads' should read name=number"}}) {
    try {
      (void)config_by_hand(*candidate, Config::parse(config));
      ADD_FAILURE() << config;
    } catch (Error const& e) {
      EXPECT_EQ(e.kind, ErrorKind::usage);
      EXPECT_EQ(std::string(e.what()), message);
    }
  }
}

}  // namespace falconet
