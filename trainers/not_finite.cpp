#include "trainers/not_finite.h"

#include "base/error.h"

#include <cmath>
#include <vector>

namespace trestle::trainers {

std::string describe_not_finite(const dist::Communicator& everyone, int branch_ranks, Step step,
                                const std::string& problem, const std::string& parameter,
                                const ObjectiveReport& report) {
  const std::string mine =
      problem.empty() ? "" : not_finite_message(everyone.rank(), step, problem);
  for (const std::string& text : everyone.all_gather_bytes(mine)) {
    if (!text.empty()) return text;
  }
  const std::vector<std::string> parameters = everyone.all_gather_bytes(parameter);
  for (std::size_t rank = 0; rank < parameters.size(); ++rank) {
    const std::string& name = parameters[rank];
    if (name.empty()) continue;
    if (branch_ranks == 1)
      return not_finite_message(static_cast<int>(rank), step, gradient_problem(name));
    return fmt::format(
        "step {}: the sum over the ranks of the gradient of {} is not finite, though each rank's "
        "is (it is too large). Lower optim.learning_rate, or look at the data of this step.",
        step.value, name);
  }
  const bool finite = std::isfinite(report.loss) && std::isfinite(report.grad_norm);
  const std::string sums = fmt::format(
      "step {}: loss {} and gradient norm {}, though finite on each rank (the sum over the ranks "
      "is too large). Lower optim.learning_rate, or look at the data of this step.",
      step.value, report.loss, report.grad_norm);
  for (const std::string& text : everyone.all_gather_bytes(finite ? "" : sums)) {
    if (!text.empty()) return text;
  }
  return sums;
}

}  // namespace trestle::trainers
