// The thread pool: every task once, and a machine that has no more threads to give is an error, not an end.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "falconet/base/error.h"
#include "falconet/device/cpu/threads.h"
#include "sanitized.h"

using namespace falconet;

TEST(ThreadPool, runs_every_task_once_whatever_its_size) {
  for (int threads : {1, 2, 3, 8})
    for (int tasks : {0, 1, 2, 7, 100}) {
      ThreadPool pool(threads);
      std::vector<std::atomic<int>> done(100);
      for (int round = 0; round < 3; ++round) pool.run(tasks, [&](int task) { ++done[std::size_t(task)]; });
      for (int task = 0; task < 100; ++task) EXPECT_EQ(done[std::size_t(task)], task < tasks ? 3 : 0) << threads << " threads, " << tasks << " tasks";
    }
}

// In a child process whose address space has no room for so many stacks.
TEST(ThreadPool, that_cannot_be_started_is_an_error_and_leaves_no_thread_behind) {
  if (sanitized) GTEST_SKIP() << "a sanitizer reserves more address space than any limit leaves";
  pid_t const child = fork();
  if (child == 0) {
    rlimit const limit{rlim_t(512) << 20, rlim_t(512) << 20};
    setrlimit(RLIMIT_AS, &limit);
    int code = 1;
    try {
      ThreadPool pool(4000);
    } catch (Error const& e) {
      std::string const what = e.what();
      bool const clear = e.kind == ErrorKind::device && what.starts_with("cannot start 4000 threads, only ") && what.find('\n') == std::string::npos;
      if (!clear) std::fprintf(stderr, "%s\n", what.c_str());
      code = clear ? 0 : 2;
    }
    int sum = 0;
    ThreadPool small(2);   // those that had been started have given back what they took
    small.run(2, [&](int task) { __atomic_fetch_add(&sum, task + 1, __ATOMIC_SEQ_CST); });
    _exit(sum == 3 ? code : 3);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// Of a made-up machine: files below a folder that stands for its root.
TEST(Cgroups, limit_the_cpus_wherever_the_quota_is_set) {
  namespace fs = std::filesystem;
  struct Case {
    std::map<std::string, std::string> files;
    double cpus;
  };
  double const none = INFINITY;
  for (auto const& c : std::vector<Case>{
           {{}, none},
           {{{"proc/self/cgroup", "0::/\n"}, {"sys/fs/cgroup/cpu.max", "250000 100000\n"}}, 2.5},                        // a container's own root
           {{{"proc/self/cgroup", "0::/\n"}, {"sys/fs/cgroup/cpu.max", "max 100000\n"}}, none},
           {{{"proc/self/cgroup", "0::/a.slice/job.scope\n"}, {"sys/fs/cgroup/a.slice/job.scope/cpu.max", "300000 100000\n"}}, 3},
           {{{"proc/self/cgroup", "0::/a.slice/job.scope\n"},                                                            // the parent's is tighter
             {"sys/fs/cgroup/a.slice/job.scope/cpu.max", "400000 100000\n"},
             {"sys/fs/cgroup/a.slice/cpu.max", "50000 100000\n"}},
            0.5},
           {{{"proc/self/cgroup", "0::/a.slice\n"}, {"sys/fs/cgroup/b.slice/cpu.max", "50000 100000\n"}}, none},         // not ours
           {{{"proc/self/cgroup", "0::/of/the/host\n"}, {"sys/fs/cgroup/cpu.max", "100000 100000\n"}}, 1},               // a path that is not seen from here
           {{{"proc/self/cgroup", "12:memory:/job\n4:cpu,cpuacct:/job\n"},
             {"sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "150000\n"},
             {"sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n"}},
            1.5},
           {{{"proc/self/cgroup", "3:cpu:/job\n0::/job\n"},
             {"sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"},
             {"sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"},
             {"sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n"},
             {"sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n"}},
            2},
           {{{"proc/self/cgroup", "5:cpuset:/job\n"}, {"sys/fs/cgroup/cpuset/job/cpu.cfs_quota_us", "1\n"}, {"sys/fs/cgroup/cpuset/job/cpu.cfs_period_us", "1\n"}}, none},
           {{{"proc/self/cgroup", "0::/\n"}, {"sys/fs/cgroup/cpu.max", "much 100000\n"}}, none},
           {{{"proc/self/cgroup", "0::/\n"}, {"sys/fs/cgroup/cpu.max", "100000 0\n"}}, none},
           {{{"proc/self/cgroup", "nonsense\n\n1:\n0::/\n"}, {"sys/fs/cgroup/cpu.max", "200000 100000\n"}}, 2},
       }) {
    char name[] = "/tmp/falconet_cgroup_XXXXXX";
    fs::path const root = mkdtemp(name);
    for (auto const& [file, text] : c.files) {
      fs::create_directories((root / file).parent_path());
      std::ofstream(root / file) << text;
    }
    EXPECT_EQ(cgroup_cpus(root.string()), c.cpus) << (c.files.empty() ? "" : c.files.begin()->second);
    fs::remove_all(root);
  }
  EXPECT_GE(usable_cpus(), 1);
}
