#include "trainers/fault_injection.h"

#include "base/error.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace trestle::trainers {
namespace {

using Kind = Fault::Kind;

TEST(Faults, AreRead) {
  EXPECT_EQ(parse_fault("hang@rank1:step20"), (Fault{.kind = Kind::hang, .rank = 1, .step = 20}));
  EXPECT_EQ(parse_fault("kill@rank0:step0"), (Fault{.kind = Kind::kill, .rank = 0, .step = 0}));
  EXPECT_EQ(parse_fault("nan@rank12:step7"), (Fault{.kind = Kind::nan, .rank = 12, .step = 7}));
  EXPECT_EQ(parse_fault("desync@rank1:step2"), (Fault{.kind = Kind::desync, .rank = 1, .step = 2}));
  EXPECT_EQ(parse_fault("slow=2.5x@rank3"),
            (Fault{.kind = Kind::slow, .rank = 3, .step = -1, .factor = 2.5}));
  EXPECT_EQ(parse_fault("kill@rank2:save-staged"),
            (Fault{.kind = Kind::kill, .rank = 2, .save_at = checkpoint::SaveStep::staged}));
  EXPECT_EQ(parse_fault("kill@rank0:save-latest-written@step40"),
            (Fault{.kind = Kind::kill,
                   .rank = 0,
                   .step = 40,
                   .save_at = checkpoint::SaveStep::latest_written}));
}

TEST(Faults, EveryStepOfASaveCanBeNamed) {
  for (const auto& [step, name] : checkpoint::kSaveSteps) {
    EXPECT_EQ(parse_fault(fmt::format("kill@rank0:save-{}", name)).save_at, step);
    EXPECT_EQ(checkpoint::save_step_name(step), name);
    EXPECT_NE(save_steps_text().find(name), std::string::npos);
  }
  try {
    parse_fault("kill@rank0:save-stagde");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean \"staged\"?"), std::string::npos)
        << error.what();
  }
}

TEST(Faults, WhatIsNoneIsRefusedWithTheNearest) {
  for (const std::string spec :
       {"", "hang", "hang@1:step2", "hang@rank1", "hang@rank:step2", "hang@rank-1:step2",
        "hang@rank1:step2x", "hang=2x@rank1:step2", "slow@rank1", "slow=x@rank1", "slow=2@rank1",
        "slow=0.5x@rank1", "slow=2x@rank1:step2", "explode@rank1:step2", "hang@rank1:save-staged",
        "kill@rank1:save-", "kill@rank1:save-staged@", "kill@rank1:save-staged@7"}) {
    try {
      parse_fault(spec);
      ADD_FAILURE() << spec;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage) << spec;
      EXPECT_NE(std::string(error.what()).find("hang@rank1:step20"), std::string::npos);
    }
  }
  try {
    parse_fault("hagn@rank1:step2");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean \"hang\"?"), std::string::npos)
        << error.what();
  }
}

TEST(Faults, OfARankThatIsNotThere) {
  const auto self = dist::Communicator::self();
  EXPECT_THROW(FaultInjection({parse_fault("nan@rank1:step2")}, self, self), Error);
}

TEST(Faults, HappenAtTheirStepOnly) {
  const auto self = dist::Communicator::self();
  FaultInjection faults({parse_fault("nan@rank0:step2"), parse_fault("slow=3x@rank0")}, self, self);
  const at::Tensor weight = at::ones({2, 2}).requires_grad_(true);
  const std::vector<NamedParameter> parameters{{"weight", weight}};
  const auto gradient_is_number = [&](std::int64_t step) {
    faults.at_step_begin(Step{step}, parameters);
    weight.mutable_grad().reset();
    weight.sum().backward();
    return !weight.grad().isnan().any().item<bool>();
  };
  EXPECT_TRUE(gradient_is_number(1));
  EXPECT_FALSE(gradient_is_number(2));
  EXPECT_TRUE(gradient_is_number(3));

  const auto started = std::chrono::steady_clock::now();
  EXPECT_DOUBLE_EQ(faults.stretch(0.05), 0.1);
  const std::chrono::duration<double> slept = std::chrono::steady_clock::now() - started;
  EXPECT_GE(slept.count(), 0.1);
}

}  // namespace
}  // namespace trestle::trainers
