// bench train, bench predict: time of a step on a resident random batch, and where it goes.
#include <cstdio>
#include <functional>
#include <optional>

#include "cli/commands.h"
#include "cli/inputs.h"
#include "cli/measure.h"
#include "cli/table.h"
#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/base/random.h"
#include "falconet/ops/algorithms.h"
#include "falconet/plan/feed.h"
#include "falconet/train/schedule.h"

namespace falconet::cli {
namespace {

std::span<float> floats(View v) { return {v.as<float>(), std::size_t(v.type.shape.elements())}; }

constexpr int together = 5;   // predictions on a GPU

// At least five steps and 0.2 s to warm up, then `steps` timed ones; the seconds of each are divided by `parts`.
Spread time_steps(int steps, std::function<void()> const& step, int parts = 1) {
  double const start = now();
  for (int i = 0; i < 5 || now() - start < 0.2; ++i) step();
  std::vector<double> seconds;
  for (int i = 0; i < steps; ++i) {
    double const begin = now();
    step();
    seconds.push_back((now() - begin) / parts);
  }
  return spread(std::move(seconds));
}

// A batch that lies on the GPU already.
struct ResidentBatch final : Feed {
  void launch(FeedTarget const&, Stream&) override {}
};

// The same on a GPU, launched ahead as in training: the times between the ends of neighbouring steps' losses.
Spread time_steps_in_flight(int steps, TrainStep& step) {
  (void)step.run();   // brings the batch over
  ResidentBatch feed;
  auto const flight = step.in_flight(feed);
  flight->start();
  std::vector<double> seconds;
  double const start = now();
  double last = start;
  std::int64_t launched = 0, seen = 0, first = -1;      // first: of the timed ones
  while (first < 0 || seen < first + steps) {
    if (launched - seen < 8) flight->launch(), ++launched;
    std::int64_t const done = flight->done();
    if (flight->failed()) {
      flight->finish();
      step.fail_not_finite(flight->result(done).loss);
    }
    if (done == seen) {
      flight->check();
      continue;
    }
    double const at = now();
    if (first >= 0)
      for (std::int64_t i = seen; i < done; ++i) seconds.push_back((at - last) / double(done - seen));
    else if (done >= 5 && at - start > 0.2) first = done;
    last = at, seen = done;
  }
  flight->finish();
  return spread(std::move(seconds));
}

// Predictions on a GPU from a batch that lies there, their results brought to the host: the mean of five launched one after another, the last of
// which is waited for.
Spread time_predictions_in_flight(int steps, InferenceStep& step) {
  step.run();   // brings the batch over
  ResidentBatch feed;
  auto const inference = step.fed(feed);
  return time_steps(steps, [&] {
    for (int i = 0; i < together; ++i) inference->launch(0);
    (void)inference->wait();
  }, together);
}

struct LaunchTime {
  double seconds = 0, operations = 0, bytes = 0, floor = 0;
};

std::vector<LaunchTime> time_launches(Session& session) {
  auto const& launches = session.plan().step;
  std::vector<std::vector<double>> seconds(launches.size());
  double const start = now();
  for (int i = 0; i < 30 && (i < 5 || now() - start < 2); ++i) {
    std::vector<double> once;
    session.step_timed(once);
    for (std::size_t l = 0; l < once.size(); ++l) seconds[l].push_back(once[l]);
  }
  std::vector<LaunchTime> out;
  for (std::size_t l = 0; l < launches.size(); ++l) {
    auto const& table = algorithms_of(launches[l].op);
    LaunchTime t;
    t.seconds = spread(std::move(seconds[l])).median;
    t.operations = table.operations(launches[l].problem);
    t.bytes = bytes_of(table.operands(launches[l].problem));
    out.push_back(t);
  }
  return out;
}

void report(Settings const& settings, std::string const& what, Model const& model, Session& session, StepOptions const& options,
            Spread const& step) {
  std::int64_t const peak = peak_resident_bytes();  // before the limits are measured: that takes memory of its own
  std::optional<Limits> limits;                     // of the processor, or
  std::optional<GpuLimits> gpu_limits;
  if (session.plan().device.kind == DeviceKind::cpu) limits.emplace(*model.threads(), model.facts().isa);
  else gpu_limits.emplace(session.plan().device);
  auto times = time_launches(session);
  bool above = false;
  auto const& launches = session.plan().step;
  if (limits) {
    for (auto const& t : times) (void)limits->seconds(t.operations, t.bytes, options.precision.type);
    limits->measure_again();
    for (auto& t : times) {
      t.floor = limits->seconds(t.operations, t.bytes, options.precision.type);
    }
  } else {
    for (std::size_t i = 0; i < launches.size(); ++i) times[i].floor = gpu_limits->seconds(launches[i].op, launches[i].problem);
  }
  for (auto const& t : times) above |= t.floor > 1.005 * t.seconds;   // "101 %"
  double sum = 0, floor = 0, operations = 0, bytes = 0;
  for (auto const& t : times) sum += t.seconds, floor += t.floor, operations += t.operations, bytes += t.bytes;
  std::int64_t state = 0;   // weights, running statistics and the optimizer's states, which outlive a step
  for (auto const& e : model.parameters()->entries()) state += std::int64_t(e.tensor.type().bytes());
  std::string const precision(name(options.precision)), device = session.plan().device.text(), isa(name(model.facts().isa));
  if (settings.flag("json")) {
    JsonRow row;
    row.add("what", what)
        .add("model", model.name)
        .add("batch", options.batch)
        .add("precision", precision)
        .add("device", device)
        .add("isa", isa);
    row.add("threads", model.threads()->size())
        .add("ms", step.median * 1e3)
        .add("ms_min", step.least * 1e3)
        .add("images_per_second", options.batch / step.median);
    row.add("gflops", operations / step.median * 1e-9).add("floor_ms", floor * 1e3).add("launches", std::int64_t(launches.size()));
    row.add("arena_bytes", session.memory_bytes()).add("state_bytes", state).add("peak_bytes", peak);
    std::fputs(row.text().c_str(), stdout);
    for (std::size_t i = 0; i < launches.size(); ++i) {
      auto const& l = launches[i];
      JsonRow line;
      line.add("what", "launch")
          .add("model", model.name)
          .add("layer", l.layer)
          .add("direction", l.direction)
          .add("op", l.op)
          .add("problem", l.problem);
      line.add("algorithm", l.choice.algorithm)
          .add("config", l.choice.config.text())
          .add("ms", times[i].seconds * 1e3)
          .add("share", times[i].seconds / sum);
      line.add("gflops", times[i].operations / times[i].seconds * 1e-9).add("bytes", times[i].bytes).add("floor_ms", times[i].floor * 1e3);
      std::fputs(line.text().c_str(), stdout);
    }
    return;
  }
  std::printf("%s%s\n", model.facts().name.c_str(), limits ? (", " + limits->text()).c_str() : (", " + gpu_limits->text()).c_str());
  std::printf("%s %s, batch %d, %s: %s ms (median of %lld steps; least %s), %s images/s, %s GFLOP/s\n", what.c_str(), model.name.c_str(),
              options.batch, precision.c_str(), short_number(step.median * 1e3).c_str(), static_cast<long long>(settings.whole("steps")),
              short_number(step.least * 1e3).c_str(), with_commas(std::int64_t(options.batch / step.median)).c_str(),
              short_number(operations / step.median * 1e-9).c_str());
  std::printf("%zu launches, %s of memory for the step, %s of weights and states, %s at most in the process\n\n", launches.size(),
              bytes_text(double(session.memory_bytes())).c_str(), bytes_text(double(state)).c_str(), bytes_text(double(peak)).c_str());
  Table table({"layer", "direction", "operation", "algorithm", ">ms", ">share", ">GFLOP/s", ">MB", ">limit ms", ">of limit"});
  for (std::size_t i = 0; i < launches.size(); ++i) {
    auto const& l = launches[i];
    auto const& t = times[i];
    table.row({l.layer, l.direction, l.op, l.choice.text(), format("{:.4f}", t.seconds * 1e3), format("{:.1f} %", 100 * t.seconds / sum),
               short_number(t.operations / t.seconds * 1e-9), short_number(t.bytes * 1e-6), format("{:.4f}", t.floor * 1e3), format("{:.0f} %", 100 * t.floor / t.seconds)});
  }
  table.row({"all", "", "", "", format("{:.4f}", sum * 1e3), "100 %", short_number(operations / sum * 1e-9), short_number(bytes * 1e-6), format("{:.4f}", floor * 1e3), format("{:.0f} %", 100 * floor / sum)});
  std::fputs(table.text().c_str(), stdout);
  if (above) std::printf("%s\n", above_limit_note);
}

}  // namespace

int bench_train(Settings& settings) {
  auto const model = described_model(settings, nullptr);
  auto const options = step_options(settings);
  TrainStep step(*model, options, cross_entropy(), sgd({.momentum = 0.9}).options);
  fill_normal(floats(step.images()), random_key(1, hash("bench.images")), 0, 0, 1);
  auto const classes = std::uint32_t(model->output_shape()[1]);
  for (int i = 0; i < options.batch; ++i)
    step.targets().as<std::int32_t>()[i] =
        std::int32_t(bounded(wide_bits(0, draw(random_key(1, hash("bench.labels")), 0, std::uint64_t(i)).word[0]), classes));
  step.state().learning_rate = 1e-4f;
  auto const steps = int(settings.whole("steps"));
  auto const time = model->device().kind == DeviceKind::cuda ? time_steps_in_flight(steps, step) : time_steps(steps, [&] { (void)step.run(); });
  report(settings, "train", *model, step.session(), options, time);
  return 0;
}

int bench_predict(Settings& settings) {
  auto const model = described_model(settings, nullptr);
  auto const options = step_options(settings);
  InferenceStep step(*model, options);
  fill_normal(floats(step.images()), random_key(1, hash("bench.images")), 0, 0, 1);
  auto const steps = int(settings.whole("steps"));
  auto const time = model->device().kind == DeviceKind::cuda ? time_predictions_in_flight(steps, step) : time_steps(steps, [&] { step.run(); });
  report(settings, "predict", *model, step.session(), options, time);
  return 0;
}

}  // namespace falconet::cli
