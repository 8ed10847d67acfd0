#include "falconet/device/cpu/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "falconet/base/error.h"

namespace falconet {

// A job is split into one range a thread. A range belongs to whoever claims it first: its own worker, or, where that one is still asleep or
// has no core (another process holds it), the caller once it has done its own. So a job never waits for a thread that has not begun.
struct ThreadPool::State {
  struct alignas(64) Claim {
    std::atomic<unsigned> generation{0};             // of the last job whose range was claimed
  };
  alignas(64) std::atomic<unsigned> generation{0};   // raised to start a job
  alignas(64) std::atomic<int> unfinished{0};        // ranges of the job that are not finished
  std::vector<Claim> claims;                         // by thread; the caller's is not used
  void (*body)(void const*, int, int) = nullptr;
  void const* context = nullptr;
  int tasks = 0;
  std::atomic<bool> stop{false};
  std::vector<std::thread> workers;

  // A range of a job can be claimed only while that job runs, since it does not end before all are finished; what describes the job may be
  // read after a claim, not before.
  bool claim(int range, unsigned job) {
    auto& last = claims[std::size_t(range)].generation;
    unsigned seen = last.load(std::memory_order_relaxed);
    return int(job - seen) > 0 && last.compare_exchange_strong(seen, job, std::memory_order_acq_rel, std::memory_order_relaxed);
  }
  void run(int range, int threads) {
    long const all = tasks;
    int const begin = int(all * range / threads), end = int(all * (range + 1) / threads);
    if (begin < end) body(context, begin, end);
  }
  void end() {
    stop = true;
    generation.fetch_add(1, std::memory_order_acq_rel);
    generation.notify_all();
    for (auto& w : workers) w.join();
    workers.clear();
  }
};

namespace {
inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}
// Spins for a short while until the value changes, then sleeps in the kernel. A pool that spins for ever is ruinous where
// another process holds the core: the spin is bounded by time, not by rounds, since a pause takes 10 to 140 cycles.
template <class T>
void wait_while(std::atomic<T>& value, T old) {
  auto const until = std::chrono::steady_clock::now() + std::chrono::microseconds(30);
  while (value.load(std::memory_order_acquire) == old) {
    for (int i = 0; i < 32; ++i) {
      pause_cpu();
      if (value.load(std::memory_order_acquire) != old) return;
    }
    if (std::chrono::steady_clock::now() > until) {
      value.wait(old, std::memory_order_acquire);
      return;
    }
  }
}
}  // namespace

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()), size_(std::max(1, threads)) {
  auto const work = [this](int t) {
    State& s = *state_;
    unsigned seen = 0;
    while (true) {
      wait_while(s.generation, seen);
      seen = s.generation.load(std::memory_order_acquire);
      if (s.stop) return;
      if (!s.claim(t, seen)) continue;
      s.run(t, size_);
      if (s.unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) s.unfinished.notify_one();
    }
  };
  state_->claims = std::vector<State::Claim>(std::size_t(size_));
  try {
    state_->workers.reserve(std::size_t(size_ - 1));
    for (int t = 1; t < size_; ++t) state_->workers.emplace_back(work, t);
  } catch (std::exception const& e) {  // a limit of the process or of the machine
    auto const started = state_->workers.size() + 1;
    state_->end();
    fail(ErrorKind::device, "cannot start " + std::to_string(size_) + " threads, only " + std::to_string(started) + ": " + e.what() +
                                "; threads= sets their number");
  }
}

ThreadPool::~ThreadPool() { state_->end(); }

void ThreadPool::run_ranges(int tasks, void (*body)(void const*, int, int), void const* context) {
  if (tasks <= 0) return;
  if (size_ == 1 || tasks == 1) return body(context, 0, tasks);
  State& s = *state_;
  s.body = body;
  s.context = context;
  s.tasks = tasks;
  s.unfinished.store(size_ - 1, std::memory_order_relaxed);
  unsigned const job = s.generation.fetch_add(1, std::memory_order_release) + 1;
  s.generation.notify_all();
  s.run(0, size_);
  int taken = 0;
  for (int t = 1; t < size_; ++t)
    if (s.claim(t, job)) s.run(t, size_), ++taken;
  if (taken) s.unfinished.fetch_sub(taken, std::memory_order_acq_rel);
  int left;
  while ((left = s.unfinished.load(std::memory_order_acquire)) != 0) wait_while(s.unfinished, left);
}

namespace {
// The whole text as a number, whatever the locale; NaN if it is none ("max").
double number(std::string const& text) {
  double value = 0;
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : std::numeric_limits<double>::quiet_NaN();
}
std::string word_of(std::ifstream file) {
  std::string word;
  file >> word;
  return word;
}
// QUOTA and PERIOD in microseconds; no quota is "max" in v2, -1 in v1.
double cpus_of(std::string const& quota, std::string const& period) {
  double const q = number(quota), p = number(period);
  return q > 0 && p > 0 ? q / p : std::numeric_limits<double>::infinity();
}
}  // namespace

double cgroup_cpus(std::string const& root) {
  double least = std::numeric_limits<double>::infinity();
  // A folder of a hierarchy and all those above it. A container may see its own group as the hierarchy's root, whatever its path says.
  auto const walk = [&](std::string const& mount, std::string path, bool v2) {
    while (true) {
      std::string const folder = root + mount + path;
      if (v2) {
        std::ifstream file(folder + "/cpu.max");
        std::string quota, period;
        if (file >> quota >> period) least = std::min(least, cpus_of(quota, period));
      } else {
        least = std::min(least, cpus_of(word_of(std::ifstream(folder + "/cpu.cfs_quota_us")), word_of(std::ifstream(folder + "/cpu.cfs_period_us"))));
      }
      if (path.empty()) return;
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  };
  std::ifstream groups(root + "/proc/self/cgroup");      // "0::/user.slice/job" (v2), "4:cpu,cpuacct:/job" (v1)
  for (std::string line; std::getline(groups, line);) {
    auto const first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string const controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    while (path.ends_with('/')) path.pop_back();
    if (controllers.empty()) {
      for (char const* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) walk(mount, path, true);
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      for (std::string const& mount : {std::string("/sys/fs/cgroup/cpu"), "/sys/fs/cgroup/" + controllers}) walk(mount, path, false);
    }
  }
  return least;
}

int usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : int(std::thread::hardware_concurrency());
  double const quota = cgroup_cpus();
  if (quota < cpus) cpus = int(std::ceil(quota));
  return std::max(1, cpus);
}

}  // namespace falconet
