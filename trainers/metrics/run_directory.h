// The files of a run and where they lie:
//   recipe.resolved.toml  metrics.jsonl  summary.json  logs/rank-00000.log
//   samples/step-00000100.png  checkpoints/step-00000100/
//   begun_from.json                           (where it began at another run's checkpoint)
//   verdict.json  logs/flight-00000.jsonl     (after a rank was lost or stuck)
//   lease.json  restarts.jsonl                (who holds the directory, and who has)
// LOCAL. THREADS: any.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

namespace trestle::trainers {

class RunDirectory {
 public:
  explicit RunDirectory(std::filesystem::path root) : root_(std::move(root)) {}

  /// Makes the folders; Error(environment) where that fails.
  void create() const;

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path resolved_recipe() const { return root_ / "recipe.resolved.toml"; }
  std::filesystem::path metrics() const { return root_ / "metrics.jsonl"; }
  std::filesystem::path summary() const { return root_ / "summary.json"; }
  std::filesystem::path checkpoints() const { return root_ / "checkpoints"; }
  std::filesystem::path begun_from() const { return root_ / "begun_from.json"; }
  std::filesystem::path verdict() const { return root_ / "verdict.json"; }
  std::filesystem::path restarts() const { return root_ / "restarts.jsonl"; }
  std::filesystem::path log(int rank) const;
  std::filesystem::path flight(int rank) const;
  std::filesystem::path sample(std::int64_t step) const;

  /// What an earlier start in this directory wrote there; Error(environment).
  std::string read_resolved_recipe() const;

  /// Drops the lines of steps >= first_step from metrics.jsonl, which a resumed run writes again.
  void rewind_metrics(std::int64_t first_step) const;

  /// Writes the numbers as one JSON object, in order of their names.
  void write_summary(const std::map<std::string, double>& numbers) const;

 private:
  std::filesystem::path root_;
};

}  // namespace trestle::trainers
