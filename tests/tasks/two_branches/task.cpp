// Two branches over the ranks: each trains a line over its own half of the inputs, and is drawn to
// what the other branch predicts for the same samples, which arrives detached. Data are functions
// of the sample's id that any other program can compute, too.
#include "trainers/task.h"

#include "base/error.h"
#include "data/loader.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

// Axes: b batch, i inputs.

namespace trestle::trainers::two_branches {
namespace {

constexpr int kBranches = 2;
constexpr std::int64_t kInputs = 3;  // of a branch

struct BranchOptions {
  std::int64_t samples = 16;
  double pull = 0.5;
  std::int64_t unusable = -1;

  void describe(configs::Fields& f) {
    f.field("samples", samples, {.help = "size of the data set", .min = 1});
    f.field("pull", pull, {.help = "weight of the distance to the other branch", .min = 0});
    f.field("unusable", unusable, {.help = "the sample on which branch 1's loss fails", .min = -1});
  }
};

class Waves : public data::Dataset {
 public:
  explicit Waves(std::int64_t size) : size_(size) {}
  std::int64_t size() const override { return size_; }
  data::Batch load(std::span<const data::SampleId> ids) const override {
    data::Batch batch;
    batch.ids.assign(ids.begin(), ids.end());
    const at::Tensor id_b1 =
        at::tensor(at::ArrayRef(ids.data(), ids.size()), at::kDouble).view({-1, 1});
    const at::Tensor axis_i = at::arange(kBranches * kInputs, at::kDouble);
    batch.tensors = {{"x", at::sin(id_b1 * (axis_i + 1) + axis_i)},
                     {"y", at::cos(0.5 * id_b1).view({-1})}};
    return batch;
  }

 private:
  std::int64_t size_;
};

class TwoBranches : public Task {
 public:
  TwoBranches(const BranchOptions& options, Materialise materialise)
      : options_(options), waves_(options.samples), materialise_(materialise) {}

  int branches() const override { return kBranches; }
  void enter_branch(int branch) override {
    branch_ = branch;
    const auto device = materialise_ == Materialise::meta ? at::kMeta : at::kCPU;
    parameters_.emplace(at::TensorOptions().dtype(at::kDouble).device(device),
                        Draws(static_cast<std::uint64_t>(1 + branch)));
    weight_ = parameters_->add("line.weight", {kInputs}, models::nn::Init::normal(1));
    bias_ = parameters_->add("line.bias", {1}, models::nn::Init::zeros());
  }

  std::vector<ParameterGroup> groups() override {
    return {{.name = "line", .parameters = parameters_->all()}};
  }
  const data::Dataset& dataset(Split) override { return waves_; }

  LossReport loss(const Objective&, const data::Batch& batch, const StepContext& context) override {
    TRESTLE_REQUIRE_AS(data, branch_ == 0 || std::ranges::count(batch.ids, options_.unusable) == 0,
                       "sample {} cannot be used in branch 1. Repair it.", options_.unusable);
    const at::Tensor mine_b = line(batch);
    const at::Tensor theirs_b = context.exchange.from_branch(1 - branch_, mine_b);
    return {
        .terms = {{.name = "target", .per_sample = (mine_b - batch.tensor("y")).square()},
                  {.name = "pull", .per_sample = options_.pull * (mine_b - theirs_b).square()}}};
  }
  std::vector<formats::Picture> sample(const SampleRequest& request, const Draws&) override {
    // One pixel: the bias, red in branch 0 and green in branch 1.
    const double shade = std::clamp(128 + 128 * bias_.item<double>(), 0.0, 255.0);
    formats::Picture picture{.width = 1, .height = 1, .rgb = {0, 0, 0}};
    picture.rgb[static_cast<std::size_t>(branch_)] = static_cast<std::uint8_t>(shade);
    return std::vector<formats::Picture>(request.ids.size(), picture);
  }

 private:
  at::Tensor line(const data::Batch& batch) const {
    return batch.tensor("x").narrow(1, branch_ * kInputs, kInputs).mv(weight_) + bias_;
  }

  BranchOptions options_;
  Waves waves_;
  Materialise materialise_;
  int branch_ = 0;
  std::optional<models::nn::Parameters> parameters_;
  at::Tensor weight_, bias_;
};

}  // namespace

const TaskKind& task_kind() {
  static const TaskKind kind{
      .name = "two_branches",
      .summary = "two lines that see each other's predictions",
      .describe =
          [](configs::Schema& schema) {
            schema.section<BranchOptions>("task");
            schema.section<data::LoaderOptions>("data");
          },
      .make = [](const configs::Recipe& recipe, Materialise materialise) -> std::unique_ptr<Task> {
        return std::make_unique<TwoBranches>(recipe.section<BranchOptions>("task"), materialise);
      }};
  return kind;
}

}  // namespace trestle::trainers::two_branches
