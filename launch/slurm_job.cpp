#include "launch/slurm_job.h"

#include "base/error.h"
#include "base/run_program.h"

#include <charconv>
#include <chrono>

namespace trestle::launch {

using trainers::JobEnd;

std::optional<std::string> slurm_job(const dist::Environment& environment) {
  const auto array = environment("SLURM_ARRAY_JOB_ID");
  const auto task = environment("SLURM_ARRAY_TASK_ID");
  if (array && task) return *array + "_" + *task;
  return environment("SLURM_JOB_ID");
}

std::optional<JobEnd::TimePoint> parse_end(std::string_view printed) {
  const auto is_space = [](char c) { return c == ' ' || c == '\n'; };
  while (!printed.empty() && is_space(printed.front())) printed.remove_prefix(1);
  while (!printed.empty() && is_space(printed.back())) printed.remove_suffix(1);
  if (printed == "NONE" || printed == "N/A" || printed == "Unknown") return std::nullopt;
  std::int64_t seconds = 0;
  const auto [stop, error] =
      std::from_chars(printed.data(), printed.data() + printed.size(), seconds);
  TRESTLE_REQUIRE_AS(environment,
                     error == std::errc() && stop == printed.data() + printed.size() && seconds > 0,
                     "squeue said \"{}\" where a time was expected", printed.substr(0, 80));
  return JobEnd::TimePoint(std::chrono::seconds(seconds));
}

JobEnd::Ask ask_squeue(const std::string& job, const dist::Environment& environment) {
  return [job, at_start = environment("SLURM_JOB_END_TIME")](const std::function<bool()>& give_up) {
    const auto answer = run_program({"squeue", "--noheader", "--jobs", job, "--format", "%e"},
                                    {.limit = std::chrono::seconds(20),
                                     .environment = {"SLURM_TIME_FORMAT=%s"},
                                     .give_up = give_up});
    if (!answer.ok() && at_start) return parse_end(*at_start);
    TRESTLE_REQUIRE_AS(environment, answer.ok(), "{}", answer.problem);
    return parse_end(answer.output);
  };
}

}  // namespace trestle::launch
