// One function per verb. Each takes settings that have been read and returns the exit code; errors are thrown.
#pragma once
#include "falconet/base/settings.h"

namespace falconet::cli {

int train(Settings& settings);
int evaluate(Settings& settings);
int predict(Settings& settings);
int summary(Settings& settings);
int tune(Settings& settings);
int checks(Settings& settings);
int bench_algorithms(Settings& settings, std::string_view operation);  // bench conv, bench gemm ...
std::string problem_lists(std::string_view operation);                 // "li2019, resnet50": what problems= of that benchmark may be
int bench_train(Settings& settings);
int bench_predict(Settings& settings);

}  // namespace falconet::cli
