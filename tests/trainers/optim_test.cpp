// AdamW against ATen's own fused AdamW, the averages and schedules against diffusers' formulas.
#include "base/torch/draws.h"
#include "trainers/optim/adamw.h"
#include "trainers/optim/ema.h"
#include "trainers/optim/schedule.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace trestle::trainers {
namespace {

using models::nn::Init;
using models::nn::Parameters;

TEST(AdamW, EqualsAtensFusedKernel) {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    const auto options = at::TensorOptions().dtype(dtype);
    Parameters parameters(options, Draws(1));
    parameters.add("a", {17, 3}, Init::normal(1));
    parameters.add("b", {5}, Init::normal(1));
    const AdamWOptions settings{.learning_rate = 1e-2,
                                .adam_beta1 = 0.8,
                                .adam_beta2 = 0.95,
                                .adam_epsilon = 1e-6,
                                .weight_decay = 0.1};
    AdamW ours(parameters.all(), settings);
    std::vector<at::Tensor> p, m, v, steps;
    for (const auto& parameter : parameters.all()) {
      p.push_back(parameter.tensor.detach().clone());
      m.push_back(at::zeros_like(p.back()));
      v.push_back(at::zeros_like(p.back()));
      steps.push_back(at::zeros({}, at::kFloat));
    }
    for (std::uint32_t step = 0; step < 20; ++step) {
      std::vector<at::Tensor> gradients, unscaled;
      for (const auto& parameter : parameters.all()) {
        const at::Tensor g =
            Draws(2).normal(Purpose(parameter.name).at(step), parameter.tensor.sizes(), options);
        unscaled.push_back(g);
        gradients.push_back(g * 0.5);
        steps[gradients.size() - 1] += 1;
      }
      ours.step(1e-2, 0.5, unscaled);
      at::_fused_adamw_(p, gradients, m, v, {}, steps, 1e-2, 0.8, 0.95, 0.1, 1e-6, false, false);
    }
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double worst =
          ((p[i] - parameters.all()[i].tensor.detach()).abs().max() / p[i].abs().max())
              .item<double>();
      EXPECT_LT(worst, dtype == at::kFloat ? 1e-6 : 1e-14);
    }
  }
}

TEST(Ema, RampsAsDiffusersDoes) {
  Parameters parameters(at::TensorOptions().dtype(at::kDouble), Draws(1));
  at::Tensor p = parameters.add("p", {1}, Init::zeros());
  Ema ema(parameters.all(), {.decay = 0.3});
  double expected = 0;
  for (int n = 0; n < 8; ++n) {
    p.detach().fill_(n + 1);
    ema.update();
    const double decay = n == 0 ? 0.0 : std::min(0.3, (1.0 + n) / (10.0 + n));
    expected = decay * expected + (1 - decay) * (n + 1);
    EXPECT_NEAR(ema.averages().front().item<double>(), expected, 1e-12) << n;
    EXPECT_EQ(p.item<double>(), n + 1);
  }
}

TEST(Schedule, WarmsUpThenStaysOrFollowsTheCosine) {
  const ScheduleOptions constant{.lr_scheduler = "constant", .lr_warmup_steps = 10};
  EXPECT_EQ(schedule_factor(constant, Step{0}, 100), 0.0);
  EXPECT_DOUBLE_EQ(schedule_factor(constant, Step{5}, 100), 0.5);
  EXPECT_EQ(schedule_factor(constant, Step{10}, 100), 1.0);
  EXPECT_EQ(schedule_factor(constant, Step{99}, 100), 1.0);
  const ScheduleOptions cosine{.lr_scheduler = "cosine", .lr_warmup_steps = 20};
  EXPECT_EQ(schedule_factor(cosine, Step{20}, 100), 1.0);
  EXPECT_NEAR(schedule_factor(cosine, Step{60}, 100), 0.5, 1e-12);
  EXPECT_NEAR(schedule_factor(cosine, Step{100}, 100), 0.0, 1e-12);
}

}  // namespace
}  // namespace trestle::trainers
