#include "trainers/step_prediction.h"

#include "trainers/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace trestle::trainers {
namespace {

using When = Transfer::When;

/// What the calibration says of a plan's transfers.
class Costs {
 public:
  Costs(const formats::Calibration& calibration, bool slow)
      : calibration_(calibration), slow_(slow) {}

  double once(const Transfer& transfer) const {
    const auto& operation = calibration_.operations.find(transfer.operation)->second;
    const double bytes = double(transfer.bytes);
    return slow_ && operation.slow ? operation.slow->seconds(bytes) : operation.seconds(bytes);
  }

  /// All of these in a step.
  double sum(const Plan& plan, When when) const {
    double seconds = 0;
    for (const Transfer& transfer : plan.transfers) {
      if (transfer.when == when) seconds += double(transfer.times) * once(transfer);
    }
    return seconds;
  }

 private:
  const formats::Calibration& calibration_;
  bool slow_;
};

std::vector<Transfer> of_objective(const Plan& plan, std::size_t objective, When when) {
  std::vector<Transfer> found;
  for (const Transfer& transfer : plan.transfers) {
    if (transfer.objective == objective && transfer.when == when) found.push_back(transfer);
  }
  return found;
}

double sum(const std::vector<Transfer>& transfers, const Costs& costs) {
  double seconds = 0;
  for (const Transfer& transfer : transfers) seconds += costs.once(transfer);
  return seconds;
}

/// A pass over one micro batch with something under way for `transfer_s`.
double slowed(double pass_s, double transfer_s, double computing_lost) {
  return pass_s + computing_lost * std::min(pass_s, transfer_s);
}

/// All backward passes and reductions, and the forward passes but the first.
double backward_and_reduce(const Plan& plan, std::size_t objective, const ComputeTimes& micro,
                           const Costs& costs, double computing_lost) {
  const auto transfers = of_objective(plan, objective, When::reduction);
  const double transfer_s = sum(transfers, costs);
  double now = 0, wire_free = 0;
  for (std::int64_t m = 0; m < plan.micro_steps; ++m) {
    if (m > 0) now += micro.forward_s;
    const bool last = m + 1 == plan.micro_steps, reduces = last || plan.reduces_every_micro_step;
    const double pass_s =
        reduces ? slowed(micro.backward_s, transfer_s, computing_lost) : micro.backward_s;
    for (const Transfer& transfer : transfers) {
      // What is sent once a step goes behind the last pass.
      if (!reduces || (!last && transfer.times == 1)) continue;
      wire_free = std::max(wire_free, now + transfer.end * pass_s) + costs.once(transfer);
    }
    now += pass_s;
  }
  return std::max(now, wire_free);
}

/// The optimizer, the gathers and the first forward pass.
double update_and_forward(const Plan& plan, std::size_t objective, const ComputeTimes& micro,
                          const Costs& costs, double computing_lost) {
  const auto transfers = of_objective(plan, objective, When::gather);  // first layers first
  double wire_free = 0;
  std::vector<double> there;
  for (const Transfer& transfer : transfers) {
    const double stepped = (1 - transfer.begin) * micro.optimizer_s;
    wire_free = std::max(wire_free, stepped) + costs.once(transfer);
    there.push_back(wire_free);
  }
  const double pass_s = slowed(micro.forward_s, sum(transfers, costs), computing_lost);
  double now = micro.optimizer_s, done = 0;
  for (std::size_t i = 0; i < transfers.size(); ++i) {
    const double reached = 1 - transfers[i].end, left = 1 - transfers[i].begin;
    now += (reached - done) * pass_s;  // through what is not gathered
    now = std::max(now, there[i]) + (left - reached) * pass_s;
    done = left;
  }
  return now + (1 - done) * pass_s;
}

double step_s(const Plan& plan, const ComputeTimes& compute, const Costs& costs,
              double computing_lost) {
  // Objectives that share a step share its time, as far as anyone can tell before it runs.
  const double share = 1 / double(plan.objectives), micro = share / double(plan.micro_steps);
  const ComputeTimes each{.forward_s = micro * compute.forward_s,
                          .backward_s = micro * compute.backward_s,
                          .optimizer_s = share * compute.optimizer_s};
  double seconds = 0;
  for (std::size_t i = 0; i < plan.objectives; ++i) {
    seconds += backward_and_reduce(plan, i, each, costs, computing_lost) +
               update_and_forward(plan, i, each, costs, computing_lost);
  }
  return seconds;
}

std::string levels_text(bool two_level) { return two_level ? "two levels" : "one level"; }

}  // namespace

ComputeFound compute_from(const Plan& plan, const formats::Calibration& calibration,
                          const configs::Recipe& recipe) {
  const auto train = recipe.section<TrainOptions>("train");
  if (!calibration.compute) {
    return {.times = {},
            .why_not =
                "the calibration has no compute times. Let trestle bench step --save "
                "measure them."};
  }
  const auto& compute = *calibration.compute;
  std::string other;
  const auto compare = [&](std::string_view what, const auto& there, const auto& here) {
    if (there == here) return;
    other += fmt::format("{}{} {} there, {} here", other.empty() ? "" : ", ", what, there, here);
  };
  compare("task", compute.task, recipe.section<RunOptions>("run").task);
  compare("parameters", compute.parameters, plan.parameters);
  compare("train.micro_batch", compute.micro_batch, train.micro_batch);
  compare("train.checkpoint_every", compute.checkpoint_every, train.checkpoint_every);
  if (plan.activation.unknown.empty()) {
    const std::int64_t samples = std::min(train.micro_batch, plan.samples);
    const std::int64_t here = plan.activation.batch_bytes / samples, there = compute.sample_bytes;
    // A batch is as long as its longest prompt: nearly the same is the same.
    if (std::abs(double(here - there)) > 0.25 * double(std::max(here, there)))
      compare("bytes of a sample", there, here);
  }
  if (!other.empty()) {
    return {.times = {},
            .why_not = fmt::format("the calibration's compute times are of another recipe ({}). "
                                   "Let trestle bench step --save measure this one.",
                                   other)};
  }
  return {.times = {.forward_s = compute.forward_s_per_sample * double(plan.samples),
                    .backward_s = compute.backward_s_per_sample * double(plan.samples),
                    .optimizer_s = compute.optimizer_s_per_element * double(plan.held_elements)},
          .why_not = ""};
}

std::string why_no_prediction(const Plan& plan, const formats::Calibration& calibration) {
  if (calibration.world != plan.world()) {
    return fmt::format(
        "the calibration is of {} ranks, not {} (what a collective costs depends on how many take "
        "part). Measure it with trestle bench comm --save on as many.",
        calibration.world, plan.world());
  }
  const int levels = plan.two_level ? 2 : 1;
  if (calibration.levels != levels) {
    return fmt::format(
        "the calibration is of collectives in {}, and here they go in {} ({}; dist.two_level). "
        "Measure it with trestle bench comm --two-level {} --save.",
        levels_text(calibration.levels == 2), levels_text(plan.two_level), plan.ranks.to_text(),
        plan.two_level);
  }
  for (const Transfer& transfer : plan.transfers) {
    if (!calibration.operations.contains(transfer.operation)) {
      return fmt::format(
          "the calibration does not say what {} costs. Write another with trestle bench comm "
          "--save.",
          transfer.operation);
    }
  }
  return "";
}

StepPrediction predict(const Plan& plan, const ComputeTimes& compute,
                       const formats::Calibration& calibration) {
  const Costs usual(calibration, /*slow=*/false), slow(calibration, /*slow=*/true);
  StepPrediction prediction{.compute = compute,
                            .reduce_s = usual.sum(plan, When::reduction),
                            .gather_s = usual.sum(plan, When::gather),
                            .step_s = step_s(plan, compute, usual, calibration.computing_lost)};
  const bool has_slow_mode = std::ranges::any_of(plan.transfers, [&](const Transfer& transfer) {
    return calibration.operations.find(transfer.operation)->second.slow.has_value();
  });
  constexpr double kWorthSaying = 1.02;
  const double slow_step_s = step_s(plan, compute, slow, calibration.computing_lost);
  if (has_slow_mode && slow_step_s > kWorthSaying * prediction.step_s)
    prediction.slow_step_s = slow_step_s;
  return prediction;
}

}  // namespace trestle::trainers
