#include "trainers/metrics/run_directory.h"

#include "base/error.h"
#include "base/files.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <fstream>
#include <system_error>

namespace trestle::trainers {

void RunDirectory::create() const {
  for (const auto& folder : {root_ / "logs", root_ / "samples", root_ / "checkpoints"}) {
    std::error_code problem;
    std::filesystem::create_directories(folder, problem);
    TRESTLE_REQUIRE_AS(environment, !problem,
                       "run directory \"{}\" cannot be made ({}). Choose another with --run-dir.",
                       root_.string(), problem.message());
  }
}

std::filesystem::path RunDirectory::log(int rank) const {
  return root_ / "logs" / fmt::format("rank-{:05}.log", rank);
}

std::filesystem::path RunDirectory::flight(int rank) const {
  return root_ / "logs" / fmt::format("flight-{:05}.jsonl", rank);
}

std::filesystem::path RunDirectory::sample(std::int64_t step) const {
  return root_ / "samples" / fmt::format("step-{:08}.png", step);
}

std::string RunDirectory::read_resolved_recipe() const {
  constexpr std::uint64_t kLimitBytes = 16 << 20;
  return read_text_file(resolved_recipe(), kLimitBytes, ExitCode::environment);
}

void RunDirectory::rewind_metrics(std::int64_t first_step) const {
  std::ifstream in(metrics());
  if (!in) return;
  std::string kept;
  for (std::string line; std::getline(in, line);) {
    const auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    // A line that a killed run left unfinished goes, too.
    if (object.is_object() && object.value("step", std::int64_t{-1}) < first_step)
      kept += line + "\n";
  }
  in.close();
  write_file_atomic(metrics(), kept, ExitCode::environment);
}

void RunDirectory::write_summary(const std::map<std::string, double>& numbers) const {
  nlohmann::ordered_json object;
  for (const auto& [name, value] : numbers) {
    const bool whole = value == std::floor(value) && std::abs(value) < 1e15;
    if (whole)
      object[name] = static_cast<std::int64_t>(value);
    else
      object[name] = value;
  }
  write_file_atomic(summary(), object.dump(2) + "\n", ExitCode::environment);
}

}  // namespace trestle::trainers
