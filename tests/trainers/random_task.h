// A model that nobody would train, drawn from a seed: parameters of odd sizes and several dtypes in
// several groups, some used twice, one by no loss, one by some samples only; and checkpointed
// segments in a row, all of which use one parameter.
#pragma once
#include "models/nn/checkpointed_call.h"
#include "trainers/task.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <any>
#include <array>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

namespace trestle::testing {

struct RandomTaskOptions {
  unsigned seed = 1;
  std::vector<at::ScalarType> dtypes = {at::kFloat, at::kDouble, at::kBFloat16};
  /// A parameter that only samples of an odd id use, so that ranks differ in what they use.
  bool sometimes_used = true;
  double scale = 1;  ///< of the loss; a huge one overflows
  /// The loss of samples that were seen before in the same step (dist.paranoid) is this part
  /// larger.
  double drift = 0;
  /// Three groups in two objectives: the last group's own is due in every second step from step 1;
  /// the middle one is active in steps 1 and 2; the first one's masters stay within [-0.5, 0.5].
  bool lives = false;
};

class RandomTask : public trainers::Task {
 public:
  static constexpr std::int64_t kWidth = 16;

  explicit RandomTask(const RandomTaskOptions& options) : options_(options) {
    std::mt19937 bits(options.seed);
    const auto below = [&](std::int64_t n) { return std::int64_t(bits() % std::uint64_t(n)); };
    const std::int64_t count = 4 + below(8), groups = options.lives ? 3 : 1 + below(3);
    const Draws draws(options.seed);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t sizes[] = {1, 3, 255, 256, 257, 700, 2000};
      const std::string name = fmt::format("p{}", i);
      const auto dtype = options.dtypes[std::size_t(below(std::int64_t(options.dtypes.size())))];
      Use use{
          .parameter =
              draws.normal(Purpose(name), {sizes[below(7)]}, at::TensorOptions().dtype(at::kDouble))
                  .to(dtype)
                  .requires_grad_(true),
          .name = name,
          .group = options.lives && i < 3 ? i : below(groups),
          .times = i < 2 ? 1 - i : std::min<std::int64_t>(below(4), 2),
          .odd_only = options.sometimes_used && i == count - 1,
          .picks = {}};
      for (std::int64_t k = 0; k < 2; ++k) {
        std::vector<std::int64_t> picks;
        for (std::int64_t j = 0; j < kWidth; ++j) picks.push_back(below(use.parameter.numel()));
        use.picks.push_back(at::tensor(picks, at::kLong));
      }
      uses_.push_back(std::move(use));
    }
    // Neither the one that no loss uses nor the one that some samples use.
    const auto any = [&] { return std::size_t(2 + below(count - 3)); };
    shared_ = any();
    for (std::size_t& own : own_) own = any();
  }

  std::vector<trainers::ParameterGroup> groups() override {
    std::vector<trainers::ParameterGroup> groups;
    for (std::int64_t g = 0; g < 3; ++g) {
      trainers::ParameterGroup group{.name = fmt::format("g{}", g), .parameters = {}};
      if (options_.lives && g == 0)
        group.project = [](const std::string&, at::Tensor& master) { master.clamp_(-0.5, 0.5); };
      if (options_.lives && g == 1) group.active = {.begin = 1, .end = 3};
      for (const Use& use : uses_) {
        if (use.group == g) group.parameters.push_back({use.name, use.parameter});
      }
      if (!group.parameters.empty()) groups.push_back(std::move(group));
    }
    return groups;
  }

  std::vector<trainers::Objective> objectives() override {
    if (!options_.lives) return Task::objectives();
    return {{.name = "main", .groups = {"g0", "g1"}},
            {.name = "other", .groups = {"g2"}, .first = 1, .every = 2}};
  }

  const data::Dataset& dataset(trainers::Split) override { return points_; }

  trainers::LossReport loss(const trainers::Objective& objective, const data::Batch& batch,
                            const trainers::StepContext& context) override {
    const at::Tensor x = batch.tensor("x");
    at::Tensor per_sample = at::zeros({batch.size()}, at::kDouble);
    for (const Use& use : uses_) {
      const bool any_odd = std::ranges::any_of(batch.ids, [](auto id) { return id % 2 == 1; });
      if (use.odd_only && !any_odd) continue;
      for (std::int64_t k = 0; k < use.times; ++k) {
        const at::Tensor term = use(x, std::size_t(k)).sum(1);
        per_sample = per_sample + options_.scale * term;
      }
    }
    at::Tensor h = x;
    for (const std::size_t own : own_) {
      const models::nn::Segment segment = [this, own](const models::nn::Tensors& in,
                                                      const std::any&) -> models::nn::Tensors {
        return {uses_[shared_](in[0], 0) + 0.5 * uses_[own](in[0], 1)};
      };
      h = models::nn::checkpointed_call(segment, {h})[0];
    }
    per_sample = per_sample + options_.scale * h.sum(1);
    if (objective.name == "other") per_sample = -0.5 * per_sample.square();
    const auto what = std::tuple(context.step, batch.positions.front(), objective.name);
    const bool seen_before = !seen_.insert(what).second;
    if (seen_before) per_sample = per_sample * (1 + options_.drift);
    // Of the input, not of what the model makes of it, which may look at the whole micro batch.
    const at::Tensor sum_b = x.detach().sum(1);
    const at::Tensor id_b = at::tensor(std::vector<std::int64_t>(batch.ids));
    const at::Tensor is_odd_b = id_b % 2 == 1;
    trainers::Metrics metrics;
    metrics.mean("size", sum_b.abs());
    metrics.max("largest", sum_b.abs());
    metrics.binned("by_id", sum_b, id_b % 3 - 1, 3);
    // Ranks that saw no odd sample do not know that there is such a metric.
    if (is_odd_b.any().item<bool>()) metrics.mean("odd", sum_b.masked_select(is_odd_b));
    return {.terms = {{.name = "all", .per_sample = per_sample}}, .metrics = std::move(metrics)};
  }

  std::vector<formats::Picture> sample(const trainers::SampleRequest&, const Draws&) override {
    return {};
  }

 private:
  class Points : public data::Dataset {
   public:
    std::int64_t size() const override { return 40; }
    data::Batch load(std::span<const data::SampleId> ids) const override {
      std::vector<Position> rows;
      for (const auto id : ids) rows.push_back({id});
      data::Batch batch;
      batch.ids.assign(ids.begin(), ids.end());
      batch.tensors = {{"x", Draws(5).normal(rows, Purpose("x"), {kWidth}, at::kDouble)}};
      return batch;
    }
  };

  struct Use {
    at::Tensor parameter;
    std::string name;
    std::int64_t group, times;
    bool odd_only;
    std::vector<at::Tensor> picks;

    /// In the parameter's own dtype, so that a bf16 one has gradients that bf16 arithmetic made.
    at::Tensor operator()(const at::Tensor& x, std::size_t k) const {
      const at::Tensor row = parameter.index_select(0, picks[k]);
      return at::tanh(x.to(parameter.scalar_type()) * row).to(at::kDouble);
    }
  };

  RandomTaskOptions options_;
  Points points_;
  std::set<std::tuple<Step, Position, std::string>> seen_;
  std::vector<Use> uses_;
  std::size_t shared_ = 0;            ///< the parameter that every segment uses
  std::array<std::size_t, 3> own_{};  ///< and another one of each segment
};

}  // namespace trestle::testing
