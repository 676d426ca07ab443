// A fit that takes its time on request, wherever a run may be asked to stop: while it reads
// samples, draws pictures, or works on a job. All of it polls the stop as the trainer asks; nothing
// of it changes a number. Its state is as large as `rows` says, and a step stays cheap. For tests
// from outside (tests/soak/), which wait for the lines that it logs.
#include "trainers/task.h"

#include "base/log.h"
#include "data/loader.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <thread>

// Axes: b batch, r rows, i inputs.

namespace trestle::trainers::slow_fit {
namespace {

struct SlowOptions {
  std::int64_t rows = 2000;
  std::int64_t inputs = 16;
  std::int64_t samples = 48;
  std::int64_t load_ms = 0;
  std::int64_t paint_steps = 4, paint_ms = 0;
  std::int64_t job_items = 6, job_ms = 0;

  void describe(configs::Fields& f) {
    f.field("rows", rows, {.help = "height of the matrix that is fitted", .min = 1});
    f.field("inputs", inputs, {.help = "its width", .min = 1});
    f.field("samples", samples, {.help = "size of the data set", .min = 1});
    const auto pause = [&](std::string_view key, std::int64_t& ms, std::string_view help) {
      f.field(key, ms, {.help = help, .unit = "ms", .min = 0, .may_change = true});
    };
    pause("load_ms", load_ms, "how long reading takes, a sample");
    f.field("paint_steps", paint_steps,
            {.help = "steps of the sampler", .min = 1, .may_change = true});
    pause("paint_ms", paint_ms, "how long each of them takes");
    f.field("job_items", job_items, {.help = "items of the job", .min = 0, .may_change = true});
    pause("job_ms", job_ms, "how long each of them takes");
  }
};

void pause(std::int64_t ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

class Points : public data::Dataset {
 public:
  explicit Points(const SlowOptions& options) : options_(options) {}
  std::int64_t size() const override { return options_.samples; }
  data::Batch load(std::span<const data::SampleId> ids) const override {
    std::vector<Position> rows;
    for (const auto id : ids) {
      pause(options_.load_ms);
      rows.push_back({id});
    }
    data::Batch batch;
    batch.ids.assign(ids.begin(), ids.end());
    batch.tensors = {{"x", Draws(99).normal(rows, Purpose("x"), {options_.inputs}, at::kFloat)}};
    return batch;
  }

 private:
  SlowOptions options_;
};

/// How far the points lie from zero on average: something to sum over ranks.
class Distance : public Job {
 public:
  Distance(const SlowOptions& options, const Points& points) : options_(options), points_(points) {}
  std::string_view name() const override { return "distance"; }
  std::int64_t size() const override { return options_.job_items; }
  void run(IndexRange range, JobContext& context) override {
    log_info("slow_fit: the job begins");
    for (std::int64_t item = range.begin; item < range.end; ++item) {
      for (std::int64_t waited_ms = 0; waited_ms < options_.job_ms; waited_ms += 20) {
        context.stop.check();
        pause(std::min<std::int64_t>(20, options_.job_ms - waited_ms));
      }
      const data::SampleId id = item % points_.size();
      sum_ += points_.load(std::span(&id, 1)).tensor("x").norm().item<double>();
      context.advance(1);
    }
  }
  void finish(JobContext& context) override {
    context.world.all_reduce(std::span(&sum_, 1), dist::ReduceOp::sum);
    context.results["distance"] = sum_ / double(std::max<std::int64_t>(1, size()));
  }

 private:
  SlowOptions options_;
  const Points& points_;
  double sum_ = 0;
};

class SlowFit : public Task {
 public:
  SlowFit(const SlowOptions& options, Materialise materialise)
      : options_(options),
        points_(options),
        parameters_(at::TensorOptions()
                        .dtype(at::kFloat)
                        .device(materialise == Materialise::meta ? at::kMeta : at::kCPU),
                    Draws(1)) {
    using models::nn::Init;
    weight_ri_ = parameters_.add("fit.weight", {options.rows, options.inputs}, Init::normal(0.1));
    bias_r_ = parameters_.add("fit.bias", {options.rows}, Init::zeros());
  }

  std::vector<ParameterGroup> groups() override {
    return {{.name = "fit", .parameters = parameters_.all()}};
  }
  const data::Dataset& dataset(Split) override { return points_; }
  LossReport loss(const Objective&, const data::Batch& batch, const StepContext& context) override {
    const at::Tensor x_bi = batch.tensor("x");
    const at::Tensor noise_b1 =
        context.draws.normal(batch.positions, Purpose("noise"), {1}, at::kFloat);
    const at::Tensor axis_r = at::arange(options_.rows, at::kFloat);
    const at::Tensor wanted_br = at::sin(x_bi.sum(1, /*keepdim=*/true) + 0.01 * axis_r) + noise_b1;
    const at::Tensor miss_br = at::addmm(bias_r_, x_bi, weight_ri_.t()) - wanted_br;
    return {.terms = {{.name = "squares", .per_sample = miss_br.square().mean(1)}}};
  }
  std::vector<formats::Picture> sample(const SampleRequest& request, const Draws&) override {
    log_info("slow_fit: painting begins");
    // One pixel whose red is the first row's bias.
    const double red = bias_r_[0].item<double>() * 127 + 127;
    std::vector<formats::Picture> pictures;
    for (std::size_t i = 0; i < request.ids.size(); ++i) {
      for (std::int64_t step = 0; step < options_.paint_steps; ++step) {
        request.stop.check();
        pause(options_.paint_ms);
      }
      pictures.push_back({.width = 1,
                          .height = 1,
                          .rgb = {static_cast<std::uint8_t>(std::clamp(red, 0.0, 255.0)), 0, 0}});
    }
    return pictures;
  }
  std::vector<std::unique_ptr<Job>> jobs() override {
    std::vector<std::unique_ptr<Job>> jobs;
    jobs.push_back(std::make_unique<Distance>(options_, points_));
    return jobs;
  }

 private:
  SlowOptions options_;
  Points points_;
  models::nn::Parameters parameters_;
  at::Tensor weight_ri_, bias_r_;
};

}  // namespace

const TaskKind& task_kind() {
  static const TaskKind kind{
      .name = "slow_fit",
      .summary = "a fit that takes its time on request",
      .describe =
          [](configs::Schema& schema) {
            schema.section<SlowOptions>("task");
            schema.section<data::LoaderOptions>("data");
          },
      .make = [](const configs::Recipe& recipe, Materialise materialise) -> std::unique_ptr<Task> {
        return std::make_unique<SlowFit>(recipe.section<SlowOptions>("task"), materialise);
      }};
  return kind;
}

}  // namespace trestle::trainers::slow_fit
