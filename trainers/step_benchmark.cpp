#include "trainers/step_benchmark.h"

#include "base/error.h"
#include "base/torch/tensor_memory.h"
#include "data/loader.h"
#include "dist/binding.h"
#include "dist/collectives.h"
#include "trainers/summation.h"
#include "trainers/trainer.h"

#include <ATen/core/TensorBody.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>

namespace trestle::trainers {
namespace {

constexpr std::array kParts = {
    &StepTimes::forward_s,   &StepTimes::backward_s,      &StepTimes::optimizer_s,
    &StepTimes::data_wait_s, &StepTimes::exposed_s,       &StepTimes::other_s,
    &StepTimes::step_s,      &StepTimes::communication_s, &StepTimes::hidden_s};

StepTimes median(const std::vector<StepTimes>& steps) {
  StepTimes result;
  for (const auto part : kParts) {
    std::vector<double> values;
    for (const StepTimes& step : steps) values.push_back(step.*part);
    result.*part = trestle::median(std::move(values));
  }
  return result;
}

/// Everyone's values of a type that is its bytes, indexed by rank.
template <class T>
std::vector<std::vector<T>> all_gather(const dist::Communicator& world,
                                       const std::vector<T>& mine) {
  static_assert(std::is_trivially_copyable_v<T>);
  const std::string_view bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(T));
  std::vector<std::vector<T>> all;
  for (const std::string& theirs : world.all_gather_bytes(bytes)) {
    all.emplace_back(theirs.size() / sizeof(T));
    std::memcpy(all.back().data(), theirs.data(), theirs.size());
  }
  return all;
}

/// As training sums.
std::optional<dist::Topology> levels_of(const configs::Recipe& recipe,
                                        const dist::Communicator& ranks) {
  if (ranks.size() == 1) return std::nullopt;
  return choose_summation(ranks, recipe.section<DistOptions>("dist").two_level).two_level();
}

/// Trains this rank's share of the recipe's batches, alone or with the others.
class Training {
 public:
  /// COLLECTIVE over `world`; its engine's ranks are those of `together`.
  Training(const configs::Recipe& recipe, const dist::Communicator& world,
           const dist::Communicator& together, StopToken stop)
      : stop_(stop),
        train_(recipe.section<TrainOptions>("train")),
        draws_(static_cast<std::uint64_t>(recipe.section<RunOptions>("run").seed)),
        collectives_(dist::make_collectives(together, "gradients",
                                            {.two_level = levels_of(recipe, together)})),
        assembly_(world.agreed([&] {
          auto task = make_task(recipe, Materialise::weights);
          TRESTLE_REQUIRE(task->branches() == 1 && !task->exchanges(),
                          "bench step cannot take the step of run.task = \"{}\" apart (its ranks "
                          "work in branches or exchange inside the loss). Train a few steps of it, "
                          "and look at step_ms in metrics.jsonl.",
                          recipe.section<RunOptions>("run").task);
          return Assembly(recipe, std::move(task), *collectives_);
        })),
        dataset_(*world.agreed([&] { return &assembly_.task->dataset(Split::train); })),
        sampler_(draws_.seed(), dataset_.size()),
        plan_(train_.global_batch, train_.micro_batch, world.rank(), world.size()),
        bad_samples_(recipe.section<data::LoaderOptions>("data").max_bad),
        loader_(dataset_, sampler_, plan_, Step{0}, recipe.section<data::LoaderOptions>("data"),
                stop) {}

  void take(std::int64_t steps, StepTimeline& timeline) {
    for (std::int64_t i = 0; i < steps; ++i) step(timeline);
  }

  const data::BatchPlan& plan() const { return plan_; }
  Engine& engine() { return assembly_.engine; }
  std::int64_t sample_bytes() const { return sample_bytes_; }

 private:
  void step(StepTimeline& timeline) {
    const Step step{steps_done_++};
    const KindCounts kinds = count_kinds(dataset_, sampler_, plan_.global_batch(step));
    const StepInputs inputs{.step = step,
                            .draws = draws_,
                            .kinds = kinds,
                            .micro_steps = plan_.micro_steps(),
                            .next_batch =
                                [&] {
                                  data::Batch batch = loader_.next();
                                  note_size(batch);
                                  return batch;
                                },
                            .total_steps = std::max(train_.steps, steps_done_),
                            .bad_samples = bad_samples_,
                            .stop = stop_,
                            .observer = &timeline};
    timeline.begin_step(step);
    const StepReport report = assembly_.engine.step(inputs);
    timeline.end_step();
    if (report.stop)
      throw dist::AgreedError(ExitCode::preempted, "stopped by a signal; nothing was measured");
    if (!report.not_finite().empty())
      throw dist::AgreedError(ExitCode::numbers, report.not_finite());
  }

  void note_size(const data::Batch& batch) {
    if (batch.size() == 0) return;
    sample_bytes_ = 0;
    for (const auto& [name, tensor] : batch.tensors)
      sample_bytes_ += std::int64_t(tensor.nbytes()) / batch.size();
  }

  StopToken stop_;
  TrainOptions train_;
  Draws draws_;
  std::unique_ptr<dist::Collectives> collectives_;
  Assembly assembly_;
  const data::Dataset& dataset_;
  data::Sampler sampler_;
  data::BatchPlan plan_;
  data::BadSamples bad_samples_;
  std::int64_t steps_done_ = 0;
  std::int64_t sample_bytes_ = 0;
  data::Loader loader_;  // its threads read from the members above
};

struct Alone {
  ComputeTimes times;
  std::int64_t parameters = 0, sample_bytes = 0;
};

/// COLLECTIVE: all ranks compute at the same time, so that they share the host as in training.
Alone compute_alone(const configs::Recipe& recipe, const dist::Communicator& world,
                    const StepBenchmarkOptions& options) {
  const dist::Communicator self = dist::Communicator::self();
  StepTimeline timeline;
  Alone alone;
  // What happens in here is nobody else's business until all are through.
  Training training(recipe, world, self, options.stop);
  world.barrier();
  world.agreed([&] {
    training.take(options.warm_up, timeline);
    timeline.start();
    training.take(options.steps, timeline);
  });
  const StepTimes parts = median(timeline.parts());
  alone.times = {.forward_s = parts.forward_s,
                 .backward_s = parts.backward_s,
                 .optimizer_s = parts.optimizer_s};
  for (const NamedParameter& parameter : training.engine().parameters())
    alone.parameters += parameter.tensor.numel();
  alone.sample_bytes = training.sample_bytes();
  return alone;
}

/// All of a rank's operations are the observer's for as long as this lives.
class Observing {
 public:
  Observing(const dist::Communicator& world, StepTimeline& timeline) : world_(world) {
    world_.observe(&timeline);
  }
  ~Observing() { world_.observe(nullptr); }
  Observing(const Observing&) = delete;
  Observing& operator=(const Observing&) = delete;

 private:
  const dist::Communicator& world_;
};

struct Together {
  StepTimeline timeline;
  std::int64_t tensor_bytes = 0, samples = 0;
};

/// COLLECTIVE. A moment that is now, roughly, and on ranks of one host exactly the same: their
/// clocks are one.
StepTimeline::Clock::time_point common_origin(const dist::Communicator& world) {
  using Clock = StepTimeline::Clock;
  const auto hosts = world.all_gather_bytes(dist::host_name());
  world.barrier();
  const auto ticks = all_gather<Clock::rep>(world, {Clock::now().time_since_epoch().count()});
  const auto first = std::ranges::find(hosts, hosts[static_cast<std::size_t>(world.rank())]);
  return Clock::time_point(
      Clock::duration(ticks[static_cast<std::size_t>(first - hosts.begin())][0]));
}

void train_together(const configs::Recipe& recipe, const dist::Communicator& world,
                    const StepBenchmarkOptions& options, Together& found) {
  std::optional<TensorMemory> memory(at::kCPU);
  Training training(recipe, world, world, options.stop);
  found.samples = training.plan().samples_here();
  const Observing observing(world, found.timeline);
  training.take(options.warm_up, found.timeline);
  found.tensor_bytes = memory->peak_bytes();
  memory.reset();  // counting costs a little time
  found.timeline.start(common_origin(world));
  training.take(options.steps, found.timeline);
  training.engine().wait();
}

formats::Calibration::Compute compute_of(const configs::Recipe& recipe, const Alone& mine,
                                         const std::vector<std::vector<double>>& of_ranks) {
  formats::Calibration::Compute compute{
      .task = recipe.section<RunOptions>("run").task,
      .parameters = mine.parameters,
      .micro_batch = recipe.section<TrainOptions>("train").micro_batch,
      .checkpoint_every = recipe.section<TrainOptions>("train").checkpoint_every,
      .sample_bytes = mine.sample_bytes};
  for (const auto& times : of_ranks) {
    compute.forward_s_per_sample = std::max(compute.forward_s_per_sample, times[0]);
    compute.backward_s_per_sample = std::max(compute.backward_s_per_sample, times[1]);
    compute.optimizer_s_per_element = std::max(compute.optimizer_s_per_element, times[2]);
  }
  return compute;
}

}  // namespace

StepMeasurement measure_steps(const configs::Recipe& recipe, const dist::Communicator& world,
                              const StepBenchmarkOptions& options) {
  const Alone alone = compute_alone(recipe, world, options);
  Together together;
  train_together(recipe, world, options, together);

  StepMeasurement found;
  const auto hosts = world.all_gather_bytes(dist::host_name());
  const auto steps = all_gather(world, together.timeline.parts());
  const double samples = double(std::max<std::int64_t>(1, together.samples));
  const auto per_piece = all_gather<double>(
      world, {alone.times.forward_s / samples, alone.times.backward_s / samples,
              alone.times.optimizer_s / double(std::max<std::int64_t>(1, alone.parameters))});
  const auto times = all_gather<ComputeTimes>(world, {alone.times});
  const auto sizes = all_gather<std::int64_t>(world, {together.samples, together.tensor_bytes});
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) {
    found.ranks.push_back({.host = hosts[rank],
                           .median = median(steps[rank]),
                           .alone = times[rank][0],
                           .samples = sizes[rank][0],
                           .tensor_bytes = sizes[rank][1]});
  }
  std::vector<StepTimes> means(steps[0].size());
  for (std::size_t i = 0; i < means.size(); ++i) {
    for (const auto& of_rank : steps) {
      for (const auto part : kParts) means[i].*part += of_rank[i].*part / double(steps.size());
    }
  }
  found.median = median(means);
  std::vector<double> step_s;
  for (const StepTimes& mean : means) step_s.push_back(mean.step_s);
  found.modes = modes(std::move(step_s));
  found.samples_per_s =
      double(recipe.section<TrainOptions>("train").global_batch) / found.median.step_s;
  found.compute = compute_of(recipe, alone, per_piece);
  found.trace = chrome_trace(world.all_gather_bytes(together.timeline.chrome_events(
      world.rank(), fmt::format("rank {} ({})", world.rank(), dist::host_name()))));
  return found;
}

}  // namespace trestle::trainers
