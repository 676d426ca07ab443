// The smallest true task: fit y = x w + b by gradient descent on noisy samples of a known line. It
// drives every part of the trainer without a model from models/. On request some samples are of a
// second kind, "prior", with a loss of their own, some cannot be read, reading takes its time, and
// a job that only waits follows the training.
#include "trainers/task.h"

#include "data/loader.h"
#include "trainers/job.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <thread>

namespace trestle::trainers::line_fit {
namespace {

struct LineOptions {
  std::int64_t inputs = 3;
  std::int64_t samples = 20;
  std::string dtype = "float64";
  std::int64_t prior_every = 0;
  std::int64_t poisoned = -1;
  std::vector<std::int64_t> unreadable = {};
  std::int64_t load_ms = 0;
  std::int64_t job_items = 0;

  void describe(configs::Fields& f) {
    f.field("inputs", inputs, {.help = "width of x", .min = 1});
    f.field("samples", samples, {.help = "size of the data set", .min = 1});
    f.field("dtype", dtype, {.help = "of everything", .choices = {"float32", "float64"}});
    f.field("prior_every", prior_every,
            {.help = "every n-th sample only draws the prediction to zero; 0: none", .min = 0});
    f.field("poisoned", poisoned, {.help = "the sample whose x is not a number", .min = -1});
    f.field("unreadable", unreadable, {.help = "samples that cannot be read", .min = 0});
    f.field("load_ms", load_ms,
            {.help = "how long reading a micro batch takes", .unit = "ms", .min = 0});
    f.field("job_items", job_items,
            {.help = "items of 10 ms each that a job waits for at the end; 0: no job", .min = 0});
  }
};

void wait_ms(std::int64_t ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

class Points : public data::Dataset {
 public:
  explicit Points(const LineOptions& options) : options_(options) {}
  std::int64_t size() const override { return options_.samples; }
  std::string_view kind(data::SampleId id) const override {
    return is_nth(id, options_.prior_every) ? "prior" : "point";
  }
  data::Batch load(std::span<const data::SampleId> ids) const override {
    wait_ms(options_.load_ms);
    std::vector<Position> rows;
    for (const auto id : ids) {
      if (std::ranges::count(options_.unreadable, id) > 0)
        throw data::BadSample(id, fmt::format("sample {} cannot be read", id));
      rows.push_back({id});
    }
    const Draws draws(99);
    const at::Tensor x = draws.normal(rows, Purpose("x"), {options_.inputs}, at::kDouble);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] == options_.poisoned)
        x[std::int64_t(i)].fill_(std::numeric_limits<double>::quiet_NaN());
    }
    const at::Tensor slope = at::arange(1, options_.inputs + 1, at::kDouble);
    data::Batch batch;
    batch.ids.assign(ids.begin(), ids.end());
    at::Tensor priors = at::zeros({batch.size()}, at::kBool);
    for (std::int64_t i = 0; i < batch.size(); ++i)
      priors[i].fill_(is_nth(ids[i], options_.prior_every));
    batch.tensors = {{"x", x}, {"y", x.mv(slope) + 0.5}, {"is_prior", priors}};
    return batch;
  }

 private:
  static bool is_nth(data::SampleId id, std::int64_t n) { return n > 0 && id % n == n - 1; }

  LineOptions options_;
};

class Patience : public Job {
 public:
  explicit Patience(std::int64_t items) : items_(items) {}
  std::string_view name() const override { return "patience"; }
  std::int64_t size() const override { return items_; }
  void run(IndexRange range, JobContext& context) override {
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      context.stop.check();
      wait_ms(10);
      context.advance(1);
    }
  }

 private:
  std::int64_t items_;
};

class LineFit : public Task {
 public:
  LineFit(const LineOptions& options, Materialise materialise)
      : points_(options),
        job_items_(options.job_items),
        parameters_(at::TensorOptions()
                        .dtype(options.dtype == "float64" ? at::kDouble : at::kFloat)
                        .device(materialise == Materialise::meta ? at::kMeta : at::kCPU),
                    Draws(1)) {
    weight_ = parameters_.add("line.weight", {options.inputs}, models::nn::Init::normal(1));
    bias_ = parameters_.add("line.bias", {1}, models::nn::Init::zeros());
  }

  std::vector<ParameterGroup> groups() override {
    return {{.name = "line", .parameters = parameters_.all()}};
  }
  const data::Dataset& dataset(Split) override { return points_; }
  LossReport loss(const Objective&, const data::Batch& batch, const StepContext& context) override {
    const auto dtype = weight_.scalar_type();
    const at::Tensor noise =
        context.draws.normal(batch.positions, Purpose("noise"), {}, at::kDouble);
    const at::Tensor y = batch.tensor("y") + 0.01 * noise;
    const at::Tensor predicted = batch.tensor("x").to(dtype).mv(weight_) + bias_;
    const at::Tensor miss = predicted - y.to(dtype);
    const at::Tensor is_prior = batch.tensor("is_prior");
    return {.terms = {{.name = "squares",
                       .per_sample = miss.masked_select(~is_prior).square(),
                       .kind = "point"},
                      {.name = "prior",
                       .per_sample = 0.25 * predicted.masked_select(is_prior).square(),
                       .kind = "prior"}}};
  }
  std::vector<std::unique_ptr<Job>> jobs() override {
    std::vector<std::unique_ptr<Job>> all;
    if (job_items_ > 0) all.push_back(std::make_unique<Patience>(job_items_));
    return all;
  }
  std::vector<formats::Picture> sample(const SampleRequest& request, const Draws&) override {
    // One pixel whose red is the fitted bias.
    const auto red = static_cast<std::uint8_t>(std::clamp(bias_.item<double>() * 255, 0.0, 255.0));
    return std::vector<formats::Picture>(request.ids.size(),
                                         {.width = 1, .height = 1, .rgb = {red, 0, 0}});
  }

 private:
  Points points_;
  std::int64_t job_items_;
  models::nn::Parameters parameters_;
  at::Tensor weight_, bias_;
};

}  // namespace

const TaskKind& task_kind() {
  static const TaskKind kind{
      .name = "line_fit",
      .summary = "fits a line",
      .describe =
          [](configs::Schema& schema) {
            schema.section<LineOptions>("task");
            schema.section<data::LoaderOptions>("data");
          },
      .make = [](const configs::Recipe& recipe, Materialise materialise) -> std::unique_ptr<Task> {
        return std::make_unique<LineFit>(recipe.section<LineOptions>("task"), materialise);
      }};
  return kind;
}

}  // namespace trestle::trainers::line_fit
