// The smallest true task: fit y = x w + b by gradient descent on noisy samples of a known line. It
// drives every part of the trainer without a model from models/.
#include "trainers/task.h"

#include "data/loader.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace trestle::trainers::line_fit {
namespace {

struct LineOptions {
  std::int64_t inputs = 3;
  std::int64_t samples = 20;
  std::string dtype = "float64";

  void describe(configs::Fields& f) {
    f.field("inputs", inputs, {.help = "width of x", .min = 1});
    f.field("samples", samples, {.help = "size of the data set", .min = 1});
    f.field("dtype", dtype, {.help = "of everything", .choices = {"float32", "float64"}});
  }
};

class Points : public data::Dataset {
 public:
  explicit Points(const LineOptions& options) : options_(options) {}
  std::int64_t size() const override { return options_.samples; }
  data::Batch load(std::span<const data::SampleId> ids) const override {
    std::vector<Position> rows;
    for (const auto id : ids) rows.push_back({id});
    const Draws draws(99);
    const at::Tensor x = draws.normal(rows, Purpose("x"), {options_.inputs}, at::kDouble);
    const at::Tensor slope = at::arange(1, options_.inputs + 1, at::kDouble);
    data::Batch batch;
    batch.ids.assign(ids.begin(), ids.end());
    batch.tensors = {{"x", x}, {"y", x.mv(slope) + 0.5}};
    return batch;
  }

 private:
  LineOptions options_;
};

class LineFit : public Task {
 public:
  LineFit(const LineOptions& options, Materialise materialise)
      : points_(options),
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
    const at::Tensor miss = batch.tensor("x").to(dtype).mv(weight_) + bias_ - y.to(dtype);
    return {.terms = {{.name = "squares", .per_sample = miss.square()}}};
  }
  std::vector<formats::Picture> sample(const SampleRequest& request, const Draws&) override {
    // One pixel whose red is the fitted bias.
    const auto red = static_cast<std::uint8_t>(std::clamp(bias_.item<double>() * 255, 0.0, 255.0));
    return std::vector<formats::Picture>(request.ids.size(),
                                         {.width = 1, .height = 1, .rgb = {red, 0, 0}});
  }

 private:
  Points points_;
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
