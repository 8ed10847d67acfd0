// A fixed pool of threads with a static split of the work: the same task runs with the same inputs whatever the number of
// threads, so results never depend on it. Waiting threads spin for some microseconds and then sleep.
#pragma once
#include <memory>
#include <string>

namespace falconet {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);                 // threads >= 1, the calling thread included; device error if they cannot start
  ~ThreadPool();
  ThreadPool(ThreadPool const&) = delete;
  ThreadPool& operator=(ThreadPool const&) = delete;
  int size() const { return size_; }

  // Calls body(task) once for every task in [0, tasks); each thread takes one contiguous share. Returns when all are done.
  // The body must not throw and must not call run of the same pool. Only one thread may call run at a time.
  template <class Body>
  void run(int tasks, Body const& body) {
    run_ranges(tasks, [](void const* b, int begin, int end) {
      for (int task = begin; task < end; ++task) (*static_cast<Body const*>(b))(task);
    }, &body);
  }
  void run_ranges(int tasks, void (*body)(void const* context, int begin, int end), void const* context);

 private:
  struct State;
  std::unique_ptr<State> state_;
  int size_;
};

int usable_cpus();   // CPUs that this process may use: affinity mask and cgroup quota, at least 1
// The tightest quota, in CPUs, of the control groups that this process is in and of those around them (v2's cpu.max, v1's
// cpu.cfs_quota_us); infinity where there is none. root: what stands before /proc and /sys.
double cgroup_cpus(std::string const& root = {});

}  // namespace falconet
