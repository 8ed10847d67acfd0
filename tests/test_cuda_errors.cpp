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
  require_memory(plan, *model.parameters(), std::int64_t(1) << 40);
  auto const largest = largest_consumers(plan, *model.parameters(), 3);
  ASSERT_EQ(largest.size(), 3u);
  EXPECT_GE(largest[0].bytes, largest[1].bytes);
  EXPECT_GE(largest[1].bytes, largest[2].bytes);
  try {
    require_memory(plan, *model.parameters(), 1000);
    FAIL() << "1000 bytes were enough";
  } catch (Error const& e) {
    std::string const text = e.what();
    EXPECT_EQ(e.kind, ErrorKind::device);
    for (std::string const& w : {std::string("out of memory"), std::string("bytes (0."), std::string(" needed, 1000 bytes"), largest[0].what, largest[1].what, largest[2].what})
      EXPECT_NE(text.find(w), std::string::npos) << w << " is not in: " << text;
  }
}

TEST(Pins, launch_parameters_by_hand) {
  Candidate listed{"tiles", "", {Config{{"tile_m", 128}, {"tile_n", 64}}, Config{{"tile_m", 64}, {"tile_n", 64}}}};
  EXPECT_EQ(config_by_hand(listed, {}).text(), "tile_m:128,tile_n:64");
  EXPECT_EQ(config_by_hand(listed, Config::parse("tile_m=64")).text(), "tile_m:64,tile_n:64");
  Candidate free{"naive", "", {Config{}}};
  free.ranges = {{"threads", 32, 1024, true}, {"blocks", 1, 1 << 20, false}};
  EXPECT_EQ(config_by_hand(free, Config::parse("threads=128,blocks=7")).text(), "threads:128,blocks:7");
  for (auto const& [candidate, config, word] : {std::tuple{&listed, "tile_m=32", "tile_m:64,tile_n:64"}, std::tuple{&free, "threads=100", "a power of two"}, std::tuple{&free, "thread=64", "blocks:1.."}}) {
    try {
      (void)config_by_hand(*candidate, Config::parse(config));
      ADD_FAILURE() << config;
    } catch (Error const& e) {
      EXPECT_EQ(e.kind, ErrorKind::usage);
      EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
    }
  }
}

}  // namespace falconet
