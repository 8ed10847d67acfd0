// The program on a GPU, as a user meets it: the same bytes twice, stopped and resumed, resident and staged; errors in one line.
// Exits 77 (skipped) where no GPU can be used. Usage: gpu_commands [sanitized]; sanitized leaves out what cannot be seen through a sanitizer's injection, which
// does not work in a process that sees no GPU.
#include <algorithm>
#include <cstdio>
#include <regex>

#include "gpu_test.h"
#include "program.h"

using namespace falconet::testing;
using namespace falconet::gpu_test;

namespace {

std::string without_seconds(std::string const& csv) { return std::regex_replace(csv, std::regex(",[^,\n]*\n"), "\n"); }

struct Place {
  Folder folder;
  Place() { write_digits(folder.path / "digits", 2000, 120); }
  std::vector<std::string> training(std::vector<std::string> more) const {
    std::vector<std::string> words = {"train", "model=lenet5", "data=mnist:digits", "epochs=30", "batch=32", "lr=0.05", "momentum=0.9", "seed=3", "device=cuda", "augment=crop2"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  Result falconet(std::vector<std::string> const& words) const { return run(words, folder.path); }
  bool same(std::string const& a, std::string const& b) const {
    return contents(folder.path / a / "best.safetensors") == contents(folder.path / b / "best.safetensors") && !contents(folder.path / a / "best.safetensors").empty() &&
           without_seconds(contents(folder.path / a / "results.csv")) == without_seconds(contents(folder.path / b / "results.csv"));
  }
  void refuses(std::vector<std::string> const& words, int code, std::vector<std::string> const& wanted) const {
    auto const r = falconet(words);
    bool good = r.code == code && r.err.starts_with("error:") && std::count(r.err.begin(), r.err.end(), '\n') == 1;
    for (auto const& w : wanted) good &= r.err.find(w) != std::string::npos;
    expect(good, words.back() + ": " + r.err);
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (int const code = skipped()) return code;
  bool const sanitized = argc > 1 && std::string(argv[1]) == "sanitized";
  Place const p;
  for (char const* run : {"a", "b"}) {
    auto const r = p.falconet(p.training({std::string("run=") + run}));
    if (r.code != 0) expect(false, r.err);
  }
  expect(p.same("a", "b"), "two runs: the same bytes");
  expect(contents(p.folder.path / "a/log.txt").find("resident on cuda:0") != std::string::npos, "the log says where the data lie");
  expect(p.falconet(p.training({"run=staged", "feed=staged"})).code == 0 && p.same("a", "staged"), "feed=staged: the same bytes");
  for (int signal : {SIGINT, SIGKILL}) {
    std::string const name = signal == SIGINT ? "stopped" : "killed";
    Process process(p.training({"run=" + name}), p.folder.path);
    bool const began = eventually([&] { return fs::exists(p.folder.path / name / "last.ckpt"); });
    process.kill(signal);
    auto const r = process.wait();
    expect(began && r.code == (signal == SIGINT ? 130 : 128 + SIGKILL), name + " in mid-run: " + r.err.substr(r.err.rfind("error") == std::string::npos ? 0 : r.err.rfind("error")));
    auto const resumed = p.falconet({"train", "resume=" + name});
    expect(resumed.code == 0 && p.same("a", name), name + " and resumed: the same bytes " + resumed.err.substr(0, 200));
  }
  p.refuses({"train", "model=resnet56", "data=mnist:digits", "device=cuda", "batch=160000"}, 1, {"out of memory on cuda:0", "needed", "free", "the largest: "});
  p.refuses(p.training({"device=cuda:64"}), 1, {"cuda:64", "does not exist"});
  p.refuses(p.training({"pin.conv1:fwd=naive:threads=100"}), 2, {"naive", "threads cannot be 100", "32..1024"});
  p.refuses(p.training({"pin.conv1:fwd=implicit_gemm:tile_m=3"}), 2, {"implicit_gemm", "tile_m cannot be 3"});
  expect(p.falconet(p.training({"run=pinned", "epochs=1", "pin.conv1:fwd=naive:threads=64,blocks=7", "pin.conv2:bwd_filter=naive:threads=512"})).code == 0 &&
             contents(p.folder.path / "pinned/plan.tsv").find("naive:threads:64,blocks:7") != std::string::npos,
         "launch parameters by pin are in the plan");
  for (char const* lane : {"0", "5"})
    expect(p.falconet(p.training({std::string("run=lane") + lane, "epochs=2", std::string("pin.conv2:bwd_filter=naive:threads=128,lane=") + lane})).code == 0 &&
               contents(p.folder.path / (std::string("lane") + lane) / "plan.tsv").find(std::string("naive:threads:128,lane:") + lane) != std::string::npos,
           std::string("a launch is pinned to lane ") + lane);
  expect(p.same("lane0", "lane5"), "and any lane gives the same bytes");
  p.refuses(p.training({"pin.conv2:bwd_filter=naive:lane=8"}), 2, {"pin.conv2:bwd_filter=naive:lane=8: lane cannot be 8, only 0..7"});
  setenv("CUDA_VISIBLE_DEVICES", "", 1);
  char const* const says_so = "without a GPU the same program says so and takes the CPU";
  if (sanitized) {
    std::printf("left out under a sanitizer: %s\n", says_so);
  } else {
    auto const without = p.falconet({"checks"});
    expect(without.code == 0 && without.out.find("no NVIDIA GPU was found") != std::string::npos && without.out.find("training runs on   the CPU") != std::string::npos, says_so);
  }
  expect(p.falconet({"train", "model=lenet5", "data=mnist:digits", "epochs=1", "run=without"}).code == 0, "and trains there");
  unsetenv("CUDA_VISIBLE_DEVICES");
  auto const checks = p.falconet({"checks"});
  expect(checks.code == 0 && checks.out.find("training runs on   cuda:0") != std::string::npos, "checks says that training runs on cuda:0");
  auto const bench = p.falconet({"bench", "conv", "problems=n2 c8 hw12 k8 rs3 p1 f32 nhwc", "device=cpu,cuda", "repetitions=5"});
  expect(bench.code == 0 && bench.out.find("cuda:0") != std::string::npos && bench.out.find("naive") != std::string::npos, "bench conv device=cpu,cuda " + bench.err);
  std::printf("%s", bench.out.c_str());
  return failures ? 1 : 0;
}
