#include "falconet/data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "falconet/base/error.h"
#include "falconet/base/format.h"
#include "falconet/data/normalise.h"

namespace falconet::data {

// Batches are numbered by tickets from the last seek on: ticket t goes into slot t % slots. A thread takes the next ticket whose
// slot the caller of next() has given back, so batches come out in order however long each takes.
struct Loader::State {
  struct Slot {
    Tensor images, labels;
    Batch batch;
    std::int64_t ticket = -1;      // the batch that lies here, finished
    std::exception_ptr error;
  };
  struct Worker {
    Sample sample;
    std::vector<std::uint32_t> order;
    std::int64_t order_epoch = -1;
    std::thread thread;
  };

  State(Pipeline p, LoaderOptions o) : pipeline(std::move(p)), options(o), normalise(pipeline.spec()) {
    if (o.batch < 1) fail(ErrorKind::usage, format("batch is {}, expected at least 1", o.batch));
    if (o.threads < 0 || o.threads > 1024) fail(ErrorKind::usage, format("the loader's threads are {}, expected 0 to 1024", o.threads));
    per_epoch = o.drop_last ? pipeline.size() / o.batch : (pipeline.size() + o.batch - 1) / o.batch;
    if (per_epoch < 1) fail(ErrorKind::usage, format("batch is {}, but there are only {} samples", o.batch, pipeline.size()));
    auto const& image = pipeline.spec().image;
    slots.resize(o.threads == 0 ? 1 : std::size_t(std::max({o.ahead, o.threads, 1})) + 1);
    for (auto& slot : slots) {
      slot.images = Tensor({DType::f32, {o.batch, image[0], image[1], image[2]}, Layout::nhwc});
      slot.labels = Tensor({DType::i32, {o.batch}});
      slot.batch.images = slot.images.view();
      slot.batch.labels = slot.labels.view();
    }
    workers.resize(std::size_t(std::max(o.threads, 1)));
    for (auto& w : workers) w.order.reserve(std::size_t(pipeline.dataset().size()));
    start_at(o.epoch, o.index);
    if (o.threads == 0) return;
    try {
      for (auto& w : workers) w.thread = std::thread([this, &w] { work(w); });
    } catch (std::exception const& e) {
      stop();
      fail(ErrorKind::device, format("the loader's thread cannot be started: {}", e.what()));
    }
  }
  ~State() { stop(); }

  void stop() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    room.notify_all();
    for (auto& w : workers)
      if (w.thread.joinable()) w.thread.join();
  }

  void start_at(std::int64_t epoch, std::int64_t index) {
    if (epoch < 0 || index < 0 || index > per_epoch)
      fail(ErrorKind::usage, format("the loader cannot start at epoch {}, batch {}: an epoch has {} batches", epoch, index, per_epoch));
    first = epoch * per_epoch + index;
    started = taken = 0;
    held = false;
    for (auto& slot : slots) {
      slot.ticket = -1;
      slot.error = nullptr;
    }
    count = options.epochs > INT64_MAX / per_epoch ? INT64_MAX : std::max<std::int64_t>(0, options.epochs * per_epoch - first);
  }

  // Prepares batch `number`, counted from epoch 0.
  void fill(Slot& slot, Worker& w, std::int64_t number) {
    auto& b = slot.batch;
    std::int64_t const batch = options.batch, size = pipeline.size();
    b.epoch = number / per_epoch;
    b.index = number % per_epoch;
    b.valid_count = std::int32_t(std::min(batch, size - b.index * batch));
    b.sample = b.epoch * size + b.index * batch;
    if (w.order_epoch != b.epoch) {
      w.order_epoch = -1;
      pipeline.order(w.order, options.seed, b.epoch);
      w.order_epoch = b.epoch;
    }
    auto const values = std::size_t(pipeline.spec().image.elements());
    float* images = slot.images.as<float>();
    auto* labels = slot.labels.as<std::int32_t>();
    for (std::int64_t row = 0; row < b.valid_count; ++row) {
      pipeline.sample(w.order[std::size_t(b.index * batch + row)], options.seed, b.epoch, w.sample);
      if (!w.sample.u8.empty()) normalise(w.sample.u8, images + std::size_t(row) * values);
      else normalise(w.sample.f32, images + std::size_t(row) * values);
      labels[row] = w.sample.label;
    }
    std::fill(images + std::size_t(b.valid_count) * values, images + std::size_t(batch) * values, 0.0f);
    std::fill(labels + b.valid_count, labels + batch, 0);
  }

  void fill_or_record(Slot& slot, Worker& w, std::int64_t number) noexcept {
    try {
      slot.error = nullptr;
      fill(slot, w, number);
    } catch (...) {
      slot.error = std::current_exception();
    }
  }

  void work(Worker& w) {
    std::unique_lock lock(mutex);
    while (true) {
      // The slot of the batch that the caller holds is given back only by the next call of next().
      room.wait(lock, [&] { return stopping || (!seeking && started < count && started < taken - held + std::int64_t(slots.size())); });
      if (stopping) return;
      std::int64_t const ticket = started++;
      Slot& slot = slots[std::size_t(ticket) % slots.size()];
      ++busy;
      lock.unlock();
      fill_or_record(slot, w, first + ticket);
      lock.lock();
      --busy;
      slot.ticket = ticket;
      ready.notify_all();
    }
  }

  Batch const& next() {
    std::unique_lock lock(mutex);
    if (taken >= count) fail(ErrorKind::internal, format("the loader was asked for more than {} epochs", options.epochs));
    Slot& slot = slots[std::size_t(taken) % slots.size()];
    if (options.threads == 0) {
      fill_or_record(slot, workers[0], first + taken);
      slot.ticket = taken;
    } else {
      if (std::exchange(held, false)) room.notify_one();
      ready.wait(lock, [&] { return slot.ticket == taken; });
      held = true;
    }
    ++taken;
    if (slot.error) std::rethrow_exception(slot.error);
    return slot.batch;
  }

  void seek(std::int64_t epoch, std::int64_t index) {
    std::unique_lock lock(mutex);
    seeking = true;
    ready.wait(lock, [&] { return busy == 0; });
    seeking = false;
    start_at(epoch, index);
    room.notify_all();
  }

  Pipeline const pipeline;
  LoaderOptions const options;
  Normaliser const normalise;
  std::int64_t per_epoch = 0;
  std::vector<Slot> slots;
  std::vector<Worker> workers;

  std::mutex mutex;                // guards what follows, and who may touch which slot
  std::condition_variable room, ready;
  std::int64_t first = 0;          // number of the batch of ticket 0
  std::int64_t count = 0;          // tickets until the end
  std::int64_t started = 0, taken = 0;
  bool held = false;               // the caller holds the batch of ticket taken - 1
  int busy = 0;
  bool stopping = false, seeking = false;
};

Loader::Loader(Pipeline pipeline, LoaderOptions options) : state_(std::make_unique<State>(std::move(pipeline), options)) {}
Loader::~Loader() = default;
std::int64_t Loader::batches_per_epoch() const { return state_->per_epoch; }
Pipeline const& Loader::pipeline() const { return state_->pipeline; }
Batch const& Loader::next() { return state_->next(); }
void Loader::seek(std::int64_t epoch, std::int64_t index) { state_->seek(epoch, index); }

}  // namespace falconet::data
