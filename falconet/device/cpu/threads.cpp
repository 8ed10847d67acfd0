#include "falconet/device/cpu/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "falconet/base/error.h"

namespace falconet {

struct ThreadPool::State {
  alignas(64) std::atomic<unsigned> generation{0};   // raised to start a job
  alignas(64) std::atomic<int> unfinished{0};        // workers that have not finished the job
  void (*body)(void const*, int, int) = nullptr;
  void const* context = nullptr;
  int tasks = 0;
  bool stop = false;
  std::vector<std::thread> workers;

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
      long const tasks = s.tasks;
      int const begin = int(tasks * t / size_), end = int(tasks * (t + 1) / size_);
      if (begin < end) s.body(s.context, begin, end);
      if (s.unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) s.unfinished.notify_one();
    }
  };
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
  s.generation.fetch_add(1, std::memory_order_release);
  s.generation.notify_all();
  body(context, 0, int(long(tasks) / size_));
  int left;
  while ((left = s.unfinished.load(std::memory_order_acquire)) != 0) wait_while(s.unfinished, left);
}

int usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : int(std::thread::hardware_concurrency());
  std::ifstream file("/sys/fs/cgroup/cpu.max");   // cgroup v2: "QUOTA PERIOD" in microseconds, or "max PERIOD"
  std::string quota;
  double period = 0;
  if (file >> quota >> period && quota != "max" && period > 0) cpus = std::min(cpus, int(std::ceil(std::stod(quota) / period)));
  return std::max(1, cpus);
}

}  // namespace falconet
