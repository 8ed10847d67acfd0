// How the algorithms that keep a row's channels together share the rows among threads.
#pragma once
#include <algorithm>

#include "falconet/device/cpu/threads.h"
#include "falconet/device/device.h"
#include "falconet/ops/softmax/problem.h"

namespace falconet {

// rows(begin, end) for parts of all rows, each of some 16,384 elements or one row: parts by the problem alone, not by the number of threads.
template <class Rows>
void run_rows(SoftmaxProblem const& p, Stream& stream, Rows const& rows) {
  long const all = long(p.n() * p.places());
  int const tasks = int(std::clamp<std::int64_t>(p.x.shape.elements() / 16384, 1, all));
  stream.threads().run(tasks, [&](int task) { rows(all * task / tasks, all * (task + 1) / tasks); });
}

}  // namespace falconet
